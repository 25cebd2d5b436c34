"""Owns reading SCXML documents (W3C Recommendation, 2015) into the model.
It must never evaluate text by itself: expressions need an `Expressions` from whoever trusts the document.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol
from xml.etree import ElementTree as ET

from spellwork.errors import DefinitionError
from spellwork.machine.chart import Chart
from spellwork.machine.content import (
    Assign,
    Block,
    Cancel,
    Content,
    Datum,
    Do,
    Done,
    Each,
    Expression,
    If,
    Invoke,
    Let,
    Log,
    Place,
    Raise,
    Send,
)  # fmt: skip
from spellwork.machine.model import Kind, Options, State, Transition
from spellwork.machine.piece import ContentFailed
from spellwork.machine.view import View, active, not_active

OURS = "urn:spellwork:machine"
_IN = re.compile(r"^\s*(not\s+|!\s*)?In\(\s*'([^']+)'\s*\)\s*$")


class Expressions(Protocol):
    """A data model: what the text in a document means. Each method compiles; what it gives is called at run time."""

    name: str

    def value(self, text: str) -> Callable[[View], Any]:
        """An expression."""
        ...

    def place(self, text: str, *, declare: bool) -> Callable[[View, Any], Any]:
        """An assignment to a location: gives the new context. Unless it declares, the location must exist."""
        ...

    def script(self, text: str) -> Callable[[View], Any]:
        """A script: gives the new context."""
        ...

    def literal(self, text: str) -> Any:
        """The value of inline content: JSON, XML or plain text."""
        ...


class NullModel:
    """The null data model of the Recommendation (B.1): conditions are `In('state')`; there are no data.

    `names` beside it are guards and actions given as Python functions.
    """

    name = "null"

    def value(self, text: str) -> Callable[[View], Any]:
        """`In('state')`, `not In('state')`, True and False, a number, or a quoted string."""
        found = _IN.match(text)
        if found:
            return (not_active if found[1] else active)(found[2]).fn
        constant = _constant(text.strip())
        if constant is None:
            raise DefinitionError(f"the null data model knows no {text!r}: pass `expressions`, or name a guard in `guards`")
        return lambda _view: constant[0]

    def place(self, text: str, *, declare: bool) -> Callable[[View, Any], Any]:  # noqa: ARG002 - the protocol's
        """There is nothing to assign to."""
        raise DefinitionError(f"the null data model has no data: {text!r} can't be assigned; pass `expressions`")

    def script(self, text: str) -> Callable[[View], Any]:
        """There are no scripts."""
        raise DefinitionError(f"the null data model has no scripts, but the document holds {text[:40]!r}; pass `expressions`")

    def literal(self, text: str) -> Any:
        """Text, with its white space made single."""
        return " ".join(text.split())


def _constant(text: str) -> tuple[Any] | None:
    words: dict[str, Any] = {"true": True, "True": True, "false": False, "False": False}
    if text in words:
        return (words[text],)
    if re.fullmatch(r"'[^'\\]*'|\"[^\"\\]*\"", text):
        return (text[1:-1],)
    return (float(text) if "." in text else int(text),) if re.fullmatch(r"-?\d+(\.\d+)?", text) else None


def from_scxml(
    text: str | bytes,
    *,
    expressions: Expressions | None = None,
    actions: Mapping[str, Callable[..., Any]] | None = None,
    guards: Mapping[str, Callable[..., Any]] | None = None,
    context: Any = None,
) -> Chart:
    """The chart of an SCXML document.

    Documents with a data model need `expressions`, which evaluates their text; without it conditions may be `In('state')`
    or the name of a function in `guards`. `actions` are the functions behind `<action name="..."/>` in the namespace
    `urn:spellwork:machine`, which `to_scxml` writes.

    Raises:
        DefinitionError: the text is not a conforming document.
        ChartRefused: the chart is malformed.
    """
    try:
        root = ET.fromstring(text)  # noqa: S314 - expat expands no external entities; a document's own are bounded by it
    except ET.ParseError as error:
        raise DefinitionError(f"the document is not well-formed XML: {error}") from error
    reader = _Reader(expressions or NullModel(), guards or {}, actions or {})
    model, options = reader.document(root, context)
    return Chart(model, options, actions=actions, guards=guards)


def _tag(element: ET.Element) -> str:
    tag: object = element.tag  # a function for comments
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


class _Reader:
    def __init__(
        self, expressions: Expressions, guards: Mapping[str, Callable[..., Any]], actions: Mapping[str, Callable[..., Any]]
    ):
        self.expressions, self.guards, self.actions, self._unnamed = expressions, guards, actions, 0

    def document(self, root: ET.Element, context: Any) -> tuple[State, Options]:
        if _tag(root) != "scxml":
            raise DefinitionError(f"the document's element is <{_tag(root)}>, not <scxml>")
        name = root.get("name") or "scxml"
        model = self._state(root, "state", id_=f"({name})")
        options = Options(
            name=name, strict=False, error_events=self.expressions.name != "null", late=root.get("binding") == "late",
            script=self._content([child for child in root if _tag(child) == "script"]), context=context,
            datamodel=root.get("datamodel") or "", implicit_initial=True,
        )  # fmt: skip
        return model, options

    def _state(self, element: ET.Element, kind: Kind, id_: str | None = None) -> State:
        if id_ is None:
            self._unnamed += 1
            id_ = element.get("id") or f"unnamed.{self._unnamed}"
        kinds: dict[str, Kind] = {"state": "state", "parallel": "parallel", "final": "final", "history": "history"}
        parts: dict[str, list[ET.Element]] = {}
        for child in element:
            parts.setdefault(_tag(child), []).append(child)
        initial = None
        if element.get("initial"):
            initial = Transition(targets=tuple((element.get("initial") or "").split()))
        elif "initial" in parts:
            initial = self._transition(parts["initial"][0].find("{*}transition"))
        return State(
            id_, kind, initial=initial, deep=element.get("type") == "deep",
            children=tuple(self._state(child, kinds[_tag(child)]) for child in element if _tag(child) in kinds),
            transitions=tuple(map(self._transition, parts.get("transition", ()))),
            entry=tuple(map(self._content, parts.get("onentry", ()))),
            exit=tuple(map(self._content, parts.get("onexit", ()))),
            invokes=tuple(map(self._invoke, parts.get("invoke", ()))),
            data=tuple(self._datum(data) for model in parts.get("datamodel", ()) for data in model),
            done=self._done(parts["donedata"][0]) if "donedata" in parts else None,
            defer=tuple((element.get(f"{{{OURS}}}defer") or "").split()),
        )  # fmt: skip

    def _transition(self, element: ET.Element | None) -> Transition:
        if element is None:
            raise DefinitionError("<initial> needs a <transition> with a target")
        cond = element.get("cond")
        guard: Any = None
        if cond is not None:
            guard = cond if cond in self.guards else self._expression(cond)
        return Transition(
            tuple((element.get("event") or "").split()), tuple((element.get("target") or "").split()), guard,
            self._content(element), element.get("type") == "internal",
        )  # fmt: skip

    def _expression(self, text: str) -> Expression:
        return Expression(text, self.expressions.value(text))

    def _either(self, element: ET.Element, name: str, expr: str) -> Any:
        return self._expression(element.attrib[expr]) if expr in element.attrib else element.get(name)

    def _place(self, text: str | None, *, declare: bool = False) -> Place:
        if text is None:
            raise DefinitionError("an element that assigns needs a location")
        return Place(text, self.expressions.place(text, declare=declare))

    def _literal(self, element: ET.Element) -> Any:
        inner = "".join(ET.tostring(child, encoding="unicode") for child in element).strip()
        return self.expressions.literal(inner) if inner else self.expressions.literal(element.text or "")

    def _inline(self, element: ET.Element) -> Any:
        if "expr" in element.attrib:
            return self._expression(element.attrib["expr"])
        if len(element) or (element.text or "").strip():
            literal = self._literal(element)
            return Expression(element.text or "", lambda _view: literal)
        return None

    def _datum(self, element: ET.Element) -> Datum:
        id_ = element.get("id") or ""
        value = self._inline(element)
        if element.get("src"):
            source = element.get("src")
            read = getattr(self.expressions, "load", None)
            value = Expression(f"src {source}", (lambda _view: read(source)) if read else _unreadable(source))
        return Datum(id_, self._place(id_, declare=True), value)

    def _params(self, element: ET.Element) -> tuple[tuple[str, Any], ...]:
        listed = [(name, self._expression(name)) for name in (element.get("namelist") or "").split()]
        for child in element:
            if _tag(child) == "param":
                text = child.get("expr") or child.get("location") or ""
                listed.append((child.get("name") or "", self._expression(text)))
        return tuple(listed)

    def _done(self, element: ET.Element) -> Done:
        return Done(self._inner_content(element), self._params(element))

    def _inner_content(self, element: ET.Element) -> Any:
        content = element.find("{*}content")
        return None if content is None else self._inline(content)

    def _invoke(self, element: ET.Element) -> Invoke:
        content = element.find("{*}content")
        inner: Any = None
        if content is not None:
            chart = content.find("{*}scxml")
            inner = self._inline(content) if chart is None else self._chart(chart)
        finalize = element.find("{*}finalize")
        return Invoke(
            self._either(element, "src", "srcexpr"), self._either(element, "type", "typeexpr"), inner, element.get("id"),
            self._place(element.get("idlocation")) if element.get("idlocation") else None, self._params(element),
            element.get("autoforward") == "true", self._content(finalize) if finalize is not None else (),
            finalize is not None and not len(finalize),
        )  # fmt: skip

    def _chart(self, element: ET.Element) -> Chart:
        model, options = _Reader(self.expressions, self.guards, self.actions).document(element, None)
        known = {state.id for state in model.walk()}
        return Chart(_mended(model, known), options, actions=self.actions, guards=self.guards)

    def _content(self, elements: Any) -> Block:
        return tuple(self._piece(element) for element in elements if _tag(element))

    def _piece(self, element: ET.Element) -> Content:
        tag = _tag(element)
        method = getattr(self, f"_on_{tag}", None)
        if method is None:
            raise DefinitionError(f"<{tag}> is not executable content that Spellwork knows")
        found: Content = method(element)
        return found

    def _on_raise(self, element: ET.Element) -> Content:
        return Raise(element.get("event"))

    def _on_log(self, element: ET.Element) -> Content:
        text = element.get("expr")
        return Log(element.get("label") or "", self._expression(text) if text else None)

    def _on_assign(self, element: ET.Element) -> Content:
        return Let(self._place(element.get("location")), self._inline(element))

    def _on_script(self, element: ET.Element) -> Content:
        if element.get("src"):
            raise DefinitionError(f"the script {element.get('src')!r} can't be loaded; write scripts into the document")
        text = element.text or ""
        return Assign(Expression(text, self.expressions.script(text)))

    def _on_send(self, element: ET.Element) -> Content:
        place = element.get("idlocation")
        return Send(
            self._either(element, "event", "eventexpr"), self._inner_content(element),
            self._either(element, "delay", "delayexpr") or 0.0, element.get("id"), self._either(element, "target", "targetexpr"),
            self._either(element, "type", "typeexpr"), self._params(element), self._place(place) if place else None,
        )  # fmt: skip

    def _on_cancel(self, element: ET.Element) -> Content:
        return Cancel(self._either(element, "sendid", "sendidexpr"))

    def _on_if(self, element: ET.Element) -> Content:
        branches: list[tuple[Any, list[Content]]] = [(self._condition(element), [])]
        for child in element:
            if _tag(child) in ("elseif", "else"):
                branches.append((self._condition(child) if _tag(child) == "elseif" else None, []))
            elif _tag(child):
                branches[-1][1].append(self._piece(child))
        return If(tuple((condition, tuple(body)) for condition, body in branches))

    def _condition(self, element: ET.Element) -> Any:
        text = element.get("cond") or "False"
        return text if text in self.guards else self._expression(text)

    def _on_foreach(self, element: ET.Element) -> Content:
        index = element.get("index")
        return Each(
            self._expression(element.get("array") or ""), self._place(element.get("item"), declare=True),
            self._place(index, declare=True) if index else None, self._content(element),
        )  # fmt: skip

    def _on_change(self, element: ET.Element) -> Content:
        return Assign(element.get("name") or "")

    def _on_action(self, element: ET.Element) -> Content:
        return Do(element.get("name") or "")


def _mended(state: State, known: set[str]) -> State:
    """An invoked document with a transition to nowhere runs until it takes that one, which is an error then."""

    def lost(_view: View) -> Any:
        raise ContentFailed(f"a transition of {state.id!r} leads to a state that does not exist")

    def mended(transition: Transition) -> Transition:
        if known.issuperset(transition.targets):
            return transition
        return dataclasses.replace(transition, targets=(), content=(Assign(Expression("unresolved target", lost)),))

    transitions = tuple(map(mended, state.transitions))
    return dataclasses.replace(state, transitions=transitions, children=tuple(_mended(child, known) for child in state.children))


def _unreadable(source: str | None) -> Callable[[View], Any]:
    def refuse(_view: View) -> Any:
        raise ContentFailed(f"{source!r} can't be read")

    return refuse
