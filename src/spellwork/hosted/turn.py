"""Owns a turn: what one journal entry makes of a machine, worked out without doing any of it.
It must never change anything but what it returns: a turn may be thrown away, because the event is refused.
"""

from __future__ import annotations

import dataclasses
import marshal
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from spellwork.codec.exact import is_plain_tree
from spellwork.errors import EndlessStep, PayloadError, UnknownWorkflow, UsageError
from spellwork.hosted.begin import MICROSECONDS, Begin
from spellwork.hosted.type import BUS, PREFIX, MachineType
from spellwork.machine import action
from spellwork.machine.configuration import Configuration
from spellwork.machine.event import Event
from spellwork.machine.moves import moves_of
from spellwork.machine.step import Outcome, Step
from spellwork.machine.table import Node
from spellwork.supervision import attempt
from spellwork.workflow.activity import Activity
from spellwork.workflow.definition import Known, Workflow

if TYPE_CHECKING:
    from spellwork.codec import Codec

_CACHED = 1024
_PRINT = 2  # the last version of the format that tells values and types alone, and not who else holds them
_MACHINE_TYPES = (None, "", "machine", "scxml", "http://www.w3.org/TR/scxml", "http://www.w3.org/TR/scxml/")


class RunActivity(NamedTuple):
    """An action with effects: a durable step."""

    activity: Activity[Any, Any]
    args: tuple[Any, ...]
    digest: bytes


class SetTimer(NamedTuple):
    """A delivery for later."""

    microseconds: int
    wanted: action.Deliver


class SendOut(NamedTuple):
    """An event for another machine: its stored form for machines, and its data alone for workflows."""

    target: str
    event: Event
    packed: bytes
    data: bytes


class StartRun(NamedTuple):
    """A child to start."""

    id: str
    definition: Workflow[Any, Any]
    payload: bytes
    digest: bytes


class Macrostep(NamedTuple):
    """One step of the turn, for the record."""

    event: Event | None
    before: Node
    outcome: Outcome


class Turn(NamedTuple):
    """Where the machine stands afterwards and what it asks for, after so many `macrosteps`. `handled` tells of the first event.

    `steps` are those macrosteps; a turn by the short cut has none to show. `kept` is the stored form of the context, if anything
    was called that could have changed it, and `deferred` that of the events that wait.
    """

    configuration: Configuration
    wanted: tuple[Any, ...]
    handled: bool
    macrosteps: int
    steps: tuple[Macrostep, ...] = ()
    kept: bytes | None = None
    deferred: tuple[bytes, ...] = ()


