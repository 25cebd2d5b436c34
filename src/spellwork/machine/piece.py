"""Owns how executable content is compiled: each piece becomes one function of the step that is under way.
It must never perform an effect; it records what the host is to perform.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from spellwork.errors import DefinitionError, MachineError
from spellwork.machine import action
from spellwork.machine.content import Assign, Block, Cancel, Do, Each, Expression, If, Let, Log, Raise, Send
from spellwork.machine.event import Event, as_event
from spellwork.machine.view import is_async, named, of_view, two_arguments

if TYPE_CHECKING:
    from spellwork.machine.step import Step

Run = Callable[["Step"], None]
SCXML_PROCESSOR = "http://www.w3.org/TR/scxml/#SCXMLEventProcessor"
_PROCESSORS = (None, "", "scxml", SCXML_PROCESSOR)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}

_LONGEST = 1e300


class ContentFailed(Exception):
    """Content that SCXML answers with an error event; never reaches users of charts that raise."""

    def __init__(self, message: str, sendid: str | None = None):
        super().__init__(message)
        self.sendid = sendid


@dataclasses.dataclass(slots=True)
class Piece:
    """Compiled content. `direct` is its function of `(context, event)` where nothing more is needed to run it."""

    run: Run
    kind: str = ""
    direct: Callable[[Any, Any], Any] | None = None


class Names:
    """Functions by name, for charts that were written as text. What is missing is gathered."""

    def __init__(self, actions: Mapping[str, Callable[..., Any]] | None, guards: Mapping[str, Callable[..., Any]] | None):
        self.actions: Mapping[str, Callable[..., Any]] = {} if actions is None else actions
        self.guards: Mapping[str, Callable[..., Any]] = {} if guards is None else guards
        self.missing: list[str] = []
        self.awaited: list[str] = []

    def action(self, given: Any) -> Callable[[Any, Any], Any] | None:
        """The action as a function of two arguments; None if the name is unknown."""
        found = self.actions.get(given) if isinstance(given, str) else given
        if is_async(found):
            self.awaited.append(named(found))
        return None if found is None else two_arguments(found)

    def pure(self, given: Any, kind: str) -> Any:
        """A guard or a change: what a name stands for, or the thing itself.

        Raises:
            DefinitionError: it is an `async` function; as a guard it would always hold.
        """
        found = given
        if isinstance(given, str):
            table = self.guards if kind == "guard" else self.actions
            if given not in table:
                self.missing.append(f"{kind} {given}")
                return lambda _context, _event: False
            found = table[given]
        if is_async(found):
            what = "guard" if kind == "guard" else "change of the context"
            raise DefinitionError(
                f"{named(found)}() is async, but a {what} is worked out inside the step; make it a plain function"
            )
        return found


def compile_block(block: Block, names: Names) -> tuple[Piece, ...]:
    """The pieces of a block."""
    return tuple(_COMPILERS[type(content)](content, names) for content in block)


def seconds(value: Any) -> float:
    """A delay as a number of seconds: a number, a timedelta, or text as in CSS2 ("1.5s", "200ms")."""
    if hasattr(value, "total_seconds"):
        return float(value.total_seconds())
    if isinstance(value, (int, float)):
        if not abs(value) <= _LONGEST:
            raise ContentFailed(f"{value!r} is no delay; a number of seconds is finite")
        return float(value)
    text = str(value).strip()
    unit = text[len(text.rstrip("abcdefghijklmnopqrstuvwxyz")) :]
    number = text.removesuffix(unit).strip()
    if unit not in _UNITS or not number or not set(number) <= set("+-.e0123456789") or number.startswith("-"):
        raise ContentFailed(f"{value!r} is no delay; write it like '1.5s' or '200ms'")
    try:
        return seconds(float(number) * _UNITS[unit])
    except ValueError:
        raise ContentFailed(f"{value!r} is no delay; write it like '1.5s' or '200ms'") from None


def changed(context: Any, result: Any) -> Any:
    """The new context: what an assignment gave, or the old one with the changed fields of a dict."""
    if isinstance(result, dict):
        if isinstance(context, dict):
            return {**context, **result}
        if dataclasses.is_dataclass(context) and not isinstance(context, type):
            return dataclasses.replace(context, **result)
    if result is None and context is not None:
        raise MachineError("an assignment gave None; it must give the new context, or a dict of the changed fields")
    return result


def _do(content: Do, names: Names) -> Piece:
    function, name = names.action(content.action), named(content.action)
    declared = names.actions.get(content.action) if isinstance(content.action, str) else content.action

    def run(step: Step) -> None:
        step.actions.append(action.Call(name, function, step.context, step.given, declared))

    return Piece(run, "call", function)


def _assign(content: Assign, names: Names) -> Piece:
    change = names.pure(content.change, "action")
    if isinstance(change, Expression):
        value = change.fn

        def run_script(step: Step) -> None:
            step.context = value(step)

        return Piece(run_script)
    if not callable(change):
        raise DefinitionError(f"assign() takes a function of (context, event), not {change!r}")
    function = two_arguments(change)

    def direct(context: Any, event: Any) -> Any:
        result = function(context, event)
        return result if result is not None and result.__class__ is not dict else changed(context, result)

    def run(step: Step) -> None:
        step.context = direct(step.context, step.given)

    return Piece(run, "assign", direct)


def _let(content: Let, _names: Names) -> Piece:
    value, place = of_view(content.value), content.place.fn

    def run(step: Step) -> None:
        step.context = place(step, value(step))

    return Piece(run)


def _raise(content: Raise, _names: Names) -> Piece:
    data = of_view(content.data)

    def run(step: Step) -> None:
        event = as_event(content.event, data(step))
        step.queue.append(dataclasses.replace(event, kind="internal"))

    return Piece(run)


def pairs(params: tuple[tuple[str, Any], ...]) -> Callable[[Step], dict[str, Any]]:
    """Named values, evaluated in order."""
    compiled = [(name, of_view(value)) for name, value in params]
    return lambda step: {name: value(step) for name, value in compiled}


def _send(content: Send, _names: Names) -> Piece:
    event, data, delay, id_, target, kind = map(
        of_view, (content.event, content.data, content.delay, content.id, content.target, content.type)
    )
    params = pairs(content.params)

    def run(step: Step) -> None:
        sendid = id_(step)
        if sendid is not None:
            sendid = str(sendid)  # as `Cancel` names it
        if content.id_place is not None:
            sendid = step.new_id("send")
            step.context = content.id_place.fn(step, sendid)
        payload = params(step) if content.params else data(step)
        sent = as_event(event(step), payload)
        wanted, to = kind(step), target(step)
        if wanted not in _PROCESSORS or (to is not None and not str(to).startswith("#_")):
            raise ContentFailed(f"there is no way to send to {to!r} by {wanted!r}", sendid)
        if to == "#_internal":
            step.queue.append(dataclasses.replace(sent, kind="internal", sendid=sendid))
            return
        sent = dataclasses.replace(
            sent, sendid=sendid, origin=f"#_scxml_{step.session}" if step.session else None, origintype=SCXML_PROCESSOR
        )
        wait = seconds(delay(step))
        if to is not None and wait <= 0 and step.reaches is not None and not step.reaches(to):
            step.queue.append(Event("error.communication", f"{to} can't be reached", "platform", sendid=sendid))
            return
        step.actions.append(action.Deliver(sent, wait, to, sendid))

    return Piece(run)


def _cancel(content: Cancel, _names: Names) -> Piece:
    id_ = of_view(content.id)
    return Piece(lambda step: step.actions.append(action.Withdraw(str(id_(step)))))


def _log(content: Log, _names: Names) -> Piece:
    value = of_view(content.value)
    return Piece(lambda step: step.actions.append(action.Note(content.label, value(step))))


def _if(content: If, names: Names) -> Piece:
    def condition(given: Any) -> Callable[[Step], Any]:
        return (lambda _step: True) if given is None else of_view(names.pure(given, "guard"))

    branches = [(condition(cond), compile_block(body, names)) for cond, body in content.branches]

    def run(step: Step) -> None:
        for cond, body in branches:
            if step.holds(cond):
                for piece in body:
                    piece.run(step)
                return

    return Piece(run)


def _each(content: Each, names: Names) -> Piece:
    array, body = of_view(content.array), compile_block(content.body, names)

    def run(step: Step) -> None:
        items = array(step)
        if not isinstance(items, (list, tuple)):
            raise ContentFailed(f"foreach needs a list, not {type(items).__name__}")
        if not items:
            step.context = content.item.fn(step, None)
        for index, item in enumerate(tuple(items)):
            step.context = content.item.fn(step, item)
            if content.index is not None:
                step.context = content.index.fn(step, index)
            for piece in body:
                piece.run(step)

    return Piece(run)


def error_event(error: BaseException) -> Event:
    """What SCXML puts into the internal queue when content or a condition fails."""
    return Event("error.execution", str(error), "platform", sendid=getattr(error, "sendid", None))


_COMPILERS: dict[type, Callable[[Any, Names], Piece]] = {
    Do: _do,
    Assign: _assign,
    Let: _let,
    Raise: _raise,
    Send: _send,
    Cancel: _cancel,
    Log: _log,
    If: _if,
    Each: _each,
}
