"""Owns the limit beside each figure: what SQLite alone does on the same disk, with the same settings.
It must never use Spellwork's store: it is what that is compared with.
"""

from __future__ import annotations

import time
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

import apsw

_BATCH = 1000
_VALUE = b"x" * 100


class RawSqlite:
    """One table of increasing keys in a database of its own, synced like a store at durability full."""

    def __init__(self, folder: str):
        self._connection = apsw.Connection(str(Path(folder) / "raw.db"))
        # To the end: apsw stops at the first row, and setting the journal mode answers with one.
        self._connection.execute(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA fullfsync=1; PRAGMA checkpoint_fullfsync=1; "
            "PRAGMA wal_autocheckpoint=16000; PRAGMA journal_size_limit=134217728; PRAGMA cache_size=-65536; "
            "CREATE TABLE kv(k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID"
        ).fetchall()
        self._keys = count()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._connection.close()

    def commit(self, rows: int = 1) -> None:
        """Write so many rows and wait for the disk once."""
        self._connection.execute("BEGIN IMMEDIATE")
        pairs = [(next(self._keys).to_bytes(8, "big"), _VALUE) for _ in range(rows)]
        self._connection.executemany("INSERT INTO kv VALUES (?, ?)", pairs)
        self._connection.execute("COMMIT")

    def timed(self) -> float:
        """The seconds that one commit of one row takes."""
        began = time.perf_counter()
        self.commit()
        return time.perf_counter() - began

    def limits(self, seconds: float) -> dict[str, float]:
        """Commits of one row a second, and rows a second at 1,000 a commit; about `seconds` for each."""
        return {
            "raw_commits_per_second": self._rate(1, seconds),
            "raw_rows_per_second_at_1000": self._rate(_BATCH, seconds),
        }

    def _rate(self, rows: int, seconds: float) -> float:
        began = time.perf_counter()
        done = 0
        while (passed := time.perf_counter() - began) < seconds or not done:
            self.commit(rows)
            done += rows
        return done / passed
