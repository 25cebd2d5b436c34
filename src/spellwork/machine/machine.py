"""Owns a machine in memory: it runs events one at a time to completion and calls their actions.
It must never be in a new state before every action of the step has succeeded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from spellwork.errors import UsageError
from spellwork.machine import action
from spellwork.machine.chart import Chart
from spellwork.machine.configuration import Configuration
from spellwork.machine.event import Event, as_event
from spellwork.machine.host import STOP, Host, Member, World
from spellwork.machine.moves import Choice, key_of, moves_of
from spellwork.machine.snapshot import pending_of, queued_of, restored, snapshot_of
from spellwork.machine.step import Outcome
from spellwork.machine.waiting import PLATFORM, Timers, VirtualTime
from spellwork.machine.why import Refusal, why_not

if TYPE_CHECKING:
    from spellwork.machine.log import TransitionLog

_BUSY: dict[Any, Any] = {}
_OFF: dict[Any, Any] = {}
_CACHED = 1024


class Machine:
    """One instance of a chart, in memory and synchronous.

    `context` replaces the chart's own. `clock` runs its timers (default: a `VirtualTime`, moved by `advance`). `limit`
    bounds the queue. `log` records what happens. `charts` finds the charts that are invoked by name.

    Raises:
        UsageError: the chart needs an action that has no function, or has an `async` one, which only `AsyncMachine` awaits.
    """

    __slots__ = ("__weakref__", "_base", "_context", "_host", "_log", "_moves", "_node", "chart")

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
        self.chart = _plain(chart)
        self._log = log
        self._host: Host | None = None
        if clock is not None or limit is not None or charts is not None:
            world = World(clock, charts)
            self._host = Host(world, world.new_session(), limit)
            world.sessions[self._host.session] = self
        origin = chart.origin
        if origin is not None and log is None and self._host is None:
            self._node, self._base = origin.node, origin
            self._context = chart.new_context() if context is None else context
            self._moves = origin.node.moves
            return
        self._begin(context, None)

    def _begin(self, context: Any, data: dict[str, Any] | None) -> None:
        self._moves = _BUSY
        session = self._host.session if self._host is not None else ""
        self._node, self._context = self.chart.table.nowhere, context
        self._base = Configuration(self._node, context)
        outcome = self.chart.begin(context, session=session, data=data, reaches=self._reaches)
        self._base = outcome.configuration
        self._adopt(outcome, None)
        self._drain()

    @classmethod
    def restore(cls, chart: Chart, snapshot: dict[str, Any], **options: Any) -> Machine:
        """The machine of a snapshot: nothing is entered anew; its timers start again with their whole delay.

        Raises:
            SnapshotMismatch: the snapshot is of another chart or version.
        """
        machine: Machine = cls.__new__(cls)
        machine.chart, machine._log, machine._moves = _plain(chart), options.get("log"), _OFF
        configuration = restored(chart, snapshot)
        world = World(options.get("clock"), options.get("charts"))
        machine._host = Host(world, configuration.session or world.new_session(), options.get("limit"))
        world.sessions[machine._host.session] = machine
        for event, priority in queued_of(snapshot):
            machine._host.queue.put(event, priority)
        machine._set(configuration)
        for wanted in pending_of(snapshot):
            machine._host.deliver(machine, wanted)
        return machine

    @property
    def configuration(self) -> Configuration:
        """Where the machine stands."""
        base = self._base
        if base.node is not self._node or base.context is not self._context:
            base = self._base = dataclasses.replace(base, node=self._node, context=self._context)
        return base

    @property
    def context(self) -> Any:
        """The context."""
        return self._context

    @property
    def state(self) -> tuple[str, ...]:
        """The active leaf states in document order."""
        return self._node.leaves

    @property
    def running(self) -> bool:
        """Whether it has not reached a final state of the chart."""
        return self._base.running

    @property
    def result(self) -> Any:
        """What the final state gave."""
        return self._base.result

    @property
    def clock(self) -> Timers:
        """What runs its timers."""
        return self._surroundings().world.clock

    @property
    def pending(self) -> tuple[action.Deliver, ...]:
        """The delayed events that wait for their time."""
        return self._host.waiting if self._host is not None else ()

    def is_in(self, state: str | type) -> bool:
        """Whether the state, by its id or by the class that declares it, is active."""
        return (state if isinstance(state, str) else state.__name__) in self._node.ids

    def advance(self, seconds: float) -> None:
        """Move its `VirtualTime`."""
        clock = self.clock
        if not isinstance(clock, VirtualTime):
            raise TypeError("the machine's clock moves by itself; only a VirtualTime can be advanced")
        clock.advance(seconds)

    def send(self, event: Any, data: Any = None, *, priority: int = 0) -> bool:
        """Process an event to completion, with all that follows from it; whether anything handled it.

        From inside an action of the same machine, the event waits until the step is over. `event` is a name (then `data`
        is its payload), or an object that is the event.

        Raises:
            InvalidTransition: nothing handles the event, and the chart is strict; the machine stays where it was.
            QueueFull: it would have to wait, and the queue is full.
        """
        kind = event.__class__
        if kind is str and data is None:
            choices: tuple[Choice, ...] | None = self._moves.get(event)
            if choices is not None:
                context = self._context
                for guard, node, moves, pieces, calls, given in choices:
                    if guard is None or guard(context, given):
                        if pieces:
                            return self._short(node, moves, pieces, calls, given)
                        self._node, self._moves = node, moves
                        return True
        else:
            choices = self._moves.get(event if kind is str else type(event))
            if choices is not None:
                context, seen = self._context, Event(event, data) if kind is str else event
                for guard, node, moves, pieces, calls, _ in choices:
                    if guard is None or guard(context, seen):
                        if pieces:
                            return self._short(node, moves, pieces, calls, seen)
                        self._node, self._moves = node, moves
                        return True
        return self._dispatch(event, data, priority)

    def post(self, event: Any, data: Any = None, *, priority: int = 0) -> None:
        """Let an event wait; `run` processes what waits.

        Raises:
            QueueFull: the queue is full.
        """
        self._surroundings().queue.put(as_event(event, data), priority, own=self._moves is _BUSY)
        if self._moves is not _BUSY:
            self._moves = _OFF

    def run(self) -> int:
        """Process every event that waits; how many there were. Events that nothing handles are dropped."""
        return self._drain() if self._moves is not _BUSY else 0

    def receive(self, event: Event, priority: int = 0) -> None:
        """Take an event that a timer or a neighbour sent; one that nothing handles is dropped."""
        self._surroundings().queue.put(event, priority)
        if self._moves is not _BUSY:
            self._drain()

    def stop(self) -> None:
        """End the machine with all its exit actions, once the step under way is over."""
        if self._host is not None:
            self._host.parent = None  # whoever invoked it has stopped listening
        if self._moves is _BUSY:
            self._surroundings().queue.put(STOP, PLATFORM + 1)
            return
        if self._base.running:
            self._adopt(self.chart.end(self.configuration), None)

    def snapshot(self) -> dict[str, Any]:
        """Where the machine stands as plain data; the context is taken as it is."""
        queued = self._host.queue.entries if self._host is not None else ()
        return snapshot_of(self.chart, self.configuration, self.pending, tuple(each for each in queued if each[0] is not STOP))

    def why_not(self, event: Any, data: Any = None) -> Refusal:
        """Why the event would lead nowhere now, transition by transition; nothing happens."""
        return why_not(self.chart, self.configuration, as_event(event, data))

    def _short(
        self, node: Any, moves: dict[Any, Any], pieces: tuple[tuple[bool, Any], ...], calls: tuple[Any, ...], given: Any
    ) -> bool:
        context = self._context
        if calls:
            self._moves = _BUSY
            if self._host is not None:
                self._host.queue.keep_own()
            try:
                for call in calls:
                    call(context, given)
            except BaseException:
                self._forget()
                raise
        else:
            wanted = []
            for is_action, function in pieces:
                if is_action:
                    wanted.append((function, context))
                else:
                    context = function(context, given)
            if wanted:
                self._busy()
                try:
                    for call, seen in wanted:
                        call(seen, given)
                except BaseException:
                    self._forget()
                    raise
        self._node, self._context, self._moves = node, context, moves
        if self._host is not None and len(self._host.queue):
            self._drain()
        return True

    def _busy(self) -> None:
        self._moves = _BUSY
        if self._host is not None:
            self._host.queue.keep_own()

    def _forget(self) -> None:
        # What a failed step sent to itself never happened, either.
        if self._host is not None:
            self._host.queue.forget_own()
        self._set(self.configuration)
        if self._host is not None and self._host.queue.remove(STOP):
            self.stop()

    def _dispatch(self, given: Any, data: Any, priority: int) -> bool:
        event = as_event(given, data)
        if self._moves is _BUSY:
            self._surroundings().queue.put(event, priority, own=True)
            return True
        if self._host is not None and len(self._host.queue):
            self._drain()
        node = self._node
        key = key_of(given)
        if key is not None and self._moves is node.moves and key not in node.slow:
            choices = moves_of(self.chart, node, event.name)
            if choices is None:
                if len(node.slow) < _CACHED:
                    node.slow.add(key)
            elif len(node.moves) < _CACHED:
                node.moves[key] = choices
        handled = self._process(event)
        if not handled and self.chart.options.strict:
            raise self.chart.invalid(self.configuration, event.name)
        self._drain()
        return handled

    def _process(self, event: Event) -> bool:
        self._busy()
        try:
            outcome = self.chart.advance(self.configuration, event, reaches=self._reaches)
            self._adopt(outcome, event)
        except BaseException:
            self._forget()
            raise
        return outcome.handled

    def _adopt(self, outcome: Outcome, event: Event | None) -> None:
        """Call the actions of a step; when all have succeeded the machine is where it led, and the rest is done."""
        entry = self._log.begin(self, event, outcome) if self._log is not None else None
        self._moves = _BUSY
        others = []
        for wanted in outcome.actions:
            if isinstance(wanted, action.Call):
                wanted()
            else:
                others.append(wanted)
        if self._host is not None:
            self._host.make_room(others)
            self._host.queue.keep_own()
        ended = not outcome.configuration.running and self._base.running
        if self._log is not None:
            self._log.end(entry)
        self._set(outcome.configuration, busy=True)
        error = self._surroundings().perform(self, tuple(others), self._spawn) if others else None
        if ended or (not self._base.running and self._host is not None):
            self._surroundings().ended(self)
        self._set(outcome.configuration)
        if error is not None:
            raise error

    def _set(self, configuration: Configuration, *, busy: bool = False) -> None:
        self._base, self._node, self._context = configuration, configuration.node, configuration.context
        plain = configuration.running and not configuration.deferred and not configuration.children and self._log is None
        queued = self._host is not None and len(self._host.queue)
        self._moves = _BUSY if busy else configuration.node.moves if plain and not queued else _OFF

    def _drain(self) -> int:
        host, count = self._host, 0
        while host is not None and len(host.queue) and self._moves is not _BUSY:
            event = host.queue.get()
            if event is STOP:
                self.stop()
            else:
                self._process(event)
            count += 1
        if self._moves is not _BUSY:
            self._set(self.configuration)
        return count

    def _reaches(self, target: str) -> bool:
        return self._host is not None and self._host.reaches(target)

    def _surroundings(self) -> Host:
        if self._host is None:
            world = World(None, None)
            self._host = Host(world, world.new_session())
            world.sessions[self._host.session] = self
        return self._host

    @staticmethod
    def _spawn(chart: Chart, world: World, parent: tuple[Member, str], data: dict[str, Any] | None) -> Machine:
        child: Machine = Machine.__new__(Machine)
        child.chart, child._log, child._moves = _plain(chart), None, _BUSY
        child._host = Host(world, world.new_session(), parent=parent)
        world.sessions[child._host.session] = child
        child._begin(None, data)
        return child


def _plain(chart: Chart) -> Chart:
    if chart.awaited:
        raise UsageError(
            f"{chart.awaited[0]}() of the chart {chart.name!r} is async, and a Machine awaits nothing; use AsyncMachine"
        )
    return chart
