"""Owns what an event is inside a machine, how it is named, and when a descriptor matches it.
It must never know of states or transitions.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """An event by name, with a payload; the other fields are those of SCXML's `_event` (Recommendation, 5.10.1).

    `typed` says that `data` is itself the event, an object that the user made: guards and actions get it as it is.
    """

    name: str
    data: Any = None
    kind: str = "external"
    typed: bool = False
    sendid: str | None = None
    origin: str | None = None
    origintype: str | None = None
    invokeid: str | None = None

    @property
    def given(self) -> Any:
        """What guards and actions receive."""
        return self.data if self.typed else self


def event_name(kind: Any) -> str:
    """The name of an event given as a string, an enum member, a class or an instance of one."""
    if isinstance(kind, str) and not isinstance(kind, enum.Enum):
        return kind
    if isinstance(kind, Event):
        return kind.name
    if isinstance(kind, enum.Enum):
        return kind.name
    declared = kind if isinstance(kind, type) else type(kind)
    name = getattr(declared, "event_name", None)
    return name if isinstance(name, str) else declared.__name__


def as_event(given: Any, data: Any = None) -> Event:
    """The event behind what a user sends: a name with a payload, or an object that is the event itself."""
    if isinstance(given, Event):
        return given
    if isinstance(given, str) and not isinstance(given, enum.Enum):
        return Event(given, data)
    return Event(event_name(given), given, typed=True)


def descriptors(text: str) -> tuple[str, ...]:
    """The descriptors of an `event` attribute, without the endings `.*` and `.` that change nothing."""
    return tuple(token if token == "*" else token.removesuffix(".*").removesuffix(".") for token in text.split())  # noqa: S105


def matches(descriptor: str, name: str) -> bool:
    """Whether the descriptor's tokens are a prefix of the name's (Recommendation, 3.12.1)."""
    return descriptor in ("*", name) or name.startswith(descriptor + ".")
