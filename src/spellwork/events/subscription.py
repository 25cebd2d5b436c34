"""Owns a subscriber's place in a ring, what happens when it falls behind, and how tasks and threads read there.
It must never give an item twice, leave one out without counting it, or give one that came before it was opened.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from threading import RLock
from time import monotonic
from types import TracebackType
from typing import Generic, Literal, Protocol, Self, TypeVar

from spellwork.clock import Duration, seconds
from spellwork.errors import ChannelClosed, ChannelEmpty, ChannelTimeout, DefinitionError, Lagged, UsageError
from spellwork.events.limits import not_negative, whole
from spellwork.events.nothing import NOTHING, NoItem
from spellwork.events.ring import Ring
from spellwork.events.waiter import TaskWaiter, ThreadWaiter, Waiter

T = TypeVar("T")
V = TypeVar("V")

Overflow = Literal["block", "drop_oldest", "drop_newest", "error", "sample"]
OVERFLOWS = ("block", "drop_oldest", "drop_newest", "error", "sample")
BUFFER = 1024


class Hub(Protocol[T]):
    """Where a subscription belongs."""

    def admit(self, place: Place[T]) -> Ring[T]:
        """The ring in which it reads from now on."""
        ...

    def dismiss(self, place: Place[T], ring: Ring[T]) -> None:
        """Forget it."""
        ...


class Place(Generic[T]):
    """What subscriptions of tasks and of threads have in common. Only one task or thread at a time may read.

    `dropped` counts what was left out so far because this subscriber was behind; `pending` is how many items wait for it.
    """

    __slots__ = ("_dropped", "_hub", "_opened", "_over", "_ring", "blocks", "buffer", "cursor", "overflow", "waiter")

    def __init__(self, hub: Hub[T], overflow: Overflow, buffer: int) -> None:
        if overflow not in OVERFLOWS:
            raise DefinitionError(f"overflow is {overflow!r}, but must be one of {', '.join(OVERFLOWS)}")
        self.buffer = whole("buffer", buffer, 1)
        self.overflow: Overflow = overflow
        self.blocks = overflow == "block"
        self.cursor = 0
        self._hub = hub
        self._ring: Ring[T] = Ring(RLock())  # until it is opened, and after it is closed, one that is empty
        self.waiter: Waiter | None = None
        self._opened = self._over = False
        self._dropped = 0

    @property
    def pending(self) -> int:
        """How many items wait to be read; what is beyond the buffer does not count."""
        return self._kept(max(self._ring.end - self.cursor, 0))

    @property
    def dropped(self) -> int:
        """How many items were left out; those that `Lagged` has told of count as well."""
        left = max(self._ring.end - self.cursor, 0)  # looked at once: publishers go on meanwhile
        return self._dropped + self._ring.refused + left - self._kept(left)

    def _kept(self, left: int) -> int:
        """How many of so many items that were not read yet it is going to get."""
        return left if left <= self.buffer else 1 if self.overflow == "sample" else self.buffer

    def close(self) -> None:
        """Leave. What was not read is gone, and reading raises `ChannelClosed`."""
        if not self._opened or self._over:
            self._over = True
            return
        self._dropped, self._over = self.dropped, True
        ring, self._ring = self._ring, Ring(RLock())
        self._hub.dismiss(self, ring)

    def recv_nowait(self) -> T:
        """The next item, if there is one: else `ChannelEmpty`. Raises `Lagged` and `ChannelClosed` as reading does."""
        item = self._take()
        if item is NOTHING:
            raise ChannelEmpty("the subscription holds no item now; `recv` waits for one")
        return item

    # What follows is what `select` needs of a thing to receive from; see `Receivable` in the channels.

    def take(self) -> T | NoItem:
        """The next item, if there is one; raises `Lagged` and `ChannelClosed`."""
        return self._take()

    def enlist_receiver(self, waiter: Waiter, *, first: bool) -> bool:  # noqa: ARG002 - there is one reader
        """Wake `waiter` when an item comes; False if there is one now."""
        return self._lie_down(waiter)

    def delist(self, waiter: Waiter) -> None:
        """Do not wake it any more."""
        if self.waiter is waiter:
            self._get_up(waiter)

    def nudge(self) -> None:
        """Nobody else waits for the same item."""

    def _open(self) -> None:
        if self._opened:
            raise UsageError("a subscription is entered once; subscribe again for another one")
        self._opened = True
        self._ring = self._hub.admit(self)

    def _take(self) -> T | NoItem:
        while True:
            ring, cursor = self._ring, self.cursor
            left = ring.end - cursor
            if 0 < left <= self.buffer:
                base, items = ring.window
                index = cursor - base
                if index >= 0:  # else the window was replaced in this very moment
                    self.cursor = cursor + 1
                    if self.blocks and ring.waiting:
                        self._free(ring, cursor)
                    return items[index]
            elif left > 0:
                self._fall_behind(ring.end)
            elif not self._opened:
                raise UsageError("a subscription must be entered before it is read: `async with bus.subscribe(...) as events:`")
            elif not (self._over or ring.closed):
                return NOTHING
            elif ring.end <= cursor:  # nothing came between the look at `end` and the closing
                raise ChannelClosed("the subscription is closed, and everything that came before has been read")

    def _take_many(self, most: int) -> list[T]:
        first = self._take()
        if first is NOTHING:
            return []
        taken = [first]
        ring, cursor = self._ring, self.cursor
        left = ring.end - cursor
        base, items = ring.window
        if most > 1 and 0 < left <= self.buffer and cursor >= base:
            taken += items[cursor - base : cursor - base + min(most - 1, left)]
            self.cursor = cursor + len(taken) - 1
            if self.blocks and ring.waiting:
                self._free(ring, cursor)
        return taken

    def _free(self, ring: Ring[T], cursor: int) -> None:
        if ring.was_slowest(cursor, self.buffer):
            with ring.lock:
                ring.room_freed()

    def _fall_behind(self, end: int) -> None:
        # Beyond the buffer: all policies but these three never come here, for the ring takes no item then.
        keep = 1 if self.overflow == "sample" else self.buffer
        missed = end - self.cursor - keep
        self.cursor = end - keep
        self._dropped += missed
        if self.overflow == "error":
            raise Lagged(
                f"the subscriber fell behind by more than its buffer of {self.buffer}: {missed} events are gone; read faster, "
                "take a larger buffer, or choose what happens then with overflow=",
                missed=missed,
            )

    def _lie_down(self, waiter: Waiter) -> bool:
        ring = self._ring
        with ring.lock:
            if self.waiter is not None and self.waiter.asleep:
                raise UsageError("another task or thread is reading this subscription; each reader needs one of its own")
            if self._over or not ring.sleep(self, waiter):
                return False
            self.waiter = waiter
            return True

    def _get_up(self, waiter: Waiter) -> None:
        ring = self._ring
        with ring.lock:
            ring.unsleep(waiter)
            if self.waiter is waiter:
                self.waiter = None


class Subscription(Place[T]):
    """What a task reads: `async with bus.subscribe("agent.*") as events: async for event in events: ...`.

    The loop ends when the bus is closed and everything has been read. One that was left, or that ended with `Lagged`, can be
    followed by another one, which goes on where it was.
    """

    __slots__ = ("_crossed", "_reading")

    def __init__(self, hub: Hub[T], overflow: Overflow, buffer: int) -> None:
        super().__init__(hub, overflow, buffer)
        self._crossed = False
        self._reading: AsyncGenerator[T, None] | None = None

    async def __aenter__(self) -> Self:
        self._open()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
        if self._reading is not None and not getattr(self._reading, "ag_running", False):  # another task may be in it
            await self._reading.aclose()

    def __aiter__(self) -> AsyncIterator[T]:
        # Kept, so that a loop that is left does not leave it to the garbage collector, which would ask the event loop to close it.
        if self._reading is None:
            self._reading = self._read()
        return self._reading

    async def _read(self) -> AsyncGenerator[T, None]:
        # A generator costs less an item than a coroutine for each; the short way is `_take`, written out for the same reason.
        buffer, blocks = self.buffer, self.blocks
        try:
            while True:
                ring, cursor = self._ring, self.cursor
                if 0 < ring.end - cursor <= buffer:
                    base, items = ring.window
                    if cursor >= base:
                        self.cursor = cursor + 1
                        if blocks and ring.waiting:
                            self._free(ring, cursor)
                        yield items[cursor - base]
                        continue
                yield await self.recv()
        except ChannelClosed:
            return
        finally:
            self._reading = None

    async def __anext__(self) -> T:
        try:
            return await self.recv()
        except ChannelClosed:
            raise StopAsyncIteration from None

    async def recv(self) -> T:
        """Wait for the next item. Raises `Lagged` (once, then it goes on) and `ChannelClosed`. A cancelled one loses nothing."""
        while (item := self._take()) is NOTHING:
            await self._arrival()
        return item

    async def recv_many(self, most: int) -> list[T]:
        """Wait for an item, and take up to `most` that are there. Many times faster than one by one."""
        whole("most", most, 1)
        while not (items := self._take_many(most)):
            await self._arrival()
        return items

    async def _arrival(self) -> None:
        if self._crossed:
            # A thread that has just woken this task would wake it for each item anew; one turn of the loop lets the thread go on.
            self._crossed = False
            await asyncio.sleep(0)
            if self._ring.end > self.cursor:
                return
        waiter = TaskWaiter()
        if self._lie_down(waiter):
            try:
                await waiter.sleep()
            except BaseException:
                self._get_up(waiter)
                raise
            self._crossed = waiter.crossed


class SyncSubscription(Place[T]):
    """What a thread reads: `with bus.subscribe_sync("agent.*") as events: for event in events: ...`. It blocks the thread."""

    __slots__ = ()

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        try:
            return self.recv()
        except ChannelClosed:
            raise StopIteration from None

    def recv(self, timeout: Duration | None = None) -> T:
        """Wait for the next item, at most `timeout` (real seconds or timedelta): then `ChannelTimeout`."""
        return self._wait(self._take, timeout)

    def recv_many(self, most: int, timeout: Duration | None = None) -> list[T]:
        """Wait for an item, and take up to `most` that are there."""
        whole("most", most, 1)
        return self._wait(lambda: self._take_many(most) or NOTHING, timeout)

    def _wait(self, take: Callable[[], V | NoItem], timeout: Duration | None) -> V:
        until = None if timeout is None else monotonic() + not_negative("timeout", timeout)
        late = False
        while (got := take()) is NOTHING:
            if late:
                raise ChannelTimeout(f"no event came within {timeout} s", seconds=seconds(timeout or 0))
            waiter = ThreadWaiter()
            try:  # an interrupt may come in the middle of lying down
                if self._lie_down(waiter):
                    late = not waiter.sleep(None if until is None else until - monotonic())
            finally:
                self._get_up(waiter)
        return got
