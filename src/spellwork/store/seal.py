"""Owns the seal of a row: its version and two checksums, one of the key alone and one of key, version and value.
It must never let a row through whose bytes are not those that were written.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from typing import Any

from spellwork.errors import RowDamaged

_SEAL = struct.Struct(">QII")
SEAL_BYTES = _SEAL.size
_LOW = 0xFFFFFFFF
_unpack = _SEAL.unpack
_crc32 = zlib.crc32


def seal(key: bytes, value: bytes, version: int) -> bytes:
    """What is stored beside a row."""
    named = _crc32(key)
    return _SEAL.pack(version, named, _crc32(value, named ^ (version & _LOW) ^ (version >> 32)))


def seal_rows(rows: Iterable[tuple[bytes, bytes, int]]) -> list[tuple[bytes, bytes]]:
    """Keys, and seals with the values behind them: many at once, since this is most of what a row costs."""
    found = []
    pack, crc = _SEAL.pack, _crc32
    known, mixed = -1, 0
    for key, value, version in rows:
        if version != known:
            known, mixed = version, (version & _LOW) ^ (version >> 32)
        named = crc(key)
        found.append((key, pack(version, named, crc(value, named ^ mixed)) + value))
    return found


def is_whole(key: Any, value: Any, sealed: Any) -> bool:
    """Whether a row is as it was written."""
    try:
        version, named, whole = _unpack(sealed)
        return bool(_crc32(key) == named and _crc32(value, named ^ (version & _LOW) ^ (version >> 32)) == whole)
    except (TypeError, struct.error):  # damage may turn bytes into a number or text, or leave some of them
        return False


def whole_pairs(rows: Iterable[tuple[Any, Any, Any]], damaged: bytes | None) -> list[tuple[bytes, bytes]]:
    """Keys and values of rows with their seals: as `is_whole`, written out, since this is most of what a scan costs.

    `damaged` stands for the value of a row that is not as it was written; without it such a row raises `RowDamaged`.
    """
    found = []
    unpack, crc, low = _unpack, _crc32, _LOW
    for key, value, sealed in rows:
        try:
            version, named, whole = unpack(sealed)
            is_as_written = crc(key) == named and crc(value, named ^ (version & low) ^ (version >> 32)) == whole
        except (TypeError, struct.error):
            is_as_written = False
        if is_as_written:
            found.append((key, value))
        elif damaged is None:
            raise damage(key)
        else:
            found.append((key, damaged))
    return found


def names_its_row(key: Any, sealed: Any) -> bool:
    """Whether a damaged row still stands under its own key, so that who reads it finds the damage."""
    try:
        return bool(_crc32(key).to_bytes(4, "big") == sealed[8:12])
    except TypeError:
        return False


def version_of(key: bytes, value: bytes, sealed: bytes) -> int:
    """The version of a row; raises `RowDamaged`."""
    if not is_whole(key, value, sealed):
        raise damage(key)
    return int.from_bytes(sealed[:8], "big")


def damage(key: bytes) -> RowDamaged:
    """The error of a row that is not as it was written."""
    return RowDamaged(f"the row at {key.hex()} is damaged (checksum); restore it from a backup", key=key)
