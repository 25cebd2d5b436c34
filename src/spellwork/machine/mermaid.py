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


def mermaid(chart: Chart, active: Iterable[str] = ()) -> str:
    """The chart as a `stateDiagram-v2`; `active` (for example `machine.configuration.states`) are marked."""
    lines = ["stateDiagram-v2", *_inside(chart.root, 1), *_arrows(chart.root)]
    marked = [_id(id_) for id_ in active]
    if marked:
        lines += ["    classDef active fill:#ffd54f,stroke:#e65100,stroke-width:3px", f"    class {','.join(marked)} active"]
    return "\n".join(lines) + "\n"


def _id(text: str) -> str:
    return re.sub(r"\W", "_", text)


def _inside(state: State, depth: int) -> Iterator[str]:
    pad = "    " * depth
    if state.kind != "parallel" and state.real_children:
        for target in state.initial.targets if state.initial else (state.real_children[0].id,):
            yield f"{pad}[*] --> {_id(target)}"
    for number, child in enumerate(state.children):
        if state.kind == "parallel" and number and child.kind != "history":
            yield f"{pad}--"
        label = {"history": f"{child.id} (H{'*' if child.deep else ''})"}.get(child.kind, child.id)
        if child.children:
            yield f'{pad}state "{label}" as {_id(child.id)} {{'
            yield from _inside(child, depth + 1)
            yield f"{pad}}}"
        else:
            yield f'{pad}state "{label}" as {_id(child.id)}'
        if child.kind == "final":
            yield f"{pad}{_id(child.id)} --> [*]"


def _arrows(root: State) -> Iterator[str]:
    for state in root.walk():
        for transition in state.transitions:
            source = "[*]" if state is root else _id(state.id)
            for target in transition.targets or (state.id,):
                label = re.sub(r"[;:#<>{}]", " ", label_of(transition, state))
                yield f"    {source} --> {_id(target) if target != root.id else source}" + (f": {label}" if label else "")


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
