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
_crc32 = zlib.crc32


def seal(key: bytes, value: bytes, version: int) -> bytes:
    """What is stored beside a row."""
    named = _crc32(key)
    return _SEAL.pack(version, named, _crc32(value, named ^ (version & 0xFFFFFFFF) ^ (version >> 32)))


def seal_rows(rows: Iterable[tuple[bytes, bytes, int]]) -> list[tuple[bytes, bytes]]:
    """Keys, and seals with the values behind them: many at once, since this is most of what a row costs."""
    found = []
    pack, crc = _SEAL.pack, _crc32
    known, mixed = -1, 0
    for key, value, version in rows:
        if version != known:
            known, mixed = version, (version & 0xFFFFFFFF) ^ (version >> 32)
        named = crc(key)
        found.append((key, pack(version, named, crc(value, named ^ mixed)) + value))
    return found


def is_whole(key: Any, value: Any, sealed: Any) -> bool:
    """Whether a row is as it was written."""
    try:
        return bool(seal(key, value, int.from_bytes(sealed[:8], "big")) == sealed)
    except TypeError:  # damage may turn bytes into a number or text
        return False


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
