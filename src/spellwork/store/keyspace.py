"""Owns the division of one ordered map into independent keyspaces by a one-byte prefix.
It must never be given the same prefix twice.
"""

from __future__ import annotations

import msgspec

WATCHED = 0x80


class Keyspace(msgspec.Struct, frozen=True):
    """A namespace of keys. Those with a prefix of 0x80 and above are *watched*: their changes go to the change feed."""

    name: str
    prefix: int

    def key(self, suffix: bytes = b"") -> bytes:
        """The full key of `suffix` in this keyspace."""
        return bytes((self.prefix,)) + suffix

    def range(self, prefix: bytes = b"") -> tuple[bytes, bytes]:
        """First key and end (exclusive) of everything that starts with `prefix`."""
        start = self.key(prefix)
        return start, successor(start)


def successor(prefix: bytes) -> bytes:
    """The smallest key greater than every key that starts with `prefix`."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes((stripped[-1] + 1,)) if stripped else b"\xff" * 64


META = Keyspace("meta", 0x01)
PARTITIONS = Keyspace("partitions", 0x02)
FEED = Keyspace("feed", 0x03)
# As long as a journal key, so that it goes into the store with the same statement.
REVISION = META.key(b"revision\0\0\0\0")
LAZY = META.key(b"lazily-synced")
FEED_FLOOR = META.key(b"feed-floor")
FORMAT = META.key(b"format")
KEYS = META.key(b"encryption-keys")
LAYOUT = 3
"""The form of all that a store holds, as it says itself: an earlier Spellwork must not open one that it would harm.

1: rows are sealed with CRC-32 alone; 2: a topic's newest offset lies in front of its log.
"""
BACKEND_ROWS = (LAZY, FORMAT)
"""What a backend notes about itself."""
OWN_ROWS = (*BACKEND_ROWS, KEYS)
"""What says how a store is kept: no part of what it holds."""
