"""Owns one run in memory: journal entries in, commands out, the same on first run and on replay.
It must never await, log, read time or touch the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import functools
import random
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from spellwork.codec import Codec
from spellwork.errors import (
    DefinitionError,
    NonDeterminismError,
    PayloadError,
    QueryFailed,
    UsageError,
)
from spellwork.instant import LAST
from spellwork.journal import entries as e
from spellwork.journal.failure import ErrorRegistry, Failure
from spellwork.workflow import commands as c
from spellwork.workflow.activity import Activity
from spellwork.workflow.child import Child
from spellwork.workflow.closed import CLOSED, Never
from spellwork.workflow.definition import Workflow
from spellwork.workflow.effects import Effect, Read
from spellwork.workflow.handlers import Handler, Update
from spellwork.workflow.loop import Evicted, TimerHandle, WorkflowFuture, WorkflowLoop
from spellwork.workflow.pending import Pending, describe
from spellwork.workflow.signal import Signal
from spellwork.workflow.verbs import ContinueAsNew

_SECOND, SEEN = 1_000_000, 1000
# before the id of an update that an earlier run of the chain has had; no id has a control character
SEEN_UPDATE = "\0"
_IMMUTABLE = frozenset({int, str, bytes, float, bool, type(None)})


class Ignored(Exception):
    """A signal is no concern of the run any more: it is received, and no part of the journal."""


class Execution:
    """The code of one run, brought to where its journal ends.

    `deliver` takes the next entry; `outbox` holds the commands that the code has issued since it was last emptied. `replaying` is
    true while entries from the store are delivered, so that `patched()` can tell the past from the present.
    """

    def __init__(self, number: int, definition: Workflow[Any, Any], codec: Codec, errors: ErrorRegistry):
        self.number = number
        self.definition = definition
        self.codec = codec
        self.loop = WorkflowLoop(number, self)  # type: ignore[abstract] # the rest of its methods is forbidden, see loop.py
        self.outbox: list[c.Command] = []
        self.pending: dict[int, Pending] = {}
        self._passive: set[int] = set()
        self.queries: dict[str, Handler] = {}
        self.updates: dict[str, Update] = {}
        self.replaying = self.finished = False
        self.position = 0
        self.now = 0
        self.started: e.Started
        self.seen: frozenset[str] = frozenset()
        self.signal_ids: dict[str, None] = {}
        self.subscriptions: dict[str, asyncio.Task[None]] = {}
        self.update_ids: dict[str, e.UpdateCompleted | None] = {}
        self._errors = errors
        self._numbers, self._readonly = 0, False
        self._root: asyncio.Task[Any] | None = None
        self._signals: dict[str, deque[tuple[bytes, str | None]]] = {}
        self._receivers: dict[str, deque[tuple[int, Any, asyncio.Future[Any]]]] = {}
        self._children: dict[int, asyncio.Future[Any]] = {}
        self._patches: dict[str, bool] = {}
        self._journaled_patches: set[str] = set()
        self._cancel_reason: str | None = None
        self._continuing: bytes | None = None
        self.warnings: list[str] = []

    # Entries in

    def deliver(self, entry: Any) -> None:
        """Apply one entry, run the code until it waits; raises `NonDeterminismError` where it differs from the journal."""
        if self.finished and not isinstance(entry, AFTER_THE_END):
            self._mismatch(describe(entry), "nothing: the workflow is over")
        self.now = max(self.now, entry.at)
        if self._root is not None:
            self.loop.elapsed = (self.now - self.started.at) / _SECOND
        DELIVER[type(entry)](self, entry)
        self.position += 1
        if self.position > self.started.carried:  # what was carried over was there before the code ran
            self.loop.run_ready()
        root = self._root
        if root is not None and not self.finished and root.done():
            self.finished = True
            self.outbox.append(self._outcome(root))

    def replay(self, entries: list[Any]) -> None:
        """Deliver the journal from the store, then keep only the commands that are still open."""
        # A patch's answer was journaled behind the entry during whose delivery it was asked for.
        self._journaled_patches = {entry.id for entry in entries if isinstance(entry, e.Patched)}
        answered = {entry.id for entry in entries if isinstance(entry, e.UpdateCompleted)}
        last = max((i for i, entry in enumerate(entries) if not isinstance(entry, (e.Patched, e.UpdateCompleted))), default=0)
        for index, entry in enumerate(entries):
            self.replaying = index < last
            self.deliver(entry)
        self.replaying = False
        self.outbox = [command for command in self.outbox if self._is_open(command, answered)]

    def _is_open(self, command: c.Command, answered: set[str]) -> bool:
        match command:
            case c.AnswerUpdate():
                return command.id not in answered
            case c.MarkPatch():
                return command.id not in self._journaled_patches
            case c.Finish() | c.CancelChild():
                return True  # a child that has ended ignores it
            case c.StartChild():
                pending = self.pending.get(command.n)
                return pending is not None and pending.kind == "start of child"
            case c.CancelStep() | c.CancelTimer() | c.CancelRead():
                return False
            case _:
                return command.n in self.pending

    def _started(self, entry: e.Started) -> None:
        self.started, self.seen = entry, frozenset(entry.seen)
        args, kwargs = self.definition.parameters.decode(self.codec, entry.args)
        self._root = self._spawn(self.definition.fn(*args, **kwargs))

    def _answer(self, entry: Any, kind: str) -> Pending:
        pending = self.pending.pop(entry.n, None)
        self._passive.discard(entry.n)
        if pending is None:
            waiting = ", ".join(sorted(str(p) for p in self.pending.values())) or "no command"
            self._mismatch(describe(entry), f"{waiting} (command {entry.n} was not issued)")
        if pending.kind != kind or pending.digest != entry.digest or pending.name != getattr(entry, "name", ""):
            found = f"{pending}"
            if pending.kind == kind and pending.name == getattr(entry, "name", ""):
                found += " with other arguments"
            self._mismatch(describe(entry), found)
        return pending

    def _mismatch(self, expected: str, found: str) -> NoReturn:
        run = self.started.run_id
        raise NonDeterminismError(
            f"run {run}, journal position {self.position}: the journal says {expected}, the code of workflow "
            f"{self.definition.name} (version {self.definition.version}) asks for {found}. Restore the old code, guard the change "
            "with patched(), or register it as a new version",
            run_id=run,
            position=self.position,
            expected=expected,
            found=found,
        )

    def _step_completed(self, entry: e.StepCompleted) -> None:
        pending = self._answer(entry, "step")
        future = pending.future
        if pending.value is not None:
            future.set_result(pending.value[0])
            return
        try:
            value = pending.shape.decode(entry.result)
        except PayloadError as error:
            future.set_exception(error)
        else:
            future.set_result(value)

    def _step_failed(self, entry: e.StepFailed) -> None:
        error = self._errors.rebuild(entry.failure)
        tries = f" after {entry.attempt} attempts" if entry.attempt > 1 else ""
        error.add_note(f"activity {entry.name} failed{tries}")
        self._answer(entry, "step").future.set_exception(error)

    def _attempt_failed(self, entry: e.AttemptFailed) -> None:
        pending = self._answer(entry, "step")
        pending.attempt, pending.retry_at, pending.heartbeat = entry.attempt, entry.retry_at, entry.heartbeat
        self.pending[entry.n] = pending

    def _timer_fired(self, entry: e.TimerFired) -> None:
        self.loop.make_ready(self._answer(entry, "timer").handle)

    def _signal_received(self, entry: e.SignalReceived) -> None:
        if entry.id is not None:
            self.signal_ids[entry.id] = None
        self._signals.setdefault(entry.name, deque()).append((entry.payload, entry.id))
        self._match_signals(entry.name)

    def _match_signals(self, name: str) -> None:
        waiting, buffered = self._receivers.get(name), self._signals.get(name)
        while waiting and buffered:
            _, shape, future = waiting[0]
            if future.done():
                waiting.popleft()
                continue
            payload, _ = buffered.popleft()
            try:
                value = shape.decode(payload)
            except PayloadError as error:
                self.warnings.append(f"signal {name}: skipped one that does not fit: {error}")
                continue
            waiting.popleft()
            future.set_result((value,))

    def _update_accepted(self, entry: e.UpdateAccepted) -> None:
        self.update_ids[entry.id] = None
        handler = self.updates.get(entry.name)
        if handler is None:
            self._mismatch(describe(entry), f"no update named {entry.name}")
        self._spawn(self._run_update(handler, entry))

    def _spawn(self, coro: Any) -> Any:
        # in a context of its own: what the caller has set (decimal's precision, say) would be different on replay
        return self.loop.create_task(coro, context=contextvars.Context())

    async def _run_update(self, handler: Update, entry: e.UpdateAccepted) -> None:
        result, failure = None, None
        try:
            args, kwargs = handler.parameters.decode(self.codec, entry.args)
            value = handler.fn(*args, **kwargs)
            if asyncio.iscoroutine(value):
                value = await value
            result = self.codec.shape(handler.parameters.result).encode(value)
        except ContinueAsNew:
            self._continuing = None
            failure = self._failure(UsageError(f"update {handler.name}: only the workflow itself can continue_as_new()"))
        except (Exception, asyncio.CancelledError, SystemExit) as error:  # noqa: BLE001 - supervision point: user code of an update
            failure = self._failure(error)
        self.outbox.append(c.AnswerUpdate(0, entry.id, entry.name, result, failure))

    def _failure(self, error: BaseException) -> Failure:
        return Failure.of(error).redacted(self.codec.redaction)

    def _update_completed(self, entry: e.UpdateCompleted) -> None:
        self.update_ids[entry.id] = entry

    def _child_started(self, entry: e.ChildStarted) -> None:
        pending = self._answer(entry, "start of child")
        if entry.failure is not None:
            pending.future.set_exception(self._errors.rebuild(entry.failure))
            return
        child = self.pending[entry.n] = Pending("child", entry.name, entry.digest, self._children[entry.n], pending.shape)
        child.child_id, child.parent_close = entry.child_id, pending.parent_close
        self._passive.add(entry.n)
        pending.future.set_result(entry.child_id)

    def _child_ended(self, entry: e.ChildEnded) -> None:
        pending = self._answer(entry, "child")
        if pending.future.done():
            return
        if entry.failure is not None:
            pending.future.set_exception(self._errors.rebuild(entry.failure))
            pending.future.exception()  # a child that nobody awaits may fail without a log line
            return
        try:
            pending.future.set_result(pending.shape.decode(entry.result))
        except PayloadError as error:
            pending.future.set_exception(error)

    def _signal_sent(self, entry: e.SignalSent) -> None:
        future = self._answer(entry, "signal to").future
        if entry.failure is not None and not future.done():
            future.set_exception(self._errors.rebuild(entry.failure))
        elif not future.done():
            future.set_result(None)

    def _performed(self, entry: e.Performed) -> None:
        pending = self._answer(entry, "effect")
        if pending.future.done() or self.finished:
            return
        if entry.failure is not None:
            pending.future.set_exception(self._errors.rebuild(entry.failure))
        elif entry.result is None:
            pending.future.set_result(None)
        else:
            try:
                pending.future.set_result(pending.shape.decode(entry.result))
            except PayloadError as error:
                pending.future.set_exception(error)

    def _patched(self, entry: e.Patched) -> None:
        if not self._patches.get(entry.id):
            self._mismatch(describe(entry), f"no patched({entry.id!r}) so far")

    def _cancel_requested(self, entry: e.CancelRequested) -> None:
        if self._cancel_reason is None and self._root is not None:
            self._cancel_reason = entry.reason
            self._root.cancel(entry.reason)

    def _ended(self, entry: Any) -> None:
        if not self.finished and not isinstance(entry, e.Terminated):
            waiting = ", ".join(sorted(str(p) for p in self.pending.values())) or "more"
            self._mismatch(describe(entry), f"{waiting}: the workflow has not come to its end")
        self.finished = True

    def _outcome(self, root: asyncio.Task[Any]) -> c.Finish:
        if root.cancelled():
            return c.Finish(0, cancelled=self._cancel_reason or "the workflow cancelled itself")
        error = root.exception()
        if isinstance(error, ContinueAsNew):
            carried = tuple((name, *item) for name, buffer in sorted(self._signals.items()) for item in buffer)
            return c.Finish(0, continue_args=self._continuing, carried=carried, seen=self._had())
        if error is None and self._continuing is not None:
            error = UsageError("continue_as_new() was swallowed by an except clause; let BaseException pass")
        if error is not None:
            return c.Finish(0, failure=self._failure(error))
        try:
            shape = self.codec.shape(self.definition.parameters.result)
            result = shape.encode(root.result())
            shape.decode(result)
            return c.Finish(0, result=result)
        except PayloadError as problem:
            error = PayloadError(f"workflow {self.definition.name}, result: {problem}", path=problem.path)
            return c.Finish(0, failure=self._failure(error))

    def _had(self) -> tuple[str, ...]:
        """What the next run of the chain knows of: the newest of each kind, so that many of one crowd out none of the other."""
        seen = (*self.started.seen, *self.signal_ids, *(SEEN_UPDATE + update_id for update_id in self.update_ids))
        updates = [each for each in seen if each.startswith(SEEN_UPDATE)]
        signals = [each for each in seen if not each.startswith(SEEN_UPDATE)]
        return (*signals[-SEEN:], *updates[-SEEN:])

    # Verbs of workflow code

    def _number(self) -> int:
        if self.loop.closed:
            raise Evicted
        if self._readonly:
            raise QueryFailed("a query must not change the run: it issued a command; use an update for that")
        self._numbers += 1
        return self._numbers

    async def step(self, activity: Activity[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an activity as a durable step."""
        try:
            digest = self.codec.digest((args, kwargs) if kwargs else args)
        except PayloadError as error:
            raise PayloadError(f"activity {activity.name}, arguments: {error}", path=error.path) from error
        activity.check_arity(args, kwargs)
        if self.loop.closed:
            await Never()  # the code is being dropped
        if activity.retry.non_retryable:
            self._errors.add(kind for kind in activity.retry.non_retryable if issubclass(kind, Exception))
        if kwargs or not _IMMUTABLE.issuperset(map(type, args)):
            args, kwargs = copy.deepcopy((args, kwargs))  # what the activity does to them must not reach the workflow
        n = self._number()
        future: asyncio.Future[Any] = asyncio.Future(loop=self.loop)
        shape = self.codec.shape(activity.result)
        self.pending[n] = Pending("step", activity.name, digest, future, shape, issued=self.now)
        self.outbox.append(c.RunStep(n, activity, args, kwargs, digest))
        try:
            return await future
        finally:
            if future.cancelled() and self.pending.pop(n, None) is not None:
                self.outbox.append(c.CancelStep(n))

    def start_timer(self, delay: float, handle: TimerHandle) -> None:
        """A timer of the loop (asyncio.sleep, timeout, call_later)."""
        if self.loop.closed:
            return
        n = handle.n = self._number()
        microseconds = max(0, round(min(delay * _SECOND, LAST)))
        due = min(self.now + microseconds, LAST)  # for ever is as long as there is a date for
        self.pending[n] = Pending("timer", "", microseconds.to_bytes(8, "big"), None, None, handle, due=due)
        self._passive.add(n)
        self.outbox.append(c.StartTimer(n, due))

    def stop_timer(self, handle: TimerHandle) -> None:
        """The timer was cancelled."""
        self._passive.discard(handle.n)
        if self.pending.pop(handle.n, None) is not None and not self.loop.closed:
            self.outbox.append(c.CancelTimer(handle.n))

    async def receive(self, signal: Signal[Any], timeout: float | None, default: Any) -> Any:
        """The next signal of this name, or `default` after `timeout` seconds."""
        if self.loop.closed:
            await Never()  # the code is being dropped
        n = self._number()
        future = self.loop.create_future()
        receiver = (n, self.codec.shape(signal.type), future)
        self._receivers.setdefault(signal.name, deque()).append(receiver)
        self._match_signals(signal.name)
        timer = None if timeout is None or future.done() else self.loop.call_later(timeout, _expire, future)
        try:
            outcome = await future
        finally:
            if timer is not None:
                timer.cancel()
            waiting = self._receivers[signal.name]
            if receiver in waiting:
                waiting.remove(receiver)
        return default if outcome is None else outcome[0]

    async def run_child(self, workflow: Workflow[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a child and wait for its result; cancelling the wait cancels the child."""
        starting = self.loop.create_task(self.start_child(workflow, args, kwargs, None, "cancel"))
        try:
            return await (await asyncio.shield(starting)).result()
        except asyncio.CancelledError:
            while not starting.done():  # cancelled once more meanwhile: the child is started all the same
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.shield(starting)
            starting.result().cancel("its parent stopped waiting for it")
            raise

    async def start_child(
        self,
        workflow: Workflow[Any, Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        child_id: str | None,
        close: str,
    ) -> Child:
        """Start a child run."""
        if not isinstance(workflow, Workflow):
            raise DefinitionError(f"start_child() needs a @workflow, not {workflow!r}")
        if close not in ("cancel", "terminate", "abandon"):
            raise DefinitionError(f'parent_close={close!r} is unknown; use "cancel", "terminate" or "abandon"')
        payload = workflow.parameters.encode(self.codec, args, kwargs)
        digest = self.codec.digest((child_id or "", close, args, kwargs))
        n = self._number()
        # each run of a chain has children of its own
        chain = f"~{self.started.generation}" if self.started.generation else ""
        child_id = child_id or f"{self.started.run_id}{chain}.{n}"
        started = self.loop.create_future()
        ended = self._children[n] = self.loop.create_future()
        shape = self.codec.shape(workflow.parameters.result)
        self.pending[n] = Pending("start of child", workflow.name, digest, started, shape, child_id=child_id, parent_close=close)
        self.outbox.append(c.StartChild(n, workflow, child_id, payload, digest, close))
        # shielded: once asked for, the child will exist, so the answer is waited for even if this task is cancelled
        await asyncio.shield(started)
        return Child(self, child_id, ended)

    def cancel_child(self, child_id: str, reason: str) -> None:
        """Ask a child to cancel."""
        self.outbox.append(c.CancelChild(self._number(), child_id, reason))

    async def send_signal(self, target: str, signal: Signal[Any] | str, value: Any) -> None:
        """Send a signal to another run; returns once it is durable there."""
        name, annotation = (signal, Any) if isinstance(signal, str) else (signal.name, signal.type)
        payload = self.codec.shape(annotation).encode(value)
        digest = self.codec.digest((target, payload))
        n = self._number()
        future = self.loop.create_future()
        self.pending[n] = Pending("signal to", name, digest, future, None)
        self.outbox.append(c.SendSignal(n, target, name, payload, digest))
        await future

    async def perform(self, effect: Effect) -> Any:
        """Do something to Spellwork's own data, exactly once; what it gave, or what it raised, is recorded."""
        if self.loop.closed:
            await Never()
        digest = self.codec.digest(effect.words)
        n = self._number()
        future = self.loop.create_future()
        self.pending[n] = Pending("effect", effect.name, digest, future, getattr(effect, "shape", None))
        self.outbox.append(c.Perform(n, effect.name, digest, effect))
        if not isinstance(effect, Read):
            # shielded: once asked for it is done, so its entry is taken even if nobody waits any more
            return await asyncio.shield(future)
        try:
            return await future
        finally:
            if future.cancelled() and self.pending.pop(n, None) is not None:
                self.outbox.append(c.CancelRead(n))

    def patched(self, patch: str) -> bool:
        """See `verbs.patched`."""
        answer = self._patches.get(patch)
        if answer is None:
            answer = patch in self._journaled_patches if self.replaying else True
            self._patches[patch] = answer
            if answer and patch not in self._journaled_patches:
                self.outbox.append(c.MarkPatch(0, patch))
        return answer

    def continue_as_new(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> NoReturn:
        """See `verbs.continue_as_new`."""
        self._continuing = self.definition.parameters.encode(self.codec, args, kwargs)
        raise ContinueAsNew

    @functools.cached_property
    def rng(self) -> random.Random:
        """The run's own generator; few workflows want one, and its state takes long to make."""
        return random.Random(self.started.seed)  # noqa: S311 - replayable on purpose

    # What the host looks at

    def admit(self, entry: e.SignalReceived) -> None:
        """Raise what whoever sent the signal is to be told instead, if the code refuses it, or `Ignored`.

        Plain workflows buffer every one.
        """

    def keep_record(self) -> None:
        """Tell from now on what the code does, if it can; plain workflows show themselves in their journal."""

    def standing(self) -> bytes | None:
        """What whoever sent the last signal is told of where it led, if he asks."""
        return None

    def find_query(self, name: str) -> Handler | None:
        """The query of this name."""
        return self.queries.get(name)

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """While this lasts, a command is refused with `QueryFailed`."""
        self._readonly = True
        try:
            yield
        finally:
            self._readonly = False

    @property
    def pending_work(self) -> bool:
        """Whether anything is under way that needs this process: not only timers, children and signals."""
        return len(self.pending) > len(self._passive)

    @property
    def next_due(self) -> int | None:
        """When the earliest timer is due."""
        if not self.pending:
            return None
        return min((p.due for p in self.pending.values() if p.kind == "timer"), default=None)

    def due_timers(self, now: int) -> list[tuple[int, int]]:
        """When and by which command each timer is due that is due now, earliest first."""
        return sorted((p.due, n) for n, p in self.pending.items() if p.kind == "timer" and p.due <= now)

    def open_children(self) -> list[tuple[str, str]]:
        """Id and parent-close policy of each child that has not ended, and of those that were asked for and may exist by now."""
        return [(p.child_id, p.parent_close) for p in self.pending.values() if p.kind in ("child", "start of child")]

    def close(self) -> None:
        """Drop the code from memory, and let go of what refers back here: cycles are garbage that piles up."""
        self.loop.close()
        self.loop.timers = CLOSED
        self._root = None
        for held in (self.pending, self.queries, self.updates, self.subscriptions, self._receivers, self._children):
            held.clear()


def _expire(future: WorkflowFuture) -> None:
    if not future.done():
        future.set_result(None)


# What the code said in the same breath as its end is still written: answers, marks and writes.
AFTER_THE_END = (*e.ENDINGS, e.UpdateCompleted, e.Patched, e.Performed)

DELIVER: dict[type, Callable[[Any, Any], None]] = {
    e.Started: Execution._started,
    e.StepCompleted: Execution._step_completed,
    e.StepFailed: Execution._step_failed,
    e.AttemptFailed: Execution._attempt_failed,
    e.TimerFired: Execution._timer_fired,
    e.SignalReceived: Execution._signal_received,
    e.UpdateAccepted: Execution._update_accepted,
    e.UpdateCompleted: Execution._update_completed,
    e.ChildStarted: Execution._child_started,
    e.ChildEnded: Execution._child_ended,
    e.SignalSent: Execution._signal_sent,
    e.Patched: Execution._patched,
    e.Performed: Execution._performed,
    e.CancelRequested: Execution._cancel_requested,
} | dict.fromkeys(e.ENDINGS, Execution._ended)
