"""Owns the SQLite backend: one table, WAL, explicit durability, and the refusal of what is not a store.
It must never use the standard library's module (its SQLite may carry the WAL-reset bug), nor write a file that it did not make.
"""

from __future__ import annotations

import contextlib
import itertools
import os
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
from spellwork.store import handles
from spellwork.store.backend import Row
from spellwork.store.keyspace import LAYOUT, LAZY, REVISION
from spellwork.store.pause import pause
from spellwork.store.place import prepare_file
from spellwork.store.seal import SEAL_BYTES, is_whole, names_its_row, seal_rows, version_of
from spellwork.store.sealed import SealedReader
from spellwork.store.turn import Turn
from spellwork.store.wal import Log

APPLICATION_ID = 0x53504C57  # "SPLW"
CHECKPOINT_PAGES = 16_000
_FIRST_SAFE = (3, 51, 3)  # sqlite.org, "The WAL Reset Bug": two connections can corrupt a database up to 3.51.2
_LOCK_WAIT = 30.0
_OPENING_WAIT = 2.0
_CHECKED_AT_ONCE = 4 << 20

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
# key length, as blobs of key, seal and value.
_INSERT = (
    f"INSERT OR REPLACE INTO kv(k, v, r) SELECT substr(value, 1, ?2), substr(value, {SEAL_BYTES + 1} + ?2), "  # noqa: S608 - constants
    f"substr(value, 1 + ?2, {SEAL_BYTES}) FROM carray(?1)"
)
# A few of them, mostly of as many lengths, are sooner written by one statement for all.
_FEW = 8
_INSERTS = [f"INSERT OR REPLACE INTO kv(k, r, v) VALUES {', '.join(['(?, ?, ?)'] * count)}" for count in range(_FEW + 1)]  # noqa: S608 - constants
# damage can turn a blob into a text that is none, which apsw could not hand over
_COLUMNS = "CAST(k AS BLOB), CAST(v AS BLOB), CAST(r AS BLOB)"
_PAGE_OF_ROWS = f"SELECT {_COLUMNS} FROM kv WHERE k > ? ORDER BY k LIMIT 500"  # noqa: S608 - a constant
_ONE_ROW = "SELECT CAST(v AS BLOB), CAST(r AS BLOB) FROM kv WHERE k = ?"
_DELETE = "DELETE FROM kv WHERE k IN (SELECT value FROM carray(?1))"


class SqliteReader(SealedReader):
    """Reads through a connection of its own, each inside one read transaction."""

    def __init__(self, connection: apsw.Connection, path: str):
        self._connection = connection
        self._path = path
        with translated(path):
            connection.execute("BEGIN")

    def _row(self, key: bytes) -> tuple[bytes, int] | None:
        with translated(self._path):
            return _row(self._connection, key)

    def _select(self, start: bytes, end: bytes, *, reverse: bool, limit: int | None) -> list[Any]:
        with translated(self._path):
            return _select(self._connection, start, end, reverse=reverse, limit=limit)

    def salvage(self, key: bytes) -> bytes | None:
        """The value of a row whether or not it is as it was written."""
        with translated(self._path):
            row: Any = self._connection.execute(_ONE_ROW, (key,)).fetchone()
        return None if row is None or row[0] is None else bytes(row[0])

    def close(self) -> None:
        with translated(self._path):
            self._connection.execute("ROLLBACK")

    def again(self) -> SqliteReader:
        return SqliteReader(self._connection, self._path)

    def dispose(self) -> None:
        with translated(self._path):
            self._connection.close()


