"""Owns the disk that simulated processes share: what is committed, what is not yet synced, and who may write.
It must never apply a part of a transaction.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable

from spellwork.errors import StoreFailed
from spellwork.store.backend import Row
from spellwork.store.keyspace import PARTITIONS
from spellwork.store.memory import MemoryBackend, MemoryReader

Write = tuple[list[Row], list[bytes], list[tuple[bytes, bytes]]]


class Disk:
    """Committed rows. `watch` sees a transaction before it is applied, `committed` hears of it after; `digest` hashes them all."""

    def __init__(self) -> None:
        self.tables = MemoryBackend()
        self.revision = 0
        self.commits: Counter[str] = Counter()
        self.writer = ""
        self.watch: Callable[[str, Write], None] = lambda _writer, _write: None
        self.committed: Callable[[str], None] = lambda _writer: None
        self._digest = hashlib.blake2b(digest_size=16)
        self._undo: list[tuple[int, list[tuple[bytes, tuple[bytes, int] | None]]]] = []

    @property
    def digest(self) -> str:
        """Equal for equal histories of commits."""
        return self._digest.hexdigest()

    @property
    def reader(self) -> MemoryReader:
        """The committed state; read it before anything else is committed."""
        return self.tables.live_reader()

    def apply(self, writer: str, write: Write, revision: int, at: int, *, synced: bool) -> None:
        """Commit one transaction of a process."""
        self.watch(writer, write)
        rows, deletes, ranges = write
        self._digest.update(f"{writer} {at} {revision}\n".encode())
        for key, value, _ in rows:
            if key[0] != PARTITIONS.prefix:  # rows of owners name the real process
                self._digest.update(key + b"=" + value)
        for key in deletes:
            self._digest.update(key + b"!")
        self._remember(write, synced=synced)
        self.tables.begin(sync=False)
        for start, end in ranges:
            self.tables.delete_range(start, end)
        self.tables.write(rows, deletes)
        self.tables.commit(revision)
        self.revision = revision
        self.commits[writer] += 1
        self.writer = writer
        self.committed(writer)

    def _remember(self, write: Write, *, synced: bool) -> None:
        if synced:
            self._undo.clear()
            return
        rows, deletes, ranges = write
        keys = {key: None for key, _, _ in rows} | dict.fromkeys(deletes)
        for start, end in ranges:
            keys.update((key, None) for key, _ in self.reader.scan(start, end))
        self._undo.append((self.revision, [(key, self.tables.get(key)) for key in keys]))

    def cut(self, keep: int) -> int:
        """The power fails: of the transactions since the last sync only the first `keep` remain. Returns how many are lost."""
        lost = 0
        while len(self._undo) > keep:
            self.revision, before = self._undo.pop()
            self.tables.begin(sync=False)
            self.tables.write(
                [(key, row[0], row[1]) for key, row in before if row is not None], [key for key, row in before if row is None]
            )
            self.tables.commit(self.revision)
            lost += 1
        self._undo.clear()
        self._digest.update(f"cut {lost}\n".encode())
        return lost


class SimReader(MemoryReader):
    """Reads what is committed when the query runs; a query runs within one moment."""

    def __init__(self, disk: Disk):
        super().__init__(disk.reader._tables)
        self._disk = disk

    def again(self) -> SimReader:
        """A view of now."""
        return SimReader(self._disk)

    def close(self) -> None:
        """Nothing is held."""

    def dispose(self) -> None:
        """Nothing is held."""


class SimBackend:
    """The store contract of one process over the shared disk. `fault` names what the next commit suffers."""

    inline = False
    checked = True

    def check(self, after: bytes) -> bytes:
        """Damage is not simulated here."""
        return after

    def __init__(self, disk: Disk, name: str, time: Callable[[], int], fault: Callable[[], str]):
        self._disk = disk
        self._name = name
        self._time = time
        self._fault = fault
        self._seen = -1
        self._sync = True
        self._rows: list[Row] = []
        self._deletes: list[bytes] = []
        self._ranges: list[tuple[bytes, bytes]] = []

    def begin(self, *, sync: bool) -> tuple[int, bool]:
        """Start a transaction."""
        self.rollback()
        self._sync = sync
        changed = self._seen != self._disk.revision or self._disk.writer != self._name
        self._seen = self._disk.revision
        return self._disk.revision, changed

    def get(self, key: bytes) -> tuple[bytes, int] | None:
        """Value and version inside the transaction."""
        for row in reversed(self._rows):
            if row[0] == key:
                return row[1], row[2]
        if key in self._deletes or any(start <= key < end for start, end in self._ranges):
            return None
        return self._disk.tables.get(key)

    def versions(self, start: bytes, end: bytes) -> list[tuple[bytes, int]]:
        """Keys and versions of a range inside the transaction."""
        keys = {key for key, _, _ in self._disk.reader.rows(start, end)} | {row[0] for row in self._rows if start <= row[0] < end}
        return [(key, row[1]) for key in sorted(keys) if (row := self.get(key)) is not None]

    def write(self, rows: list[Row], deletes: list[bytes]) -> None:
        """Add to the transaction."""
        gone = set(deletes)
        self._rows = [row for row in self._rows if row[0] not in gone] + rows
        put = {row[0] for row in rows}
        self._deletes = [key for key in self._deletes if key not in put] + deletes

    def delete_range(self, start: bytes, end: bytes) -> None:
        """Add to the transaction."""
        self._rows = [row for row in self._rows if not start <= row[0] < end]
        self._ranges.append((start, end))

    def commit(self, revision: int) -> None:
        """Apply it, or suffer."""
        fault = self._fault()
        if fault == "fail":
            raise StoreFailed("simulated: the commit failed")
        write = (self._rows, self._deletes, self._ranges)
        self._disk.apply(self._name, write, revision, self._time(), synced=self._sync)
        self._seen = revision
        self.rollback()
        if fault == "unknown":
            raise StoreFailed("simulated: the commit's outcome is unknown")

    def rollback(self) -> None:
        """Forget the transaction."""
        self._rows, self._deletes, self._ranges = [], [], []

    def reopen(self) -> None:
        """There is no handle."""

    def reader(self) -> SimReader:
        """A view for one query."""
        return SimReader(self._disk)

    def doorbell(self) -> int:
        """Changes with every commit of another process."""
        return self._disk.commits.total() - self._disk.commits[self._name]

    def size(self) -> int:
        """Bytes of keys and values."""
        return self._disk.tables.size()

    def close(self) -> None:
        """Nothing is held."""
