"""Owns `Topic`: the name of a topic together with the type of what is published there.
It must never let a payload pass that is not of that type.
"""

from __future__ import annotations

import typing
from typing import Any, Generic, TypeVar

from spellwork.errors import PayloadError
from spellwork.events.fits import Check, compiled
from spellwork.events.pattern import topic_name

T = TypeVar("T")


class Topic(Generic[T]):
    """A typed topic: `started = Topic[Started]("agent.started")`.

    What is published there is checked as it stands, down to the fields of dataclasses and structs; `publish` with anything else
    raises `PayloadError` with the path of the first part that does not fit. Where type parameters can't be written, pass `type`.
    Two topics of one name are the same topic to a bus.
    """

    def __init__(self, name: str, type: Any = None) -> None:  # noqa: A002 - the field's word
        self.name = topic_name(name)
        self._type = type
        self._check: Check | None = None
        self._compiled = False

    @property
    def type(self) -> Any:
        """The annotation of the payloads; Any if it was not given."""
        if self._type is not None:
            return self._type
        alias = getattr(self, "__orig_class__", None)
        return typing.get_args(alias)[0] if alias is not None else Any

    def check(self, payload: Any) -> None:
        """Raise `PayloadError` if the payload is not of the topic's type."""
        # `Topic[int]("x")` tells the type only after the constructor has run, so this waits for the first payload.
        if not self._compiled:
            self._check, self._compiled = compiled(self.type), True
        if self._check is not None:
            try:
                self._check(payload, "$")
            except PayloadError as error:
                raise PayloadError(f"nothing was published on {self.name!r}: {error}", path=error.path) from None

    def __repr__(self) -> str:
        return f"<topic {self.name}>"
