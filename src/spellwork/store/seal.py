"""Owns the seal of a row: its version and two checksums, one of the key alone and one of key, version and value.
It must never let a row through whose bytes are not those that were written, by whichever version of Spellwork.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import xxhash

from spellwork.errors import RowDamaged

_SEAL = struct.Struct(">QII")
SEAL_BYTES = _SEAL.size
_LOW = 0xFFFFFFFF
_PRIME = (1 << 32) - 5  # the largest one of 32 bits: no two versions that differ in one or two bits give the same seed
_unpack = _SEAL.unpack
_Checksum = Callable[[bytes, int], int]  # of bytes, from a seed; 32 bits
_checksum: _Checksum = xxhash.xxh32_intdigest  # a quarter of CRC-32's time for a value of 100 bytes
_earlier_checksum: _Checksum = zlib.crc32  # rows have it that were written before there was the other one


def seal(key: bytes, value: bytes, version: int) -> bytes:
    """What is stored beside a row."""
    named = _checksum(key, 0)
    return _SEAL.pack(version, named, _checksum(value, named ^ version % _PRIME))


def seal_rows(rows: Iterable[tuple[bytes, bytes, int]]) -> list[tuple[bytes, bytes]]:
    """Keys, and seals with the values behind them: many at once, since this is most of what a row costs."""
    found = []
    pack, checksum = _SEAL.pack, _checksum
    known, mixed = -1, 0
    for key, value, version in rows:
        if version != known:
            known, mixed = version, version % _PRIME
        named = checksum(key, 0)
        found.append((key, pack(version, named, checksum(value, named ^ mixed)) + value))
    return found


def is_whole(key: Any, value: Any, sealed: Any) -> bool:
    """Whether a row is as it was written."""
    try:
        version, named, whole = _unpack(sealed)
        return bool(
            (_checksum(key, 0) == named and _checksum(value, named ^ version % _PRIME) == whole)
            or (_earlier_checksum(key, 0) == named and _earlier_checksum(value, named ^ _folded(version)) == whole)
        )
    except (TypeError, struct.error):  # damage may turn bytes into a number or text, or leave some of them
        return False


def whole_pairs(rows: Iterable[tuple[Any, Any, Any]], damaged: bytes | None) -> list[tuple[bytes, bytes]]:
    """Keys and values of rows with their seals: as `is_whole`, written out for what is common, since this is most of what a scan
    costs.

    `damaged` stands for the value of a row that is not as it was written; without it such a row raises `RowDamaged`.
    """
    found = []
    unpack, checksum, prime = _unpack, _checksum, _PRIME
    for key, value, sealed in rows:
        try:
            version, named, whole = unpack(sealed)
            is_as_written = checksum(key, 0) == named and checksum(value, named ^ version % prime) == whole
        except (TypeError, struct.error):
            is_as_written = False
        if is_as_written or is_whole(key, value, sealed):
            found.append((key, value))
        elif damaged is None:
            raise damage(key)
        else:
            found.append((key, damaged))
    return found


def names_its_row(key: Any, sealed: Any) -> bool:
    """Whether a damaged row still stands under its own key, so that who reads it finds the damage."""
    try:
        return sealed[8:12] in (_checksum(key, 0).to_bytes(4, "big"), _earlier_checksum(key, 0).to_bytes(4, "big"))
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


def _folded(version: int) -> int:
    """A version as the seed of an earlier checksum."""
    return (version & _LOW) ^ (version >> 32)
