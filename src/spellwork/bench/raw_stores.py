"""Owns the limit beside each figure of a store: the same rows through the library alone, synced in the same way.
It must never use Spellwork's store: it is what that is compared with.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

Pairs = list[tuple[bytes, bytes]]


class Raw(Protocol):
    """A library as its manual shows it, at full durability."""

    def put(self, pairs: Pairs) -> None:
        """One transaction, on the disk when it returns."""
        ...

    def get(self, key: bytes) -> bytes | None:
        """One value."""
        ...

    def scan(self, start: bytes, limit: int) -> Pairs:
        """Pairs from `start` on."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class SqliteRaw:
    """One table, one statement a row."""

    def __init__(self, path: Path):
        import apsw  # noqa: PLC0415 - each library is imported by whoever measures it

        self._connection = apsw.Connection(str(path))
        self._connection.execute(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA fullfsync=1; PRAGMA wal_autocheckpoint=16000; "
            "PRAGMA cache_size=-65536; CREATE TABLE IF NOT EXISTS kv(k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID"
        ).fetchall()

    def put(self, pairs: Pairs) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany("INSERT OR REPLACE INTO kv VALUES (?, ?)", pairs)
        self._connection.execute("COMMIT")

    def get(self, key: bytes) -> bytes | None:
        row: Any = self._connection.execute("SELECT v FROM kv WHERE k = ?", (key,)).fetchone()
        return row[0] if row else None

    def scan(self, start: bytes, limit: int) -> Pairs:
        rows: Any = self._connection.execute("SELECT k, v FROM kv WHERE k >= ? ORDER BY k LIMIT ?", (start, limit)).fetchall()
        return list(rows)

    def close(self) -> None:
        self._connection.close()


class LmdbRaw:
    """One environment with a map that is large enough."""

    def __init__(self, path: Path):
        import lmdb  # noqa: PLC0415 - the same

        self._env = lmdb.Environment(str(path), map_size=16 << 30, subdir=False)

    def put(self, pairs: Pairs) -> None:
        with self._env.begin(write=True) as txn:
            for key, value in pairs:
                txn.put(key, value)

    def get(self, key: bytes) -> bytes | None:
        with self._env.begin() as txn:
            return txn.get(key)

    def scan(self, start: bytes, limit: int) -> Pairs:
        found: Pairs = []
        with self._env.begin() as txn, txn.cursor() as cursor:
            if cursor.set_range(start):
                for pair in cursor.iternext():
                    found.append(pair)
                    if len(found) == limit:
                        break
        return found

    def close(self) -> None:
        self._env.close()


class RocksRaw:
    """One database with the library's own defaults, each batch synced as it is written."""

    def __init__(self, path: Path):
        import rocksdict  # noqa: PLC0415 - the same

        options = rocksdict.Options(raw_mode=True)
        options.create_if_missing(True)
        self._batch: Callable[[], Any] = lambda: rocksdict.WriteBatch(raw_mode=True)
        self._synced = rocksdict.WriteOptions()
        self._synced.sync = True
        self._db = rocksdict.Rdict(str(path), options)

    def put(self, pairs: Pairs) -> None:
        batch = self._batch()
        for key, value in pairs:
            batch.put(key, value)
        self._db.write(batch, self._synced)

    def get(self, key: bytes) -> bytes | None:
        found: bytes | None = self._db.get(key)
        return found

    def scan(self, start: bytes, limit: int) -> Pairs:
        found: Pairs = []
        iterator = self._db.iter()
        iterator.seek(start)
        while iterator.valid() and len(found) < limit:
            found.append((iterator.key(), iterator.value()))
            iterator.next()
        return found

    def close(self) -> None:
        self._db.close()


RAW: dict[str, Callable[[Path], Raw]] = {"sqlite": SqliteRaw, "lmdb": LmdbRaw, "rocksdb": RocksRaw}
