"""Owns how a stored event looks to users: an `Event` whose type is its topic and whose sequence is its offset.
It must never change what is stored.
"""

from __future__ import annotations

from typing import Any

from spellwork.codec import Shape
from spellwork.events.durable.reading import Found, record_of
from spellwork.events.event import Event


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
