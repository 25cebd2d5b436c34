"""Owns one run-to-completion step: the event, the microsteps it leads to, and the actions that arise (SCXML, Appendix D).
It must never perform an action, read time, or change the configuration it starts from.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from spellwork.errors import EndlessStep
from spellwork.machine import action
from spellwork.machine.configuration import Configuration
from spellwork.machine.content import Expression, Invoke
from spellwork.machine.event import Event
from spellwork.machine.model import State
from spellwork.machine.piece import ContentFailed, Piece, error_event, pairs
from spellwork.machine.table import BLOCK, DONE, ENTER, FINISH, LEAVE, Arrow, Node, Plan, Vertex
from spellwork.machine.view import of_view
from spellwork.supervision import attempt

if TYPE_CHECKING:
    from spellwork.machine.chart import Chart


Reaches = Callable[[str], bool]


class Taken(NamedTuple):
    """A microstep that was taken: why, which transitions, and what was left and entered."""

    event: Event | None
    arrows: tuple[Arrow, ...]
    exited: tuple[Vertex, ...]
    entered: tuple[Vertex, ...]


class Outcome(NamedTuple):
    """What a step gives. `handled` is false if the event led to nothing at all."""

    configuration: Configuration
    actions: tuple[action.Action, ...]
    handled: bool
    taken: tuple[Taken, ...]


class Step:
    """The step under way; it is also the view that guards and content have."""

    __slots__ = (
        "actions", "bound", "chart", "children", "context", "current", "deferred", "event", "given", "invoking", "name", "node",
        "queue", "reaches", "result", "running", "serial", "session", "taken",
    )  # fmt: skip

    def __init__(self, chart: Chart, configuration: Configuration, reaches: Reaches | None = None):
        self.reaches = reaches
        self.chart = chart
        self.name = chart.name
        self.node: Node = configuration.node
        self.current: dict[str, None] = dict.fromkeys(configuration.node.ids)
        self.context = configuration.context
        self.session = configuration.session
        self.serial = configuration.serial
        self.bound = configuration.bound
        self.running = configuration.running
        self.result = configuration.result
        self.children = list(configuration.children)
        self.deferred = list(configuration.deferred)
        self.event: Event | None = None
        self.given: Any = None
        self.queue: deque[Event] = deque()
        self.actions: list[action.Action] = []
        self.invoking: dict[Vertex, None] = {}
        self.taken: list[Taken] = []

    def active(self, state: str) -> bool:
        """Whether the state is active at this moment."""
        return state in self.current

    def new_id(self, stem: str) -> str:
        """An id that this machine has not given yet."""
        self.serial += 1
        return f"{stem}.{self.serial}"

    def start(self, data: dict[str, Any] | None) -> Outcome:
        """Enter the chart."""
        table = self.chart.table
        if self.chart.data:
            self.context = dict(self.context or {})
            late = self.chart.options.late
            self._bind(table.root.state, data or {})
            for vertex in table.vertices[1:]:
                if not late:
                    self._bind(vertex.state, {})
        self._block(self.chart.script)
        self._microstep(table.first())
        self._settle()
        self._recall()
        return self._outcome(handled=True)

    def take(self, event: Event) -> Outcome:
        """Process one external event, and then the deferred ones that the new configuration no longer defers."""
        if not self.running:
            return self._outcome(handled=False)
        handled = self._external(event)
        if handled:
            self._recall()
        return self._outcome(handled=handled)

    def _recall(self) -> None:
        while self.deferred and self._still_running():
            found = next((i for i, kept in enumerate(self.deferred) if not self.node.defers(kept.name)), None)
            if found is None:
                return
            self._external(self.deferred.pop(found))

    def _still_running(self) -> bool:
        return self.running

    def holds(self, condition: Callable[[Any], Any]) -> bool:
        """Whether a condition holds. One that fails does not, where errors are events."""
        if not self.chart.options.error_events:
            return bool(condition(self))
        value, error = attempt(condition, self)
        if error is None:
            return bool(value)
        self._error(error)
        return False

    def enabled(self, paths: tuple[tuple[Arrow, ...], ...]) -> list[Arrow]:
        """The transitions to take: for each atomic state the first whose guard holds, without conflicts."""
        verdicts: dict[int, bool] = {}
        enabled: dict[int, Arrow] = {}
        for path in paths:
            for arrow in path:
                guard, index = arrow.guard, arrow.index
                if guard is not None:
                    if index not in verdicts:
                        verdicts[index] = self.holds(guard)
                    if not verdicts[index]:
                        continue
                enabled[index] = arrow
                break
        return self.chart.table.without_conflicts(self.node, list(enabled.values())) if enabled else []

    def see(self, event: Event | None) -> None:
        """Make the event the one that guards and content see."""
        self.event = event
        self.given = None if event is None else event.given

    def _external(self, event: Event) -> bool:
        self.see(event)
        forwarded = self._children_see(event)
        arrows = self.enabled(self.node.paths(event.name))
        if not arrows and not self.queue:
            if self.node.defers(event.name):
                self.deferred.append(event)
                return True
            return forwarded
        if arrows:
            self._microstep(self.chart.table.plan(self.node, tuple(arrows)))
        self._settle()
        return True

    def _settle(self) -> None:
        """Eventless transitions, then internal events, until nothing is left; then new children start."""
        left = self.chart.options.limit
        while self.running:
            arrows = self.enabled(self.node.eventless) if self.node.eventless else []
            if not arrows:
                if self.queue:
                    self.see(self.queue.popleft())
                    arrows = self._internal()
                elif self.invoking:
                    self._invoke()
                    continue
                else:
                    return
            left -= 1
            if left < 0:
                raise EndlessStep(
                    f"the machine {self.name!r} took {self.chart.options.limit} microsteps in one step and did not come to rest "
                    f"in {', '.join(self.node.leaves)}; look for eventless transitions or raised events that go round in a circle",
                    machine=self.name,
                )
            if arrows:
                self._microstep(self.chart.table.plan(self.node, tuple(arrows)))
        self._leave_all()

    def _internal(self) -> list[Arrow]:
        """What the internal event at hand leads to; one that was raised is kept where such events are deferred."""
        event = self.event
        if event is None:
            return []
        arrows = self.enabled(self.node.paths(event.name))
        if not arrows and event.kind == "internal" and not event.name.startswith("done.") and self.node.defers(event.name):
            self.deferred.append(event)
        return arrows

    def _microstep(self, plan: Plan) -> None:
        self.taken.append(Taken(self.event, plan.arrows, plan.exited, plan.entered))
        for code, what in plan.ops:
            if code == BLOCK:
                self._block(what)
            elif code == LEAVE:
                self.current.pop(what.id, None)
                self.invoking.pop(what, None)
                self._stop_children(what.id)
            elif code == ENTER:
                self._enter(what)
            elif code == DONE:
                self.queue.append(Event(f"done.state.{what[0]}", self._payload(what[1]), "internal"))
            elif code == FINISH:
                self.running = False
                self.result = self._payload(what.done)
        self.node = plan.target

    def _enter(self, vertex: Vertex) -> None:
        self.current[vertex.id] = None
        if self.chart.options.late and vertex.id not in self.bound:
            self.bound = (*self.bound, vertex.id)
            self._bind(vertex.state, {})
        if vertex.invokes:
            self.invoking[vertex] = None

    def _block(self, block: tuple[Piece, ...]) -> None:
        if not self.chart.options.error_events:
            for piece in block:
                piece.run(self)
            return
        for piece in block:
            if self._tried(piece.run, self)[1]:
                return

    def _tried(self, function: Callable[..., Any], *args: Any) -> tuple[Any, bool]:
        """The value, and whether it failed, which is an event then; errors pass where the chart wants them to."""
        if not self.chart.options.error_events:
            return function(*args), False
        value, error = attempt(function, *args)
        if error is not None:
            self._error(error)
        return value, error is not None

    def _error(self, error: BaseException) -> None:
        if not isinstance(error, Exception):
            raise error
        self.queue.append(error_event(error))

    def _bind(self, state: State, given: dict[str, Any]) -> None:
        for datum in state.data:
            if datum.id in given:
                self.context = datum.place.fn(self, given[datum.id])
                continue
            value, _ = self._tried(of_view(datum.value), self)
            self.context = datum.place.fn(self, value)

    def _payload(self, done: Any) -> Any:
        if done is None:
            return None
        value, failed = self._tried(pairs(done.params) if done.params else of_view(done.value), self)
        return None if failed else value

    def _children_see(self, event: Event) -> bool:
        forwarded = False
        for id_, state, number in self.children:
            invoke = self.chart.table.by_id[state].invokes[number]
            if id_ == event.invokeid:
                self._finalize(invoke, event)
            if invoke.autoforward:
                self.actions.append(action.Forward(id_, event))
                forwarded = True
        return forwarded

    def _finalize(self, invoke: Invoke, event: Event) -> None:
        if invoke.finalize_params and isinstance(event.data, dict):
            for name, value in invoke.params:
                place = self.chart.places.get(getattr(value, "text", name))
                if name in event.data and place is not None:
                    self.context = place.fn(self, event.data[name])
        self._block(self.chart.finalize(invoke))

    def _invoke(self) -> None:
        wanted, self.invoking = sorted(self.invoking, key=lambda vertex: vertex.index), {}
        for vertex in wanted:
            for number, invoke in enumerate(vertex.invokes):
                self._tried(self._start, vertex.id, number, invoke)

    def _start(self, state: str, number: int, invoke: Invoke) -> None:
        id_ = invoke.id or self.new_id(state)
        if invoke.id_place is not None:
            self.context = invoke.id_place.fn(self, id_)
        kind, src = of_view(invoke.type)(self), of_view(invoke.src)(self)
        content = self.chart.content_of(invoke)
        data = pairs(invoke.params)(self)
        if content is None and src is None:
            raise ContentFailed(f"the invocation in {state!r} has neither a source nor content")
        self.children.append((id_, state, number))
        value = content.fn(self) if isinstance(content, Expression) else content
        self.actions.append(action.Start(id_, kind, src, value, data, invoke.autoforward))

    def _stop_children(self, state: str) -> None:
        for child in [child for child in self.children if child[1] == state]:
            self.children.remove(child)
            self.actions.append(action.Stop(child[0]))

    def _leave_all(self) -> None:
        """The chart has ended: every exit action, innermost first (Appendix D, exitInterpreter). The states stay on record."""
        for vertex in reversed(self.node.active):
            for block in vertex.exit:
                self._block(block)
            self.current.pop(vertex.id, None)
            self._stop_children(vertex.id)
        for block in self.chart.table.root.exit:
            self._block(block)

    def stop(self) -> Outcome:
        """End the machine from outside, with its exit actions."""
        if self.running:
            self.running = False
            self._leave_all()
        return self._outcome(handled=True)

    def _outcome(self, *, handled: bool) -> Outcome:
        waiting, children = tuple(self.deferred), tuple(self.children)
        after = Configuration(
            self.node, self.context, waiting, children, self.serial, self.session, self.bound, self.running, self.result
        )
        return Outcome(after, tuple(self.actions), handled, tuple(self.taken))
