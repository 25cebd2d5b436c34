"""Owns writing a chart as an SCXML document that `from_scxml` reads back as the same model.
It must never invent: what has no text (a function without a name, a Python value) is refused.
"""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree as ET

from spellwork.errors import DefinitionError
from spellwork.machine.chart import Chart
from spellwork.machine.content import (
    Assign,
    Block,
    Cancel,
    Content,
    Do,
    Each,
    Expression,
    If,
    Invoke,
    Let,
    Log,
    Raise,
    Send,
)
from spellwork.machine.model import State, Transition
from spellwork.machine.scxml import OURS
from spellwork.machine.view import check_names, named, written_name

_SCXML = "http://www.w3.org/2005/07/scxml"
_TAGS = {"state": "state", "parallel": "parallel", "final": "final", "history": "history"}


def to_scxml(chart: Chart) -> str:
    """The document. Functions go by name: as `cond`, and as `<action name="..."/>` in the namespace `urn:spellwork:machine`.

    Raises:
        DefinitionError: something in the chart has no text.
    """
    check_names(chart.root)
    root = ET.Element("scxml", {"xmlns": _SCXML, "xmlns:sw": OURS, "version": "1.0", "name": chart.name})
    if chart.options.datamodel:
        root.set("datamodel", chart.options.datamodel)
    if chart.options.late:
        root.set("binding", "late")
    if chart.options.script:
        _block(root, chart.options.script)
    _fill(root, chart.root)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _fill(element: ET.Element, state: State) -> None:
    if state.deep:
        element.set("type", "deep")
    if state.defer:
        element.set("sw:defer", " ".join(state.defer))
    if state.initial is not None and not state.initial.content:
        element.set("initial", " ".join(state.initial.targets))
    elif state.initial is not None:
        _transition(ET.SubElement(element, "initial"), state.initial)
    _data(element, state)
    for name, blocks in (("onentry", state.entry), ("onexit", state.exit)):
        for block in blocks:
            _block(ET.SubElement(element, name), block)
    for transition in state.transitions:
        _transition(element, transition)
    for invoke in state.invokes:
        _invoke(element, invoke)
    if state.done is not None:
        donedata = ET.SubElement(element, "donedata")
        _params(donedata, state.done.params)
        if state.done.value is not None:
            ET.SubElement(donedata, "content", {"expr": _text(state.done.value)})
    for child in state.children:
        _fill(ET.SubElement(element, _TAGS[child.kind], {"id": child.id}), child)


def _data(element: ET.Element, state: State) -> None:
    if state.data:
        model = ET.SubElement(element, "datamodel")
        for datum in state.data:
            attributes = {"id": datum.id} | ({} if datum.value is None else {"expr": _text(datum.value)})
            ET.SubElement(model, "data", attributes)


def _transition(parent: ET.Element, transition: Transition) -> None:
    element = ET.SubElement(parent, "transition")
    if transition.events:
        element.set("event", " ".join(transition.events))
    if transition.guard is not None:
        element.set("cond", written_name(transition.guard))
    if transition.targets:
        element.set("target", " ".join(transition.targets))
    if transition.internal:
        element.set("type", "internal")
    _block(element, transition.content)


def _invoke(parent: ET.Element, invoke: Invoke) -> None:
    element = ET.SubElement(parent, "invoke")
    for name, value in (("id", invoke.id), ("type", invoke.type), ("src", invoke.src)):
        if value is not None:
            element.set(*_attribute(name, value))
    if invoke.id_place is not None:
        element.set("idlocation", invoke.id_place.text)
    if invoke.autoforward:
        element.set("autoforward", "true")
    _params(element, invoke.params)
    if invoke.finalize or invoke.finalize_params:
        _block(ET.SubElement(element, "finalize"), invoke.finalize)
    if isinstance(invoke.content, Expression):
        ET.SubElement(element, "content", {"expr": invoke.content.text})
    elif invoke.content is not None:
        raise DefinitionError("a chart inside an invocation can't be written; invoke it by name")


def _params(parent: ET.Element, params: tuple[tuple[str, Any], ...]) -> None:
    for name, value in params:
        ET.SubElement(parent, "param", {"name": name, "expr": _text(value)})


def _text(value: Any) -> str:
    if isinstance(value, Expression):
        return value.text
    if isinstance(value, (str, int, float)):
        return repr(value)
    raise DefinitionError(f"{named(value)} has no text in an SCXML document")


def _attribute(name: str, value: Any) -> tuple[str, str]:
    if isinstance(value, Expression):
        return ("eventexpr" if name == "event" else f"{name}expr"), value.text
    if isinstance(value, str):
        return name, value
    raise DefinitionError(f"the {name} {value!r} has no text in an SCXML document")


def _block(parent: ET.Element, block: Block) -> None:
    for content in block:
        _piece(parent, content)


def _piece(parent: ET.Element, content: Content) -> None:
    match content:
        case Do(action):
            ET.SubElement(parent, "sw:action", {"name": written_name(action)})
        case Assign(Expression(text)):
            ET.SubElement(parent, "script").text = text
        case Assign(change):
            ET.SubElement(parent, "sw:change", {"name": written_name(change)})
        case Let(place, value):
            ET.SubElement(parent, "assign", {"location": place.text, "expr": _text(value)})
        case Raise(str(event), None):
            ET.SubElement(parent, "raise", {"event": event})
        case Send():
            _send(parent, content)
        case Cancel(id_):
            expression = isinstance(id_, Expression)
            ET.SubElement(parent, "cancel", {"sendidexpr" if expression else "sendid": id_.text if expression else str(id_)})
        case Log(label, value):
            ET.SubElement(parent, "log", {"label": label} | ({} if value is None else {"expr": _text(value)}))
        case If(branches):
            _if(parent, branches)
        case Each():
            index = {} if content.index is None else {"index": content.index.text}
            loop = ET.SubElement(parent, "foreach", {"array": _text(content.array), "item": content.item.text} | index)
            _block(loop, content.body)
        case _:
            raise DefinitionError(f"{content!r} has no text in an SCXML document")


def _send(parent: ET.Element, content: Send) -> None:
    element = ET.SubElement(parent, "send")
    for name, value in (("event", content.event), ("target", content.target), ("type", content.type), ("id", content.id)):
        if value is not None:
            element.set(*_attribute(name, value))
    if content.id_place is not None:
        element.set("idlocation", content.id_place.text)
    if content.delay:
        delay = f"{content.delay}s" if isinstance(content.delay, (int, float)) else content.delay
        element.set(*_attribute("delay", delay))
    _params(element, content.params)
    if content.data is not None:
        ET.SubElement(element, "content", {"expr": _text(content.data)})


def _if(parent: ET.Element, branches: tuple[tuple[Any, Block], ...]) -> None:
    element = ET.SubElement(parent, "if", {"cond": written_name(branches[0][0])})
    _block(element, branches[0][1])
    for condition, body in branches[1:]:
        ET.SubElement(element, "else") if condition is None else ET.SubElement(element, "elseif", {"cond": written_name(condition)})
        _block(element, body)
