"""Owns the deterministic event loop: an asyncio loop without a selector, whose time comes from the journal.
It must never wait, do I/O, or let anything in whose order depends on hashes of addresses.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, NoReturn, Protocol

from spellwork.errors import ForbiddenInWorkflow, UsageError
from spellwork.supervision import attempt

_log = logging.getLogger("spellwork.workflow")
_SPIN_LIMIT = 1_000_000
_CLOSES = 32
_HASH_MIX = 0x9E3779B97F4A7C15
_MASK = (1 << 61) - 1
_STANDARD_LIBRARY = asyncio.__file__.rpartition("asyncio")[0]


class Evicted(BaseException):
    """Raised into a workflow that is being dropped from memory; it will be replayed when it is needed again."""


class Timers(Protocol):
    """Who starts and stops the timers of a loop."""

    def start_timer(self, delay: float, handle: TimerHandle, /) -> None: ...

    def stop_timer(self, handle: TimerHandle, /) -> None: ...


class Handle:
    """A callback that is ready to run, in its context."""

    __slots__ = ("_args", "_callback", "_cancelled", "_context")

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...], context: contextvars.Context | None):
        self._callback = callback
        self._args = args
        self._context = contextvars.copy_context() if context is None else context  # an empty one is false
        self._cancelled = False

    def cancel(self) -> None:
        self._cancelled = True

    def cancelled(self) -> bool:
        return self._cancelled


class TimerHandle(Handle):
    """A callback at a time of the loop. `n` is the command's number."""

    __slots__ = ("_loop", "_when", "n")

    def __init__(
        self, when: float, callback: Callable[..., object], args: tuple[Any, ...], loop: WorkflowLoop,
        context: contextvars.Context | None,
    ):  # fmt: skip
        super().__init__(callback, args, context)
        self._when = when
        self._loop = loop
        self.n = 0

    def when(self) -> float:
        return self._when

    def cancel(self) -> None:
        if not self._cancelled:
            super().cancel()
            self._loop.timers.stop_timer(self)


class WorkflowFuture(asyncio.Future[Any]):
    """A future that keeps its place in sets from one replay to the next."""

    def __init__(self, *, loop: WorkflowLoop):
        self._place = loop.next_place()
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._place


class WorkflowTask(asyncio.Task[Any]):
    """A task that keeps its place in sets: asyncio holds tasks in sets, whose order would follow `id()`."""

    def __init__(self, coro: Coroutine[Any, Any, Any], *, loop: WorkflowLoop, **kwargs: Any):
        self._place = loop.next_place()
        super().__init__(coro, loop=loop, **kwargs)

    def __hash__(self) -> int:
        return self._place


