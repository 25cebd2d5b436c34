"""Owns keys that are longer than LMDB takes: where a row is put, and the order of rows as if there were no such limit.
It must never let two keys share a place.

A key shorter than `limit - 16` bytes is its own place. Longer ones that begin alike share a *group*: the place is that beginning
and a digest of the whole key, which stands beside the value. A group is read as a whole and sorted.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from spellwork.errors import RowDamaged
from spellwork.store.seal import SEAL_BYTES, damage

Found = tuple[bytes, bytes, bytes]
"""Key, value, seal."""
_DIGEST = 16
_LENGTH = 4


class LongKeys:
    """Reads and names rows of an LMDB transaction whose keys may have at most `limit` bytes."""

    def __init__(self, limit: int):
        self._direct = limit - _DIGEST

    def place(self, key: bytes) -> bytes:
        """Where the row of `key` is."""
        if len(key) < self._direct:
            return key
        return key[: self._direct] + hashlib.blake2b(key, digest_size=_DIGEST).digest()

    def placed(self, rows: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """The places of rows and what is put there, from keys and their values behind seals."""
        direct = self._direct
        if max(map(len, [key for key, _ in rows]), default=0) < direct:
            return rows
        return [row if len(row[0]) < direct else self._grouped(*row) for row in rows]

    def _grouped(self, key: bytes, data: bytes) -> tuple[bytes, bytes]:
        named = len(key).to_bytes(_LENGTH, "big") + key
        return self.place(key), data[:SEAL_BYTES] + named + data[SEAL_BYTES:]

    def _row(self, place: bytes, data: bytes) -> Found:
        if len(place) < self._direct:
            return place, data[SEAL_BYTES:], data[:SEAL_BYTES]
        value = SEAL_BYTES + _LENGTH + int.from_bytes(data[SEAL_BYTES : SEAL_BYTES + _LENGTH], "big")
        key = data[SEAL_BYTES + _LENGTH : value]
        if self.place(key) != place:
            raise damage(place)
        return key, data[value:], data[:SEAL_BYTES]

    def get(self, txn: Any, key: bytes) -> tuple[bytes, bytes] | None:
        """Value and seal of a row."""
        place = self.place(key)
        data = txn.get(place)
        if data is None:
            return None
        if place is key:
            return data[SEAL_BYTES:], data[:SEAL_BYTES]
        _, value, sealed = self._row(place, data)
        return value, sealed

    def scan(self, txn: Any, start: bytes, end: bytes, *, reverse: bool, limit: int | None) -> list[Found]:
        """The rows with start <= key < end, in the order of their keys."""
        if start >= end or limit == 0:
            return []
        if not reverse and len(start) < self._direct and len(end) < self._direct:
            return self._short(txn, start, end, limit)
        return self._any(txn, start, end, reverse=reverse, limit=limit)

    def _short(self, txn: Any, start: bytes, end: bytes, limit: int | None) -> list[Found]:
        """As `scan`, for as long as no key is a long one: then the order of the places is that of the keys."""
        cursor, direct = txn.cursor(), self._direct
        found: list[Found] = []
        if cursor.set_range(start) if start else cursor.first():
            for place, data in cursor.iternext():
                if place >= end:
                    break
                if len(place) >= direct:  # what was found is shorter than the beginning of this group, and before it
                    left = None if limit is None else limit - len(found)
                    return found + self._any(txn, place[:direct], end, reverse=False, limit=left)
                found.append((place, data[SEAL_BYTES:], data[:SEAL_BYTES]))
                if len(found) == limit:
                    break
        return found

    def _any(self, txn: Any, start: bytes, end: bytes, *, reverse: bool, limit: int | None) -> list[Found]:
        places = self._backwards(txn, start, end) if reverse else self._forwards(txn, start, end)
        return list(itertools.islice(self._sorted(places, start, end, reverse=reverse), limit))

    def _forwards(self, txn: Any, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        cursor, direct = txn.cursor(), self._direct
        first = start[:direct]
        if cursor.set_range(first) if first else cursor.first():
            for place, data in cursor.iternext():
                if place >= end and place[:direct] >= end:
                    return
                yield place, data

    def _backwards(self, txn: Any, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        cursor, first = txn.cursor(), start[: self._direct]
        beyond = _behind(end[: self._direct]) if len(end) > self._direct else end
        if cursor.prev() if beyond and cursor.set_range(beyond) else cursor.last():
            for place, data in cursor.iterprev():
                if place < first:
                    return
                yield place, data

    def _sorted(self, places: Iterable[tuple[bytes, bytes]], start: bytes, end: bytes, *, reverse: bool) -> Iterator[Found]:
        direct = self._direct
        group: list[Found] = []
        beginning = b""
        for place, data in places:
            if group and place[:direct] != beginning:
                yield from sorted(group, reverse=reverse)
                group = []
            if len(place) < direct:
                yield place, data[SEAL_BYTES:], data[:SEAL_BYTES]
            else:
                beginning, row = place[:direct], self._row(place, data)
                if start <= row[0] < end:
                    group.append(row)
        yield from sorted(group, reverse=reverse)

    def delete_range(self, txn: Any, start: bytes, end: bytes) -> None:
        """Delete every row with start <= key < end; one whose key is damaged stays, for whoever reads it to find."""
        places = [place for place, data in self._forwards(txn, start, end) if self._is_between(place, data, start, end)]
        for place in places:
            txn.delete(place)

    def _is_between(self, place: bytes, data: bytes, start: bytes, end: bytes) -> bool:
        if len(place) < self._direct:
            return True
        try:
            return start <= self._row(place, data)[0] < end
        except RowDamaged:
            return False


def _behind(beginning: bytes) -> bytes:
    """The first place behind a group, empty if that is the end of everything."""
    stripped = beginning.rstrip(b"\xff")
    return stripped[:-1] + bytes((stripped[-1] + 1,)) if stripped else b""
