"""Owns the runs in memory: appends entries, delivers them, and performs what the code then asks for, once that is durable.
It must never let anything leave the process that is based on an entry that is not durable yet.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

from spellwork.clock import Clock
from spellwork.codec import Codec
from spellwork.engine import rows
from spellwork.engine.ending import reason_of
from spellwork.engine.live import LiveRun
from spellwork.engine.loading import Loader
from spellwork.engine.partition import Partition
from spellwork.engine.registry import Registry
from spellwork.engine.steps import Steps
from spellwork.engine.timers import Timers
from spellwork.errors import StoreError
from spellwork.journal import (
    Entry,
    ErrorRegistry,
    Patched,
    Performed,
    RunRow,
    Status,
    StepCompleted,
    TimerFired,
    UpdateCompleted,
    pack_entry,
)
from spellwork.journal.rows import active_key, journal_key, timer_key
from spellwork.store import Batch, Store
from spellwork.workflow import commands as c
from spellwork.workflow.effects import Moment, Write
from spellwork.workflow.execution import AFTER_THE_END

log = logging.getLogger("spellwork.engine")
_workflow_log = logging.getLogger("spellwork.workflow")
# How many entries a run may be ahead of the store by writes alone, which wait for nothing: then it waits for the disk.
_AHEAD = 256


class Errands(Protocol):
    """Who carries what a run asks of other runs."""

    def start_child(self, live: LiveRun, command: c.StartChild) -> None:
        """Start another run."""
        ...

    def send_signal(self, live: LiveRun, command: c.SendSignal) -> None:
        """Signal another run."""
        ...

    def cancel_child(self, live: LiveRun, command: c.CancelChild) -> None:
        """Ask a child to cancel."""
        ...


class Closing(Protocol):
    """Who writes the ends of runs."""

    def finish(self, live: LiveRun, command: c.Finish) -> None:
        """Write the end of the run."""
        ...


class Effects(Protocol):
    """Who does what needs an answer of the store."""

    def perform(self, live: LiveRun, command: c.Perform) -> None:
        """Begin a read or a transaction."""
        ...

    def settle(self, live: LiveRun, n: int, entry: Entry) -> None:
        """Put an entry that has a receipt into the journal."""
        ...

    def bind(self, live: LiveRun, n: int, batch: Batch, entry: Entry, refused: Callable[[StoreError], None]) -> None:
        """Commit what an activity wrote together with its outcome."""
        ...


class Host:
    """The loaded runs of the partitions that this process owns."""

    errands: Errands
    closing: Closing
    effects: Effects

    def __init__(  # noqa: PLR0913 - what the engine was given
        self, store: Store, clock: Clock, codec: Codec, registry: Registry, errors: ErrorRegistry,
        *, threads: int, processes: int | None, cache: int,
    ):  # fmt: skip
        self.store = store
        self.clock = clock
        self.codec = codec
        self.registry = registry
        self.errors = errors
        self.partitions: dict[int, Partition] = {}
        self.runs: dict[int, LiveRun] = {}
        self.by_id: dict[str, LiveRun] = {}
        self.blocked: Callable[[RunRow], None] = lambda _row: None
        self.broken: Callable[[BaseException], None] = lambda _error: None
        self.unblocked: Callable[[], None] = lambda: None
        self.steps = Steps(self, clock, codec, errors, threads, processes)
        self.timers = Timers(clock, self._fire, self._sweep, self._wants_timer)
        self.sweep_due: Callable[[], None] = lambda: None
        self.expects: Callable[[Batch], None] = lambda _batch: None
        self.subscribed: Callable[[], None] = lambda: None
        self._cache = cache
        self._idle: OrderedDict[int, LiveRun] = OrderedDict()
        self.loader = Loader(self)
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Any) -> None:
        """Run a coroutine beside everything else, keeping it alive."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._reap)

    def _reap(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.broken(error)

    @property
    def busy(self) -> bool:
        """Whether anything is under way that will change the state without a timer or a message."""
        return self.steps.busy or self.unsettled

    @property
    def unsettled(self) -> bool:
        """Whether anything but activities is under way."""
        return bool(self._tasks or self.loader.busy) or any(live.unacked or live.held for live in self.runs.values())

    # Entries

    def append(self, live: LiveRun, entry: Entry) -> None:
        """Make `entry` the next of the journal, deliver it, and take up what the code asks for."""
        execution = live.execution
        if live.dropped or (execution.finished and not isinstance(entry, AFTER_THE_END)):
            return  # too late: the run has left, or is on its way to its end
        self._enter(live, entry)
        if not live.dropped:
            self.drain(live)

    def _enter(self, live: LiveRun, entry: Entry) -> None:
        """Make `entry` the next of the journal and deliver it."""
        execution = live.execution
        batch = live.partition.mark(live)
        if live.parked:
            self._idle.pop(live.number, None)  # it stays parked if it only waits again: that costs no row
        elif live.recoveries:
            live.recoveries = 0  # progress: the next crash counts from the start
            batch.put(active_key(live.partition.index, live.number), b"")
        key = journal_key(live.number, execution.position)
        batch.rows[key] = pack_entry(key, entry)
        self.deliver(live, entry)
        if not live.dropped:
            live.partition.remark(live)

    def deliver(self, live: LiveRun, entry: Entry) -> None:
        """Let the code see an entry that is on its way to the store."""
        try:
            live.execution.deliver(entry)
        except Exception as error:  # noqa: BLE001 - supervision point: the code of one run, on the hot path
            self.block(live, error)
        if live.execution.warnings:
            for warning in live.execution.warnings:
                _workflow_log.warning("run %s: %s", live.row.id, warning)
            live.execution.warnings.clear()

    def complete(self, live: LiveRun, entry: StepCompleted, batch: Batch, refused: Callable[[StoreError], None]) -> None:
        """The end of a step whose activity has written to Spellwork's own data: both commit together."""
        self.effects.bind(live, entry.n, batch, entry, refused)

    def hold(self, live: LiveRun, effect: Any) -> None:
        """Perform `effect` (a command or a callable) once everything up to here is durable."""
        if live.unacked or live.held:
            live.held.append((live.execution.position, effect))
        else:
            self._perform(live, effect)

    def durable(self, live: LiveRun) -> None:
        """A batch with entries of `live` was committed."""
        held, acked = live.held, live.acked
        while held and (held[0][0] <= acked or not live.unacked) and not live.dropped:
            self._perform(live, held.popleft()[1])
        if live.parked:
            self.rest_if_idle(live)

    def _perform(self, live: LiveRun, effect: Any) -> None:
        kind = type(effect)
        if kind is c.RunStep:
            self.steps.start(live, effect)
        elif kind is c.StartChild:
            self.errands.start_child(live, effect)
        elif kind is c.SendSignal:
            self.errands.send_signal(live, effect)
        elif kind is c.CancelChild:
            self.errands.cancel_child(live, effect)
        elif kind is c.Perform:
            self._do(live, effect)
        else:
            effect()

    def drain(self, live: LiveRun) -> None:
        """Take up the commands in the outbox, then see whether the run has anything left to do but wait."""
        execution = live.execution
        while execution.outbox and not live.dropped:
            commands, execution.outbox = execution.outbox, []
            for command in commands:
                kind = type(command)
                if live.receipts and command.n in live.receipts:
                    self.effects.settle(live, command.n, live.receipts.pop(command.n))
                elif kind is c.RunStep:
                    if live.parked:
                        self._unpark(live)
                    if live.unacked or live.held:
                        live.held.append((execution.position, command))
                    else:
                        self.steps.start(live, command)  # type: ignore[arg-type]
                else:
                    self._take(live, command)
        if not (execution.finished or live.dropped):
            self._sort(live)

    def _sort(self, live: LiveRun) -> None:
        """Park a run that has nothing left to do but wait, and only that."""
        if live.execution.pending_work or live.cancelling:
            if live.parked:
                self._unpark(live)
        elif live.parked:
            self._repark(live)
        else:
            self._park(live)

    def _take(self, live: LiveRun, command: c.Command) -> None:
        execution = live.execution
        match command:
            case c.StartTimer(n=n, due=due):
                if n in execution.pending:
                    self.timers.add(due, live.number, n)
            case c.CancelTimer():
                self.timers.discard()
            case c.CancelStep(n=n) | c.CancelRead(n=n):
                self.steps.cancel(live, n)  # a read has no step: it is not begun any more, or its answer is not taken
            case c.MarkPatch(id=patch):
                self.append(live, Patched(self._now(live), patch))
            case c.AnswerUpdate(id=update_id, name=name, result=result, failure=failure):
                self.append(live, UpdateCompleted(self._now(live), update_id, name, result, failure))
                self._answer_update(live, update_id)
            case c.Finish():
                self._write_held(live)
                self.closing.finish(live, command)
            case c.Perform(effect=Write()) if self._may_write(live):
                self._write(live, command)
            case _:
                if live.parked:
                    self._unpark(live)
                if isinstance(command, c.CancelChild):
                    live.cancelling[command.n] = command  # parked too early, a crash would lose it: only runs at work are recovered
                elif isinstance(command, c.Perform) and type(command.effect) is Write:
                    live.writes += 1
                self.hold(live, command)

    def _may_write(self, live: LiveRun) -> bool:
        # once one waits for the disk, those behind it do: writes keep the order in which they were asked for
        execution = live.execution
        return not live.writes and (execution.position - live.acked < _AHEAD or execution.finished)

    def _do(self, live: LiveRun, command: c.Perform) -> None:
        if type(command.effect) is Write:
            live.writes -= 1
            self._write(live, command)
            if not live.dropped:
                self.drain(live)
        else:
            self.effects.perform(live, command)

    def _write(self, live: LiveRun, command: c.Perform) -> None:
        """Rows and entry of a write, in one batch. What the code does next is taken up by whoever drains."""
        if live.dropped or command.n not in live.execution.pending:
            return
        at = self._now(live)
        batch = live.partition.mark(live)
        command.effect.put(batch, Moment(at, live.row.id, live.partition.index, f"{live.number:x}:{command.n}"))
        if command.effect.expires:
            live.partition.then(lambda: self.expects(batch))  # who looks for it earlier does not find it, and looks much later
        self._enter(live, Performed(at, command.n, command.name, command.digest))

    def _write_held(self, live: LiveRun) -> None:
        """What the code asked for before its end is written before it."""
        for _, effect in list(live.held):
            if type(effect) is c.Perform and type(effect.effect) is Write:
                self._write(live, effect)

    def _answer_update(self, live: LiveRun, update_id: str) -> None:
        answer = live.execution.update_ids.get(update_id)

        def tell() -> None:
            for waiter in live.update_waiters.pop(update_id, []):
                waiter(answer)

        # until it is told, whoever waits stands in the list: should the run leave memory before, `drop` finds him there
        if update_id in live.update_waiters:
            self.hold(live, tell)

    def _now(self, live: LiveRun) -> int:
        return max(self.clock.now(), live.execution.now)

    # Parking

    def _park(self, live: LiveRun) -> None:
        batch = live.partition.mark(live)
        index = live.partition.index
        batch.delete(active_key(index, live.number))
        self._repark(live)
        live.parked = True

    def _repark(self, live: LiveRun) -> None:
        """Write when a run that only waits is due next, if that has changed."""
        due = live.execution.next_due
        key = None if due is None else timer_key(live.partition.index, due, live.number)
        if key == live.timer_key:
            return
        batch = live.partition.mark(live)
        if live.timer_key is not None:
            batch.delete(live.timer_key)
        live.timer_key = key
        if key is not None:
            batch.put(key, b"")
            self.hold(live, lambda: self.timers.stored(due))

    def _unpark(self, live: LiveRun) -> None:
        batch = live.partition.mark(live)
        batch.put(active_key(live.partition.index, live.number), b"")
        if live.timer_key is not None:
            batch.delete(live.timer_key)
            live.timer_key = None
        live.parked = False
        self._idle.pop(live.number, None)

    def _rest(self, live: LiveRun) -> None:
        self._idle[live.number] = live
        self._idle.move_to_end(live.number)
        while len(self._idle) > self._cache:
            _, oldest = self._idle.popitem(last=False)
            self.drop(oldest)

    def rest_if_idle(self, live: LiveRun) -> None:
        """Count a run that only waits among those that leave memory, the longest at rest first, when there are too many."""
        if not live.update_waiters and live.parked and not live.dropped and not live.unacked:
            self._rest(live)

    def drop(self, live: LiveRun) -> None:
        """Forget a run's memory; what it is lies in the store."""
        if live.dropped:
            return
        live.dropped = True
        if live.unacked:
            self.loader.unsettled(live.number)
        self.runs.pop(live.number, None)
        if self.by_id.get(live.row.id) is live:
            del self.by_id[live.row.id]
        self._idle.pop(live.number, None)
        self.steps.cancel_all(live)
        self.timers.discard(sum(1 for pending in live.execution.pending.values() if pending.kind == "timer"))
        live.execution.close()
        live.held.clear()
        for waiters in live.update_waiters.values():
            for waiter in waiters:
                waiter(None)
        live.update_waiters.clear()

    def drop_partition(self, partition: Partition) -> None:
        """Forget everything of a partition that is no longer ours."""
        partition.held = False
        self.partitions.pop(partition.index, None)
        for live in [live for live in self.runs.values() if live.partition is partition]:
            self.drop(live)

    # Blocking

    def block(self, live: LiveRun, error: BaseException) -> None:
        """Park a run with a reason: nothing is lost, it goes on after a fix."""
        self.loader.unsettled(live.number)
        live.row = self.write_blocked(live.row, live.partition, live.timer_key, error)
        self.drop(live)

    def write_blocked(self, row: RunRow, partition: Partition, timer: bytes | None, error: BaseException) -> RunRow:
        """The row of a run that is blocked from now on, on its way to the store."""
        log.warning("run %s is blocked: %s", row.id, error)
        reason = self.codec.text(reason_of(error))
        blocked = rows.block(partition.batch(), row, timer, Status.BLOCKED, reason, self.clock.now())
        partition.then(lambda: self.blocked(blocked))
        return blocked

    # Timers

    def _wants_timer(self, number: int, n: int, due: int) -> bool:
        live = self.runs.get(number)
        pending = None if live is None or live.dropped else live.execution.pending.get(n)
        # with its due: a run that was lost and loaded anew may wait at the same command for another moment
        return pending is not None and pending.kind == "timer" and pending.due == due

    def _fire(self, number: int, n: int, due: int) -> None:
        if self._wants_timer(number, n, due):
            live = self.runs[number]
            self.append(live, TimerFired(max(self._now(live), due), n, live.execution.pending[n].digest))

    def fire_due(self, live: LiveRun) -> None:
        """Fire every timer of a run that is due."""
        for due, n in live.execution.due_timers(self.clock.now()):
            self._fire(live.number, n, due)

    def _sweep(self) -> None:
        self.sweep_due()

    async def close(self, grace: float) -> None:
        """Stop everything; nothing durable changes."""
        self.timers.close()
        await self.steps.close(grace)
        for live in self.runs.values():
            if live.recoveries and not live.parked:
                # closing is no death: the count goes back to what it was before this life
                live.partition.batch().put(active_key(live.partition.index, live.number), bytes((live.recoveries - 1,)))
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        for live in list(self.runs.values()):
            self.drop(live)
