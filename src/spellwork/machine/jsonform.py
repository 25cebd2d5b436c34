"""Owns the JSON form of a chart, in the manner of XState: reading it, and writing any chart whose functions have names.
It must never look a function up anywhere but in the tables that it is given.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any

from spellwork.errors import DefinitionError
from spellwork.machine.builder import ChartBuilder, StateBuilder, delay_of
from spellwork.machine.chart import Chart
from spellwork.machine.content import Assign, Block, Cancel, Content, Do, Done, Expression, Invoke, Log, Raise, Send
from spellwork.machine.event import descriptors, matches
from spellwork.machine.model import State, Transition
from spellwork.machine.view import active, check_names, named, written_name

_KEYS = {
    "id", "type", "initial", "states", "on", "always", "after", "every", "entry", "exit", "onDone", "invoke", "history", "target",
    "defer", "output", "context", "events", "strict", "description", "meta", "version", "actions",
}  # fmt: skip

_ACTION_KEYS = {
    "raise": {"type", "event", "data"}, "send": {"type", "event", "data", "delay", "id", "to"}, "cancel": {"type", "id"},
    "log": {"type", "label", "value"}, "assign": {"type", "do", "values"},
}  # fmt: skip
_ROOT = {"context", "events", "strict"}
_UNUSED: dict[str, set[str]] = {
    "state": _ROOT | {"history", "target", "output", "actions"},
    "final": _ROOT | {"history", "target", "actions"},
    "history": _KEYS - {"id", "type", "history", "target", "actions", "description", "meta"},
}


def from_json(
    source: str | bytes | Mapping[str, Any],
    *,
    actions: Mapping[str, Callable[..., Any]] | None = None,
    guards: Mapping[str, Callable[..., Any]] | None = None,
    context: Any = None,
) -> Chart:
    """The chart of a JSON text or of what it decodes to.

    State keys are the ids, so they are unique in the chart. A target may be written `id`, `#id` or `.id`. Delays are
    milliseconds, or text like "1.5s". An action is a name or `{"type": "raise" | "send" | "cancel" | "log" | "assign", ...}`;
    `{"type": "assign", "values": {...}}` sets constants, `{"type": "assign", "do": "name"}` calls a function in `actions`.

    Raises:
        DefinitionError: it is not of this form; the message has the JSON pointer.
        ChartRefused: the chart is malformed.
    """
    try:
        data = source if isinstance(source, Mapping) else json.loads(source)
    except (ValueError, TypeError) as error:
        raise DefinitionError(f"the chart is not JSON: {error}") from error
    data = _object(data, "")
    builder = ChartBuilder(
        str(data.get("id", "machine")), events=_names(data.get("events"), "/events"), strict=bool(data.get("strict", True)),
        context=context if context is not None else _constant_context(data.get("context")),
    )  # fmt: skip
    if data.get("type") == "parallel":
        raise DefinitionError('/type: the chart itself can\'t be "parallel"; put a parallel state into it')
    _fill(builder, data, "")
    return builder.build(actions=actions, guards=guards)


def _constant_context(context: Any) -> Any:
    return (lambda: copy.deepcopy(context)) if isinstance(context, (dict, list)) else context  # each machine has its own


def _object(value: Any, pointer: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise DefinitionError(f"{pointer or '/'}: an object is wanted here, not {type(value).__name__}")
    unknown = set(value) - _KEYS
    if unknown:
        raise DefinitionError(f"{pointer}/{min(unknown)}: there is no such key")
    return value


def _members(data: Mapping[str, Any], name: str, pointer: str) -> list[tuple[str, Any]]:
    found = data.get(name)
    if found is not None and not isinstance(found, Mapping):
        raise DefinitionError(f"{pointer}/{name}: an object is wanted here, not {type(found).__name__}")
    return list((found or {}).items())


def _names(given: Any, pointer: str) -> tuple[str, ...]:
    found = _several(given)
    if not all(isinstance(each, str) for each in found):
        raise DefinitionError(f"{pointer}: names are wanted here, not {given!r}")
    return tuple(found)


def _several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]


def _fill(state: StateBuilder, data: Mapping[str, Any], pointer: str) -> None:
    if "initial" in data:
        start = data["initial"]
        wanted = start if isinstance(start, Mapping) else {"target": start}
        state.initial(_targets(wanted.get("target")), _actions(wanted.get("actions"), f"{pointer}/initial"))
    for name in ("entry", "exit"):
        if name in data:
            (state.on_entry if name == "entry" else state.on_exit)(*_actions(data[name], f"{pointer}/{name}"))
    for event, wanted in _members(data, "on", pointer):
        _transitions(state, event, wanted, f"{pointer}/on/{event}")
    _transitions(state, None, data.get("always"), f"{pointer}/always")
    _transitions(state, f"done.state.{state.id}", data.get("onDone"), f"{pointer}/onDone")
    for delay, wanted in _members(data, "after", pointer):
        for each in _several(wanted):
            to, guard, do, _ = _transition(each, f"{pointer}/after/{delay}")
            state.after(_delay(delay), to, guard=guard, do=do)
    for delay, wanted in _members(data, "every", pointer):
        state.every(_delay(delay), do=_actions(wanted, f"{pointer}/every/{delay}"))
    for number, wanted in enumerate(_several(data.get("invoke"))):
        _invoke(state, wanted, f"{pointer}/invoke/{number}")
    state.defer(*_names(data.get("defer"), f"{pointer}/defer"))
    for key, below in _members(data, "states", pointer):
        _state(state, key, _object(below, f"{pointer}/states/{key}"), f"{pointer}/states/{key}")


def _state(parent: StateBuilder, id_: str, data: Mapping[str, Any], pointer: str) -> None:
    kind = data.get("type", "state")
    for name in sorted(set(data) & _UNUSED.get(str(kind), _UNUSED["state"])):
        raise DefinitionError(f"{pointer}/{name}: a {kind} state has no such key")
    if kind == "history":
        if data.get("history", "shallow") not in ("shallow", "deep"):
            raise DefinitionError(f'{pointer}/history: {data["history"]!r} is neither "shallow" nor "deep"')
        parent.history(
            id_, _targets(data.get("target")), deep=data.get("history") == "deep", do=_actions(data.get("actions"), pointer)
        )  # fmt: skip
    elif kind == "final":
        _fill(parent.final(id_, data.get("output")), data, pointer)
    elif kind in ("state", "atomic", "compound", "parallel"):
        _fill(parent.parallel(id_) if kind == "parallel" else parent.state(id_), data, pointer)
    else:
        raise DefinitionError(f"{pointer}/type: {kind!r} is no kind of state")


def _invoke(state: StateBuilder, data: Any, pointer: str) -> None:
    if not isinstance(data, Mapping) or "src" not in data:
        raise DefinitionError(f'{pointer}: an invocation is an object with "src"')
    if not isinstance(data.get("id", ""), str) or not isinstance(data.get("input") or {}, Mapping):
        raise DefinitionError(f'{pointer}: the "id" of an invocation is a name, and its "input" an object')
    id_ = data.get("id") or f"{state.id}.invoke"
    state.invoke(data["src"], id=id_, data=data.get("input"), forward=bool(data.get("autoforward", False)))
    _transitions(state, f"done.invoke.{id_}", data.get("onDone"), f"{pointer}/onDone")
    _transitions(state, "error", data.get("onError"), f"{pointer}/onError")


def _delay(text: Any) -> Any:
    return int(text) / 1000 if str(text).isdecimal() else text


def _targets(given: Any) -> tuple[str, ...]:
    return tuple(str(target).lstrip("#.") for target in _several(given))


def _transitions(state: StateBuilder, event: str | None, wanted: Any, pointer: str) -> None:
    for each in _several(wanted):
        to, guard, do, internal = _transition(each, pointer)
        state.on(event, to, guard=guard, do=do, internal=internal)


def _transition(data: Any, pointer: str) -> tuple[tuple[str, ...], Any, list[Any], bool]:
    if isinstance(data, str):
        return _targets(data), None, [], False
    if not isinstance(data, Mapping):
        raise DefinitionError(f"{pointer}: a transition is a target or an object")
    unknown = set(data) - {"target", "guard", "actions", "internal", "description"}
    if unknown:
        raise DefinitionError(f"{pointer}/{min(unknown)}: there is no such key")
    guard = data.get("guard")
    match guard:
        case None | str():
            pass
        case {"in": states, **rest} if not rest and _several(states):
            guard = active(*_names(states, f"{pointer}/guard/in"))
        case {"type": str(name), **rest} if not rest:
            guard = name
        case _:
            raise DefinitionError(f'{pointer}/guard: {guard!r} is no guard; write a name, {{"type": name}} or {{"in": states}}')
    return (
        _targets(data.get("target")),
        guard,
        _actions(data.get("actions"), f"{pointer}/actions"),
        bool(data.get("internal", False)),
    )


def _actions(given: Any, pointer: str) -> list[Any]:
    return [_action(each, pointer) for each in _several(given)]


def _action(data: Any, pointer: str) -> Any:
    if isinstance(data, str):
        return data
    if isinstance(data, Mapping) and (unknown := set(data) - _ACTION_KEYS.get(str(data.get("type")), set(data))):
        raise DefinitionError(f"{pointer}/{min(unknown)}: there is no such key")
    match dict(data) if isinstance(data, Mapping) else None:
        case {"type": "raise", "event": event, **rest}:
            found: Any = Raise(event, rest.get("data"))
        case {"type": "send", "event": event, **rest}:
            found = Send(event, rest.get("data"), delay_of(_delay(rest.get("delay", 0))), rest.get("id"), rest.get("to"))
        case {"type": "cancel", "id": id_}:
            found = Cancel(id_)
        case {"type": "log", **rest}:
            found = Log(str(rest.get("label", "")), rest.get("value"))
        case {"type": "assign", "do": str(function)}:
            found = Assign(function)
        case {"type": "assign", "values": dict(values)}:
            found = Assign(lambda: dict(values))
        case _:
            raise DefinitionError(f'{pointer}: {data!r} is no action; write a name, or an object with a "type"')
    return found


def to_json(chart: Chart) -> dict[str, Any]:
    """The chart as JSON values. Functions are written by their names; `from_json` needs them back in its tables.

    Raises:
        DefinitionError: the chart has content that this form can't express, like SCXML's `<if>`.
    """
    check_names(chart.root)
    options = chart.options
    head: dict[str, Any] = {"id": chart.name, "strict": options.strict}
    if options.events:
        head["events"] = list(options.events)
    context = chart.new_context()
    if isinstance(context, (dict, list, str, int, float)):
        head["context"] = context
    return {**head, **_written(chart.root)}


def _written(state: State) -> dict[str, Any]:
    out: dict[str, Any] = {} if state.kind == "state" else {"type": state.kind}
    if state.kind == "history":
        (default,) = state.transitions
        out |= {"history": "deep" if state.deep else "shallow", "target": list(default.targets)}
        return out | ({"actions": _contents(default.content)} if default.content else {})
    if state.initial is not None:
        actions = {"actions": _contents(state.initial.content)} if state.initial.content else {}
        out["initial"] = {"target": list(state.initial.targets), **actions}
    for name, blocks in (("entry", state.entry), ("exit", state.exit)):
        if blocks:
            out[name] = [written for block in blocks for written in _contents(block)]
    _grouped(state)
    for transition in state.transitions:
        written = _arrow(transition)
        if not transition.events:
            out.setdefault("always", []).append(written)
        for event in transition.events:
            out.setdefault("on", {}).setdefault(event, []).append(written)
    if state.invokes:
        out["invoke"] = [_invocation(invoke) for invoke in state.invokes]
    if state.defer:
        out["defer"] = list(state.defer)
    if isinstance(state.done, Done):
        if state.done.params:
            raise DefinitionError(f"the named results of {state.id!r} can't be written as JSON; use the SCXML form")
        out["output"] = _value(state.done.value)
    if state.children:
        out["states"] = {child.id: _written(child) for child in state.children}
    return out


def _grouped(state: State) -> None:
    # "on" groups by event, so transitions that the same event may take can change places; which one is taken would change, too.
    listed = [(event, at) for at, transition in enumerate(state.transitions) for event in transition.events]
    keys = list(dict.fromkeys(event for event, _ in listed))
    for (first, before), (second, after) in itertools.combinations(sorted(listed, key=lambda each: keys.index(each[0])), 2):
        (one,), (other,) = descriptors(first), descriptors(second)
        if before > after and (matches(one, other) or matches(other, one)):
            raise DefinitionError(
                f"{state.id!r} has a transition on {second!r} between two on {first!r}; JSON can't keep that order, SCXML can"
            )


def _arrow(transition: Transition) -> dict[str, Any]:
    out: dict[str, Any] = {"target": list(transition.targets)} if transition.targets else {}
    if transition.guard is not None:
        out["guard"] = _guard(transition.guard)
    if transition.content:
        out["actions"] = _contents(transition.content)
    return out | ({"internal": True} if transition.internal else {})


def _guard(guard: Any) -> Any:
    if isinstance(guard, Expression):
        if guard.text.startswith("In("):
            return {"in": [part.split("'")[1] for part in guard.text.split(" and ")]}
        raise DefinitionError(f"the expression {guard.text!r} can't be written as JSON; give the guard a name")
    return written_name(guard)


def _invocation(invoke: Invoke) -> dict[str, Any]:
    if invoke.content is not None:
        raise DefinitionError("a chart inside an invocation can't be written as JSON; invoke it by name")
    fields = {"src": invoke.src, "id": invoke.id, "input": dict(invoke.params), "autoforward": invoke.autoforward}
    return {name: _value(value) for name, value in fields.items() if value}


def _value(value: Any) -> Any:
    if callable(value) or isinstance(value, Expression):
        raise DefinitionError(f"{named(value)} is worked out at run time, which JSON can't say; use a constant")
    return value


def _contents(block: Block) -> list[Any]:
    return [_content(content) for content in block]


def _content(content: Content) -> Any:
    match content:
        case Do(action):
            return written_name(action)
        case Assign(change) if not isinstance(change, Expression):
            return {"type": "assign", "do": written_name(change)}
        case Raise(event, data) if isinstance(event, str):
            return {"type": "raise", "event": event} | ({"data": _value(data)} if data is not None else {})
        case Send(event, data, delay, id_, target) if isinstance(event, str) and not content.params:
            fields = {
                "event": event,
                "data": data,
                "id": id_,
                "to": target,
                "delay": f"{repr(delay_of(delay)).removesuffix('.0')}s" if delay else None,
            }
            return {"type": "send"} | {name: _value(value) for name, value in fields.items() if value is not None}
        case Cancel(id_):
            return {"type": "cancel", "id": _value(id_)}
        case Log(label, value):
            return {"type": "log", "label": label, "value": _value(value)}
        case _:
            raise DefinitionError(f"{type(content).__name__} can't be written as JSON; use the SCXML form")
