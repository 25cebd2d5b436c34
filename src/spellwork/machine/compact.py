"""Owns the compact text form: a line for each transition, as `Closed(Unsuccessful) => Open [SetOpenedAt]`.
It must never know a feature that its grammar below does not show.

    chart       = [header] { item }                     # and // open comments; commas and semicolons are optional
    header      = NAME "(" STATE ")"                    the chart's name and its initial state
    item        = "initial" STATE
                | "InitialStates" "{" STATE "}"
                | ("entry" | "exit") STATE actions
                | STATE trigger ["if" GUARD] "=>" (STATE | ".") [actions]
                | STATE "=>" "{" { EVENT ["if" GUARD] "=>" (STATE | ".") [actions] } "}"
                | EVENT "{" { STATE { "," STATE } "=>" STATE [actions] } "}"
    trigger     = "(" (EVENT | "*" | "after" DELAY) ")"
    actions     = "[" NAME { "," NAME } "]"

The target `.` stays in the state. The whole may stand in `state_machine! { … }` or `sm! { … }`, as the Rust libraries rust-fsm
and sm write it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from spellwork.errors import DefinitionError
from spellwork.machine.builder import ChartBuilder, StateBuilder
from spellwork.machine.chart import Chart

_TOKEN = re.compile(r"\s+|(?:#|//)[^\n]*|(?P<token>=>|[\w.]+!?|[(){}\[\],;*])")
_WRAPPERS = ("state_machine!", "sm!")


def from_text(
    text: str,
    *,
    name: str = "machine",
    context: Any = None,
    actions: Mapping[str, Callable[..., Any]] | None = None,
    guards: Mapping[str, Callable[..., Any]] | None = None,
    strict: bool = True,
) -> Chart:
    """The chart of a compact text; `actions` and `guards` are the functions behind its names.

    Raises:
        DefinitionError: the text is not of this form; the message names the line.
        ChartRefused: the chart is malformed.
    """
    return _Parser(text, name, context, strict).chart().build(actions=actions, guards=guards)


class _Parser:
    def __init__(self, text: str, name: str, context: Any, strict: bool):
        self.tokens: list[tuple[str, int]] = []
        at = 0
        while at < len(text):
            found = _TOKEN.match(text, at)
            line = text.count("\n", 0, at) + 1
            if found is None:
                raise DefinitionError(f"line {line}: {text[at]!r} has no meaning here")
            if found["token"]:
                self.tokens.append((found["token"], line))
            at = found.end()
        self.at = 0
        self.name, self.context, self.strict = name, context, strict
        self.first: str | None = None
        self.states: dict[str, StateBuilder] = {}

    def chart(self) -> ChartBuilder:
        self._opening()
        while self.at < len(self.tokens):
            if self._peek() in (",", ";", "}"):
                self.at += 1
            else:
                self._item()
        builder = ChartBuilder(self.name, context=self.context, strict=self.strict)
        builder.children = list(self.states.values())
        first = self.first or next(iter(self.states), None)
        return builder.initial(first) if first else builder

    def _opening(self) -> None:
        if self._peek() in _WRAPPERS:
            self.at += 1
            self._need("{")
        if self._peek() == "derive":
            while self._take() != ")":
                pass
        if self._peek(1) == "(" and self._peek(3) == ")" and self._peek(4) not in ("=>", "if"):
            self.name = self._take()
            self._need("(")
            self.first = self._state(self._take()).id
            self._need(")")
        elif self._peek(1) == "{" and self._peek() not in ("InitialStates", None) and self._peek(2) == "InitialStates":
            self.name = self._take()
            self._need("{")

    def _item(self) -> None:
        word = self._take()
        if word == "initial":
            self.first = self._state(self._take()).id
        elif word == "InitialStates":
            self._need("{")
            self.first = self._state(self._take()).id
            while self._take() != "}":
                pass
        elif word in ("entry", "exit"):
            state = self._state(self._take())
            (state.on_entry if word == "entry" else state.on_exit)(*self._actions())
        elif self._peek() == "{":
            self._event_block(word)
        elif self._peek() == "=>":
            self._state_block(self._state(word))
        else:
            self._need("(")
            event = self._take()
            delay = self._take() if event == "after" and self._peek() != ")" else None
            self._need(")")
            self._arrow(self._state(word), event, delay)

    def _state_block(self, state: StateBuilder) -> None:
        self._need("=>")
        self._need("{")
        while self._peek() != "}":
            event = self._take()
            delay = self._take() if event == "after" and self._peek() not in ("=>", "if") else None
            self._arrow(state, event, delay)
            self._skip_comma()
        self._need("}")

    def _event_block(self, event: str) -> None:
        self._need("{")
        while self._peek() != "}":
            sources = [self._state(self._take())]
            while self._peek() == ",":
                self.at += 1
                sources.append(self._state(self._take()))
            self._need("=>")
            target, actions = self._state(self._take()).id, self._actions()
            for source in sources:
                source.on(event, target, do=actions)
            self._skip_comma()
        self._need("}")

    def _arrow(self, state: StateBuilder, event: str, delay: str | None) -> None:
        guard = None
        if self._peek() == "if":
            self.at += 1
            guard = self._take()
        self._need("=>")
        word = self._take()
        target = None if word == "." else self._state(word).id
        actions = self._actions()
        if delay is None:
            state.on(event, target, guard=guard, do=actions)
        else:
            state.after(delay, target, guard=guard, do=actions)

    def _actions(self) -> list[str]:
        found: list[str] = []
        if self._peek() == "[":
            self.at += 1
            while self._peek() != "]":
                found.append(self._take())
                self._skip_comma()
            self.at += 1
        return found

    def _skip_comma(self) -> None:
        if self._peek() in (",", ";"):
            self.at += 1

    def _state(self, id_: str) -> StateBuilder:
        if not re.fullmatch(r"\w+", id_):
            raise DefinitionError(f"line {self.tokens[self.at - 1][1]}: {id_!r} is no name of a state")
        return self.states.setdefault(id_, StateBuilder(id_))

    def _peek(self, ahead: int = 0) -> str | None:
        return self.tokens[self.at + ahead][0] if self.at + ahead < len(self.tokens) else None

    def _take(self) -> str:
        word = self._peek()
        if word is None:
            raise DefinitionError("the text ends in the middle of an item")
        self.at += 1
        return word

    def _need(self, wanted: str) -> None:
        line = self.tokens[min(self.at, len(self.tokens) - 1)][1] if self.tokens else 1
        found = self._peek()
        if found != wanted:
            raise DefinitionError(f"line {line}: {wanted!r} is wanted here, not {found!r}")
        self.at += 1
