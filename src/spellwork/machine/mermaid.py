"""Owns the picture of a chart as Mermaid text, with the active states marked.
It must never draw what the chart does not hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from spellwork.machine.chart import Chart
from spellwork.machine.content import Assign, Content, Do, Raise, Send
from spellwork.machine.model import State, Transition
from spellwork.machine.view import named

_WORDS = frozenset(
    {"state", "end", "note", "class", "classdef", "style", "direction", "as", "default", "click", "hide", "scale", "root"}
)


def mermaid(chart: Chart, active: Iterable[str] = ()) -> str:
    """The chart as a `stateDiagram-v2`; `active` (for example `machine.configuration.states`) are marked."""
    ids = _ids(chart.root)
    lines = ["stateDiagram-v2", *_inside(chart.root, 1, ids), *_arrows(chart.root, ids)]
    marked = [ids[id_] for id_ in active if id_ in ids]
    if marked:
        lines += ["    classDef active fill:#ffd54f,stroke:#e65100,stroke-width:3px", f"    class {','.join(marked)} active"]
    return "\n".join(lines) + "\n"


def _ids(root: State) -> dict[str, str]:
    """What each state is called in the picture: by its id if that is a word there, and no other state is called so."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for number, state in enumerate(root.walk()):
        name = re.sub(r"\W", "_", state.id)
        if name in taken or name.lower() in _WORDS or not re.match(r"[^\W\d]", name):
            name = f"{name}_{number}" if re.match(r"[^\W\d]", name) else f"s_{number}{name}"
        while name in taken:
            name += "_"
        taken.add(name)
        names[state.id] = name
    return names


def _text(text: str) -> str:
    return " ".join(text.replace('"', "#quot;").split())


def _inside(state: State, depth: int, ids: dict[str, str]) -> Iterator[str]:
    pad = "    " * depth
    if state.kind != "parallel" and state.real_children:
        for target in state.initial.targets if state.initial else (state.real_children[0].id,):
            yield f"{pad}[*] --> {ids[target]}"
    for number, child in enumerate(state.children):
        if state.kind == "parallel" and number and child.kind != "history":
            yield f"{pad}--"
        label = {"history": f"{child.id} (H{'*' if child.deep else ''})"}.get(child.kind, child.id)
        if child.children:
            yield f'{pad}state "{_text(label)}" as {ids[child.id]} {{'
            yield from _inside(child, depth + 1, ids)
            yield f"{pad}}}"
        else:
            yield f'{pad}state "{_text(label)}" as {ids[child.id]}'
        if child.kind == "final":
            yield f"{pad}{ids[child.id]} --> [*]"


def _arrows(root: State, ids: dict[str, str]) -> Iterator[str]:
    for state in root.walk():
        for transition in state.transitions:
            source = "[*]" if state is root else ids[state.id]
            for target in transition.targets or (state.id,):
                label = " ".join(re.sub(r"[;:#<>{}]", " ", label_of(transition, state)).split())
                yield f"    {source} --> {ids[target] if target != root.id else source}" + (f": {label}" if label else "")


def label_of(transition: Transition, source: State) -> str:
    """What is written beside an arrow: its events, its guard, what it does."""
    timers = {
        content.id: f"{content.event.partition('.')[0]} {content.delay:g} s"
        for block in source.entry
        for content in block
        if isinstance(content, Send) and content.id == content.event and isinstance(content.delay, (int, float))
    }
    parts = [" / ".join(timers.get(event, event) for event in transition.events)]
    if transition.guard is not None:
        parts.append(f"[{named(transition.guard)}]")
    done = [text for content in transition.content if (text := told_of(content))]
    if done:
        parts.append("/ " + ", ".join(done))
    return " ".join(filter(None, parts))


def told_of(content: Content) -> str:
    """What a piece of content does, in a word or two; nothing for those that only keep the books."""
    match content:
        case Do(action):
            return named(action)
        case Assign(change):
            return f"assign {named(change)}"
        case Raise(event):
            return f"raise {named(event)}"
        case _:
            return ""
