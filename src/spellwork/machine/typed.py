"""Owns the typed form: states nest as classes nest, and methods are transitions, actions and handlers.
It must never keep anything of the classes but the model that they declare.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

from spellwork.errors import DefinitionError
from spellwork.machine.builder import Actions, ChartBuilder, StateBuilder, targets_of
from spellwork.machine.chart import Chart
from spellwork.machine.content import Assign
from spellwork.machine.event import event_name
from spellwork.machine.view import two_arguments

C = TypeVar("C")
E = TypeVar("E")
Target: TypeAlias = str | type  # the id of a state, or the class that declares it
_MARK = "_spellwork_machine"


@dataclass(frozen=True, slots=True)
class To:
    """A handler's answer: go to this state, with this context if one is given."""

    target: Target
    context: Any = None


@dataclass(frozen=True, slots=True)
class Handled:
    """A handler's answer: the event is dealt with, and the machine stays, with this context if one is given."""

    context: Any = None


@dataclass(frozen=True, slots=True)
class Super:
    """A handler's answer: ask my parent."""


@dataclass(frozen=True, slots=True)
class _Declared:
    kind: Literal["on", "handler", "entry", "exit", "after", "every"]
    when: Any = None
    to: Any = None
    guard: Any = None
    do: Any = None
    internal: bool = False


def _mark(function: Any, declared: _Declared) -> Any:
    marks = [*getattr(function, _MARK, ()), declared]
    setattr(function, _MARK, marks)
    return function


def on(
    event: type[E],
    to: Target | Sequence[Target] | None = None,
    *,
    guard: Callable[[C, E], bool] | None = None,
    internal: bool = False,
) -> Callable[[Callable[[C, E], None]], Callable[[C, E], None]]:
    """Decorator: the event leads to `to` (nowhere: the machine stays), and the function is the action on the way."""
    return lambda function: _mark(function, _Declared("on", event, to, guard, function, internal))


def handler(
    event: type[E], *targets: Target
) -> Callable[[Callable[[C, E], To | Handled | Super]], Callable[[C, E], To | Handled | Super]]:
    """Decorator: the function decides. It is pure, gets the context and the event, and answers `To`, `Handled` or `Super`.

    `targets` are all states that it may go to; they are what checks, diagrams and `allowed` know of it.
    """
    return lambda function: _mark(function, _Declared("handler", event, targets, None, function))


def entry(function: Callable[[C, Any], None]) -> Callable[[C, Any], None]:
    """Decorator: the function runs when the state is entered."""
    _mark(function, _Declared("entry", do=function))
    return function


def exit_(function: Callable[[C, Any], None]) -> Callable[[C, Any], None]:
    """Decorator: the function runs when the state is left."""
    _mark(function, _Declared("exit", do=function))
    return function


def after(
    delay: Any, to: Target | Sequence[Target] | None = None, *, guard: Any = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: `delay` (seconds, timedelta, "200ms") after entering, the state is left for `to`; the function is the action."""
    return lambda function: _mark(function, _Declared("after", delay, to, guard, function))


def every(period: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: the function runs once a period while the state is active."""
    return lambda function: _mark(function, _Declared("every", period, do=function))


def initial(state: type[C]) -> type[C]:
    """Class decorator: this state is entered first."""
    setattr(state, "_initial", True)  # noqa: B010 - the class is the user's own
    return state


def parallel(state: type[C]) -> type[C]:
    """Class decorator: the states inside are all active together."""
    setattr(state, "_kind", "parallel")  # noqa: B010 - the class is the user's own
    return state


def final(state: type[C]) -> type[C]:
    """Class decorator: a final state."""
    setattr(state, "_kind", "final")  # noqa: B010 - the class is the user's own
    return state


def history(default: Target | Sequence[Target], *, deep: bool = False) -> Callable[[type[C]], type[C]]:
    """Class decorator: a history state; until there is something to remember it leads to `default`."""

    def mark(state: type[C]) -> type[C]:
        setattr(state, "_kind", ("history", default, deep))  # noqa: B010 - the class is the user's own
        return state

    return mark


def chart(states: type, *, name: str | None = None, context: Any = None, events: Sequence[Any] = (), strict: bool = True) -> Chart:
    """The chart of a class with the states inside.

    Type checkers want `@staticmethod` below the decorators of functions in a class; Spellwork does not mind either way.

    Raises:
        ChartRefused: the chart is malformed.
    """
    builder = ChartBuilder(name or states.__name__, context=context, events=events, strict=strict)
    _declare(builder, states)
    return builder.build()


def _declare(state: StateBuilder, declared: type) -> None:
    for value in list(vars(declared).values()):
        if isinstance(value, type):
            _nested(state, value)
            continue
        for mark in getattr(value, _MARK, ()):
            _apply(state, mark)
    transitions = vars(declared).get("defer", ())
    if transitions:
        state.defer(*transitions)


def _nested(parent: StateBuilder, declared: type) -> None:
    id_, kind = declared.__name__, vars(declared).get("_kind", "state")
    if vars(declared).get("_initial"):
        if parent._initial is not None:
            raise DefinitionError(f"{parent.id} has two initial states; mark one with @initial")
        parent.initial(id_)
    if isinstance(kind, tuple):
        parent.history(id_, kind[1], deep=kind[2])
        return
    opened = {"state": parent.state, "parallel": parent.parallel, "final": parent.final}[kind](id_)
    _declare(opened, declared)


def _apply(state: StateBuilder, mark: _Declared) -> None:
    match mark.kind:
        case "on":
            state.on(mark.when, mark.to, guard=mark.guard, do=mark.do, internal=mark.internal)
        case "handler":
            _handler(state, mark)
        case "entry":
            state.on_entry(mark.do)
        case "exit":
            state.on_exit(mark.do)
        case "after":
            state.after(mark.when, mark.to, guard=mark.guard, do=mark.do)
        case "every":
            state.every(mark.when, do=mark.do)


def _handler(state: StateBuilder, mark: _Declared) -> None:
    decide, event = two_arguments(mark.do), event_name(mark.when)

    def keep(context: Any, given: Any) -> Any:
        answer = decide(context, given)
        return context if answer.context is None else answer.context

    def answers(target: str | None) -> Callable[[Any, Any], bool]:
        def guard(context: Any, given: Any) -> bool:
            answer = decide(context, given)
            if not isinstance(answer, (To, Handled, Super)):
                raise DefinitionError(f"the handler of {event!r} in {state.id!r} answers To, Handled or Super, not {answer!r}")
            if isinstance(answer, To) and targets_of(answer.target)[0] not in known:
                raise DefinitionError(
                    f"the handler of {event!r} in {state.id!r} goes to {answer.target!r}, which it does not declare"
                )
            return (
                targets_of(answer.target) == (target,) if isinstance(answer, To) else target is None and isinstance(answer, Handled)
            )

        guard.__name__ = f"{getattr(mark.do, '__name__', 'handler')} answers {target or 'Handled'}"
        return guard

    known = targets_of(mark.to)
    for target in (*known, None):
        do: Actions = Assign(keep)
        state.on(mark.when, target, guard=answers(target), do=do)
