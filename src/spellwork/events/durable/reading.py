"""Owns finding events in the logs of a consistent view: by offset, time or revision.
It must never wait, write, or decode a payload.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from spellwork.errors import Lagged, RowDamaged, StoreCorrupt
from spellwork.events.durable.keys import (
    Spaces,
    event_key,
    events_after,
    log_key,
    names_of,
    newest_key,
    offset_of,
    row_key,
    space_range,
)
from spellwork.events.durable.record import Record, unpack_record
from spellwork.store import SEQUENCE_BYTES, Reader
from spellwork.store.logs import last_number

PAGE = 500
BEYOND = 1 << 63


class Found(NamedTuple):
    """An event in a log; `revision` is that of the commit that brought it. `record` is None if its row is damaged."""

    topic: str
    offset: int
    revision: int
    record: Record | None


class Swept(msgspec.Struct, frozen=True, array_like=True, tag=1, tag_field="form"):
    """How far the sweeper is: events up to `trimmed` are gone, up to `compacted` only the newest of a key is kept.

    `revision` is that of the commit that brought the last one that was trimmed (0: not known, as in stores of before it was kept).
    `deletions`: how often the topic was deleted.
    """

    trimmed: int = 0
    compacted: int = 0
    revision: int = 0
    deletions: int = 0


def head(reader: Reader, topic: str) -> int:
    """The newest offset of a topic, 0 if it has no events.

    If the row that says so is damaged, the log itself tells; if nothing is left of that, how far it was trimmed.
    """
    try:
        data = reader.get(newest_key(topic)) or reader.get(log_key(topic))
    except RowDamaged:
        number = last_number(reader, log_key(topic)) or swept(reader, topic).trimmed
        if not number:
            raise
        return number
    if data is None:
        return 0
    offset = int.from_bytes(data, "big")
    if len(data) != SEQUENCE_BYTES or offset >= BEYOND:
        raise StoreCorrupt(f"the newest offset of topic {topic} cannot be read ({data[:16].hex()}); restore a backup")
    return offset


def swept(reader: Reader, topic: str) -> Swept:
    """How far the sweeper is."""
    data = reader.get(row_key(Spaces.SWEPT, topic))
    try:
        return Swept() if data is None else msgspec.msgpack.decode(data, type=Swept)
    except (msgspec.MsgspecError, ValueError) as error:
        raise StoreCorrupt(f"what is swept of topic {topic} cannot be read ({error}); restore a backup") from error


def touched(reader: Reader) -> list[tuple[bytes, int]]:
    """The rows that say where there was something new, with their versions."""
    span = space_range(Spaces.TOUCHED)
    try:
        return [(key, version) for key, _, version in reader.rows(*span)]
    except RowDamaged:
        return [(key, _touched(reader, key)) for key, _ in reader.scan(*span, damaged=b"")]


def topics_with_events(reader: Reader) -> dict[str, int]:
    """Each topic that ever had an event, with the revision of its newest."""
    named = ((names_of(key), version) for key, version in touched(reader))
    return {topic: version for (topic, group), version in named if not group}


def _touched(reader: Reader, key: bytes) -> int:
    """The version of such a row; a damaged one has lost it, but the topic's newest event has the same."""
    try:
        return reader.version(key)
    except RowDamaged:
        topic, group = names_of(key)
        return 0 if group else revision_at(reader, topic, BEYOND - 1)


def page(reader: Reader, topic: str, after: int, limit: int = PAGE) -> list[Found]:
    """The next events behind an offset. What has no key of an event is none: behind it, a reader would find it again for ever."""
    start, end = events_after(topic, after)
    size = len(start)
    try:
        rows = reader.rows(start, end, limit=limit)
        return [
            Found(topic, offset_of(key), revision, unpack_record(key, data)) for key, data, revision in rows if len(key) == size
        ]
    except RowDamaged:
        return [_one(reader, topic, key) for key, _ in reader.scan(start, end, limit=limit, damaged=b"") if len(key) == size]


def _one(reader: Reader, topic: str, key: bytes) -> Found:
    try:
        data = reader.get(key)
        return Found(topic, offset_of(key), reader.version(key), unpack_record(key, data or b""))
    except RowDamaged:
        return Found(topic, offset_of(key), 0, None)


def single(reader: Reader, topic: str, offset: int) -> Found | None:
    """The event at an offset, if it is still there."""
    found = page(reader, topic, offset - 1, 1)
    return found[0] if found and found[0].offset == offset else None


def record_of(found: Found) -> Record:
    """The record of an event; raises `RowDamaged`."""
    if found.record is None:
        key = event_key(found.topic, found.offset)
        raise RowDamaged(
            f"the event at {found.offset} of topic {found.topic} is damaged; restore a backup, or read on from {found.offset + 1}",
            key=key,
        )
    return found.record


def require_kept(reader: Reader, topic: str, after: int) -> None:
    """Raise `Lagged` if events behind an offset are no longer retained."""
    trimmed = swept(reader, topic).trimmed
    if after < trimmed:
        raise Lagged(
            f"events of topic {topic} up to {trimmed} are no longer retained, asked for those after {after}; "
            'read on from "earliest"',
            missed=trimmed - after,
        )


def revision_at(reader: Reader, topic: str, offset: int) -> int:
    """The revision of the commit that brought the last event up to an offset; 0 if nothing tells it any more."""
    for key, _ in reader.scan(event_key(topic, 1), event_key(topic, offset + 1), reverse=True, limit=1, damaged=b""):
        try:
            return reader.version(key)
        except RowDamaged:
            break
    return 0


def before_time(reader: Reader, topic: str, time: int) -> int:
    """The offset just before the first event of a time (microseconds) or later."""
    return _bisect(reader, topic, lambda found: record_of(found).time >= time)


def before_revision(reader: Reader, topic: str, revision: int) -> int:
    """The offset just before the first event that was committed after a revision."""
    return _bisect(reader, topic, lambda found: found.revision > revision)


def _bisect(reader: Reader, topic: str, reached: Callable[[Found], bool]) -> int:
    low, high = swept(reader, topic).trimmed, head(reader, topic)
    while low < high:
        middle = (low + high) // 2
        found = _readable(reader, topic, middle)
        if found and not reached(found):
            low = found.offset
        else:
            high = middle
    return low


def _readable(reader: Reader, topic: str, after: int) -> Found | None:
    """The next event behind an offset that is not damaged, if there is one near."""
    for limit in (1, 20):  # the first one nearly always
        for each in page(reader, topic, after, limit):
            if each.record is not None:
                return each
    return None
