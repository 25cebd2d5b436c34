"""Owns reads and transactions that workflow code asks for, and transactions that are bound to the end of a step.
It must never leave one that was committed without an entry: the receipt beside it tells whoever loads the run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from spellwork.clock import Clock
from spellwork.engine.host import Host
from spellwork.engine.live import LiveRun
from spellwork.errors import Conflict, MergeRefused, RowDamaged, SpellworkError, StoreError
from spellwork.journal import Entry, Failure, Performed, pack_entry
from spellwork.journal.rows import receipt_key
from spellwork.store import Batch
from spellwork.workflow import commands as c
from spellwork.workflow.effects import Moment, Read

# What refuses one batch and says nothing of the store: whoever asked for it is told.
_REFUSALS = (Conflict, MergeRefused, RowDamaged)


class Effects:
    """Does in the background what needs an answer of the store; the outcome is an entry of the run that asked."""

    def __init__(self, host: Host, clock: Clock):
        self._host = host
        self._clock = clock

    def perform(self, live: LiveRun, command: c.Perform) -> None:
        """Begin a read or a transaction."""
        if command.n in live.execution.pending:  # else it was cancelled while it waited for its batch
            work = self._read(live, command) if type(command.effect) is Read else self._commit(live, command)
            self._host.spawn(work)

    async def _read(self, live: LiveRun, command: c.Perform) -> None:
        result, failure = None, None
        try:
            result = await command.effect.look(self._host.store)
        except StoreError as error:
            if not live.dropped:
                failure = self._told(error)  # damage under this key, say: the code may know what to do
        except SpellworkError as error:
            failure = self._told(error)
        self._answer(live, Performed(self._at(live), command.n, command.name, command.digest, result, failure))

    async def _commit(self, live: LiveRun, command: c.Perform) -> None:
        batch, at = Batch(), self._at(live)
        command.effect.put(batch, moment(live, command.n, at))
        entry = Performed(at, command.n, command.name, command.digest)
        try:
            done = await self._committed(live, command.n, batch, entry)
        except _REFUSALS as error:
            self._answer(live, Performed(at, command.n, command.name, command.digest, None, self._told(error)))
            return
        if done:
            if command.effect.expires:
                self._host.expects(batch)
            if command.effect.subscribes:
                self._host.subscribed()
            self.settle(live, command.n, entry)

    async def _committed(self, live: LiveRun, n: int, batch: Batch, entry: Entry) -> bool:
        """Commit `batch` with a receipt for `entry`; False when the store failed or another owner has taken over."""
        partition = live.partition
        key = receipt_key(live.number, n)
        batch.require_epoch(partition.index, partition.epoch).require_absent(key).put(key, pack_entry(key, entry))
        try:
            await self._host.store.commit(batch)
        except _REFUSALS:
            raise
        except StoreError:
            return False  # whoever owns the run next finds the receipt, or does it again
        return True

    def settle(self, live: LiveRun, n: int, entry: Entry) -> None:
        """Put an entry that has a receipt into the journal, in the batch that takes the receipt away."""
        if not live.dropped:
            live.partition.mark(live).delete(receipt_key(live.number, n))
            self._answer(live, entry)
        elif live.execution.finished and live.partition.held:
            live.partition.batch().delete(receipt_key(live.number, n))  # the run ended meanwhile; nobody will look for it

    def _answer(self, live: LiveRun, entry: Any) -> None:
        """The next entry of the journal, unless the run is over or no longer asks."""
        if entry.n in live.execution.pending and not live.execution.finished:
            self._host.append(live, msgspec.structs.replace(entry, at=max(entry.at, live.execution.now)))

    def bind(self, live: LiveRun, n: int, batch: Batch, entry: Entry, refused: Callable[[StoreError], None]) -> None:
        """Commit what an activity wrote together with its outcome; `refused` hears when what it read has changed since."""
        self._host.spawn(self._bound(live, n, batch, entry, refused))

    async def _bound(self, live: LiveRun, n: int, batch: Batch, entry: Entry, refused: Callable[[StoreError], None]) -> None:
        try:
            done = await self._committed(live, n, batch, entry)
        except _REFUSALS as error:
            if not live.dropped and n in live.execution.pending:
                refused(error)
            return
        if done:
            self._host.expects(batch)
            self.settle(live, n, entry)

    def _told(self, error: BaseException) -> Failure:
        return Failure.of(error).redacted(self._host.codec.redaction)

    def _at(self, live: LiveRun) -> int:
        return max(self._clock.now(), live.execution.now)


def moment(live: LiveRun, n: int, at: int) -> Moment:
    """When, and for which command of which run, something is written."""
    return Moment(at, live.row.id, live.partition.index, f"{live.number:x}:{n}")
