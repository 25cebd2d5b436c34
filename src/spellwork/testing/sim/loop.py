"""Owns the event loop of one simulated process: no selector, no threads, its time is the world's.
It must never run anything by itself: the world turns it.
"""

from __future__ import annotations

import asyncio
import contextvars
from asyncio import events
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, NoReturn, Protocol

from spellwork.clock import MICROSECONDS
from spellwork.supervision import attempt


class Surroundings(Protocol):
    """What a loop needs of the world around it."""

    now: int

    def at(self, when: int, callback: Callable[[], None]) -> None:
        """Call back when virtual time (microseconds) has come to `when`."""
        ...


class SimLoop(asyncio.AbstractEventLoop):
    """FIFO like asyncio's own. `blocking(call)` carries out what a real process would give to a thread."""

    def __init__(self, world: Surroundings, failed: Callable[[dict[str, Any]], None]):
        self._world = world
        self._failed = failed
        self.ready: deque[asyncio.Handle] = deque()
        self.blocking: Callable[[Callable[[], Any]], asyncio.Future[Any]] = self._refuse
        self.dead = False
        self._tasks: list[asyncio.Task[Any]] = []
        self._sweep_at = 64

    def turn(self, limit: int | None = None) -> int:
        """Run what is ready now (not what that makes ready), up to `limit` callbacks; returns how many ran."""
        count = len(self.ready) if limit is None else min(limit, len(self.ready))
        previous = events._get_running_loop()
        events._set_running_loop(self)
        try:
            for _ in range(count):
                handle = self.ready.popleft()
                if not handle.cancelled():
                    handle._run()
                if self.dead:
                    break
        finally:
            events._set_running_loop(previous)
        return count

    def enter(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call `function` as if from inside the loop."""
        previous = events._get_running_loop()
        events._set_running_loop(self)
        try:
            return function(*args)
        finally:
            events._set_running_loop(previous)

    @staticmethod
    def _refuse(_call: Callable[[], Any]) -> asyncio.Future[Any]:
        raise RuntimeError("this simulated process has no threads")

    # What asyncio asks of a loop

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """Queue a callback."""
        handle = asyncio.Handle(callback, args, self, context)
        if not self.dead:
            self.ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment] # there is one thread

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Queue a callback for later."""
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Queue a callback for a time of this loop."""
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._world.at(max(round(when * MICROSECONDS), self._world.now), lambda: self._due(handle))
        return handle

    def _due(self, handle: asyncio.Handle) -> None:
        if not handle.cancelled() and not self.dead:
            self.ready.append(handle)

    def time(self) -> float:
        """Virtual seconds."""
        return self._world.now / MICROSECONDS

    def run_in_executor(  # type: ignore[override]
        self,
        executor: Executor | None,  # noqa: ARG002 - asyncio's signature
        func: Callable[..., Any],
        *args: Any,
    ) -> asyncio.Future[Any]:
        """What would run in a thread runs at a later moment."""
        return self.blocking(lambda: func(*args))

    def create_future(self) -> asyncio.Future[Any]:
        """A future of this loop."""
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, **kwargs: Any) -> asyncio.Task[Any]:
        """A task of this loop."""
        task = asyncio.Task(coro, loop=self, **kwargs)
        self._tasks.append(task)
        if len(self._tasks) > self._sweep_at:
            self._tasks = [task for task in self._tasks if not task.done()]
            self._sweep_at = 2 * len(self._tasks) + 64
        return task

    def bury(self) -> None:
        """Let go of what will never run again, with nowhere for its clean-up to reach."""
        self.dead = True
        self.ready.clear()
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            coroutine = task.get_coro()
            if not task.done() and coroutine is not None:
                self.enter(attempt, coroutine.close)

    def get_debug(self) -> bool:
        """Never."""
        return False

    def is_running(self) -> bool:
        """Always, as far as its tasks can tell."""
        return True

    def is_closed(self) -> bool:
        """Never: a dead one only forgets."""
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """A callback or a forgotten task raised."""
        if not self.dead:
            self._failed(context)

    def _timer_handle_cancelled(self, handle: Any) -> None:
        """Asyncio's own TimerHandle calls this; the world skips cancelled handles when they are due."""


def _refuse(name: str) -> Callable[..., NoReturn]:
    def refused(_self: SimLoop, *_args: Any, **_kwargs: Any) -> NoReturn:
        raise RuntimeError(f"loop.{name}() is real input or output, which a simulated process has not")

    return refused


for _name in dir(asyncio.AbstractEventLoop):
    if not _name.startswith("_") and _name not in vars(SimLoop):
        setattr(SimLoop, _name, _refuse(_name))
