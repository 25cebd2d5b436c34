"""Owns what is known of those who wait for events besides groups: workflow runs with their subscriptions, and triggers.
It must never write: their cursors are moved by the engine that brings them their events.
"""

from __future__ import annotations

from collections.abc import Iterator

from spellwork.errors import DefinitionError, RowDamaged
from spellwork.events.durable.subscription import LAST, Cursor, offset_behind
from spellwork.events.pattern import matches
from spellwork.journal.rows import Keys, cursor_key, subscription_of
from spellwork.store import Reader


def brought(reader: Reader, topic: str) -> int | None:
    """The events up to here were brought to every run that waits for them, and to every trigger; None if nobody waits."""
    return min((offset_behind(reader, topic, cursor) for cursor in _cursors(reader, topic)), default=None)


def _cursors(reader: Reader, topic: str) -> Iterator[Cursor]:
    wanted: dict[str, bool] = {}
    oldest: dict[int, int] = {}
    for key, _ in reader.scan(bytes((Keys.SUBSCRIPTIONS,)), bytes((Keys.SUBSCRIPTIONS + 1,)), damaged=b""):
        pattern, _ = subscription_of(key)
        if pattern not in wanted:
            wanted[pattern] = matches(pattern, topic)
        if wanted[pattern]:
            partition = int.from_bytes(key[1:3], "big")
            oldest[partition] = min(_version(reader, key), oldest.get(partition, 1 << 63))
    for partition, version in oldest.items():
        # who subscribed wants nothing older than that; what the runs of a partition were brought is told by one cursor
        yield max(_stored(reader, cursor_key(partition)), Cursor(version, LAST))
    for key, _ in reader.scan(bytes((Keys.TRIGGERS,)), bytes((Keys.TRIGGERS + 1,)), damaged=b""):
        if matches(key[1:].decode(errors="replace").partition(" ")[0], topic):
            yield _stored(reader, key)


def _version(reader: Reader, key: bytes) -> int:
    try:
        return reader.version(key)
    except RowDamaged:
        return 0  # nobody knows what its run was to get


def _stored(reader: Reader, key: bytes) -> Cursor:
    try:
        stored = reader.get(key)
        return Cursor.of(stored) if stored else Cursor()
    except (RowDamaged, DefinitionError):
        return Cursor()
