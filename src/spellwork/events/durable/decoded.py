"""Owns how a stored event looks to users: an `Event` whose type is its topic and whose sequence is its offset.
It must never change what is stored.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from spellwork.codec import Shape
from spellwork.errors import StoreCorrupt
from spellwork.events.durable.reading import Found, record_of
from spellwork.events.event import Event

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def event_of(found: Found, shape: Shape) -> Event[Any]:
    """The event that was found; raises `RowDamaged`, or `PayloadError` if its data does not fit."""
    record = record_of(found)
    return Event(
        id=record.id,
        source=record.source,
        type=found.topic,
        at=record.time,
        data=shape.decode(record.payload),
        subject=record.subject,
        sequence=found.offset,
        correlation=record.correlation,
        causation=record.causation,
        key=record.key,
        priority=record.priority,
        headers=record.headers,
    )


def microseconds_of(time: dt.datetime) -> int:
    """Microseconds since 1970; a time without a zone is taken as UTC."""
    aware = time if time.tzinfo is not None else time.replace(tzinfo=dt.UTC)
    return (aware - _EPOCH) // dt.timedelta(microseconds=1)


def time_of(microseconds: int) -> dt.datetime:
    """The time of microseconds since 1970, UTC."""
    try:
        return _EPOCH + dt.timedelta(microseconds=microseconds)
    except OverflowError as error:
        raise StoreCorrupt(f"a stored time of {microseconds} microseconds is beyond every calendar; restore a backup") from error
