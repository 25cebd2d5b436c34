"""Owns `MachineType`: a chart as it is registered with an engine, with its version and the way from older ones.
It must never change the chart; many types, and machines in memory, may share it.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from spellwork.codec import Codec, Shape
from spellwork.errors import DefinitionError, UsageError
from spellwork.hosted.begin import Begin, BeginParameters
from spellwork.hosted.events import Events
from spellwork.hosted.structure import structure_of
from spellwork.machine import Assign, Chart
from spellwork.machine.content import Do, Each, If
from spellwork.machine.model import State
from spellwork.workflow.activity import Activity
from spellwork.workflow.definition import Known, Workflow
from spellwork.workflow.parameters import Parameters

if TYPE_CHECKING:
    from spellwork.hosted.execution import MachineExecution
    from spellwork.journal import ErrorRegistry

Migration = Callable[[dict[str, Any]], dict[str, Any]]
PREFIX = "machine:"
TRIM = 256
BUS = "#_bus"


class MachineType(Workflow[[Begin], Any]):
    """A chart that an engine can host: `Engine(machines=[MachineType(chart, version="2", migrate={"1": forward})])`.

    A bare chart in `machines=` is `MachineType(chart)`.

    - `version`: to be changed whenever states, transitions, guards or assignments change while machines are alive. `migrate` has
      for each older version a function from its snapshot (as `Machine.snapshot()` gives it) to one of this version.
    - `context`, `result`: annotations by which the context, and what a final state gives, are stored. Where the chart's own context
      is a dataclass, struct or model, the first follows from it.
    - `events`: classes of events, and enums, that the chart did not declare itself.
    - `trim`: after how many entries the journal is closed and a new one begins with a snapshot.

    Raises:
        DefinitionError: the chart has something that can't be hosted.
    """

    def __init__(  # noqa: PLR0913 - each is an option with a default
        self,
        chart: Chart,
        *,
        version: str = "1",
        migrate: Mapping[str, Migration] | None = None,
        context: Any = None,
        result: Any = Any,
        events: Iterable[type] = (),
        trim: int = TRIM,
        name: str | None = None,
    ):
        if not isinstance(chart, Chart):
            raise DefinitionError(f"a MachineType is made of a Chart, not of {chart!r}")
        if trim < 1:
            raise DefinitionError(f"machine {chart.name!r}: trim={trim} must be at least 1 entry")

        async def machine(begin: Begin) -> Any:
            del begin
            raise UsageError(f"machine {chart.name!r} is not called; use engine.machine({chart.name!r}, id)")

        super().__init__(machine, name=PREFIX + (name or chart.name), version=version)
        self.chart, self.trim, self.result = chart, trim, result
        self.migrate: dict[str, Migration] = {str(old): function for old, function in (migrate or {}).items()}
        self.context = _annotation(chart) if context is None else context
        self.events = Events(chart, events)
        self.structure = structure_of(chart)
        self.activities: dict[int, int] = {}
        self._check()
        self.children: dict[int, MachineType] = dict(self._children())

    def _check(self) -> None:
        chart = self.chart
        if chart.awaited:
            raise DefinitionError(
                f"machine {chart.name!r}: {chart.awaited[0]}() is async; make it an @activity, so that it runs as a durable step"
            )
        for state in chart.root.walk():
            for content in contents_of(state, chart):
                if isinstance(content, Do):
                    self._note_activity(content.action)
                elif isinstance(content, Assign) and isinstance(content.change, Activity):
                    raise DefinitionError(
                        f"machine {chart.name!r}: the activity {content.change.name} can't change the context of {state.id!r}; it "
                        f"is an action, and its result comes back as the event done.activity.{content.change.name}"
                    )
            for move in state.transitions:
                guard = chart.table.names.guards.get(move.guard) if isinstance(move.guard, str) else move.guard
                if isinstance(guard, Activity):
                    raise DefinitionError(f"machine {chart.name!r}: the activity {guard.name} is no guard: guards are pure")

    def _note_activity(self, action: Any) -> None:
        found = self.chart.table.names.actions.get(action) if isinstance(action, str) else action
        if isinstance(found, Activity):
            parameters = inspect.signature(found.fn).parameters.values()
            kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
            self.activities[id(found)] = min(2, sum(p.default is p.empty for p in parameters if p.kind in kinds))

    def _children(self) -> Iterator[tuple[int, MachineType]]:
        taken: set[str] = set()
        for vertex in self.chart.table.vertices:
            for number, invoke in enumerate(vertex.invokes):
                chart = self.chart.content_of(invoke)
                if isinstance(chart, Chart):
                    stem = f"{self.name.removeprefix(PREFIX)}.{invoke.id or chart.name}"
                    name = stem if stem not in taken else f"{stem}.{vertex.index}.{number}"
                    taken.add(name)
                    # a child moves as its parent does; one that needs a migration of its own is registered, and invoked by name
                    migrate = dict.fromkeys(self.migrate, _same)
                    yield id(chart), MachineType(chart, version=self.version, migrate=migrate, trim=self.trim, name=name)

    @property
    def family(self) -> Iterator[MachineType]:
        """This type and those of the charts that it invokes."""
        yield self
        for child in self.children.values():
            yield from child.family

    @functools.cached_property
    def parameters(self) -> Parameters:
        """How a run's argument and result are stored."""
        found = BeginParameters(self.fn, f"machine {self.chart.name}")
        found.result = self.result
        return found

    def context_shape(self, codec: Codec) -> Shape:
        """How the context is stored."""
        return codec.shape(self.context)

    def same_as(self, other: Workflow[Any, Any]) -> bool:
        """Whether both are types of one chart."""
        return isinstance(other, MachineType) and other.chart is self.chart

    def execution(self, number: int, codec: Codec, errors: ErrorRegistry, known: Known | None = None) -> MachineExecution:
        """A machine in memory, before its first entry."""
        from spellwork.hosted.execution import MachineExecution  # noqa: PLC0415 - an execution imports the type

        return MachineExecution(number, self, codec, errors, known)

    def __repr__(self) -> str:
        return f"<machine {self.chart.name} version {self.version}>"


def machine_type(given: Chart | MachineType) -> MachineType:
    """The type of what `machines=` may hold."""
    return given if isinstance(given, MachineType) else MachineType(given)


def _same(snapshot: dict[str, Any]) -> dict[str, Any]:
    return snapshot


def contents_of(state: State, chart: Chart) -> Iterator[Any]:
    """Everything that a state does: entering, leaving, in its transitions, at the ends of its invocations."""
    moves = (*state.transitions, *((state.initial,) if state.initial else ()))
    blocks = [*state.entry, *state.exit, *(move.content for move in moves), *(invoke.finalize for invoke in state.invokes)]
    if state is chart.root:
        blocks.append(chart.options.script)
    for block in blocks:
        yield from _inside(block)


def _inside(block: tuple[Any, ...]) -> Iterator[Any]:
    for content in block:
        yield content
        if isinstance(content, If):
            for _, body in content.branches:
                yield from _inside(body)
        elif isinstance(content, Each):
            yield from _inside(content.body)


def _annotation(chart: Chart) -> Any:
    made = chart.options.context
    kind = made if isinstance(made, type) else type(chart.new_context())
    typed = dataclasses.is_dataclass(kind) or hasattr(kind, "__struct_fields__") or hasattr(kind, "model_validate_json")
    return kind if typed else Any
