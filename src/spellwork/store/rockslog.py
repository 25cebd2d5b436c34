"""Owns the verdict on RocksDB's log after it was found damaged: torn at its end as a crash leaves it, or damaged in the middle.
It must never write; RocksDB would end at the damage and forget the commits behind it.

The format is that of RocksDB's wiki, "Write Ahead Log File Format": blocks of 32 KiB with records in one or more parts, each with
a masked CRC-32C, a length and a kind in front of it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

_BLOCK = 32_768
_HEADER = struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = range(1, 5)
_RECYCLED = 4
_NUMBER = 4
_POLYNOMIAL = 0x82F63B78


def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)  # noqa: PLW2901 - the register
        table.append(value)
    return table


_CRC = _table()


def lost(folder: str) -> str:
    """What is missing; "" if nothing is that a crash would not explain.

    Each commit at `full` is on the disk before the next is written. So a damaged one with a whole one behind it is no crash's.
    """
    damaged = ""
    for log in sorted(Path(folder).glob("*.log"), key=lambda path: int(path.stem) if path.stem.isdecimal() else 0):
        started = False
        for at, kind in _parts(log.read_bytes()):
            if kind is None:
                damaged = damaged or f"{log.name} is damaged at byte {at}"
                started = False
            elif kind in (_FULL, _FIRST):
                started = True
            if started and kind in (_FULL, _LAST):
                if damaged:
                    return f"{damaged}, and later commits lie behind that"
                started = False
    return ""


def _parts(data: bytes) -> Iterator[tuple[int, int | None]]:
    """Where each part of a record is, and its kind; None for one that is not whole."""
    for start in range(0, len(data), _BLOCK):
        at, end = start, min(start + _BLOCK, len(data))
        while at + _HEADER.size <= end:
            if not any(data[at : at + _HEADER.size]):
                break  # nothing was written from here on
            size, kind = _part(data, at, end)
            yield at, kind
            at = at + size if kind is not None else _next(data, at + 1, end)


def _next(data: bytes, at: int, end: int) -> int:
    """The next whole part in a block; the length of the one before may have been damaged too."""
    while at + _HEADER.size <= end and _part(data, at, end)[1] is None:
        at += 1
    return at


def _part(data: bytes, at: int, end: int) -> tuple[int, int | None]:
    checksum, length, kind = _HEADER.unpack_from(data, at)
    number = _NUMBER if _RECYCLED < kind <= 2 * _RECYCLED else 0
    body = at + _HEADER.size
    last = body + number + length
    if last > end or not _FULL <= kind <= 2 * _RECYCLED:
        return 0, None
    if _masked(data[body - 1 : last]) != checksum:
        return 0, None
    return last - at, kind - _RECYCLED if number else kind


def _masked(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
