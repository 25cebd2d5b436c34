"""Owns the memory of event ids: that an id comes into a topic once within its window.
It must never read before it writes: what is a duplicate is decided in the committer, where nobody can come between.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from spellwork.errors import MergeRefused
from spellwork.events.durable.keys import Spaces, newest_key, row_key, short
from spellwork.store import Batch, Reader

_ROW = struct.Struct(">QQ")


class Duplicate(Exception):
    """The id is known; `offset` is that of the first event. Never leaves the package."""

    def __init__(self, event_id: str, offset: int):
        super().__init__(f"the id {event_id!r} is that of the event at {offset}")
        self.event_id = event_id
        self.offset = offset


class Once:
    """Makes one batch refuse ids that the topic has had within `window` microseconds before `now`."""

    def __init__(self, batch: Batch, topic: str, now: int, window: int):
        self._batch = batch
        self._topic = topic
        self._now = now
        self._expiry = now + window
        self._head = 0
        batch.merge(newest_key(topic), self._see_head, b"")

    def claim(self, event_id: str, place: int) -> None:
        """Refuse the batch if the id is known; `place` counts the batch's appends to this topic, from 1."""

        def note(old: bytes | None, _operand: bytes) -> bytes:
            expiry, offset = unpack_id(old)
            if expiry > self._now:
                raise Duplicate(event_id, offset)
            return _ROW.pack(self._expiry, self._head + place)

        self._batch.merge(id_key(self._topic, event_id), note, b"")
        self._batch.put(expiry_key(self._topic, self._expiry, event_id), b"")

    def known(self, reader: Reader, event_ids: Iterable[str]) -> dict[str, int]:
        """The offsets of those ids that are known already."""
        rows = {event_id: unpack_id(reader.get(id_key(self._topic, event_id))) for event_id in event_ids}
        return {event_id: offset for event_id, (expiry, offset) in rows.items() if expiry > self._now}

    def _see_head(self, old: bytes | None, _operand: bytes) -> bytes | None:
        self._head = int.from_bytes(old or b"", "big")
        return old


def duplicate_of(error: MergeRefused) -> Duplicate:
    """Which id is known; raises the error again if it is about something else."""
    if isinstance(error.__cause__, Duplicate):
        return error.__cause__
    raise error


def id_key(topic: str, event_id: str) -> bytes:
    """The key of what is known of an id."""
    return row_key(Spaces.IDS, topic, short(event_id))


def expiry_key(topic: str, expiry: int, event_id: str) -> bytes:
    """The key under which the sweeper finds an id when its window is over."""
    return row_key(Spaces.EXPIRIES, topic, expiry, short(event_id))


def unpack_id(data: bytes | None) -> tuple[int, int]:
    """Expiry and offset of an id, zeros where it is not known."""
    return _ROW.unpack(data) if data is not None and len(data) == _ROW.size else (0, 0)


def forget(batch: Batch, key: bytes, now: int) -> None:
    """Forget the id that is due under a key of the expiries, unless it was used again meanwhile."""

    def drop(old: bytes | None, _operand: bytes) -> bytes | None:
        return old if unpack_id(old)[0] > now else None

    batch.delete(key)
    batch.merge(id_of_expiry(key), drop, b"")


def id_of_expiry(key: bytes) -> bytes:
    """The key of what is known of the id that is named by a key of the expiries."""
    prefix = key.index(b"\0") + 1
    return bytes((Spaces.IDS,)) + key[1:prefix] + key[prefix + 8 :]