class SqliteBackend:
    """The contract over one SQLite file.

    `create=False` refuses a file that is not there. Unless `strict`, a log that is damaged in the middle is taken up to there.
    """

    inline = False

    def __init__(self, path: str, *, create: bool = True, strict: bool = True, vfs: str | None = None):
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
        self._lazy: bool | None = None
        self.checked = False
        prepare_file(path, "sqlite", create=create)
        log = Log.of(path)
        handles.enter(path)
        try:
            self._open(log, create=create, strict=strict)
        except BaseException:
            handles.leave(path)
            raise

    def _open(self, log: Log, *, create: bool, strict: bool) -> None:
        path = self.path
        self._writer = self._connect()
        try:
            if strict:
                self._judge(log)  # before anything is written: a log without its header makes the file look empty
            self._open_schema(create=create)
            if self.size() <= _CHECKED_AT_ONCE:
                self._check_at_once()
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
            connection.set_busy_timeout(int(_OPENING_WAIT * 1000))
            for pragma in _PRAGMAS:
                # of two processes that make the log of a new file at once, SQLite refuses one without any waiting
                _insist(connection, f"PRAGMA {pragma}", _OPENING_WAIT)
            return connection

    def _open_schema(self, *, create: bool) -> None:
        with translated(self.path):
            with self._writer:  # one moment: another process may be making the store just now
                empty = not self._writer.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone()
                application = self._writer.pragma("application_id")
                schema = self._writer.pragma("user_version")
            if application == 0 and empty and not create:
                raise StoreMissing(f"{self.path} is empty, not a store; check --store, or start a run to create one")
            if application == 0 and empty:
                self._writer.execute(
                    "BEGIN IMMEDIATE; "  # two processes may both come here: the second finds the table and agrees
                    "CREATE TABLE IF NOT EXISTS kv(k BLOB PRIMARY KEY, v BLOB NOT NULL, r BLOB NOT NULL) WITHOUT ROWID; "
                    f"PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={LAYOUT}; COMMIT"
                )
                return
        if application != APPLICATION_ID:
            raise StoreCorrupt(f"{self.path} is an SQLite database of another application; choose another path")
        if schema < 1:
            raise StoreCorrupt(f"{self.path} has schema {schema}, which there never was; restore a backup")
        if schema > LAYOUT:
            raise StoreTooNew(f"{self.path} has schema {schema}, this Spellwork knows up to {LAYOUT}; install a newer Spellwork")
        if schema < LAYOUT:
            with translated(self.path):  # before any row that an earlier Spellwork would misread
                _insist(self._writer, f"PRAGMA user_version={LAYOUT}", _OPENING_WAIT)

    def _judge(self, log: Log) -> None:
        with translated(self.path):
            kept, lost = -1, ""
            while (found := self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)[0]) != kept:
                # asked again when something seems to be lost: a process that writes just now looks the same for a moment
                kept, lost = found, log.lost(found)
                if not lost or self._is_lazy():
                    return
                pause(0.05)
            raise StoreCorrupt(
                f"{log.path}: {lost}; restore a backup, or open the store once with durability='relaxed' to go on without "
                "what is lost"
            )

    def _is_lazy(self) -> bool:
        if not self._writer.execute("SELECT 1 FROM sqlite_schema WHERE name = 'kv'").fetchone():
            return False
        return _row(self._writer, LAZY) is not None

    def check_structure(self) -> None:
        """Walk over the whole tree of pages; raises `StoreCorrupt`."""
        with translated(self.path), contextlib.closing(self._connect()) as connection:
            self._walk(connection)

    def _walk(self, connection: apsw.Connection) -> None:
        with translated(self.path):
            # Pages have no checksums: only a walk over the whole tree finds one that stands in another one's place.
            verdict = connection.execute("PRAGMA integrity_check(1)").get
        if verdict != "ok":
            raise StoreCorrupt(f"{self.path} is damaged ({verdict}); restore a backup")

    def _check_at_once(self) -> None:
        self._walk(self._writer)
        after = b""
        while not self.checked:
            after = self.check(after)

    def check(self, after: bytes) -> bytes:
        with translated(self.path), contextlib.closing(self._connect()) as connection:
            page: list[Any] = connection.execute(_PAGE_OF_ROWS, (after,)).fetchall()
            strays = sum(not is_whole(*row) and not names_its_row(row[0], row[2]) for row in page)
            keys: list[Any] = [after, *(row[0] for row in page)]
            if strays or any(not isinstance(key, bytes) or key >= later for key, later in itertools.pairwise(keys)):
                raise StoreCorrupt(f"{self.path}: {strays or 'some'} rows do not stand under their own keys; restore a backup")
            if not page:
                self.checked = True
                if after and _row(connection, REVISION) is None:
                    raise StoreCorrupt(f"{self.path}: the row of the newest revision is missing; restore a backup")
            last: bytes = keys[-1]
            return last

    def begin(self, *, sync: bool) -> tuple[int, bool]:
        self._turn.let_others_in()
        mark = False
        with translated(self.path):
            if not sync and not self._lazy:
                # before the first commit that is not synced: from then on a power cut may leave gaps in the log
                self._lazy = _row(self._writer, LAZY) is not None
                if not self._lazy:
                    sync = self._lazy = mark = True
            if sync is not self._synced:
                self._writer.execute(f"PRAGMA synchronous={'FULL' if sync else 'NORMAL'}")
                self._synced = sync
            self._begin_immediate()
            if mark:
                self._put([(LAZY, b"", 0)])
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
            with self._turn.raised():
                _insist(self._writer, "BEGIN IMMEDIATE", _LOCK_WAIT)

    def get(self, key: bytes) -> tuple[bytes, int] | None:
        with translated(self.path):
            return _row(self._writer, key)

    def versions(self, start: bytes, end: bytes) -> list[tuple[bytes, int]]:
        with translated(self.path):
            found = _select(self._writer, start, end, reverse=False, limit=None)
        return [(key, version_of(key, value, sealed)) for key, value, sealed in found]

    def write(self, rows: list[Row], deletes: list[bytes]) -> None:
        with translated(self.path):
            if deletes:
                self._writer.execute(_DELETE, (apsw.carray(tuple(deletes)),))
            if rows:
                self._put(rows)

    def _put(self, rows: list[Row]) -> None:
        if len(rows) <= _FEW:
            parts = [part for key, data in seal_rows(rows) for part in (key, data[:SEAL_BYTES], data[SEAL_BYTES:])]
            self._writer.execute(_INSERTS[len(rows)], parts)
            return
        by_length: dict[int, list[bytes]] = {}
        for key, data in seal_rows(rows):
            length = len(key)
            if length in by_length:
                by_length[length].append(key + data)
            else:
                by_length[length] = [key + data]
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
        with translated(self.path):
            if self._writer.in_transaction:  # SQLite takes some failed ones back by itself
                self._writer.execute("ROLLBACK")

    def reopen(self) -> None:
        with contextlib.suppress(apsw.Error):
            self._writer.close()
        self._synced, self._lazy, self._seen_version = None, None, -1
        self._writer = self._connect()
        self._open_schema(create=False)
        self._writer.set_busy_timeout(5)

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

    def compact(self) -> None:
        """Write the file anew; needs as much room once more, and waits for a moment without writers."""
        with translated(self.path), contextlib.closing(self._connect()) as connection:
            connection.execute("VACUUM")
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)

    def close(self) -> None:
        with translated(self.path):
            self._bell.close()
            self._writer.close()
        handles.leave(self.path)
        self._turn.close()


