"""Owns the attempts of activities: where they run, their limits, retries and cancellation.
It must never record anything itself: outcomes go to the host as entries.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import functools
import random
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from spellwork.clock import MICROSECONDS, Cancellable, Clock
from spellwork.codec import Codec
from spellwork.engine.live import LiveRun
from spellwork.engine.workers import Workers
from spellwork.errors import ActivityTimeout, PayloadError, StoreError, StoreUnavailable
from spellwork.journal import AttemptFailed, Entry, ErrorRegistry, Failure, StepCompleted, StepFailed
from spellwork.store import Batch
from spellwork.store.store import no_thread
from spellwork.supervision import attempt
from spellwork.workflow.activity import ActivityContext, enter_activity
from spellwork.workflow.commands import RunStep

_TURN = 64


class Recorder(Protocol):
    """Who writes the outcome of a step."""

    def append(self, live: LiveRun, entry: Entry) -> None:
        """Make `entry` the next of the run's journal."""
        ...

    def complete(self, live: LiveRun, entry: StepCompleted, batch: Batch, refused: Callable[[StoreError], None]) -> None:
        """Commit `batch` together with `entry`; `refused` hears of a requirement of it that does not hold."""
        ...

    def hold(self, live: LiveRun, effect: Callable[[], None]) -> None:
        """Do `effect` once everything so far is durable."""
        ...

    def broken(self, error: BaseException) -> None:
        """The engine itself has failed."""
        ...


class Step(msgspec.Struct, gc=False, eq=False):
    """One activity under way: its command, the attempt, and what has to be stopped when it is over.

    Task and handles refer back to the step; `conclude` lets go of them, so the cycle collector need not look here.
    """

    steps: Any
    live: LiveRun
    command: RunStep
    attempt: int
    began: int
    details: bytes | None = None
    done: bool = False
    task: asyncio.Task[None] | None = None
    limit_handle: Cancellable | None = None
    beat_handle: Cancellable | None = None
    retry_handle: Cancellable | None = None
    bound: Any = None

    def stop(self) -> None:
        """No outcome of this attempt counts any more."""
        task, self.task = self.task, None
        self.conclude()
        if task is not None and not task.done():
            task.cancel()

    def conclude(self) -> None:
        """The outcome is known. The task is let go of: it refers back to the step, and cycles are garbage that piles up."""
        self.done = True
        self.task = None
        if self.limit_handle is not None:
            self.limit_handle.cancel()
        if self.beat_handle is not None:
            self.beat_handle.cancel()
        if self.retry_handle is not None:
            self.retry_handle.cancel()
        self.limit_handle = self.beat_handle = self.retry_handle = None

    def context(self) -> ActivityContext:
        """What the activity may know of itself."""
        row = self.live.row
        return ActivityContext(
            run_id=row.id,
            workflow=row.workflow,
            activity=self.command.activity.name,
            attempt=self.attempt,
            number=row.number,
            n=self.command.n,
            correlation=self.live.execution.started.origin,
            last_heartbeat=self.steps.unpack_details(self),
            beat=lambda details: self.steps.beat(self, details),
            step=self,
        )


