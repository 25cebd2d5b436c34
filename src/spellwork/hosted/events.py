"""Owns the way of a machine's events to bytes and back: names with payloads, and objects of classes that the type knows.
It must never make an object of a class that the chart or its type did not declare.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Any

import msgspec

from spellwork.codec import Codec
from spellwork.errors import DefinitionError, PayloadError, UsageError
from spellwork.machine import Chart, Event
from spellwork.machine.event import as_event, event_name, matches

ENVELOPE = "#machine"
"""The name of the signal in which machines send each other events; no event of a user may begin with #."""
_NOTHING = b"\xc0"
_CACHED = 1024


class Envelope(msgspec.Struct, frozen=True, array_like=True):
    """An event with all its fields, as machines send it and snapshots keep it."""

    name: str
    data: bytes = _NOTHING
    kind: str = "external"
    sendid: str | None = None
    origin: str | None = None
    origintype: str | None = None
    invokeid: str | None = None


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Envelope).decode


class Events:
    """What a type knows of its events. A name that a class or an enum member stands for carries an object of it, always."""

    def __init__(self, chart: Chart, more: Iterable[type] = ()):
        self._chart = chart
        self._kinds: dict[str, Any] = {name: kind for kind, name in chart.kinds.items()}
        for kind in more:
            if not isinstance(kind, type):
                raise DefinitionError(f"machine {chart.name!r}: events= takes classes of events and enums, not {kind!r}")
            members = list(kind) if issubclass(kind, enum.Enum) else [kind]
            self._kinds.update({event_name(each): each for each in members})
        self._known: dict[str, bool] = {}
        self._plain: dict[str, Event] = {}
        self._ready: dict[str, tuple[str, bytes]] = {}

    def knows(self, name: str) -> bool:
        """Whether some state of the chart could do something with an event of this name."""
        known = self._known.get(name)
        if known is None:
            table = self._chart.table
            known = any(matches(each, name) for arrow in table.arrows for each in arrow.events) or any(
                matches(each, name) for vertex in table.vertices for each in vertex.defer
            )
            known = known or any(invoke.autoforward for vertex in table.vertices for invoke in vertex.invokes)
            if len(self._known) < _CACHED:
                self._known[name] = known
        return known

    def ready(self, event: Any) -> tuple[str, bytes] | None:
        """Name and payload of an event that is only a name, if it was sent before."""
        return self._ready.get(event) if event.__class__ is str else None

    def make_ready(self, name: str, payload: bytes) -> None:
        """Remember that this name, alone, is an event that may be sent."""
        if len(self._ready) < _CACHED:
            self._ready[name] = (name, payload)

    def given(self, event: Any, data: Any) -> Event:
        """The event that a user sends from outside."""
        made = as_event(event, data)
        if not isinstance(event, Event):
            if data is not None and made.typed:
                raise UsageError(f"{made.name!r} is an object and carries its own data; send it alone")
            return made
        plain = Event(made.name, made.data)
        if made != plain or data is not None:
            raise UsageError(f"an event from outside has a name and data, and {made!r} has more; send those two")
        return made

    def payload(self, codec: Codec, event: Event) -> bytes:
        """The stored form of the event's data; raises `PayloadError` for what would not come back the same."""
        kind = self._kinds.get(event.name)
        if event.typed and kind is not None and (event.data is kind or type(event.data) is kind):
            if isinstance(kind, enum.Enum):
                return _NOTHING
            shape = codec.shape(kind)
        elif event.typed:
            name = type(event.data).__qualname__
            raise PayloadError(
                f"event {event.name!r}: its class {name} is not declared; give it in the chart's events=[...] or in "
                "MachineType(events=[...]), so that it can be read back",
                path="$",
            )
        elif event.data is None and kind is None:
            return _NOTHING
        else:
            shape = codec.untyped
        try:
            payload = shape.encode(event.data)
            if kind is not None:
                self.event(codec, event.name, payload)
            else:
                shape.decode(payload)
        except PayloadError as error:
            raise PayloadError(f"event {event.name!r}: {error}", path=error.path) from error
        return payload

    def event(self, codec: Codec, name: str, payload: bytes) -> Event:
        """The event of a name and its stored data; raises `PayloadError` where they don't fit."""
        kind = self._kinds.get(name)
        if kind is None:
            if payload != _NOTHING:
                return Event(name, codec.untyped.decode(payload))
            event = self._plain.get(name)
            if event is None:
                event = Event(name)
                if len(self._plain) < _CACHED:
                    self._plain[name] = event
            return event
        if isinstance(kind, enum.Enum):
            if payload != _NOTHING:
                raise PayloadError(f"event {name!r} is {kind!r} and carries no data", path="$")
            return Event(name, kind, typed=True)
        shape = codec.shape(kind)
        return Event(name, shape.decode(b"\x80" if payload == _NOTHING else payload), typed=True)

    def pack(self, codec: Codec, event: Event) -> bytes:
        """The event with all its fields."""
        return _pack(
            Envelope(
                event.name, self.payload(codec, event), event.kind, event.sendid, event.origin, event.origintype, event.invokeid
            )
        )

    def unpack(self, codec: Codec, data: bytes) -> Event:
        """The event of an envelope; raises `PayloadError`."""
        try:
            sent = _unpack(data)
        except (msgspec.MsgspecError, ValueError) as error:
            raise PayloadError(f"{ENVELOPE}: this is no event from a machine: {error}", path="$") from error
        found = self.event(codec, sent.name, sent.data)
        return Event(sent.name, found.data, sent.kind, found.typed, sent.sendid, sent.origin, sent.origintype, sent.invokeid)
