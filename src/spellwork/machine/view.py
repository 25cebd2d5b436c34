"""Owns what guards, values and assignments may see of a machine while it takes a step.
It must never offer a way to change the machine.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from spellwork.errors import DefinitionError
from spellwork.machine.content import Expression
from spellwork.machine.event import Event

if TYPE_CHECKING:
    from spellwork.machine.model import State


class View(Protocol):
    """A look at a machine in the middle of a step."""

    context: Any
    event: Event | None
    session: str
    name: str

    def active(self, state: str) -> bool:
        """Whether the state is active at this moment."""
        ...


def active(*states: str) -> Expression:
    """A guard that holds while all these states are active (SCXML's `In`)."""
    return Expression(" and ".join(f"In('{state}')" for state in states), lambda view: all(view.active(s) for s in states))


def not_active(state: str) -> Expression:
    """A guard that holds while the state is not active."""
    return Expression(f"not In('{state}')", lambda view: not view.active(state))


def is_async(function: Any) -> bool:
    """Whether calling it gives a coroutine, which somebody must await."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004 - not whether it is callable


def two_arguments(function: Callable[..., Any]) -> Callable[[Any, Any], Any]:
    """The function as one of `(context, event)`: it gets as many of the two as it requires, so defaults stay the caller's own."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some built-ins have no signature
        return function
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return function
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = sum(p.default is p.empty for p in positional)
    if needed > 2 or any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters):
        raise DefinitionError(f"{named(function)}() must take at most two arguments: the context and the event")
    if needed == 2:
        return function
    if needed == 1:
        return lambda context, _event: function(context)
    return lambda _context, _event: function()


def named(value: Any) -> str:
    """How a function, a name or an expression is called in messages, exports and logs."""
    if isinstance(value, str):
        return value
    if isinstance(value, Expression):
        return value.text
    return str(getattr(value, "__name__", None) or type(value).__name__)


def written_name(value: Any) -> str:
    """The name by which a document can refer to a function, or the text of an expression.

    Raises:
        DefinitionError: the function has no name of its own, so nobody could find it again.
    """
    if not isinstance(value, (str, Expression)) and getattr(value, "__name__", "<").startswith("<"):
        raise DefinitionError(f"{value!r} has no name to be written by; define it with `def`")
    return named(value)


def check_names(root: State) -> None:
    """Refuse to write a chart in which one name stands for two functions: whoever reads it back can give only one.

    Raises:
        DefinitionError: two actions, or two guards, are different functions of one name.
    """
    known: dict[tuple[bool, str], Any] = {}
    for state in root.walk():
        moves = (*state.transitions, *((state.initial,) if state.initial else ()))
        used = [(True, move.guard) for move in moves]
        blocks = (*state.entry, *state.exit, *(move.content for move in moves))
        used += [(False, getattr(each, "action", None) or getattr(each, "change", None)) for block in blocks for each in block]
        for is_guard, function in used:
            if callable(function) and known.setdefault((is_guard, named(function)), function) is not function:
                raise DefinitionError(
                    f"{state.id!r} uses {named(function)!r}, but another function has that name; rename one of them"
                )


def of_view(value: Any) -> Callable[[View], Any]:
    """Any value in content as a function of the view."""
    if isinstance(value, Expression):
        return value.fn
    if callable(value) and not isinstance(value, type):
        function = two_arguments(value)
        return lambda view: function(view.context, view.event.given if view.event else None)
    return lambda _view: value
