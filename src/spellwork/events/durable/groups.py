"""Owns what a group is in the store: how it begins, how a lane of it is found again, what of it was revived.
It must never hand anything out.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from spellwork.errors import Conflict, DefinitionError, RowDamaged, TopicNotFound
from spellwork.events.durable.holding import progress_key
from spellwork.events.durable.keys import Spaces, check_name, names_of, offset_of, row_key, rows_of, touched_key
from spellwork.events.durable.lane import Entry, Lane
from spellwork.events.durable.options import unpack_options
from spellwork.events.durable.reading import Found, head, single, swept
from spellwork.events.durable.record import unpack_record
from spellwork.events.durable.rows import GroupRow, Progress, pack_row, unpack_row
from spellwork.store import Batch, Reader

if TYPE_CHECKING:
    from spellwork.events.durable.topics import Topics

_REVIVED_AT_ONCE = 10_000


@dataclasses.dataclass(frozen=True, slots=True)
class GroupOptions:
    """How a consumer takes part; durations are in seconds."""

    start: str = "earliest"
    in_flight: int = 100
    visibility: float = 30.0
    max_attempts: int = 5
    lease: float = 10.0
    ack_within: float = 0.0

    def checked(self) -> GroupOptions:
        """The same, if it makes sense; raises `DefinitionError`."""
        if self.start not in ("earliest", "latest"):
            raise DefinitionError(f'a new group starts at the "earliest" or the "latest" event, not at {self.start!r}')
        for name in ("in_flight", "max_attempts"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= 10_000:
                raise DefinitionError(f"{name} must be a number from 1 to 10,000, not {value!r}")
        for name, least in (("visibility", 0.001), ("lease", 0.05), ("ack_within", 0.0)):
            value = getattr(self, name)
            if not least <= value < 1e9:
                raise DefinitionError(f"{name} must be at least {least:g} seconds, not {value!r}")
        return self

    async def declare(self, topics: Topics, topic: str, group: str) -> tuple[int, int]:
        """Make the group if there is none of this name; the number of its lanes, and the version of its row.

        The row is written once: while the version is the same, so is the group.
        """
        check_name(group, "group")
        key, options_key = row_key(Spaces.GROUPS, topic, group), row_key(Spaces.TOPICS, topic)
        while True:

            def look(reader: Reader) -> tuple[bytes | None, int, bytes | None, int, int]:
                # not before what is trimmed: of a topic that is just being deleted, events may lie there that are nobody's
                start = head(reader, topic) if self.start == "latest" else swept(reader, topic).trimmed
                return reader.get(key), reader.version(key), reader.get(options_key), reader.version(options_key), start

            data, made, options, version, start = await topics.store.read(look)
            if data is not None:
                return unpack_row(GroupRow, key, data).partitions, made
            partitions = unpack_options(topic, options).partitions
            row = GroupRow(partitions, start, topics.clock.now())
            batch = Batch().put(key, pack_row(row)).put(touched_key(topic, group), b"")
            try:
                made = await topics.store.commit(batch.require_absent(key).require_version(options_key, version))
            except Conflict:
                continue
            return partitions, made


def read_group(reader: Reader, topic: str, group: str) -> GroupRow | None:
    """The row of a group."""
    key = row_key(Spaces.GROUPS, topic, group)
    data = reader.get(key)
    return None if data is None else unpack_row(GroupRow, key, data)


def group_names(reader: Reader, topic: str) -> list[str]:
    """The groups of a topic, sorted."""
    return [names_of(key)[1] for key, _ in reader.scan(*rows_of(Spaces.GROUPS, topic))]


def slowest(reader: Reader, topic: str) -> int | None:
    """All groups are done with the events up to here; None if there are no groups."""
    floors = []
    for group in group_names(reader, topic):
        row = read_group(reader, topic, group)
        if row is not None:
            floors += [lane.floor for lane in read_progress(reader, topic, group, row)]
    return min(floors, default=None)


def require_group(reader: Reader, topic: str, group: str) -> GroupRow:
    """The row of a group; raises `TopicNotFound`."""
    row = read_group(reader, topic, group)
    if row is None:
        known = ", ".join(group_names(reader, topic)) or "none"
        raise TopicNotFound(f"topic {topic} has no group {group}; it has {known}", topic=topic)
    return row


def read_progress(reader: Reader, topic: str, group: str, row: GroupRow) -> list[Progress]:
    """How far each lane of a group is."""
    found = []
    for partition in range(row.partitions):
        key = progress_key(topic, group, partition)
        data = reader.get(key)
        found.append(Progress(row.start) if data is None else unpack_row(Progress, key, data))
    return found


def dropped(topic: str, group: str) -> TopicNotFound:
    """What a consumer is told whose group is not there any more."""
    return TopicNotFound(f"group {group} of topic {topic} was dropped; consume again to begin a new one", topic=topic)


def restored(reader: Reader, topic: str, group: str, partition: int) -> Lane:
    """A lane as the store has it."""
    row = read_group(reader, topic, group)
    if row is None:
        raise dropped(topic, group)
    progress = read_progress(reader, topic, group, row)[partition]
    again = {each.offset for each in progress.pending if each.revived}

    def find(offset: int) -> Entry | None:
        if offset in again:
            rows = reader.scan(*_from_to(row_key(Spaces.REVIVED, topic, group, offset)), damaged=b"")
            return Entry(offset, _again(topic, *rows[0]).record, revived=True) if rows else None
        found = single(reader, topic, offset)
        return None if found is None else Entry(offset, found.record)

    return Lane.restored(partition, progress, find)


def revived(reader: Reader, topic: str, group: str) -> list[Found]:
    """Dead letters that are to be delivered again. One that is damaged has no record, and is a dead letter again at once."""
    start, end = rows_of(Spaces.REVIVED, topic, group)
    return [_again(topic, key, data) for key, data in reader.scan(start, end, limit=_REVIVED_AT_ONCE, damaged=b"")]


def _again(topic: str, key: bytes, data: bytes) -> Found:
    try:
        return Found(topic, offset_of(key), 0, unpack_record(key, data))
    except RowDamaged:
        return Found(topic, offset_of(key), 0, None)


def _from_to(key: bytes) -> tuple[bytes, bytes]:
    return key, key + b"\0"
