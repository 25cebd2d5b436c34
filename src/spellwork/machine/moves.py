"""Owns the short cut for steps that depend on nothing but guards: an event's whole effect as a few tuples, planned once.
It must never cover what the full step would do differently; such steps have no short cut.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any

from spellwork.machine.event import Event
from spellwork.machine.table import BLOCK, ENTER, LEAVE, Arrow, Node, Plan

if TYPE_CHECKING:
    from spellwork.machine.chart import Chart

# guard, node after, its moves, pieces as (is it an action, function), only actions?, the event that they see
Choice = tuple[Any, Node, dict[Any, Any], tuple[tuple[bool, Any], ...], tuple[Any, ...], Event]


def key_of(given: Any) -> Any:
    """What the choices for a sent event are kept by: its name, or the class of an object that is the event.

    None where the class does not tell the name.
    """
    kind = type(given)
    if kind is str:
        return given
    return None if issubclass(kind, (str, Event, enum.Enum, type)) else kind


def moves_of(chart: Chart, node: Node, name: str) -> tuple[Choice, ...] | None:
    """The choices that the event has, in order; None where only the full step will do."""
    paths = node.paths(name)
    if not paths or node.defer or chart.has_defer or chart.options.error_events or chart.options.late:
        return None
    event = Event(name)
    if len(paths) > 1:
        if any(arrow.guard for path in paths for arrow in path):
            return None
        arrows = list(dict.fromkeys(path[0] for path in paths))
        choice = _choice(chart, node, tuple(chart.table.without_conflicts(node, arrows)), None, event)
        return None if choice is None else (choice,)
    choices = []
    for arrow in next(iter(paths)):
        if arrow.guard is not None and arrow.direct is None:
            return None
        choice = _choice(chart, node, (arrow,), arrow.direct, event)
        if choice is None:
            return None
        choices.append(choice)
        if arrow.guard is None:
            break
    return tuple(choices)


def _choice(chart: Chart, node: Node, arrows: tuple[Arrow, ...], guard: Any, event: Event) -> Choice | None:
    plan = chart.table.plan(node, arrows)
    if plan.target.eventless or not plan.target.atomics:
        return None
    pieces = _pieces(plan)
    if pieces is None:
        return None
    calls = tuple(function for _, function in pieces)
    return guard, plan.target, plan.target.moves, pieces, calls if all(action for action, _ in pieces) else (), event


def _pieces(plan: Plan) -> tuple[tuple[bool, Any], ...] | None:
    pieces = []
    for code, what in plan.ops:
        if code == BLOCK:
            for piece in what:
                if piece.direct is None:
                    return None
                pieces.append((piece.kind == "call", piece.direct))
        elif code not in (ENTER, LEAVE) or what.invokes:
            return None
    return tuple(pieces)
