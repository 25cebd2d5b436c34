"""Owns the readable form of a journal.
It must never be needed to run anything.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec

from spellwork.codec import Codec
from spellwork.errors import PayloadError
from spellwork.instant import datetime_of
from spellwork.workflow.parameters import show_call

_PAYLOADS = ("result", "payload", "heartbeat")
_CALLS = ("args",)
_HIDDEN = ("at", "digest", "seed")


class Event(msgspec.Struct, frozen=True):
    """One entry of a journal: its position, time (UTC), kind (such as "StepCompleted"), and fields as plain values."""

    position: int
    at: dt.datetime
    kind: str
    data: dict[str, Any]


def readable(position: int, entry: Any, codec: Codec) -> Event:
    """The readable form of one entry."""
    data: dict[str, Any] = {}
    for name in entry.__struct_fields__:
        value = getattr(entry, name)
        if name in _HIDDEN or value is None:
            continue
        if name in _PAYLOADS:
            value = _value(codec, value)
        elif name in _CALLS:
            value = _call(codec, value)
        elif isinstance(value, msgspec.Struct):
            value = _fields(value)
        data[name] = value
    return Event(position, datetime_of(entry.at), type(entry).__name__, data)


def _call(codec: Codec, payload: bytes) -> Any:
    try:
        return show_call(codec, payload)
    except PayloadError as error:
        return f"<{error}>"


def _value(codec: Codec, payload: bytes) -> Any:
    try:
        return codec.untyped.decode(payload)
    except PayloadError as error:
        return f"<{error}>"


def _fields(value: msgspec.Struct) -> dict[str, Any]:
    pairs = ((name, getattr(value, name)) for name in value.__struct_fields__)
    return {name: _fields(item) if isinstance(item, msgspec.Struct) else item for name, item in pairs if item is not None}
