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
from spellwork.engine.ending import blocked_error
from spellwork.engine.errands import Errands
from spellwork.engine.host import Host
from spellwork.engine.live import LiveRun
from spellwork.engine.partition import Partition
from spellwork.errors import (
    Conflict,
    InternalError,
    MachineError,
    MigrationMissing,
    NonDeterminismError,
    PayloadError,
    RunBlocked,
    RunExists,
    RunFinished,
    RunNotFound,
    SpellworkError,
    StoreClosed,
    StoreCorrupt,
    StoreError,
    UnknownWorkflow,
    UsageError,
)
from spellwork.journal import (
    CancelRequested,
    ChildEnded,
    RunRow,
    SignalReceived,
    Started,
    Status,
    Terminated,
    UpdateAccepted,
    UpdateCompleted,
)
from spellwork.journal.rows import Address, blocked_key, id_key, receipt_range
from spellwork.store import Batch
from spellwork.supervision import attempt
from spellwork.workflow import Execution
from spellwork.workflow.execution import SEEN_UPDATE, Ignored
from spellwork.workflow.questions import answer_query, validate_update

Post = Callable[[m.AnyMessage], Any]


class Extra(Protocol):
    """Rows that go with the effect of a message."""

    def add(self, batch: Batch) -> None:
        """Put them into the batch of the effect."""
        ...

    def refused(self) -> None:
        """That batch was not written."""
        ...


# What keeps a run from being loaded until somebody mends it.
_BLOCKING = (RunBlocked, NonDeterminismError, UnknownWorkflow, PayloadError, StoreCorrupt, UsageError, MachineError)


