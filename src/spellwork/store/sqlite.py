"""Owns the SQLite backend: one table, WAL, explicit durability, and the refusal of what is not a store.
It must never use the standard library's module (its SQLite may carry the WAL-reset bug), nor write a file that it did not make.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from typing import Any

import apsw

from spellwork.errors import (
    StoreCorrupt,
    StoreError,
    StoreFailed,
    StoreFull,
    StoreMissing,
    StoreTooNew,
    StoreUnavailable,
)
from spellwork.store.backend import Row
from spellwork.store.keyspace import REVISION
from spellwork.store.turn import Turn

APPLICATION_ID = 0x53504C57  # "SPLW"
SCHEMA = 1
CHECKPOINT_PAGES = 16_000
_FIRST_SAFE = (3, 51, 3)  # sqlite.org, "The WAL Reset Bug": two connections can corrupt a database up to 3.51.2
_LOCK_WAIT = 30.0

_PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "fullfsync=1",  # macOS: fsync alone leaves the data in the drive's cache
    "checkpoint_fullfsync=1",
    f"wal_autocheckpoint={CHECKPOINT_PAGES}",
    "journal_size_limit=134217728",
    "cache_size=-65536",
    "temp_store=MEMORY",
    "trusted_schema=0",
)

# apsw gives up the GIL at each step, and a busy event loop keeps it for 5 ms: so the rows of a group go in by one statement a
# key length, as blobs of version (8 bytes), key and value.
_INSERT = (
    "INSERT OR REPLACE INTO kv(k, v, r) SELECT substr(value, 9, ?2), substr(value, 9 + ?2), substr(value, 1, 8) FROM carray(?1)"
)
_DELETE = "DELETE FROM kv WHERE k IN (SELECT value FROM carray(?1))"


class SqliteReader:
    """Reads through a connection of its own, each inside one read transaction."""

    def __init__(self, connection: apsw.Connection, path: str):
        self._connection = connection
        self._path = path
        with translated(path):
            connection.execute("BEGIN")

    def get(self, key: bytes) -> bytes | None:
        row = self._one("SELECT v FROM kv WHERE k = ?", key)
        return row[0] if row else None

    def version(self, key: bytes) -> int:
        row = self._one("SELECT r FROM kv WHERE k = ?", key)
        return int.from_bytes(row[0], "big") if row else 0

    def _one(self, sql: str, key: bytes) -> Any:
        with translated(self._path):
            return self._connection.execute(sql, (key,)).fetchone()

    def scan(self, start: bytes, end: bytes, *, reverse: bool = False, limit: int | None = None) -> list[tuple[bytes, bytes]]:
        order = "DESC" if reverse else "ASC"
        with translated(self._path):
            rows: list[Any] = self._connection.execute(
                f"SELECT k, v FROM kv WHERE k >= ? AND k < ? ORDER BY k {order} LIMIT ?",  # noqa: S608 - a constant
                (start, end, -1 if limit is None else limit),
            ).fetchall()
        return rows

    def close(self) -> None:
        with translated(self._path):
            self._connection.execute("ROLLBACK")

    def again(self) -> SqliteReader:
        return SqliteReader(self._connection, self._path)

    def dispose(self) -> None:
        with translated(self._path):
            self._connection.close()


class SqliteBackend:
    """The contract over one SQLite file. `create=False` refuses a file that is not there."""

    inline = False

    def __init__(self, path: str, *, create: bool = True, vfs: str | None = None):
        if tuple(int(part) for part in apsw.sqlite_lib_version().split(".")) < _FIRST_SAFE:
            raise StoreUnavailable(
                f"SQLite {apsw.sqlite_lib_version()} can corrupt a database with two writers; install apsw 3.51.3 or newer"
            )
        self.path = path
        self._vfs = vfs
        self._synced: bool | None = None
        self._seen_version = self._bell_version = -1
        self._revision = 0
        self._foreign = 0
        _prepare_file(path, create=create)
        self._writer = self._connect()
        try:
            self._open_schema(create=create)
            self._writer.set_busy_timeout(5)  # from here on the turn decides who waits
            self._bell = self._connect()
            with translated(path):
                self._turn = Turn(f"{path}-turn")
        except (StoreError, apsw.Error):
            self._writer.close()
            raise

    def _connect(self) -> apsw.Connection:
        with translated(self.path):
            connection = apsw.Connection(self.path, flags=apsw.SQLITE_OPEN_READWRITE, vfs=self._vfs)
            connection.set_busy_timeout(2000)
            for pragma in _PRAGMAS:
                connection.execute(f"PRAGMA {pragma}").fetchall()
            return connection

    def _open_schema(self, *, create: bool) -> None:
        with translated(self.path):
            application = self._writer.pragma("application_id")
            schema = self._writer.pragma("user_version")
            empty = not self._writer.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone()
            if application == 0 and empty and not create:
                raise StoreMissing(f"{self.path} is empty, not a store; check --store, or start a run to create one")
            if application == 0 and empty:
                self._writer.execute(
                    "BEGIN IMMEDIATE; "  # two processes may both come here: the second finds the table and agrees
                    "CREATE TABLE IF NOT EXISTS kv(k BLOB PRIMARY KEY, v BLOB NOT NULL, r BLOB NOT NULL) WITHOUT ROWID; "
                    f"PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={SCHEMA}; COMMIT"
                )
                return
        if application != APPLICATION_ID:
            raise StoreCorrupt(f"{self.path} is an SQLite database of another application; choose another path")
        if schema > SCHEMA:
            raise StoreTooNew(f"{self.path} has schema {schema}, this Spellwork knows up to {SCHEMA}; install a newer Spellwork")

    def begin(self, *, sync: bool) -> tuple[int, bool]:
        self._turn.let_others_in()
        with translated(self.path):
            if sync is not self._synced:
                self._writer.execute(f"PRAGMA synchronous={'FULL' if sync else 'NORMAL'}")
                self._synced = sync
            self._begin_immediate()
            seen = self._writer.execute("PRAGMA data_version").get
            changed = seen != self._seen_version
            if changed:
                self._seen_version = seen
                self._foreign = self._revision = _stored_revision(self._writer)
            return self._revision, changed

    def _begin_immediate(self) -> None:
        try:
            self._writer.execute("BEGIN IMMEDIATE")
        except apsw.BusyError:
            deadline = time.monotonic() + _LOCK_WAIT
            with self._turn.raised():
                while True:
                    try:
                        self._writer.execute("BEGIN IMMEDIATE")
                    except apsw.BusyError:
                        if time.monotonic() > deadline:
                            raise
                    else:
                        return

    def get(self, key: bytes) -> tuple[bytes, int] | None:
        with translated(self.path):
            row = self._writer.execute("SELECT v, r FROM kv WHERE k = ?", (key,)).fetchone()
        return (row[0], int.from_bytes(row[1], "big")) if row else None

    def write(self, rows: list[Row], deletes: list[bytes]) -> None:
        by_length: dict[int, list[bytes]] = {}
        for key, value, version in rows:
            by_length.setdefault(len(key), []).append(version.to_bytes(8, "big") + key + value)
        with translated(self.path):
            if deletes:
                self._writer.execute(_DELETE, (apsw.carray(tuple(deletes)),))
            for length, blobs in by_length.items():
                self._writer.execute(_INSERT, (apsw.carray(tuple(blobs)), length))

    def delete_range(self, start: bytes, end: bytes) -> None:
        with translated(self.path):
            self._writer.execute("DELETE FROM kv WHERE k >= ? AND k < ?", (start, end))

    def commit(self, revision: int) -> None:
        with translated(self.path):
            self._writer.execute("COMMIT")
        self._revision = revision

    def rollback(self) -> None:
        with contextlib.suppress(apsw.Error):
            self._writer.execute("ROLLBACK")

    def reader(self) -> SqliteReader:
        return SqliteReader(self._connect(), self.path)

    def doorbell(self) -> int:
        with translated(self.path):
            seen = self._bell.execute("PRAGMA data_version").get
            if seen != self._bell_version:
                self._bell_version = seen
                # our own commits move it too: only a revision that we did not write tells of somebody else
                stored = _stored_revision(self._bell)
                if stored > self._revision:
                    self._foreign = stored
            return self._foreign

    def pragmas(self) -> dict[str, Any]:
        """What is in force on the writing connection."""
        names = ("journal_mode", "synchronous", "fullfsync", "wal_autocheckpoint")
        with translated(self.path):
            return {name: self._writer.pragma(name) for name in names}

    def size(self) -> int:
        return sum(os.path.getsize(file) for file in (self.path, f"{self.path}-wal") if os.path.exists(file))

    def close(self) -> None:
        with translated(self.path):
            self._bell.close()
            self._writer.close()
        self._turn.close()


def _stored_revision(connection: apsw.Connection) -> int:
    row = connection.execute("SELECT v FROM kv WHERE k = ?", (REVISION,)).fetchone()
    return int.from_bytes(row[0], "big") if row else 0


def _prepare_file(path: str, *, create: bool) -> None:
    try:
        _check_place(path, create=create)
        # made here and not by SQLite, so that nobody else can read it from the first moment on
        os.close(os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o600))
    except PermissionError as error:
        raise StoreUnavailable(f"{path} cannot be opened for writing: {error.strerror}; check the permissions") from error
    except OSError as error:
        raise StoreUnavailable(f"{path} cannot be opened: {error.strerror or error}") from error


def _check_place(file: str, *, create: bool) -> None:
    mode = _mode(file)
    if mode is not None and stat.S_ISDIR(mode):
        raise StoreUnavailable(f"{file} is a directory; name a file in it, such as sqlite:{file}/spellwork.db")
    if mode is None:
        if not create:
            raise StoreMissing(f"there is no store at {file}; check --store, or start a run to create one")
        folder = os.path.dirname(file) or "."
        if not stat.S_ISDIR(_mode(folder) or 0):
            raise StoreUnavailable(f"the directory {folder} does not exist; create it first")


def _mode(path: str) -> int | None:
    """None where nothing is; what may not be looked at raises, which `os.path.exists` hides."""
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


@contextlib.contextmanager
def translated(path: str) -> Iterator[None]:
    """Turn what SQLite reports into the error tree."""
    try:
        yield
    except apsw.FullError as error:
        raise StoreFull(
            f"{path}: the disk is full; free some space and open the engine again: every acknowledged step is kept"
        ) from error
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise StoreCorrupt(
            f"{path} is damaged or no SQLite database ({error}); restore a backup, or move it away to start anew"
        ) from error
    except apsw.IOError as error:
        raise StoreFailed(f"{path}: reading or writing failed ({error}); check the disk and open the engine again") from error
    except (apsw.ReadOnlyError, apsw.CantOpenError, apsw.PermissionsError) as error:
        raise StoreUnavailable(
            f"{path} cannot be written ({error}); check the permissions of the file and its directory"
        ) from error
    except (apsw.BusyError, apsw.LockedError) as error:
        raise StoreUnavailable(
            f"{path}: another process has held the write lock for {_LOCK_WAIT:.0f} s; find and stop it"
        ) from error
    except (apsw.NoMemError, MemoryError) as error:
        raise StoreUnavailable(f"{path}: out of memory; free some and open the engine again") from error
    except apsw.ConnectionClosedError as error:
        raise StoreUnavailable(f"{path}: the connection was closed") from error
    except OSError as error:
        raise StoreUnavailable(f"{path}: {error}") from error