class Turns:
    """Works out the turns of one machine. `can_reach` tells whether an event to a target would arrive."""

    def __init__(self, kind: MachineType, codec: Codec, known: Known | None, can_reach: Callable[[str], bool]):
        self._kind, self._codec, self._known, self._can_reach = kind, codec, known, can_reach
        self._shape = kind.context_shape(codec)
        self._seen: tuple[Any, bytes] | None = None  # the context that was stored last, and what it was then
        self.short = not kind.activities
        """Whether a step that only guards decide may skip the interpreter; whoever wants a record of it may not."""

    def first(self, begin: Begin, session: str) -> Turn:
        """The machine enters its chart."""
        codec, chart = self._codec, self._kind.chart
        context = None if begin.context is None else self._shape.decode(begin.context)
        data = None if begin.data is None else codec.untyped.decode(begin.data)
        outcome = chart.begin(context, session=session, data=data, reaches=self._can_reach)
        return self._go_on(Configuration(chart.table.nowhere, session=session), None, outcome)

    def take(self, configuration: Configuration, event: Event) -> Turn:
        """The machine takes an event, and then what it sends to itself without delay."""
        if self.short:
            turn = self._short(configuration, event)
            if turn is not None:
                return turn
        outcome = Step(self._kind.chart, configuration, self._can_reach).take(event)
        return self._go_on(configuration, event, outcome)

    def end(self, configuration: Configuration) -> Turn:
        """The machine is ended from outside."""
        return self._go_on(configuration, None, self._kind.chart.end(configuration))

    def _learned(self, node: Node, name: str) -> Any:
        """The choices of a node for an event that it has not had yet, or None where the short cut does not cover it."""
        if name in node.slow:
            return None
        choices = moves_of(self._kind.chart, node, name)
        known: Any = node.slow if choices is None else node.moves
        if len(known) >= _CACHED:
            return choices
        if choices is None:
            node.slow.add(name)
        else:
            node.moves[name] = choices
        return choices

    def _short(self, before: Configuration, event: Event) -> Turn | None:
        """The turn by the short cut that machines in memory have, where it covers the event (a law holds the two equal)."""
        node, name = before.node, event.name
        choices = node.moves.get(name)
        if choices is None and (choices := self._learned(node, name)) is None:
            return None
        if before.deferred or before.children or not before.running:
            return None
        given = event.given
        for guard, target, _, pieces, _, _ in choices:
            if guard is not None and not guard(before.context, given):
                continue
            context = before.context
            wanted = []
            for is_action, function in pieces:
                if is_action:
                    wanted.append((function, context))
                else:
                    context = function(context, given)
            for function, seen in wanted:
                function(seen, given)
            kept = None
            if pieces and not (context is before.context and self._is_unchanged(context)):
                context, kept = self._storable(context)
            after = Configuration(target, context, (), (), before.serial, before.session, before.bound)
            return Turn(after, (), handled=True, macrosteps=1, kept=kept)
        return Turn(before, (), handled=False, macrosteps=0)

    def _go_on(self, before: Configuration, event: Event | None, outcome: Outcome) -> Turn:
        handled, own = outcome.handled, f"#_scxml_{before.session}"
        queue: deque[Event] = deque()
        late: deque[Event] = deque()  # errors come behind what it sent itself, as in journals that were written before
        wanted: list[Any] = []
        steps: list[Macrostep] = []
        limit = self._kind.chart.options.limit
        finalized = event is not None and event.invokeid is not None  # that may change the context, whatever handles the event
        while True:
            if outcome.handled:
                steps.append(Macrostep(event, before.node, outcome))
            for each in outcome.actions:
                if type(each) is action.Deliver and each.delay <= 0:
                    if each.target in (None, own):
                        queue.append(each.event)
                        continue
                    problem = unpublishable(each.event) if each.target == BUS else None
                    if problem is not None:
                        late.append(problem)
                        continue
                self._prepare(each, wanted)
            before = outcome.configuration
            if not (queue or late) or not before.running:
                break
            if len(steps) > limit:
                raise EndlessStep(
                    f"the machine {self._kind.chart.name!r} sent itself more than {limit} events in a turn; send one with a delay",
                    machine=self._kind.chart.name,
                )
            event = (queue or late).popleft()
            outcome = Step(self._kind.chart, before, self._can_reach).take(event)
        # what could not be stored must not be kept for later
        deferred = tuple(self._kind.events.pack(self._codec, waits) for waits in before.deferred)
        kept = None
        if steps or finalized:
            context, kept = self._storable(before.context)
            if context is not before.context:
                before = dataclasses.replace(before, context=context)
        if before.result is not None:
            self._check_result(before.result)
        return Turn(before, tuple(wanted), handled, len(steps), tuple(steps), kept, deferred)

    def _is_unchanged(self, context: Any) -> bool:
        """Whether no action has changed in place what was stored last: a look, where encoding takes 30 times as long."""
        if self._seen is None or self._seen[0] is not context:
            return False
        printed, unknown = attempt(marshal.dumps, context, _PRINT)
        return unknown is None and printed == self._seen[1]

    def _check_result(self, result: Any) -> None:
        shape = self._codec.shape(self._kind.result)
        try:
            shape.decode(shape.encode(result))
        except PayloadError as error:
            raise PayloadError(
                f"machine {self._kind.chart.name!r}: what its final state gives cannot be stored: {error}", path=error.path
            ) from error

    def _storable(self, context: Any) -> tuple[Any, bytes]:
        """The context as it comes back from the store, so that trimming changes nothing; and its stored form."""
        shape = self._shape
        try:
            payload = shape.encode(context)
            if not (shape.annotation is Any and self._codec.redaction is None and is_plain_tree(context)):
                context = shape.decode(payload)  # else nothing could be different
        except PayloadError as error:
            raise PayloadError(
                f"machine {self._kind.chart.name!r}: its new context cannot be stored: {error}", path=error.path
            ) from error
        printed, unknown = attempt(marshal.dumps, context, _PRINT)
        self._seen = None if unknown is not None else (context, printed)
        return context, payload

    def _prepare(self, each: Any, wanted: list[Any]) -> None:
        """Call what is called inline; make of everything else something that can be performed without failing."""
        match each:
            case action.Call(declared=Activity() as activity):
                args = (each.context, each.event)[: self._kind.activities.get(id(activity), 2)]
                try:
                    wanted.append(RunActivity(activity, args, self._codec.digest(args)))
                except PayloadError as error:
                    raise PayloadError(f"activity {activity.name}, arguments: {error}", path=error.path) from error
            case action.Call():
                each()
            case action.Deliver():
                self._prepare_delivery(each, wanted)
            case action.Start():
                wanted.append(self._child(each))
            case action.Note():
                pass  # it stands in the record
            case _:
                wanted.append(each)

    def _prepare_delivery(self, each: action.Deliver, wanted: list[Any]) -> None:
        packed = self._kind.events.pack(self._codec, each.event)
        if each.delay > 0:
            if each.event.data is not None:  # as a trim would bring it back
                each = dataclasses.replace(each, event=self._kind.events.unpack(self._codec, packed))
            wanted.append(SetTimer(round(each.delay * MICROSECONDS), each))
        else:
            wanted.append(SendOut(str(each.target), each.event, packed, self._kind.events.payload(self._codec, each.event)))

    def _child(self, each: action.Start) -> StartRun:
        codec = self._codec
        definition = self._definition(each)
        if isinstance(definition, MachineType):
            data = None if not each.data else codec.untyped.encode(each.data)
            begin = Begin(definition.version, definition.structure, data=data, invokeid=each.id)
            payload = definition.parameters.encode(codec, (begin,), {})
        else:
            payload = definition.parameters.encode(codec, (), dict(each.data or {}))
        return StartRun(each.id, definition, payload, codec.digest((each.id, definition.name, payload)))

    def _definition(self, each: action.Start) -> Workflow[Any, Any]:
        inline = self._kind.children.get(id(each.content))
        if inline is not None:
            return inline
        if each.type not in (*_MACHINE_TYPES, "workflow"):
            raise UsageError(
                f"machine {self._kind.chart.name!r} invokes {each.src!r} as {each.type!r}; an engine runs machines and workflows"
            )
        if each.content is not None or not isinstance(each.src, str):
            raise UsageError(
                f"machine {self._kind.chart.name!r} invokes {each.src or each.content!r}; an engine finds a chart that stands in "
                "the chart itself, or a machine or workflow that is registered, by its name"
            )
        return self._found(each.src, each.type)

    def _found(self, name: str, kind: str | None) -> Workflow[Any, Any]:
        if self._known is None:
            raise UnknownWorkflow(f"nothing is registered to invoke by the name {name!r}", name=name)
        if kind == "workflow":
            return self._known.find(name)
        try:
            return self._known.find(name if name.startswith(PREFIX) else PREFIX + name)
        except UnknownWorkflow:
            if kind:
                raise
        return self._known.find(name)


def unpublishable(event: Event) -> Event | None:
    """The error of an event whose name is no topic, or nothing."""
    from spellwork.events.durable.keys import check_name  # noqa: PLC0415 - for machines that publish

    _, problem = attempt(check_name, event.name)
    return None if problem is None else Event("error.execution", str(problem), "platform", sendid=event.sendid)
