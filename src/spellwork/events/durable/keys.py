"""Owns the keyspaces of durable topics, 0x30 to 0x3f, and what names may stand in their keys.
It must never let two topics or groups share a key: names end with a zero byte, which none may hold.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable

from spellwork.errors import DefinitionError, StoreCorrupt
from spellwork.events.pattern import matches, pattern_tokens, topic_name
from spellwork.store import SEQUENCE_BYTES, successor

LONGEST_NAME = 200


class Spaces:
    """The keyspaces. Each constant is the prefix byte."""

    TOPICS = 0x30  # topic → its options
    LOG = 0x31  # topic, offset → Record; without an offset, as the first builds had it: the newest one
    TOUCHED = 0x32  # topic → the newest offset; topic, group → nothing: their versions say when there was something new
    GROUPS = 0x33  # topic, group → GroupRow
    LANES = 0x34  # topic, group, partition → Progress
    CLAIMS = 0x35  # topic, group, partition → Claim
    MEMBERS = 0x36  # topic, group, consumer → Member
    DEAD = 0x37  # topic, group, offset → DeadRow
    REVIVED = 0x38  # topic, group, offset → Record, until it is acknowledged
    IDS = 0x39  # topic, event id → expiry, offset
    EXPIRIES = 0x3A  # topic, expiry, event id → nothing
    NEWEST = 0x3B  # topic, key → offset, of a compacted topic
    SWEPT = 0x3C  # topic → how far the sweeper is


def check_name(name: str, what: str = "topic") -> str:
    """The name of a topic or group if it can be one; raises `DefinitionError`."""
    if len(topic_name(name).encode()) > LONGEST_NAME:
        raise DefinitionError(f"{name!r} cannot name a {what}; use at most {LONGEST_NAME} bytes")
    return name


def short(text: str) -> bytes:
    """An id or key of an event as a part of a key of the store, which must not be long: beyond 64 bytes, its digest."""
    data = text.encode()
    return data if len(data) <= 64 else b"\0" + hashlib.blake2b(data, digest_size=32).digest()


def matcher(pattern: str) -> Callable[[str], bool]:
    """Whether a topic matches a pattern; raises `DefinitionError`."""
    pattern_tokens(pattern)
    return functools.partial(matches, pattern)


@functools.lru_cache(4096)
def log_key(topic: str) -> bytes:
    """The key behind which the events of a topic lie."""
    return bytes((Spaces.LOG,)) + topic.encode() + b"\0"


@functools.lru_cache(4096)
def newest_key(topic: str) -> bytes:
    """The key of the newest offset of a topic. Its version moves with each event: whoever waits for one looks there."""
    return bytes((Spaces.TOUCHED,)) + topic.encode() + b"\0"


@functools.lru_cache(4096)
def touched_key(topic: str, group: str) -> bytes:
    """The key whose version moves with each change in a group."""
    return newest_key(topic) + group.encode()


def event_key(topic: str, offset: int) -> bytes:
    """The key of an event."""
    return log_key(topic) + offset.to_bytes(SEQUENCE_BYTES, "big")


def events_after(topic: str, offset: int) -> tuple[bytes, bytes]:
    """The range of the events behind an offset."""
    return event_key(topic, offset + 1), successor(log_key(topic))


def offset_of(key: bytes) -> int:
    """The offset at the end of a key."""
    return int.from_bytes(key[-SEQUENCE_BYTES:], "big")


def names_of(key: bytes) -> tuple[str, str]:
    """Topic and group of a key that begins with them; the group is empty where the key has none. Raises `StoreCorrupt`."""
    topic, _, rest = key[1:].partition(b"\0")
    try:
        return topic.decode(), rest.partition(b"\0")[0].decode()
    except UnicodeDecodeError as error:
        raise StoreCorrupt(f"the key {key.hex()} of a topic cannot be read ({error}); restore a backup") from error


def row_key(space: int, topic: str, *rest: str | bytes | int) -> bytes:
    """The key of a row of a topic: names end with a zero byte, numbers have eight bytes, bytes stand as they are."""
    key = bytes((space,)) + topic.encode() + b"\0"
    for part in rest:
        if isinstance(part, str):
            key += part.encode() + b"\0"
        else:
            key += part.to_bytes(8, "big") if isinstance(part, int) else part
    return key


def rows_of(space: int, topic: str, *rest: str) -> tuple[bytes, bytes]:
    """The range of the rows of a topic, or of a group of it."""
    start = row_key(space, topic, *rest)
    return start, successor(start)


def space_range(space: int) -> tuple[bytes, bytes]:
    """All of a keyspace."""
    return bytes((space,)), bytes((space + 1,))