def _insist(connection: apsw.Connection, statement: str, seconds: float) -> None:
    """Execute a statement, for so long as another process is in its way."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            connection.execute(statement).fetchall()
        except apsw.BusyError:
            if time.monotonic() > deadline:
                raise
            pause(0.001)
        else:
            return


def _stored_revision(connection: apsw.Connection) -> int:
    row = _row(connection, REVISION)
    return int.from_bytes(row[0], "big") if row else 0


def _select(connection: apsw.Connection, start: bytes, end: bytes, *, reverse: bool, limit: int | None) -> list[Any]:
    order = "DESC" if reverse else "ASC"
    return connection.execute(
        f"SELECT {_COLUMNS} FROM kv WHERE k >= ? AND k < ? ORDER BY k {order} LIMIT ?",  # noqa: S608 - a constant
        (start, end, -1 if limit is None else limit),
    ).fetchall()


def _row(connection: apsw.Connection, key: bytes) -> tuple[bytes, int] | None:
    """Value and version of a row; raises `RowDamaged`."""
    row: Any = connection.execute(_ONE_ROW, (key,)).fetchone()
    return (row[0], version_of(key, row[0], row[1])) if row else None


@contextlib.contextmanager
def translated(path: str) -> Iterator[None]:
    """Turn what SQLite reports into the error tree."""
    try:
        yield
    except apsw.FullError as error:
        raise StoreFull(
            f"{path}: the disk is full; free some space and try again (an engine is opened again): every acknowledged step is kept"
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
        raise StoreUnavailable(f"{path}: another process holds the write lock and does not give it up; find and stop it") from error
    except (apsw.NoMemError, MemoryError) as error:
        raise StoreUnavailable(f"{path}: out of memory; free some and open the engine again") from error
    except apsw.ConnectionClosedError as error:
        raise StoreUnavailable(f"{path}: the connection was closed") from error
    except (apsw.Error, UnicodeDecodeError) as error:
        raise StoreCorrupt(f"{path}: SQLite cannot work with it ({error}); restore a backup") from error
    except OSError as error:
        raise StoreUnavailable(f"{path}: {error}") from error
