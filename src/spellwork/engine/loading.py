"""Owns how a run comes into memory: adopted when it has just begun, or replayed from its journal, once however many ask for it.
It must never read a journal before everything that was under way for its run is in the store.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from spellwork.engine import rows
from spellwork.engine.ending import blocked_error, reason_of
from spellwork.engine.live import LiveRun
from spellwork.errors import Fenced, RunFinished, RunNotFound, SpellworkError
from spellwork.journal import RunRow, Started, Status
from spellwork.journal.rows import receipt_key, timer_key
from spellwork.store import Batch
from spellwork.supervision import attempt
from spellwork.workflow import Execution

if TYPE_CHECKING:
    from spellwork.engine.host import Host


class Loader:
    """Brings runs into the memory of a host."""

    def __init__(self, host: Host):
        self._host = host
        self._loading: dict[int, asyncio.Future[LiveRun]] = {}
        self._unsettled: set[int] = set()

    @property
    def busy(self) -> bool:
        """Whether a run is on its way into memory."""
        return bool(self._loading)

    def unsettled(self, number: int) -> None:
        """A run leaves memory, and what it wrote may still be on its way to the store."""
        self._unsettled.add(number)

    def adopt(self, row: RunRow, started: Started) -> None:
        """Take up a run whose first rows have just become durable."""
        host = self._host
        partition = host.partitions.get(row.partition)
        if partition is None or row.number in host.runs:
            return
        definition = host.registry.find(row.workflow, row.version)
        live = LiveRun(row, partition, definition.execution(row.number, host.codec, host.errors, host.registry))
        host.runs[row.number] = host.by_id[row.id] = live
        live.acked = 1
        host.deliver(live, started)
        if not live.dropped:
            host.drain(live)

    async def load(self, number: int, *, resume: bool = False) -> LiveRun:
        """The run in memory, replayed from its journal if it was not; raises what keeps it from running.

        A quarantined run is only loaded to `resume` it.
        """
        while True:
            live = self._host.runs.get(number)
            if live is not None:
                return live
            loading = self._loading.get(number)
            if loading is None:
                break
            await asyncio.wait([loading])
            if not loading.cancelled() and (error := loading.exception()) is not None:
                raise error
        future: asyncio.Future[LiveRun] = asyncio.get_running_loop().create_future()
        self._loading[number] = future
        try:
            await self._settle(number)
            stored = await self._host.store.read(lambda reader: rows.read_run(reader, number))
            live = self._revive(number, stored, resume=resume)
        except asyncio.CancelledError:
            future.cancel()
            raise
        except Exception as error:
            if isinstance(error, SpellworkError):
                await self._settle(number)  # nobody is told before it is durable
            future.set_exception(error)
            future.exception()
            raise
        else:
            future.set_result(live)
            return live
        finally:
            del self._loading[number]

    async def _settle(self, number: int) -> None:
        """Wait until what was under way for a run that left memory is in the store: batches commit in order."""
        if number in self._unsettled:
            self._unsettled.discard(number)
            await self._host.store.commit(Batch())

    def _revive(self, number: int, stored: rows.StoredRun | None, *, resume: bool) -> LiveRun:
        host = self._host
        if stored is None:
            raise RunNotFound(f"run number {number} does not exist", run_id=str(number))
        if number in host.runs:
            return host.runs[number]  # it was adopted while its rows were read
        row = stored.row
        if row.status.ended:
            raise RunFinished(f"run {row.id} has ended: it is {row.status}; its result() and history() are kept", run_id=row.id)
        if row.status is Status.QUARANTINED and not resume:
            raise blocked_error(row)
        partition = host.partitions.get(row.partition)
        if partition is None:
            raise Fenced(f"run {row.id} belongs to another owner now", partition=row.partition)
        execution, error = attempt(self.replayed, number, stored)
        if error is not None:
            blocked = row
            if row.status is not Status.BLOCKED or row.reason != host.codec.text(reason_of(error)):
                # once for each reason: another owner, whom each commit wakes, may try one of its own as often
                blocked = host.write_blocked(row, partition, stored.timer_key, error)
                self.unsettled(number)
            if isinstance(error, SpellworkError):
                raise error
            raise blocked_error(blocked) from error
        live = LiveRun(row, partition, execution)
        live.acked = execution.position
        live.parked = stored.recoveries is None
        live.recoveries = stored.recoveries or 0
        live.receipts = stored.receipts
        live.timer_key = stored.timer_key
        if live.parked and execution.next_due is not None:
            live.timer_key = timer_key(row.partition, execution.next_due, number)
        host.runs[number] = host.by_id[row.id] = live
        for n in live.receipts.keys() - execution.pending.keys():
            # nobody asks for it any more: it was committed while the code was being cancelled
            live.partition.mark(live).delete(receipt_key(number, n))
            del live.receipts[n]
        if row.status is not Status.RUNNING:
            self._unblock(live)
        host.drain(live)
        if live.parked:
            # not now: whoever asked for the run acts on it before anything else happens
            asyncio.get_running_loop().call_soon(host.rest_if_idle, live)
        return live

    def replayed(self, number: int, stored: rows.StoredRun, *, recording: bool = False) -> Execution:
        """A run's code where its journal ends; raises whatever keeps it from getting there."""
        if stored.damage is not None:
            raise stored.damage
        host = self._host
        definition = host.registry.find(stored.row.workflow, stored.row.version)
        execution = definition.execution(number, host.codec, host.errors, host.registry)
        if recording:
            execution.keep_record()
        try:
            execution.replay(stored.entries)
        except BaseException:
            execution.close()  # else the garbage collector would run its clean-up, as if outside any workflow
            raise
        return execution

    def _unblock(self, live: LiveRun) -> None:
        batch = live.partition.mark(live)
        live.row = rows.unblock(batch, live.row, self._host.clock.now())
        live.parked = False
        live.partition.then(self._host.unblocked)
