"""Owns the backend that keeps everything in memory: for tests, simulation and jobs that need not survive.
It must never differ from the others in anything but durability.
"""

from __future__ import annotations

import bisect

from spellwork.errors import StoreFailed
from spellwork.store.backend import Row


class _Table:
    """One prefix byte's rows: a dict, and its keys in order. Separate lists keep inserts near the end cheap."""

    __slots__ = ("keys", "rows")

    def __init__(self) -> None:
        self.rows: dict[bytes, tuple[bytes, int]] = {}
        self.keys: list[bytes] = []

    def put(self, key: bytes, value: bytes, version: int) -> None:
        if key not in self.rows:
            if not self.keys or key > self.keys[-1]:
                self.keys.append(key)
            else:
                bisect.insort(self.keys, key)
        self.rows[key] = (value, version)

    def delete(self, key: bytes) -> None:
        if self.rows.pop(key, None) is not None:
            del self.keys[bisect.bisect_left(self.keys, key)]

    def copy(self) -> _Table:
        twin = _Table()
        twin.rows, twin.keys = dict(self.rows), list(self.keys)
        return twin


class MemoryReader:
    """Reads tables, live or copied."""

    def __init__(self, tables: dict[int, _Table]):
        self._tables = tables

    def get(self, key: bytes) -> bytes | None:
        table = self._tables.get(key[0])
        row = table.rows.get(key) if table else None
        return row[0] if row else None

    def version(self, key: bytes) -> int:
        table = self._tables.get(key[0])
        row = table.rows.get(key) if table else None
        return row[1] if row else 0

    def scan(
        self,
        start: bytes,
        end: bytes,
        *,
        reverse: bool = False,
        limit: int | None = None,
        damaged: bytes | None = None,  # noqa: ARG002 - memory takes no damage
    ) -> list[tuple[bytes, bytes]]:
        return [(key, value) for key, value, _ in self.rows(start, end, reverse=reverse, limit=limit)]

    def rows(self, start: bytes, end: bytes, *, reverse: bool = False, limit: int | None = None) -> list[Row]:
        found: list[Row] = []
        for prefix in sorted(self._tables, reverse=reverse):
            table = self._tables[prefix]
            low, high = bisect.bisect_left(table.keys, start), bisect.bisect_left(table.keys, end)
            if reverse:
                keys = table.keys[low:high] if limit is None else table.keys[max(low, high - limit) : high]
                keys.reverse()
            else:
                keys = table.keys[low : high if limit is None else min(high, low + limit)]
            found += [(key, *table.rows[key]) for key in keys]
            if limit is not None and len(found) >= limit:
                return found[:limit]
        return found

    def close(self) -> None:
        self._tables = {}

    def again(self) -> MemoryReader:
        return self

    def dispose(self) -> None:
        self._tables = {}


class MemoryBackend:
    """The contract over dicts. Writes of a transaction are kept aside until `commit`."""

    inline = True
    checked = True

    def __init__(self) -> None:
        self._tables: dict[int, _Table] = {}
        self._revision = 0
        self._rows: dict[bytes, tuple[bytes, int] | None] = {}  # what the transaction puts; None deletes
        self._ranges: list[tuple[bytes, bytes]] = []  # what it deletes before that

    def check(self, after: bytes) -> bytes:
        return after

    def begin(self, *, sync: bool) -> tuple[int, bool]:  # noqa: ARG002 - there is nothing to sync
        self.rollback()
        return self._revision, False

    def get(self, key: bytes) -> tuple[bytes, int] | None:
        if key in self._rows:
            return self._rows[key]
        if any(start <= key < end for start, end in self._ranges):
            return None
        table = self._tables.get(key[0])
        return table.rows.get(key) if table else None

    def versions(self, start: bytes, end: bytes) -> list[tuple[bytes, int]]:
        keys = {key for key, _, _ in MemoryReader(self._tables).rows(start, end)}
        keys |= {key for key in self._rows if start <= key < end}
        return [(key, row[1]) for key in sorted(keys) if (row := self.get(key)) is not None]

    def write(self, rows: list[Row], deletes: list[bytes]) -> None:
        self._rows.update(dict.fromkeys(deletes))
        self._rows.update((key, (value, version)) for key, value, version in rows)

    def delete_range(self, start: bytes, end: bytes) -> None:
        self._rows = {key: row for key, row in self._rows.items() if not start <= key < end}
        self._ranges.append((start, end))

    def commit(self, revision: int) -> None:
        for start, end in self._ranges:
            for key, _ in MemoryReader(self._tables).scan(start, end):
                self._tables[key[0]].delete(key)
        for key, row in self._rows.items():
            if row is not None:
                self._tables.setdefault(key[0], _Table()).put(key, *row)
            elif key[0] in self._tables:
                self._tables[key[0]].delete(key)
        self.rollback()
        self._revision = revision

    def rollback(self) -> None:
        self._rows, self._ranges = {}, []

    def reopen(self) -> None:
        raise StoreFailed("a store in memory that failed in the middle of a commit cannot be opened again")

    def reader(self) -> MemoryReader:
        return MemoryReader({prefix: table.copy() for prefix, table in self._tables.items()})

    def live_reader(self) -> MemoryReader:
        """A reader of the current state, for reads that end before anything else runs."""
        return MemoryReader(self._tables)

    def doorbell(self) -> int:
        return 0

    def size(self) -> int:
        return sum(len(key) + len(row[0]) for table in self._tables.values() for key, row in table.rows.items())

    def close(self) -> None:
        self._tables = {}
