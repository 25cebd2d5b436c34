"""Owns what happens to a run when a message arrives.
It must never act twice on one message: each is checked against the journal first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from spellwork.clock import Clock
from spellwork.engine import messages as m
from spellwork.engine import rows
from spellwork.engine.closing import Closing
from spellwork.engine.effects import Effects
from spellwork.engine.errands import Errands
from spellwork.engine.finder import BLOCKING, Finder, ended
from spellwork.engine.host import Host
from spellwork.engine.live import LiveRun
from spellwork.engine.partition import Partition
from spellwork.engine.updates import Updates
from spellwork.errors import (
    Conflict,
    InternalError,
    MigrationMissing,
    RunBlocked,
    RunExists,
    RunFinished,
    RunNotFound,
    SpellworkError,
    StoreError,
)
from spellwork.journal import (
    CancelRequested,
    ChildEnded,
    RunRow,
    SignalReceived,
    Started,
    Status,
    Terminated,
)
from spellwork.journal.rows import blocked_key, id_key, receipt_range
from spellwork.store import Batch
from spellwork.supervision import attempt
from spellwork.workflow import Execution
from spellwork.workflow.execution import Ignored
from spellwork.workflow.questions import answer_query

Post = Callable[[m.AnyMessage], Any]


class Extra(Protocol):
    """Rows that go with the effect of a message."""

    def add(self, batch: Batch) -> None:
        """Put them into the batch of the effect."""
        ...

    def refused(self) -> None:
        """That batch was not written."""
        ...


class Desk:
    """Performs messages for runs of owned partitions. `post` sends one to any run; `new_number` gives run numbers."""

    def __init__(self, host: Host, clock: Clock, post: Post, new_number: Callable[[], int]):
        self._host = host
        self._clock = clock
        self._post = post
        self._new_number = new_number
        self._finder = Finder(host)
        self._updates = Updates(host, clock, self._finder)
        self.closing = Closing(host, clock, new_number)
        host.closing = self.closing
        host.errands = Errands(host, clock, post, self)
        host.effects = Effects(host, clock)

    async def handle(self, message: m.AnyMessage, partition: Partition, extra: Extra | None = None) -> bytes | None:
        """Do what `message` asks; its effect and what `extra` adds commit in one batch. Returns the answer's payload."""
        match message:
            case m.AskStart():
                definition = self._host.registry.find(message.workflow, message.version)
                definition.parameters.decode(self._host.codec, message.args)  # refuse what the workflow could not take
                await self.start(message, partition, extra)
                return None
            case m.AskSignal():
                return await self._signal(message, extra)
            case m.AskQuery():
                return await self._query(message)
            case m.AskUpdate():
                return await self._updates.take(message)
            case m.AskCancel():
                await self._cancel(message, extra)
            case m.AskTerminate():
                await self._terminate(message, extra)
            case m.AskResume():
                await self._resume(message)
            case m.TellChildEnded():
                await self.child_ended(message, extra)
        return None

    async def _query(self, message: m.AskQuery) -> bytes:
        execution = await self._finder.copy(message.run_id)
        try:
            return answer_query(execution, message.name, message.args)
        finally:
            execution.close()

    async def start(self, message: m.AskStart, partition: Partition, extra: Extra | None = None) -> RunRow:
        """Start a run, or find the one that exists; raises `RunExists` if that is another one."""
        definition = self._host.registry.find(message.workflow, message.version)
        now = self._clock.now()
        number = self._new_number()
        row = RunRow(
            message.run_id, number, partition.index, definition.name, definition.version, Status.RUNNING,
            now, now, message.digest, message.parent,
        )  # fmt: skip
        started = Started(
            now, message.run_id, definition.name, definition.version, message.args,
            self._clock.entropy(16), message.parent, correlation=message.correlation, causation=message.causation,
        )  # fmt: skip
        batch = Batch().require_epoch(partition.index, partition.epoch).require_absent(id_key(message.run_id))
        rows.put_start(batch, row, started)
        if extra is not None:
            extra.add(batch)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def acknowledge(outcome: int | StoreError) -> None:
            if isinstance(outcome, int):
                _, problem = attempt(self._host.loader.adopt, row, started)  # also when whoever asked has gone in between
                if problem is not None:
                    self._host.broken(problem)  # and whoever asks for the result hears of it
                if not done.done():
                    done.set_result(None)
            elif not done.done():
                done.set_exception(outcome)

        self._host.store.submit(batch, acknowledge)
        try:
            await done
        except Conflict:
            if extra is not None:
                extra.refused()
            return await self._existing(message)
        return row

    async def _existing(self, message: m.AskStart) -> RunRow:
        row = await self._host.store.read(lambda reader: rows.read_row(reader, message.run_id))
        if row is None:
            raise InternalError(f"run {message.run_id} exists and does not")
        check_same(row, message)
        return row

    async def _signal(self, message: m.AskSignal, extra: Extra | None) -> bytes | None:
        live = await self._finder.running(message)
        if live is None:
            return await self._standing_after(message)
        if _has_had(live.execution, message):
            await live.settled()
            return await self._standing_after(message)
        entry = SignalReceived(self._now(live), message.name, message.payload, message.id)
        if not await self._admit(live, entry, message):
            return None
        if not message.answer:
            self._add(live, extra)  # an answer goes with its reply, once it is known
        self._host.append(live, entry)
        if not message.answer:
            await live.settled()
            return None
        moved = _has_moved(live)
        answer = None if moved else live.execution.standing()
        await live.settled()
        return await self._standing_after(message) if moved else answer

    def at_once(self, message: m.AskSignal) -> tuple[asyncio.Future[None], bytes | None] | None:
        """Take a signal for a run that is in memory and ready for it: when it is durable, and the answer.

        None says that nothing happened, or that more must: then `handle` does it, which finds what happened by the signal's id.
        """
        live, host = self._host.by_id.get(message.run_id), self._host
        if live is None or live.dropped or live.continuing or message.id is None:
            return None
        execution = live.execution
        if execution.finished or message.id in execution.seen or _has_had(execution, message):
            return None
        entry = SignalReceived(max(self._clock.now(), execution.now), message.name, message.payload, message.id)
        _, refused = attempt(execution.admit, entry)
        if refused is not None:
            told = isinstance(refused, SpellworkError) and not isinstance(refused, MigrationMissing)
            return (self._refusal(live, refused), None) if told else None
        host.append(live, entry)
        if not message.answer:
            return live.partition.settled(), None
        if _has_moved(live):
            return None
        answer = execution.standing()
        return live.partition.settled(), answer

    def _refusal(self, live: LiveRun, error: BaseException) -> asyncio.Future[None]:
        """What tells whoever sent a signal that it is refused, once the reasons are durable. The code is not asked twice."""
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def tell(settled: asyncio.Future[None] | None = None) -> None:
            if not told.done():
                failed = None if settled is None or settled.cancelled() else settled.exception()
                told.set_exception(failed or error)
                told.exception()  # nobody waits any more, perhaps

        if live.unacked:
            live.partition.settled().add_done_callback(tell)
        else:
            tell()
        return told

    async def _admit(self, live: LiveRun, entry: SignalReceived, message: m.AskSignal) -> bool:
        """Let the code refuse a signal before it is written; whoever sent it is told once the reasons are durable.

        False says that the run ignores it.
        """
        try:
            live.execution.admit(entry)
        except Ignored:
            await live.settled()
            return False
        except MigrationMissing as error:
            self._host.block(live, error)
            await live.settled()
            if message.answer:
                raise RunBlocked(f"run {live.row.id} is blocked: {error}", run_id=live.row.id, reason=str(error)) from error
            raise m.Deferred(f"run {live.row.id} is blocked, the signal waits: {error}") from error
        except SpellworkError:
            await live.settled()
            raise
        return True

    async def _standing_after(self, message: m.AskSignal) -> bytes | None:
        """Where a signal led that was received before: what is durable is replayed up to it."""
        if not message.answer:
            return None
        address = await self._finder.address(message.run_id)
        number: int = address.number
        while number:
            stored = await self._host.store.read(lambda reader, n=number: rows.read_run(reader, n))  # type: ignore[misc]
            if stored is None:
                break
            found = next((i for i, e in enumerate(stored.entries) if isinstance(e, SignalReceived) and e.id == message.id), None)
            if found is not None:
                stored.entries = stored.entries[: found + 1]
                execution = self._host.loader.replayed(number, stored)
                try:
                    return execution.standing()
                finally:
                    execution.close()
            number = stored.row.previous
        raise InternalError(f"run {message.run_id} has had signal {message.id}, and its journal has not")

    def _add(self, live: LiveRun, extra: Extra | None) -> None:
        if extra is not None:
            extra.add(live.partition.mark(live))

    def _now(self, live: LiveRun) -> int:
        return max(self._clock.now(), live.execution.now)

    async def _cancel(self, message: m.AskCancel, extra: Extra | None) -> None:
        try:
            live = await self._finder.live(message.run_id)
        except BLOCKING as error:
            raise m.Deferred(f"run {message.run_id} is blocked, the cancellation waits: {error}") from error
        _check_parent(live.row, message)
        if live.execution.finished:
            raise ended(message.run_id)
        self._add(live, extra)
        self._host.append(live, CancelRequested(self._now(live), self._host.codec.text(message.reason)))
        await live.settled()

    async def _terminate(self, message: m.AskTerminate, extra: Extra | None) -> None:
        try:
            live = await self._finder.live(message.run_id)
        except (RunNotFound, RunFinished):
            raise
        except SpellworkError:
            # what cannot be loaded (no definition, damaged journal) can still be ended
            await self._terminate_stored(message, extra)
            return
        _check_parent(live.row, message)
        if live.execution.finished:
            raise ended(message.run_id)
        self._add(live, extra)
        reason = self._host.codec.text(message.reason)
        self.closing.end(live, Terminated(self._now(live), reason), Status.TERMINATED, reason)
        await live.settled()

    async def _terminate_stored(self, message: m.AskTerminate, extra: Extra | None) -> None:
        row = await self._host.store.read(lambda reader: rows.read_row(reader, message.run_id))
        if row is None or row.partition not in self._host.partitions:
            raise RunNotFound(f"there is no run {message.run_id!r} here", run_id=message.run_id)
        _check_parent(row, message)
        partition = self._host.partitions[row.partition]
        batch = Batch().require_epoch(partition.index, partition.epoch)
        now, reason = self._clock.now(), self._host.codec.text(message.reason)
        row = msgspec.structs.replace(row, status=Status.TERMINATED, reason=reason, updated=now)
        entry = Terminated(now, reason)
        rows.put_end(batch, row, None)
        batch.delete(blocked_key(row.partition, row.number))
        batch.delete_range(*receipt_range(row.number))  # nobody will put them into its journal
        notices = [self.closing.write_notice(batch, notice) for notice in self.closing.notices([], row, entry)]
        if extra is not None:
            extra.add(batch)
        await self._host.store.commit(batch)
        for key, notice in notices:
            self.closing.deliver_local(key, m.Envelope(notice), partition)
        self.closing.ended(row.id, row, entry)

    async def _resume(self, message: m.AskResume) -> None:
        address = await self._finder.address(message.run_id)
        live = await self._host.loader.load(address.number, resume=True)
        await live.settled()

    async def child_ended(self, message: m.TellChildEnded, extra: Extra | None) -> None:
        """A child has ended: the next entry of its parent."""
        try:
            live = await self._host.loader.load(message.number)
        except (RunFinished, RunNotFound):
            return  # the parent did not wait
        except BLOCKING as error:
            raise m.Deferred(f"run {message.run_id} is blocked, the end of its child waits: {error}") from error
        pending = live.execution.pending.get(message.n)
        if pending is None:
            return
        if pending.kind != "child":
            live.early[message.n] = (message, extra)
            raise m.Deferred(f"child {message.child_id} has ended before it was seen to start")
        self._add(live, extra)
        self._host.append(
            live, ChildEnded(self._now(live), message.n, pending.name, pending.digest, message.result, message.failure)
        )


