"""Owns the root of a tree of actors: it makes the topmost ones, supervises them, and ends them all.
It must never end without telling of a failure that nobody below could mend.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from spellwork.errors import ActorFailed, ActorStopped, DefinitionError, UsageError
from spellwork.machine.actor import Actor, born
from spellwork.machine.mailbox import Mailbox
from spellwork.machine.supervise import Family, Supervision, log
from spellwork.machine.tasks import LoopTimers
from spellwork.machine.waiting import Cancellable, Timers
from spellwork.machine.worker import current

if TYPE_CHECKING:
    from spellwork.machine.chart import Chart
    from spellwork.machine.life import Receive


class _Never:
    def cancel(self) -> None:
        """Nothing will come."""


_NEVER = _Never()


class ActorSystem:
    """The root of a tree of actors: `async with ActorSystem() as system:` ends them all when it is left.

    A failure that is escalated to the root ends everything, interrupts the body, and is raised as `ActorFailed`; with
    `on_error="log"` it is logged, and only the topmost actor that failed ends. `supervision` is for the topmost actors.
    `clock` runs timeouts, back-off and the timers of machines (default: the event loop's). `grace` is how many seconds the
    end waits for messages under way before it cancels them (default: as long as they take).
    """

    def __init__(
        self,
        name: str = "actors",
        *,
        supervision: Supervision | None = None,
        on_error: Literal["raise", "log"] = "raise",
        clock: Timers | None = None,
        grace: float | None = None,
    ):
        if on_error not in ("raise", "log"):
            raise DefinitionError(f"on_error is 'raise' or 'log', not {on_error!r}")
        self.name, self.clock = name, clock or LoopTimers()
        self.failure: ActorFailed | None = None
        self._family = Family(self, self, supervision or Supervision())
        self._on_error, self._grace = on_error, grace
        self._numbers = itertools.count(1)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._body: asyncio.Task[Any] | None = None
        self._interrupted = self._leaving = self._closed = False
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._sleeping: dict[asyncio.Task[Any], None] = {}
        self._idle: list[asyncio.Future[None]] = []
        self._context = contextvars.Context()

    async def __aenter__(self) -> ActorSystem:
        if self._loop is not None:
            raise UsageError("the system has been started already; make another one")
        self._loop, self._body = asyncio.get_running_loop(), asyncio.current_task()
        self._context = contextvars.copy_context()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._leaving = True
        ours = self._interrupted and self._body is not None and self._body.uncancel() == 0
        await self.close()
        if self.failure is None:
            return
        if error is None or isinstance(error, ActorStopped) or (ours and isinstance(error, asyncio.CancelledError)):
            raise self.failure
        error.add_note(f"besides, {self.failure}")
        log.error("%s", self.failure, exc_info=self.failure)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of its actors."""
        if self._loop is None:
            raise UsageError("the system has not been started; use `async with ActorSystem() as system:`")
        return self._loop

    @property
    def actors(self) -> tuple[Actor, ...]:
        """All actors, each before its children."""
        found = list(self._family.children.values())
        for actor in found:
            found += actor.children
        return tuple(found)

    def spawn(
        self,
        receive: Chart | Receive | None = None,
        *,
        fresh: Callable[..., Any] | None = None,
        name: str | None = None,
        mailbox: Mailbox | None = None,
        supervision: Supervision | None = None,
    ) -> Actor:
        """Make an actor. It begins soon; whatever fails then is its supervisor's.

        `receive` is a `Chart` (each life has a machine of its own) or a function of `(message, actor)`, async or not, that takes
        as many of the two as it requires; what it closes over outlives a restart. `fresh(actor)` makes one of these, or a
        `Machine` or `AsyncMachine` (with `clock=actor.timers`), for each life. `supervision` is what this actor does when
        children of its own fail.

        Raises:
            ActorStopped: the system has been closed.
            DefinitionError: an actor of this name is there already.
        """
        if self._closed:
            raise ActorStopped(f"the actors of {self.name!r} have ended", actor=self.name)
        _ = self.loop
        return born(self._family, None, receive, fresh, name, mailbox, supervision)

    async def idle(self) -> None:
        """Wait until no message is under way or can be; what waits for a time to come does not count."""
        if current.get() is not None:
            raise UsageError("an actor that waits until all are idle waits for ever; call idle() from outside")
        while len(self._tasks) > len(self._sleeping):
            waiter: asyncio.Future[None] = self.loop.create_future()
            self._idle.append(waiter)
            await waiter

    async def close(self) -> None:
        """End all actors, newest first, each after its children, and wait for that."""
        actor = current.get()
        if actor is not None and actor.system is self:
            raise UsageError(f"{actor.path} would wait for its own end; leave `async with`, or call close() from outside")
        self._closed = True
        timer = self.timer(self._grace, self._hurry)
        try:
            await self._family.stop()
            for task in list(self._sleeping):
                task.cancel()
            while self._tasks:
                await asyncio.wait(list(self._tasks))
        except asyncio.CancelledError:
            await self._abandon()
            raise
        finally:
            timer.cancel()

    def escalated(self, child: Actor, error: BaseException) -> None:
        """A topmost actor failed, and its supervision can't mend it."""
        failed = ActorFailed(f"{child.path} failed, and nothing above it could go on: {error!r}", actor=child.path)
        failed.__cause__ = error
        child.finish(error)
        if self._on_error == "log":
            log.error("%s", failed, exc_info=error, extra={"actor": child.path})
        else:
            self._fail(failed)

    def new_name(self, stem: str) -> str:
        """A name that no actor has."""
        return f"{stem}-{next(self._numbers)}"

    def run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do something in a task that the end waits for, free of the context of whoever happens to ask for it."""
        task = self._context.copy().run(self.loop.create_task, work)
        self._tasks[task] = None
        task.add_done_callback(self._done)
        return task

    def timer(self, seconds: float | None, callback: Callable[[], None]) -> Cancellable:
        """Call back after so many seconds of the clock: at once for 0, never for None."""
        if seconds is None:
            return _NEVER
        if seconds <= 0:
            callback()
            return _NEVER
        return self.clock.call_later(seconds, callback)

    async def sleep(self, seconds: float) -> None:
        """Wait on the clock, which does not count as being busy."""
        if self._closed:
            return  # who sleeps has nobody left to begin anew
        task, woken = asyncio.current_task(), asyncio.Event()
        if task is None:
            return

        def wake() -> None:
            self._sleeping.pop(task, None)  # at once, so that `idle` knows that there is something to do
            woken.set()

        timer = self.clock.call_later(seconds, wake)
        self._sleeping[task] = None
        self._look()
        try:
            await woken.wait()
        finally:
            timer.cancel()
            self._sleeping.pop(task, None)

    def _fail(self, failed: ActorFailed) -> None:
        if self.failure is not None:
            self.failure.add_note(f"besides, {failed}")
            return
        self.failure, self._closed = failed, True
        self.run(self._family.stop())
        if self._body is not None and not self._leaving and not self._body.done():
            self._interrupted = True
            self._body.cancel()

    def _hurry(self) -> None:
        for actor in self._family.children.values():
            actor.hurry()

    async def _abandon(self) -> None:
        for actor in list(self._family.children.values()):
            actor.abandon()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and task.exception() is not None:
            failed = ActorFailed(f"the actors of {self.name!r} failed: {task.exception()!r}", actor=self.name)
            failed.__cause__ = task.exception()
            self._fail(failed)
        self._look()

    def _look(self) -> None:
        if len(self._tasks) <= len(self._sleeping):
            waiting, self._idle = self._idle, []
            for waiter in waiting:
                if not waiter.done():
                    waiter.set_result(None)
