"""Owns the way from the id of a run to the run: in memory, in the store, or as a copy that nobody else sees.
It must never load one that has gone on as a new run in between.
"""

from __future__ import annotations

from typing import Any

from spellwork.engine import messages as m
from spellwork.engine import rows
from spellwork.engine.host import Host
from spellwork.engine.live import LiveRun
from spellwork.errors import (
    MachineError,
    NonDeterminismError,
    PayloadError,
    RunBlocked,
    RunFinished,
    RunNotFound,
    StoreCorrupt,
    UnknownWorkflow,
    UsageError,
)
from spellwork.journal import SignalReceived, UpdateCompleted
from spellwork.journal.rows import Address
from spellwork.workflow import Execution
from spellwork.workflow.execution import SEEN_UPDATE

BLOCKING = (RunBlocked, NonDeterminismError, UnknownWorkflow, PayloadError, StoreCorrupt, UsageError, MachineError)
"""What keeps a run from being loaded until somebody mends it."""


class Finder:
    """Finds the runs of owned partitions that messages are for."""

    def __init__(self, host: Host):
        self._host = host

    async def copy(self, run_id: str) -> Execution:
        """A copy of the run, replayed from what is durable: whatever is done to it is gone afterwards."""
        address = await self.address(run_id)
        stored = await self._host.store.read(lambda reader: rows.read_run(reader, address.number))
        if stored is None:
            raise RunNotFound(f"run {run_id!r} has no row", run_id=run_id)
        return self._host.loader.replayed(address.number, stored, recording=True)

    async def address(self, run_id: str) -> Address:
        """Number and partition of the newest run of this id; raises `RunNotFound`."""
        live = self._host.by_id.get(run_id)
        if live is not None:
            return Address(live.row.number, live.row.partition)
        address = await self._host.store.read(lambda reader: rows.find(reader, run_id))
        if address is None:
            raise RunNotFound(f"there is no run {run_id!r}; `spellwork ps` lists those there are", run_id=run_id)
        return address

    async def live(self, run_id: str) -> LiveRun:
        """The run in memory, loaded if need be; raises `RunNotFound`, `RunFinished`, or one of `BLOCKING`."""
        live = self._host.by_id.get(run_id)
        if live is not None and not live.continuing:
            return live
        while True:
            address = await self.address(run_id)
            try:
                live = await self._host.loader.load(address.number)
            except RunFinished:
                if (await self.address(run_id)).number == address.number:
                    raise
                continue  # it went on as a new run in between
            if not live.continuing:
                return live
            await live.settled()

    async def running(self, message: m.AskSignal | m.AskUpdate) -> LiveRun | None:
        """The run in memory, or None if it has ended and had this very message before; raises `RunFinished` otherwise."""
        try:
            live = await self.live(message.run_id)
        except RunFinished:
            if not await self._had(message):
                raise
            return None
        except BLOCKING as error:
            if isinstance(message, m.AskUpdate) or message.answer:
                raise
            raise m.Deferred(f"run {message.run_id} is blocked, the signal waits: {error}") from error
        execution = live.execution
        is_update = isinstance(message, m.AskUpdate)
        # in stores of before they were told apart, ids of updates stand like those of signals
        if message.id in execution.seen or (is_update and f"{SEEN_UPDATE}{message.id}" in execution.seen):
            return None  # an earlier run of the chain had it
        if execution.finished:
            if message.id in (execution.update_ids if is_update else execution.signal_ids):
                await live.settled()
                return None
            raise ended(message.run_id)
        return live

    async def _had(self, message: m.AskSignal | m.AskUpdate) -> bool:
        if message.id is None:
            return False

        kind = UpdateCompleted if isinstance(message, m.AskUpdate) else SignalReceived

        def wanted(entry: Any) -> bool:
            return isinstance(entry, kind) and entry.id == message.id

        return await self._host.store.read(lambda reader: rows.find_in_chain(reader, message.run_id, wanted)) is not None


def ended(run_id: str) -> RunFinished:
    """What is told to somebody who asks something of a run that is over."""
    return RunFinished(f"run {run_id} has ended; its result() and history() are kept", run_id=run_id)
