"""Owns a chart that is ready to run: the model, checked, its functions found, its tables compiled.
It must never hold the state of a machine; many machines share one chart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from spellwork.errors import ChartRefused, InvalidTransition
from spellwork.machine.action import Action
from spellwork.machine.check import Fault, faults_of
from spellwork.machine.configuration import Configuration
from spellwork.machine.content import Invoke, Place
from spellwork.machine.event import as_event, event_name
from spellwork.machine.model import Options, State
from spellwork.machine.piece import Names, Piece, compile_block
from spellwork.machine.step import Outcome, Reaches, Step
from spellwork.machine.table import ENTER, Node, Table


class Chart:
    """A statechart. `step(configuration, event)` gives the next configuration and the actions; nothing else happens.

    `actions` and `guards` are the functions behind the names in charts that were written as text.

    Raises:
        ChartRefused: the chart is malformed; `faults` lists what is wrong, each by name.
    """

    def __init__(
        self,
        root: State,
        options: Options | None = None,
        *,
        actions: Mapping[str, Callable[..., Any]] | None = None,
        guards: Mapping[str, Callable[..., Any]] | None = None,
    ):
        self.root = root
        self.options = options or Options()
        self.name = self.options.name or root.id
        found = faults_of(root, self.options)
        if found:
            raise refused(self.name, found)
        names = Names(actions, guards)
        self.table = Table(root, names)
        self.script: tuple[Piece, ...] = compile_block(self.options.script, names)
        self.data = any(state.data for state in root.walk())
        self.places: dict[str, Place] = {datum.id: datum.place for state in root.walk() for datum in state.data}
        self.has_defer = any(state.defer for state in root.walk())
        self.kinds = {kind: event_name(kind) for kind in self.options.kinds}
        self.nodes: dict[tuple[tuple[str, ...], Any], Node] = {}
        self._finalize = {
            id(invoke): compile_block(invoke.finalize, names) for vertex in self.table.vertices for invoke in vertex.invokes
        }
        self._charts: dict[int, Chart] = {
            id(invoke): Chart(invoke.content, actions=actions, guards=guards)
            for vertex in self.table.vertices
            for invoke in vertex.invokes
            if isinstance(invoke.content, State)
        }
        if names.missing:
            raise refused(self.name, [Fault("unknown-name", root.id, f"no function is given for the {it}") for it in names.missing])
        self.awaited = tuple(names.awaited)

    def __repr__(self) -> str:
        return f"<Chart {self.name}: {len(self.table.vertices) - 1} states>"

    @cached_property
    def events(self) -> tuple[str, ...]:
        """The events that transitions wait for, and those that were declared, in document order."""
        found = dict.fromkeys(name for arrow in self.table.arrows for name in arrow.events if name != "*")
        return tuple({**found, **dict.fromkeys(self.options.events)})

    @cached_property
    def states(self) -> tuple[str, ...]:
        """The ids of all states in document order."""
        return tuple(vertex.id for vertex in self.table.vertices[1:] if vertex.kind != "history")

    @cached_property
    def origin(self) -> Configuration | None:
        """Where every machine begins, if beginning does nothing else."""
        if self.data or self.script:
            return None
        plan = self.table.first()
        plain = all(code == ENTER and not what.invokes for code, what in plan.ops) and not plan.target.eventless
        return Configuration(plan.target) if plain else None

    def new_context(self) -> Any:
        """The context that a machine starts with: what the chart's options give, made anew if they give a function."""
        made = self.options.context
        return made() if callable(made) else made

    def start(
        self, context: Any = None, *, session: str = "", data: dict[str, Any] | None = None
    ) -> tuple[Configuration, tuple[Action, ...]]:
        """Where a machine of this chart begins, and what it does there."""
        outcome = self.begin(context, session=session, data=data)
        return outcome.configuration, outcome.actions

    def step(self, configuration: Configuration, event: Any, data: Any = None) -> tuple[Configuration, tuple[Action, ...]]:
        """Process one event to completion.

        Raises:
            InvalidTransition: nothing handles the event, and the chart is strict.
        """
        outcome = self.advance(configuration, event, data)
        if not outcome.handled and self.options.strict:
            raise self.invalid(configuration, event_name(event))
        return outcome.configuration, outcome.actions

    def begin(
        self, context: Any = None, *, session: str = "", data: dict[str, Any] | None = None, reaches: Reaches | None = None
    ) -> Outcome:
        """As `start`, with the microsteps taken. `reaches` tells which targets the host can send to."""
        if context is None:
            context = self.new_context()
        return Step(self, Configuration(self.table.nowhere, context, session=session), reaches).start(data)

    def advance(self, configuration: Configuration, event: Any, data: Any = None, *, reaches: Reaches | None = None) -> Outcome:
        """As `step`, with the microsteps taken; an event that nothing handles changes nothing."""
        return Step(self, configuration, reaches).take(as_event(event, data))

    def end(self, configuration: Configuration) -> Outcome:
        """End a machine from outside: its exit actions, and the end of its children."""
        return Step(self, configuration).stop()

    def allowed(self, node: Node) -> tuple[str, ...]:
        """The events that some transition waits for in a configuration, whatever its guard says."""
        return tuple(dict.fromkeys(
            name for vertex in node.active for arrow in vertex.arrows for name in arrow.events
        )) + tuple(name for arrow in self.table.root.arrows for name in arrow.events)  # fmt: skip

    def invalid(self, configuration: Configuration, event: str) -> InvalidTransition:
        """The error for an event that nothing handles."""
        allowed = self.allowed(configuration.node) if configuration.running else ()
        where = ", ".join(configuration.leaves)
        hint = (
            f"it handles {', '.join(allowed)}" if allowed else "it has ended" if not configuration.running else "it handles nothing"
        )
        return InvalidTransition(
            f"machine {self.name!r} in {where} does not handle {event!r}; {hint}",
            machine=self.name, state=configuration.leaves, event=event, allowed=allowed,
        )  # fmt: skip

    def finalize(self, invoke: Invoke) -> tuple[Piece, ...]:
        """What runs before an event of the child is looked at."""
        return self._finalize[id(invoke)]

    def content_of(self, invoke: Invoke) -> Any:
        """The chart of a child, or whatever else its content is."""
        return self._charts.get(id(invoke), invoke.content)


def refused(name: str, faults: list[Fault]) -> ChartRefused:
    """The error for a malformed chart."""
    lines = "; ".join(f"{fault.name} in {fault.state!r}: {fault.message}" for fault in faults)
    return ChartRefused(f"the chart {name!r} is malformed: {lines}", faults=tuple(faults))
