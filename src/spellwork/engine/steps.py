"""Owns the attempts of activities: where they run, their limits, retries and cancellation.
It must never record anything itself: outcomes go to the host as entries.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import multiprocessing
import random
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol

from spellwork.clock import MICROSECONDS, Cancellable, Clock
from spellwork.codec import Codec
from spellwork.engine.live import LiveRun
from spellwork.errors import ActivityTimeout, PayloadError
from spellwork.journal import AttemptFailed, Entry, ErrorRegistry, Failure, StepCompleted, StepFailed
from spellwork.workflow.activity import ActivityContext, enter_activity
from spellwork.workflow.commands import RunStep


class Recorder(Protocol):
    """Who writes the outcome of a step."""

    def append(self, live: LiveRun, entry: Entry) -> None: ...

    def hold(self, live: LiveRun, effect: Callable[[], None]) -> None: ...


class Step:
    """One activity under way: its command, the attempt, and what has to be stopped when it is over."""

    __slots__ = ("attempt", "began", "beat_handle", "command", "details", "done", "live", "limit_handle", "task", "wait")

    def __init__(self, live: LiveRun, command: RunStep, attempt: int, began: int):
        self.live = live
        self.command = command
        self.attempt = attempt
        self.began = began
        self.done = False
        self.task: asyncio.Task[None] | None = None
        self.limit_handle: Cancellable | None = None
        self.beat_handle: Cancellable | None = None
        self.wait: Cancellable | None = None
        self.details: Any = None

    def stop(self) -> None:
        """No outcome of this attempt counts any more."""
        self.done = True
        for handle in (self.limit_handle, self.beat_handle, self.wait):
            if handle is not None:
                handle.cancel()
        if self.task is not None and not self.task.done():
            self.task.cancel()


class Steps:
    """Runs activities: async ones on this loop, plain ones in threads, CPU-bound ones in processes."""

    def __init__(self, recorder: Recorder, clock: Clock, codec: Codec, errors: ErrorRegistry, threads: int, processes: int | None):
        self._recorder = recorder
        self._clock = clock
        self._codec = codec
        self._errors = errors
        self._loop = asyncio.get_running_loop()
        self._threads = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="spellwork-activity")
        self._processes = processes
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None
        self._random = random.Random(clock.entropy(16))  # noqa: S311 - spreads retries
        self.running: set[Step] = set()
        self.fakes: dict[str, Callable[..., Any]] = {}

    def start(self, live: LiveRun, command: RunStep) -> None:
        """Begin the next attempt of a step, now or when its retry is due."""
        pending = live.execution.pending.get(command.n)
        if pending is None or live.dropped:
            return  # cancelled while it waited for its batch
        step = Step(live, command, pending.attempt + 1, self._clock.now())
        step.details = pending.heartbeat
        live.steps[command.n] = step
        self.running.add(step)
        wait = pending.retry_at - step.began
        if pending.attempt and wait > 0:
            step.wait = self._clock.call_later(wait / MICROSECONDS, lambda: self._launch(step))
        else:
            self._launch(step)

    def cancel(self, live: LiveRun, n: int) -> None:
        """Nobody waits for this step any more."""
        step = live.steps.pop(n, None)
        if step is not None:
            step.stop()
            self.running.discard(step)

    def cancel_all(self, live: LiveRun) -> None:
        """The run is leaving memory or is over."""
        for n in list(live.steps):
            self.cancel(live, n)

    def _launch(self, step: Step) -> None:
        activity = step.command.activity
        step.began = self._clock.now()
        limit = self._limit(step)
        if limit is not None:
            name, seconds, left = limit
            if left <= 0:
                self._conclude(step, self._timeout(step, name, seconds))
                return
            step.limit_handle = self._clock.call_later(left, lambda: self._conclude(step, self._timeout(step, name, seconds)))
        if activity.heartbeat_timeout is not None:
            self._arm_heartbeat(step)
        step.task = self._loop.create_task(self._attempt(step))

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

    def _beat(self, step: Step, details: Any, *, in_thread: bool) -> None:
        if step.done:
            raise asyncio.CancelledError("the step is over; stop working")
        step.details = None if details is None else self._codec.untyped.encode(details)
        if step.command.activity.heartbeat_timeout is not None:
            if in_thread:
                self._loop.call_soon_threadsafe(self._rearm, step)
            else:
                self._rearm(step)

    def _rearm(self, step: Step) -> None:
        if not step.done:
            self._arm_heartbeat(step)

    async def _attempt(self, step: Step) -> None:
        command = step.command
        activity = command.activity
        in_thread = activity.executor != "async"
        last = None if step.details is None else self._codec.untyped.decode(step.details)
        row = step.live.row
        enter_activity(
            ActivityContext(
                row.id, row.workflow, activity.name, step.attempt, row.number, command.n, last,
                lambda details: self._beat(step, details, in_thread=in_thread),
            )
        )  # fmt: skip
        try:
            function = self.fakes.get(activity.name) or activity.fn
            if not in_thread or activity.name in self.fakes:
                value = function(*command.args, **command.kwargs)
                if asyncio.iscoroutine(value):
                    value = await value
            elif activity.executor == "thread":
                context = contextvars.copy_context()
                value = await self._loop.run_in_executor(
                    self._threads, lambda: context.run(function, *command.args, **command.kwargs)
                )
            else:
                value = await self._loop.run_in_executor(
                    self._process_pool(), call_activity, activity, command.args, command.kwargs
                )
        except (Exception, asyncio.CancelledError, SystemExit) as error:  # supervision point: user code of an activity
            if isinstance(error, BrokenProcessPool):
                self._pool = None
                error.add_note("the worker process died (killed, out of memory, or a crash in native code)")
            self._conclude(step, error)
        else:
            self._conclude(step, None, value)

    def _process_pool(self) -> concurrent.futures.ProcessPoolExecutor:
        if self._pool is None:
            self._pool = concurrent.futures.ProcessPoolExecutor(
                self._processes, mp_context=multiprocessing.get_context("spawn")
            )
        return self._pool

    def _conclude(self, step: Step, error: BaseException | None, value: Any = None) -> None:
        live, command = step.live, step.command
        if step.done or live.dropped or command.n not in live.execution.pending:
            return  # a late result: the step was cancelled, timed out, or its run has left
        step.stop()
        self.running.discard(step)
        live.steps.pop(command.n, None)
        name = command.activity.name
        at = self._clock.now()
        if error is None:
            try:
                result = live.execution.pending[command.n].shape.encode(value)  # type: ignore[union-attr]
                live.execution.pending[command.n].shape.decode(result)  # type: ignore[union-attr]
            except PayloadError as problem:
                error = PayloadError(f"activity {name}, result: {problem}", path=problem.path)
            else:
                self._recorder.append(
                    live, StepCompleted(at, command.n, name, command.digest, result, step.attempt, step.began)
                )
                return
        self._failed(step, error, at)

    def _failed(self, step: Step, error: BaseException, at: int) -> None:
        live, command, activity = step.live, step.command, step.command.activity
        failure = Failure.of(error)
        self._errors.add(kind for kind in activity.retry.non_retryable if issubclass(kind, Exception))
        wait = activity.retry.wait_after(step.attempt, error, self._random.random())
        issued = live.execution.pending[command.n].issued
        if wait is not None and activity.schedule_timeout is not None:
            if (at - issued) / MICROSECONDS + wait >= activity.schedule_timeout:
                wait = None  # no sleep that ends beyond the limit
        if wait is None:
            self._recorder.append(
                live, StepFailed(at, command.n, activity.name, command.digest, failure, step.attempt, step.began)
            )
            return
        retry_at = at + round(wait * MICROSECONDS)
        self._recorder.append(
            live,
            AttemptFailed(at, command.n, activity.name, command.digest, failure, step.attempt, retry_at, step.details),
        )
        self._recorder.hold(live, lambda: self.start(live, command))

    async def close(self, grace: float) -> None:
        """Wait up to `grace` seconds for what runs, then stop it."""
        tasks = [step.task for step in self.running if step.task is not None]
        if tasks and grace > 0:
            await asyncio.wait(tasks, timeout=grace)
        for step in list(self.running):
            step.stop()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)
        self.running.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


def call_activity(activity: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a worker process runs; the activity arrives by reference."""
    return activity.fn(*args, **kwargs)
