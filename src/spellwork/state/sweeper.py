"""Owns deleting what has expired, in the order of its due times.
It must never delete a value that was written anew since it looked, nor keep anybody from closing the store.

The index of due times holds hints: whoever writes a value blindly can't remove the hint of the one before. A hint whose value has
another due time is dropped.
"""

from __future__ import annotations

import asyncio
import logging

import msgspec

from spellwork.clock import MICROSECONDS, Cancellable, Clock
from spellwork.errors import Conflict, RowDamaged, StoreClosed, StoreError
from spellwork.state.row import due_of
from spellwork.state.scopes import DUE, OPERATIONS
from spellwork.state.watching import expired_end
from spellwork.store import Batch, Reader, Store

log = logging.getLogger("spellwork.state")

_AT_ONCE = 500
_LOOK_EVERY = 10.0  # for what other processes write
_DUE_BYTES = 8


class Hint(msgspec.Struct, frozen=True):
    """A row of the index: the key that it names has expired if its row has this `version`; 0 if the hint is out of date."""

    key: bytes
    target: bytes
    version: int

    def into(self, batch: Batch) -> None:
        """Add the deletion to a batch."""
        batch.delete(self.key)
        if not self.version:
            return
        batch.require_version(self.target, self.version)
        if self.target[0] == OPERATIONS.prefix:
            batch.delete(self.target)
        else:
            batch.delete_range(self.target, expired_end(self.target))


class Sweeper:
    """Deletes what has expired soon after its time has come, while it is started."""

    def __init__(self, store: Store, clock: Clock):
        self._store = store
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()
        self._next: int | None = None
        # a clock that jumps to the next timer would find one for ever
        self._period = _LOOK_EVERY if clock.longest_wait < float("inf") else float("inf")

    def start(self) -> None:
        """Begin, unless it has."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="spellwork-sweeper")

    async def stop(self) -> None:
        """End, and wait for that."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    def expect(self, due: int) -> None:
        """Something will expire at `due`."""
        # also if it is told once more, now that it is committed: a look that began before has not seen it
        if self._next is None or due <= self._next:
            self._next = due
            self._woken.set()

    def expect_of(self, batch: Batch) -> None:
        """Something of a batch may expire."""
        for key in batch.rows:
            if key[0] == DUE.prefix:
                self.expect(int.from_bytes(key[1 : 1 + _DUE_BYTES], "big"))

    async def sweep(self) -> int:
        """Delete all that has expired by now; how many values that were."""
        deleted = 0
        while True:
            hints = await self._store.read(lambda reader: due_hints(reader, self._clock.now()))
            deleted += await self._delete(hints)
            if len(hints) < _AT_ONCE:
                return deleted

    async def _delete(self, hints: list[Hint]) -> int:
        if not hints:
            return 0
        batch = Batch()
        for hint in hints:
            hint.into(batch)
        try:
            await self._store.commit(batch)
        except Conflict:
            if len(hints) == 1:
                return 0  # written anew since: its hint is looked at again
            half = len(hints) // 2
            return await self._delete(hints[:half]) + await self._delete(hints[half:])
        return sum(hint.version > 0 and hint.target[0] != OPERATIONS.prefix for hint in hints)

    async def _run(self) -> None:
        while True:
            self._woken.clear()
            pause = self._period
            try:
                await self.sweep()
                self._next = await self._store.read(_next_due)
            except StoreClosed:
                return
            except StoreError as error:
                log.warning("expired values are not deleted for now: %s", error)
                self._next = None
            if self._next is not None:
                pause = min(pause, max(self._next - self._clock.now(), 0) / MICROSECONDS)
            if pause > 0:  # else it has come due since the look
                await self._wait(pause)

    async def _wait(self, pause: float) -> None:
        """Until `pause` seconds are over, or something is due earlier."""
        timer: Cancellable | None = None
        if pause != float("inf"):
            timer = self._clock.call_later(pause, self._woken.set)
        try:
            await self._woken.wait()
        finally:
            if timer is not None:
                timer.cancel()


def due_hints(reader: Reader, now: int) -> list[Hint]:
    """The oldest hints that are due."""
    end = DUE.key((now + 1).to_bytes(_DUE_BYTES, "big"))
    return [_judged(reader, key) for key, _ in reader.scan(DUE.key(), end, limit=_AT_ONCE, damaged=b"")]


def _judged(reader: Reader, key: bytes) -> Hint:
    due, target = int.from_bytes(key[1 : 1 + _DUE_BYTES], "big"), key[1 + _DUE_BYTES :]
    try:
        row = reader.get(target)
    except RowDamaged:
        row = None  # whoever reads it finds the damage
    if row is None:
        return Hint(key, target, 0)
    found = int.from_bytes(row[:_DUE_BYTES], "big") if target[0] == OPERATIONS.prefix else due_of(row)
    return Hint(key, target, reader.version(target) if found == due else 0)


def _next_due(reader: Reader) -> int | None:
    first = reader.scan(*DUE.range(), limit=1, damaged=b"")
    return int.from_bytes(first[0][0][1 : 1 + _DUE_BYTES], "big") if first else None