class WorkflowLoop(asyncio.AbstractEventLoop):
    """Runs the tasks of one workflow run until none is ready."""

    def __init__(self, number: int, timers: Timers):
        # equal hashes of different runs' tasks would collide in asyncio's global weak set
        self._base = (number * _HASH_MIX) & _MASK
        self._places = 0
        self._host = events._get_running_loop()
        self._host_hooks = sys.get_asyncgen_hooks()
        self._ready: deque[Handle] = deque()
        self._tasks: list[WorkflowTask] = []
        self._sweep_at = 64
        self._ordered: dict[int, WorkflowTask] = {}
        self.timers = timers
        self.elapsed = 0.0
        self.closed = False

    def next_place(self) -> int:
        """The hash of the next task or future: the run's number and a sequence."""
        self._places += 1
        return (self._base + self._places) & _MASK

    def run_ready(self) -> None:
        """Run callbacks in order until there are none."""
        ready = self._ready
        if not ready:
            return
        events._set_running_loop(self)
        sys.set_asyncgen_hooks(None, self._finalize)
        left = _SPIN_LIMIT
        try:
            while ready:
                handle = ready.popleft()
                try:
                    if not handle._cancelled:
                        handle._context.run(handle._callback, *handle._args)
                except SystemExit:
                    pass  # the task holds it as its outcome
                except Exception as error:  # noqa: BLE001 - supervision point: callbacks, on the hot path
                    self.call_exception_handler({"message": "a callback raised", "exception": error})
                left -= 1
                if not left:
                    raise UsageError(
                        f"workflow code ran {_SPIN_LIMIT:,} callbacks without waiting for anything durable; "
                        "does it spin on asyncio.sleep(0)? Await a signal, a timer or an activity"
                    )
        finally:
            sys.set_asyncgen_hooks(*self._host_hooks)
            events._set_running_loop(self._host)

    def _finalize(self, generator: Any) -> None:
        # an abandoned async generator is closed by this loop, or not at all: never by the loop of the host
        if not self.closed:
            self.create_task(generator.aclose())

    @property
    def has_ready(self) -> bool:
        """Whether a callback waits to run."""
        return bool(self._ready)

    def enter(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call `function` as if from inside the loop."""
        previous = events._get_running_loop()
        events._set_running_loop(self)
        try:
            return function(*args)
        finally:
            events._set_running_loop(previous)

    def close(self) -> None:
        """Drop every task without letting its clean-up reach anything durable."""
        if self.closed:
            return
        self.closed = True
        self._ready.clear()
        tasks, self._tasks = self._tasks, []
        self.enter(_drop, tasks)
        self._ready.clear()

    # What asyncio itself asks of a loop

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> Handle:
        handle = Handle(callback, args, context)
        self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> TimerHandle:
        handle = TimerHandle(self.elapsed + delay, callback, args, self, context)
        self.timers.start_timer(delay, handle)
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> TimerHandle:
        return self.call_later(when - self.elapsed, callback, *args, context=context)

    def make_ready(self, handle: Handle) -> None:
        """Queue a handle whose time has come."""
        self._ready.append(handle)

    def time(self) -> float:
        """Seconds since the run started, as its journal tells."""
        return self.elapsed

    def create_future(self) -> WorkflowFuture:
        return WorkflowFuture(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, **kwargs: Any) -> WorkflowTask:
        if self.closed:
            coro.close()
            raise Evicted
        frame = sys._getframe(1)
        if frame.f_code.co_name in ("ensure_future", "_ensure_future"):
            if (task := self._ordered.pop(id(coro), None)) is not None:
                return task
            self._order_of(frame)
            if (task := self._ordered.pop(id(coro), None)) is not None:
                return task
        return self._spawn(coro, name, kwargs)

    def _spawn(self, coro: Any, name: str | None, kwargs: dict[str, Any]) -> WorkflowTask:
        task = WorkflowTask(coro, loop=self, name=name or f"task-{self._places + 1}", **kwargs)
        self._tasks.append(task)
        if len(self._tasks) >= self._sweep_at:
            self._tasks = [task for task in self._tasks if not task.done()]
            self._sweep_at = max(64, 2 * len(self._tasks))
        return task

    def _order_of(self, frame: Any) -> None:
        # as_completed puts bare coroutines into a set, whose order follows their addresses, and makes tasks of them in
        # that order. Its own argument still has the caller's order, so the tasks are made here, all at once, in that order.
        for _ in range(5):
            frame = frame.f_back
            if frame is None or not frame.f_code.co_filename.endswith("tasks.py"):
                return
            argument = frame.f_locals.get("aws", frame.f_locals.get("fs"))
            if frame.f_code.co_name in ("as_completed", "__init__") and argument is not None:
                if not isinstance(argument, (list, tuple)):
                    raise ForbiddenInWorkflow(
                        "as_completed() over a set or generator of coroutines has no stable order; pass a list",
                        what="as_completed",
                        where=caller(),
                    )
                for item in argument:
                    if asyncio.iscoroutine(item) and id(item) not in self._ordered:
                        self._ordered[id(item)] = self._spawn(item, None, {})
                return

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return self.closed

    def get_task_factory(self) -> None:
        return None

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.closed:
            _log.error("%s", context.get("message", "unhandled error"), exc_info=context.get("exception"))

    def _timer_handle_cancelled(self, handle: Any) -> None:
        """Asyncio's own TimerHandle asks for this; ours does not need it."""


def _drop(tasks: list[WorkflowTask]) -> None:
    for task in tasks:
        if task.done():
            continue
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        coro = task.get_coro()
        if coro is not None:
            _close(coro)


def _close(coro: Any) -> None:
    # Whatever its clean-up raises, the code will run after replay. One that goes on in spite of GeneratorExit (`finally` with an
    # `await`) is told again where it waits now: else it would go on when it is collected, at any time, with any loop running.
    for _ in range(_CLOSES):
        _, error = attempt(coro.close)
        if not isinstance(error, RuntimeError) or coro.cr_frame is None:
            return
    _keep_for_ever(coro)


def _keep_for_ever(thing: object) -> None:
    import ctypes  # noqa: PLC0415 - only for code that cannot be stopped otherwise

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def caller() -> str:
    """`file:line` of the innermost frame that is neither the standard library's nor Spellwork's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        module = frame.f_globals.get("__name__", "")
        is_ours = module.startswith("spellwork.workflow")  # wherever it is installed
        is_standard = name.startswith(("<", _STANDARD_LIBRARY)) and "site-packages" not in name
        if not (is_ours or is_standard):
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return "<unknown>"


def _forbid(name: str) -> Callable[..., NoReturn]:
    def forbidden(_self: WorkflowLoop, *_args: Any, **_kwargs: Any) -> NoReturn:
        where = caller()
        raise ForbiddenInWorkflow(
            f"{where}: loop.{name}() is real I/O or a thread, which a workflow must not use; do it in an activity",
            what=name,
            where=where,
        )

    return forbidden


for _name in dir(asyncio.AbstractEventLoop):
    if not _name.startswith("_") and _name not in vars(WorkflowLoop):
        setattr(WorkflowLoop, _name, _forbid(_name))
