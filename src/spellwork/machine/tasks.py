"""Owns a machine on an event loop: its actions may be coroutines, and each step runs to completion before the next begins.
It must never be in a new state before every action of the step has succeeded.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from spellwork.errors import UsageError
from spellwork.machine import action
from spellwork.machine.chart import Chart
from spellwork.machine.configuration import Configuration
from spellwork.machine.event import Event, as_event
from spellwork.machine.host import Host, Member, World
from spellwork.machine.snapshot import snapshot_of
from spellwork.machine.step import Outcome
from spellwork.machine.waiting import Cancellable, Timers
from spellwork.machine.why import Refusal, why_not

if TYPE_CHECKING:
    from spellwork.machine.log import TransitionLog


_steps: contextvars.ContextVar[tuple[object, ...]] = contextvars.ContextVar("spellwork_steps", default=())


class LoopTimers:
    """The timers of the running event loop."""

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Cancellable:
        """Call back on the running loop."""
        return asyncio.get_running_loop().call_later(seconds, callback)


class AsyncMachine:
    """One instance of a chart on an event loop. `async with AsyncMachine(chart) as machine:` starts it, and stops it at the end.

    The options are those of `Machine`; its timers are the event loop's unless a `clock` is given.
    """

    def __init__(
        self,
        chart: Chart,
        context: Any = None,
        *,
        clock: Timers | None = None,
        limit: int | None = None,
        log: TransitionLog | None = None,
        charts: Mapping[str, Chart] | Callable[[Any], Chart] | None = None,
    ):
        world = World(clock or LoopTimers(), charts)
        self._prepare(chart, Host(world, world.new_session(), limit), context, log)

    def _prepare(self, chart: Chart, host: Host, context: Any, log: TransitionLog | None) -> None:
        self.chart, self._host, self._log, self._given = chart, host, log, context
        self._configuration = Configuration(chart.table.nowhere, context, session=host.session)
        self._lock = asyncio.Lock()
        self._step_under_way: object = None
        self._stopped = False
        self._owner: AsyncMachine | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.error: BaseException | None = None
        self._on_error: Callable[[BaseException], None] | None = None
        host.world.sessions[host.session] = self

    async def __aenter__(self) -> AsyncMachine:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def start(self, data: dict[str, Any] | None = None) -> None:
        """Enter the chart."""
        async with self._lock:
            if self._configuration.node is not self.chart.table.nowhere:
                raise UsageError("the machine has been started already; make another one to begin anew")
            if self._stopped:
                return  # its state was left before it could begin
            outcome = self.chart.begin(self._given, session=self._host.session, data=data, reaches=self._host.reaches)
            await self._adopt(outcome, None)
            await self._drain()

    async def close(self) -> None:
        """Stop, and wait for what is under way, in children too. An error of an action that a timer, a neighbour or a child
        caused is raised here.

        Raises:
            UsageError: an action of the machine itself would wait for its own end; it may call `stop`.
        """
        if self._inside():
            raise UsageError(f"an action of {self.chart.name!r} closes its own machine, and would wait for ever; call stop() there")
        self.stop()
        await self._rest()
        if self.error is not None:
            raise self.error

    @property
    def configuration(self) -> Configuration:
        """Where the machine stands."""
        return self._configuration

    @property
    def context(self) -> Any:
        """The context."""
        return self._configuration.context

    @property
    def state(self) -> tuple[str, ...]:
        """The active leaf states in document order."""
        return self._configuration.leaves

    @property
    def running(self) -> bool:
        """Whether it has not reached a final state of the chart."""
        return self._configuration.running

    @property
    def result(self) -> Any:
        """What the final state gave."""
        return self._configuration.result

    async def send(self, event: Any, data: Any = None, *, priority: int = 0) -> bool:
        """Process an event to completion; whether anything handled it. From an action of this machine, or a task that it
        started, the event waits for the end of the step instead.

        Raises:
            InvalidTransition: nothing handles the event, and the chart is strict; the machine stays where it was.
            QueueFull: it would have to wait, and the queue is full.
        """
        made = as_event(event, data)
        if self._inside():
            self._host.queue.put(made, priority, own=True)
            return True
        async with self._lock:
            if self._configuration.node is self.chart.table.nowhere:
                raise UsageError("the machine has not been started; use `async with`, or await start()")
            await self._drain()
            outcome = await self._step(made)
            if not outcome.handled and self.chart.options.strict:
                raise self.chart.invalid(self._configuration, made.name)
            await self._drain()
            return outcome.handled

    def receive(self, event: Event, priority: int = 0) -> None:
        """Take an event that a timer or a neighbour sent; one that nothing handles is dropped."""
        self._host.queue.put(event, priority)
        if not self._inside():
            self._later(self._run())

    def stop(self) -> None:
        """End the machine with all its exit actions, once the step under way is over."""
        self._host.parent = None
        self._stopped = True
        if self._configuration.running and self._configuration.node is not self.chart.table.nowhere:
            self._later(self._end())

    def snapshot(self) -> dict[str, Any]:
        """Where the machine stands as plain data; the context is taken as it is."""
        return snapshot_of(self.chart, self._configuration, self._host.waiting, self._host.queue.entries)

    def why_not(self, event: Any, data: Any = None) -> Refusal:
        """Why the event would lead nowhere now; nothing happens."""
        return why_not(self.chart, self._configuration, as_event(event, data))

    def _inside(self) -> bool:
        # tasks inherit the context of who started them; whoever waited for the step in one would keep it from ending
        return self._step_under_way is not None and self._step_under_way in _steps.get()

    def _later(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        machine: AsyncMachine | None = self
        while error is not None and machine is not None:  # nobody but its owner waits for a child
            if machine._on_error is not None:
                machine._on_error(error)
            else:
                machine.error = machine.error or error
            machine = machine._owner

    async def _rest(self) -> None:
        while self._tasks:
            # not gather(), which from Python 3.12 on returns at once where all are done: they leave only in a turn to come
            await asyncio.wait(list(self._tasks))

    async def _run(self) -> None:
        async with self._lock:
            await self._drain()

    async def _end(self) -> None:
        async with self._lock:
            if self._configuration.running:
                await self._adopt(self.chart.end(self._configuration), None)

    async def _drain(self) -> None:
        while len(self._host.queue):
            await self._step(self._host.queue.get())

    async def _step(self, event: Event) -> Outcome:
        self._host.queue.keep_own()
        try:
            outcome = self.chart.advance(self._configuration, event, reaches=self._host.reaches)
            await self._adopt(outcome, event)
        except BaseException:
            self._host.queue.forget_own()
            raise
        return outcome

    async def _adopt(self, outcome: Outcome, event: Event | None) -> None:
        entry = self._log.begin(self, event, outcome) if self._log is not None else None
        before, self._step_under_way = self._step_under_way, object()
        inside = _steps.set((*_steps.get(), self._step_under_way))
        others: list[action.Action] = []
        try:
            for wanted in outcome.actions:
                if isinstance(wanted, action.Call):
                    result = wanted()
                    if inspect.isawaitable(result):
                        await result
                else:
                    others.append(wanted)
            self._host.make_room(others)
            self._host.queue.keep_own()
            ended = self._configuration.running and not outcome.configuration.running
            self._configuration = outcome.configuration
            if self._log is not None:
                self._log.end(entry)
            error = self._host.perform(self, tuple(others), self._spawn)
            if ended:
                self._host.ended(self)
            if error is not None:
                raise error
        finally:
            self._step_under_way = before
            _steps.reset(inside)

    def _spawn(self, chart: Chart, world: World, parent: tuple[Member, str], data: dict[str, Any] | None) -> AsyncMachine:
        child: AsyncMachine = AsyncMachine.__new__(AsyncMachine)
        child._prepare(chart, Host(world, world.new_session(), parent=parent), None, None)
        child._owner, child._tasks = self, self._tasks
        child._later(child.start(data))
        return child