def _has_had(execution: Execution, message: m.AskSignal) -> bool:
    """Whether the run has received this very signal already."""
    return message.id is not None and message.id in execution.signal_ids


def _has_moved(live: LiveRun) -> bool:
    """Whether the run came to its end by what it was told, or left memory: then where it stands must be read from the store."""
    return live.execution.finished or live.dropped


def check_same(row: RunRow, message: m.AskStart) -> None:
    """Raise `RunExists` unless `row` is the run that `message` asks for."""
    run_id = row.id
    if row.parent != message.parent and message.parent is not None:
        raise RunExists(
            f"the id {run_id!r} is taken by a run that somebody else started; choose another id for the child",
            run_id=run_id,
        )
    if row.workflow != message.workflow:
        raise RunExists(
            f"the id {run_id!r} belongs to a run of workflow {row.workflow}, not {message.workflow}; choose another id",
            run_id=run_id,
        )
    if row.digest != message.digest:
        raise RunExists(
            f"run {run_id!r} of workflow {row.workflow} was started with other arguments; choose another id",
            run_id=run_id,
        )


def _check_parent(row: RunRow, message: m.AskCancel | m.AskTerminate) -> None:
    """Raise `RunNotFound` if a parent means another run than this one: its own child of that name was refused or never began."""
    if message.parent and (row.parent is None or row.parent.number != message.parent):
        raise RunNotFound(f"run {message.run_id!r} is no child of run number {message.parent:x}", run_id=message.run_id)
