"""Owns dead letters: listing what a group has given up, delivering it again, dropping it.
It must never deliver a letter twice because two asked for it.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any

from spellwork.codec import Shape
from spellwork.errors import Conflict, DefinitionError, PayloadError, RowDamaged, TopicError, TopicNotFound
from spellwork.events.durable.decoded import event_of
from spellwork.events.durable.groups import require_group
from spellwork.events.durable.keys import Spaces, offset_of, row_key, rows_of, touched_key
from spellwork.events.durable.reading import BEYOND, Found
from spellwork.events.durable.record import pack_record
from spellwork.events.durable.rows import DeadRow, unpack_row
from spellwork.events.event import Event
from spellwork.instant import datetime_of
from spellwork.store import Batch, Reader, Row, Store, successor

_AT_ONCE = 500


@dataclasses.dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that a group has given up, after so many `attempts` and for this `reason`.

    `event` is None if it cannot be read.
    """

    topic: str
    group: str
    offset: int
    attempts: int
    reason: str
    at: dt.datetime
    event: Event[Any] | None


def dead_letters(reader: Reader, topic: str, group: str, shape: Shape, after: int, limit: int) -> list[DeadLetter]:
    """The next dead letters behind an offset."""
    _check(after, least=0)
    require_group(reader, topic, group)
    return [_letter(topic, group, row, shape) for row in _rows(reader, topic, group, after, limit)]


def _letter(topic: str, group: str, row: Row, shape: Shape) -> DeadLetter:
    offset, dead = offset_of(row[0]), _dead(row)
    try:
        event = None if dead.record is None else event_of(Found(topic, offset, 0, dead.record), shape)
    except PayloadError:
        event = None
    return DeadLetter(topic, group, offset, dead.attempts, dead.reason, datetime_of(dead.at), event)


async def settle(store: Store, topic: str, group: str, offset: int | None, *, again: bool) -> int:
    """Deliver one dead letter (or all there are now) `again`, or drop it; how many there were."""
    if offset is not None:
        _check(offset, least=1)
    await store.read(lambda reader: require_group(reader, topic, group))
    after, settled = (0, 0) if offset is None else (offset - 1, 0)
    limit = _AT_ONCE if offset is None else 1
    while True:
        behind = after
        rows = await store.read(lambda reader: _rows(reader, topic, group, behind, limit))  # noqa: B023 - called before it changes
        if offset is not None and (not rows or offset_of(rows[0][0]) != offset):
            raise TopicNotFound(f"group {group} of topic {topic} has no dead letter at {offset}", topic=topic)
        batch, count = _settlement(rows, topic, group, again)
        if offset is not None and not count:
            raise TopicError(f"the event at {offset} of topic {topic} was damaged, and cannot be delivered again", topic=topic)
        try:
            if count:
                await store.commit(batch)
        except Conflict:
            continue  # somebody else has settled one of them: look again
        settled += count
        if offset is not None or len(rows) < limit:
            return settled
        after = offset_of(rows[-1][0])


def _check(offset: int, *, least: int) -> None:
    if type(offset) is not int or not least <= offset < BEYOND:
        raise DefinitionError(f"{offset!r} is no offset of an event; give a number from {least} on")


def _settlement(rows: list[Row], topic: str, group: str, again: bool) -> tuple[Batch, int]:
    batch, count = Batch().put(touched_key(topic, group), b""), 0
    for key, data, version in rows:
        record = _dead((key, data, version)).record
        if again and record is None:
            continue
        if version:
            batch.require_version(key, version).delete(key)
        else:
            batch.require_damaged(key).delete(key)
        if again:
            batch.put(row_key(Spaces.REVIVED, topic, group, offset_of(key)), pack_record(record))
        count += 1
    return batch, count


def _rows(reader: Reader, topic: str, group: str, after: int, limit: int) -> list[Row]:
    start, end = row_key(Spaces.DEAD, topic, group, after + 1), successor(row_key(Spaces.DEAD, topic, group))
    try:
        return reader.rows(start, end, limit=limit)
    except RowDamaged:
        return [_row(reader, key) for key, _ in reader.scan(start, end, limit=limit, damaged=b"")]


def _row(reader: Reader, key: bytes) -> Row:
    try:
        return key, reader.get(key) or b"", reader.version(key)
    except RowDamaged:
        return key, b"", 0


def _dead(row: Row) -> DeadRow:
    """What the row says; of a damaged one (without a version) only that."""
    key, data, version = row
    return unpack_row(DeadRow, key, data) if version else DeadRow(None, 0, "the dead letter is damaged (checksum)", 0)


def count_dead(reader: Reader, topic: str, group: str) -> int:
    """How many dead letters a group has."""
    return len(reader.scan(*rows_of(Spaces.DEAD, topic, group), damaged=b""))