class Desk:
    """Performs messages for runs of owned partitions. `post` sends one to any run; `new_number` gives run numbers."""

    def __init__(self, host: Host, clock: Clock, post: Post, new_number: Callable[[], int]):
        self._host = host
        self._clock = clock
        self._post = post
        self._new_number = new_number
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
                return await self._update(message)
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
        execution = await self._copy(message.run_id)
        try:
            return answer_query(execution, message.name, message.args)
        finally:
            execution.close()

    async def _copy(self, run_id: str) -> Execution:
        """A copy of the run, replayed from what is durable: whatever is done to it is gone afterwards."""
        address = await self._address(run_id)
        stored = await self._host.store.read(lambda reader: rows.read_run(reader, address.number))
        if stored is None:
            raise RunNotFound(f"run {run_id!r} has no row", run_id=run_id)
        return self._host.loader.replayed(address.number, stored, recording=True)

    async def _address(self, run_id: str) -> Address:
        live = self._host.by_id.get(run_id)
        if live is not None:
            return Address(live.row.number, live.row.partition)
        address = await self._host.store.read(lambda reader: rows.find(reader, run_id))
        if address is None:
            raise RunNotFound(f"there is no run {run_id!r}; `spellwork ps` lists those there are", run_id=run_id)
        return address

    async def _live(self, run_id: str) -> LiveRun:
        live = self._host.by_id.get(run_id)
        if live is not None and not live.continuing:
            return live
        while True:
            address = await self._address(run_id)
            try:
                live = await self._host.loader.load(address.number)
            except RunFinished:
                if (await self._address(run_id)).number == address.number:
                    raise
                continue  # it went on as a new run in between
            if not live.continuing:
                return live
            await self._durable(live)

    async def _durable(self, live: LiveRun) -> None:
        """Wait until everything of `live` so far is in the store."""
        if live.unacked:
            # batches commit in order, so the one of this turn tells that those before it are durable (it rides on the same sync)
            await live.partition.settled()

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
            self._clock.entropy(16), message.parent,
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
        live = await self._running(message)
        if live is None:
            return await self._standing_after(message)
        if _has_had(live.execution, message):
            await self._durable(live)
            return await self._standing_after(message)
        entry = SignalReceived(self._now(live), message.name, message.payload, message.id)
        if not await self._admit(live, entry, message):
            return None
        if not message.answer:
            self._add(live, extra)  # an answer goes with its reply, once it is known
        self._host.append(live, entry)
        if not message.answer:
            await self._durable(live)
            return None
        moved = _has_moved(live)
        answer = None if moved else live.execution.standing()
        await self._durable(live)
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
            await self._durable(live)
            return False
        except MigrationMissing as error:
            self._host.block(live, error)
            await self._durable(live)
            if message.answer:
                raise RunBlocked(f"run {live.row.id} is blocked: {error}", run_id=live.row.id, reason=str(error)) from error
            raise m.Deferred(f"run {live.row.id} is blocked, the signal waits: {error}") from error
        except SpellworkError:
            await self._durable(live)
            raise
        return True

    async def _standing_after(self, message: m.AskSignal) -> bytes | None:
        """Where a signal led that was received before: what is durable is replayed up to it."""
        if not message.answer:
            return None
        address = await self._address(message.run_id)
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

    async def _running(self, message: m.AskSignal | m.AskUpdate) -> LiveRun | None:
        """The run in memory, or None if it has ended and had this very message before; raises `RunFinished` otherwise."""
        try:
            live = await self._live(message.run_id)
        except RunFinished:
            if not await self._had(message):
                raise
            return None
        except _BLOCKING as error:
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
                await self._durable(live)
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

    def _add(self, live: LiveRun, extra: Extra | None) -> None:
        if extra is not None:
            extra.add(live.partition.mark(live))

    def _now(self, live: LiveRun) -> int:
        return max(self._clock.now(), live.execution.now)

    async def _update(self, message: m.AskUpdate) -> bytes | None:
        validated = None
        while True:
            live = await self._running(message)
            if live is None:
                return self._answer(await self._stored_answer(message))
            execution = live.execution
            if message.id in execution.update_ids or validated == live.number:
                break
            validated = live.number  # looked at anew afterwards: it may have gone on as a new run, which another may have told
            await self._durable(live)
            await self._validate(message)
        if message.id not in execution.update_ids:
            self._host.append(live, UpdateAccepted(self._now(live), message.id, message.name, message.args))
        answer = execution.update_ids.get(message.id)
        if answer is None:
            if live.dropped:  # its handler was what the run could not go on with
                await live.partition.settled()
                raise blocked_error(live.row)
            waiter: asyncio.Future[UpdateCompleted | None] = asyncio.get_running_loop().create_future()

            def tell(entry: UpdateCompleted | None) -> None:
                if not waiter.done():
                    waiter.set_result(entry)

            waiters = live.update_waiters.setdefault(message.id, [])
            waiters.append(tell)
            try:
                answer = await waiter
            finally:
                waiters.remove(tell)  # whoever has gone must not keep the run in memory
                if not waiters and live.update_waiters.get(message.id) is waiters:
                    del live.update_waiters[message.id]
                    self._host.rest_if_idle(live)
            if answer is None and execution.finished and live.acked >= execution.position:
                raise RunFinished(f"run {message.run_id} ended before update {message.name} was answered", run_id=message.run_id)
            if answer is None:
                raise StoreClosed(f"run {message.run_id} left this process before update {message.name} was answered; ask again")
        else:
            await self._durable(live)
        return self._answer(answer)

    async def _validate(self, message: m.AskUpdate) -> None:
        execution = await self._copy(message.run_id)
        try:
            validate_update(execution, message.name, message.args)
        finally:
            execution.close()

    def _answer(self, answer: UpdateCompleted) -> bytes | None:
        if answer.failure is not None:
            raise m.Told("the update failed", failure=answer.failure)
        return answer.result

    async def _stored_answer(self, message: m.AskUpdate) -> UpdateCompleted:
        def wanted(entry: Any) -> bool:
            return isinstance(entry, UpdateCompleted) and entry.id == message.id

        found = await self._host.store.read(lambda reader: rows.find_in_chain(reader, message.run_id, wanted))
        if found is not None:
            return found  # type: ignore[no-any-return]
        raise RunFinished(f"run {message.run_id} ended before update {message.name} was answered", run_id=message.run_id)

    async def _cancel(self, message: m.AskCancel, extra: Extra | None) -> None:
        try:
            live = await self._live(message.run_id)
        except _BLOCKING as error:
            raise m.Deferred(f"run {message.run_id} is blocked, the cancellation waits: {error}") from error
        _check_parent(live.row, message)
        if live.execution.finished:
            raise ended(message.run_id)
        self._add(live, extra)
        self._host.append(live, CancelRequested(self._now(live), self._host.codec.text(message.reason)))
        await self._durable(live)

    async def _terminate(self, message: m.AskTerminate, extra: Extra | None) -> None:
        try:
            live = await self._live(message.run_id)
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
        await self._durable(live)

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
        address = await self._address(message.run_id)
        live = await self._host.loader.load(address.number, resume=True)
        await self._durable(live)

    async def child_ended(self, message: m.TellChildEnded, extra: Extra | None) -> None:
        """A child has ended: the next entry of its parent."""
        try:
            live = await self._host.loader.load(message.number)
        except (RunFinished, RunNotFound):
            return  # the parent did not wait
        except _BLOCKING as error:
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


def ended(run_id: str) -> RunFinished:
    """What is told to somebody who asks something of a run that is over."""
    return RunFinished(f"run {run_id} has ended; its result() and history() are kept", run_id=run_id)


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
