"""Owns the stored form of one value: when it expires, and its payload.
It must never know what the payload means.

A row is 0x00 and the payload, or 0x01, the moment of expiry (microseconds since 1970 UTC, 8 bytes, big-endian) and the payload.
"""

from __future__ import annotations

_PLAIN, _EXPIRING = b"\x00", b"\x01"
_HEADER = 9


def pack(payload: bytes, due: int = 0) -> bytes:
    """The row of a payload that expires at `due` (0: never)."""
    return _EXPIRING + due.to_bytes(8, "big") + payload if due else _PLAIN + payload


def due_of(row: bytes) -> int:
    """When the row expires (0: never)."""
    return int.from_bytes(row[1:_HEADER], "big") if row[:1] == _EXPIRING else 0


def payload_of(row: bytes) -> bytes:
    """What was packed."""
    return row[_HEADER:] if row[:1] == _EXPIRING else row[1:]


def is_live(row: bytes, now: int) -> bool:
    """Whether the row can still be seen at `now`."""
    return row[:1] != _EXPIRING or int.from_bytes(row[1:_HEADER], "big") > now