class Steps:
    """Runs activities: async ones on this loop, plain ones in threads, CPU-bound ones in processes."""

    def __init__(self, recorder: Recorder, clock: Clock, codec: Codec, errors: ErrorRegistry, threads: int, processes: int | None):
        self._recorder = recorder
        self._clock = clock
        self._codec = codec
        self._errors = errors
        self._loop = asyncio.get_running_loop()
        self._threads = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="spellwork-activity")
        self._threaded = False
        self._processes = Workers(processes)
        self._random = random.Random(clock.entropy(16))  # noqa: S311 - spreads retries
        self._context = contextvars.copy_context()
        self._running: set[Step] = set()
        self._queue: deque[Step] = deque()
        self._waking = False
        self._closing = False
        self._idle: list[asyncio.Future[None]] = []
        self._workers: set[asyncio.Task[None]] = set()
        self.state: Callable[[], Any] = lambda: None
        self.fakes: Mapping[str, Callable[..., Any]] = {}

    @property
    def busy(self) -> bool:
        """Whether an activity is under way; one that waits for its retry is not."""
        return any(step.retry_handle is None for step in self._running)

    @property
    def on_the_loop(self) -> bool:
        """Whether all activities under way run on the event loop."""
        running = (step.command.activity for step in self._running if step.retry_handle is None)
        return all(each.executor == "async" or each.name in self.fakes for each in running)

    def start(self, live: LiveRun, command: RunStep) -> None:
        """Begin the next attempt of a step, now or when its retry is due."""
        pending = live.execution.pending.get(command.n)
        if pending is None or live.dropped:
            return  # cancelled while it waited for its batch
        step = Step(self, live, command, pending.attempt + 1, self._clock.now())
        step.details = pending.heartbeat
        live.steps[command.n] = step
        self._running.add(step)
        wait = pending.retry_at - step.began
        if pending.attempt and wait > 0:
            step.retry_handle = self._clock.call_later(wait / MICROSECONDS, lambda: self._relaunch(step))
        else:
            self._launch(step)

    def cancel(self, live: LiveRun, n: int) -> None:
        """Nobody waits for this step any more."""
        step = live.steps.pop(n, None)
        if step is not None:
            step.stop()
            self._running.discard(step)

    def cancel_all(self, live: LiveRun) -> None:
        """The run is leaving memory or is over."""
        for n in list(live.steps):
            self.cancel(live, n)

    def _relaunch(self, step: Step) -> None:
        step.retry_handle = None
        step.began = self._clock.now()
        self._launch(step)

    def _launch(self, step: Step) -> None:
        if step.command.activity.is_limited and not self._arm(step):
            return
        self._queue.append(step)
        if not self._waking:
            self._waking = True
            self._rouse()

    def _arm(self, step: Step) -> bool:
        limit = self._limit(step)
        if limit is not None:
            name, seconds, left = limit
            if left <= 0:
                self._conclude(step, self._timeout(step, name, seconds))
                return False
            step.limit_handle = self._clock.call_later(left, lambda: self._conclude(step, self._timeout(step, name, seconds)))
        if step.command.activity.heartbeat_timeout is not None:
            self._arm_heartbeat(step)
        return True

    def _limit(self, step: Step) -> tuple[str, float, float] | None:
        """The limit that will be met first: its name, its seconds, and the seconds left."""
        activity = step.command.activity
        limits = []
        if activity.timeout is not None:
            limits.append((activity.timeout, "timeout", activity.timeout))
        if activity.schedule_timeout is not None:
            issued = step.live.execution.pending[step.command.n].issued
            left = activity.schedule_timeout - (step.began - issued) / MICROSECONDS
            limits.append((left, "schedule_timeout", activity.schedule_timeout))
        if not limits:
            return None
        left, name, seconds = min(limits)
        return name, seconds, left

    def _timeout(self, step: Step, limit: str, seconds: float) -> ActivityTimeout:
        name = step.command.activity.name
        return ActivityTimeout(
            f"activity {name} of run {step.live.row.id} exceeded its {limit} of {seconds:g} s (attempt {step.attempt})",
            activity=name,
            limit=limit,
            seconds=seconds,
        )

    def _arm_heartbeat(self, step: Step) -> None:
        if step.beat_handle is not None:
            step.beat_handle.cancel()
        seconds = step.command.activity.heartbeat_timeout
        step.beat_handle = self._clock.call_later(
            seconds, lambda: self._conclude(step, self._timeout(step, "heartbeat_timeout", seconds))
        )

    def beat(self, step: Step, details: Any) -> None:
        """The activity is alive. Called on the loop or in the activity's thread."""
        if step.done:
            raise asyncio.CancelledError("the step is over; stop working")
        step.details = None if details is None else self._codec.untyped.encode(details)
        if step.command.activity.heartbeat_timeout is not None:
            if step.command.activity.executor == "async":
                self._rearm(step)
            else:
                self._loop.call_soon_threadsafe(self._rearm, step)

    def unpack_details(self, step: Step) -> Any:
        """What the last heartbeat said."""
        return None if step.details is None else self._codec.untyped.decode(step.details)

    def _rearm(self, step: Step) -> None:
        if not step.done:
            self._arm_heartbeat(step)

    def _rouse(self) -> None:
        if self._idle:
            self._idle.pop().set_result(None)
        else:
            # in the context of the engine, not of whoever happens to call: what activities set must not travel
            worker = self._loop.create_task(self._work(), context=self._context.copy())
            self._workers.add(worker)
            worker.add_done_callback(self._retire)

    def _retire(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        if not worker.cancelled() and (error := worker.exception()) is not None:
            self._recorder.broken(error)

    def _spare(self) -> None:
        """The worker before may be held up in an activity that waits: if steps are left, another takes over."""
        if self._queue:
            self._rouse()
        else:
            self._waking = False

    async def _work(self) -> None:
        # A task for each activity cost a tenth of a step. Most activities that are async end within a few turns, so tasks are
        # shared: a worker goes from step to step, and when one makes it wait, `_spare` puts another in its place.
        task = asyncio.current_task()
        turn = 0
        while True:
            self._waking = False
            while self._queue:
                step = self._queue.popleft()
                if step.done:
                    continue
                turn += 1
                if turn % _TURN == 0:
                    self._queue.appendleft(step)
                    await asyncio.sleep(0)
                    continue
                if self._queue and not self._waking:
                    self._waking = True
                    self._loop.call_soon(self._spare)
                step.task = task
                enter_activity(step)
                before = contextvars.copy_context()
                await self._attempt(step)
                if task is not None and task.cancelling():
                    task.uncancel()
                if self._closing or contextvars.copy_context() != before:
                    return  # what an activity leaves in its context must not reach the next one
            idle: asyncio.Future[None] = self._loop.create_future()
            self._idle.append(idle)
            await idle

    async def _attempt(self, step: Step) -> None:
        command = step.command
        activity = command.activity
        try:
            function = self.fakes.get(activity.name, activity.fn) if self.fakes else activity.fn
            if function is not activity.fn:
                value = function(*command.args, **command.kwargs)
                if asyncio.iscoroutine(value):
                    value = await value
            elif activity.executor == "async":
                value = await function(*command.args, **command.kwargs)
            elif activity.executor == "thread":
                context = contextvars.copy_context()
                waiting = self._in_thread(
                    functools.partial(context.run, attempt, lambda: function(*command.args, **command.kwargs))
                )
                if waiting is None:
                    return  # the engine has stopped: it is no fault of the activity's
                value, raised = await waiting
                if raised is not None:  # not by way of the future, which takes no StopIteration
                    raise raised  # noqa: TRY301 - the same path as any other failure
            else:
                value, failure = await self._processes.call(call_activity, activity.declared, command.args, command.kwargs)
                if failure is not None:
                    raise self._errors.rebuild(failure)  # noqa: TRY301 - the same path as any other failure
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - supervision point: user code of an activity
            if isinstance(error, concurrent.futures.BrokenExecutor):
                error = RuntimeError(
                    f"the worker process of activity {activity.name} died: killed, out of memory, or a crash in native code"
                )
            self._conclude(step, error)
        else:
            self._conclude(step, None, value)

    def _in_thread(self, call: Callable[[], Any]) -> asyncio.Future[Any] | None:
        """The outcome of `call` in a thread; without any thread the engine is stopped, and there is none."""
        future: asyncio.Future[Any] = self._loop.create_future()

        def give(outcome: Any) -> None:
            if not future.done():
                future.set_result(outcome)

        def work() -> None:
            if not future.cancelled():
                outcome = call()
                with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits
                    self._loop.call_soon_threadsafe(give, outcome)

        try:
            self._threads.submit(work)
        except RuntimeError as error:
            if self._threaded:
                return future  # the executor has queued it before it failed to start one more thread: another takes it
            future.cancel()
            self._recorder.broken(StoreUnavailable(f"an activity cannot run: {no_thread(error)}"))
            return None
        self._threaded = True
        return future

    def _conclude(self, step: Step, error: BaseException | None, value: Any = None) -> None:
        live, command = step.live, step.command
        pending = live.execution.pending.get(command.n)
        if step.done or live.dropped or pending is None:
            return  # a late result: the step was cancelled, timed out, or its run has left
        if error is not None and step.task is not asyncio.current_task():
            step.stop()
        else:
            step.conclude()
        self._running.discard(step)
        live.steps.pop(command.n, None)
        name = command.activity.name
        at = max(self._clock.now(), live.execution.now)  # the wall clock may have been set back
        if error is None:
            try:
                shape = pending.shape
                result = shape.encode(value)
                pending.value = (shape.decode(result),)
            except PayloadError as problem:
                error = PayloadError(f"activity {name}, result: {problem}", path=problem.path)
            else:
                entry = StepCompleted(at, command.n, name, command.digest, result, step.attempt, step.began)
                if step.bound is None or not step.bound.writes:
                    self._recorder.append(live, entry)
                    return
                batch, error = attempt(step.bound.into, Batch())  # it may have lost already, and the activity swallowed that
                if error is None:
                    self._recorder.complete(live, entry, batch, lambda refusal: self._failed(step, refusal, self._clock.now()))
                    return
        self._failed(step, error, at)

    def _failed(self, step: Step, error: BaseException, at: int) -> None:
        live, command, activity = step.live, step.command, step.command.activity
        failure = Failure.of(error).redacted(self._codec.redaction)
        wait = activity.retry.wait_after(step.attempt, error, self._random.random())
        issued = live.execution.pending[command.n].issued
        limit = activity.schedule_timeout
        if wait is not None and limit is not None and (at - issued) / MICROSECONDS + wait >= limit:
            wait = None  # no sleep that ends beyond the limit
        if wait is None:
            self._recorder.append(live, StepFailed(at, command.n, activity.name, command.digest, failure, step.attempt, step.began))
            return
        retry_at = self._clock.now() + round(wait * MICROSECONDS)
        self._recorder.append(
            live,
            AttemptFailed(at, command.n, activity.name, command.digest, failure, step.attempt, retry_at, step.details, step.began),
        )
        self._recorder.hold(live, lambda: self.start(live, command))

    async def close(self, grace: float) -> None:
        """Wait up to `grace` seconds for what runs, then stop it."""
        self._closing = True
        deadline = self._clock.monotonic() + grace
        while self.busy and self._clock.monotonic() < deadline:  # noqa: ASYNC110 - one that waits for its retry is not waited for
            await asyncio.sleep(0.01)
        for step in list(self._running):
            step.stop()
        self._running.clear()
        self._queue.clear()
        for worker in list(self._workers):
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)
        await self._processes.close()


def call_activity(activity: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Failure | None]:
    """What a worker process runs; the activity arrives by reference. Its error goes back as data: not every exception pickles."""
    value, error = attempt(lambda: activity.fn(*args, **kwargs))
    return value, None if error is None else Failure.of(error)
