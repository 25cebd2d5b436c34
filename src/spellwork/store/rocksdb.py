"""Owns the RocksDB backend: a folder that belongs to one process, transactions as an overlay, views that a commit publishes.
It must never write with `sync=True`: rocksdict keeps the GIL through that, and `flush_wal(True)` does the same without it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from types import TracebackType

from rocksdict import (
    AccessType,
    DbClosedError,
    DBRecoveryMode,
    Options,
    Rdict,
    RdictIter,
    WriteBatch,
)

from spellwork.errors import (
    DefinitionError,
    StoreClosed,
    StoreCorrupt,
    StoreError,
    StoreFailed,
    StoreFull,
    StoreTooNew,
    StoreUnavailable,
)
from spellwork.store import rockslog
from spellwork.store.backend import Row
from spellwork.store.keyspace import FORMAT, LAYOUT, LAZY, REVISION
from spellwork.store.place import prepare_folder
from spellwork.store.rockspresets import PRESETS
from spellwork.store.seal import SEAL_BYTES, is_whole, names_its_row, seal_rows, version_of
from spellwork.store.sealed import SealedReader
from spellwork.store.views import Views
from spellwork.supervision import attempt

_LAYOUT = b"%d" % LAYOUT
_EARLIER = [b"%d" % number for number in range(1, LAYOUT)]
_VIEWS_WAIT = 10.0
_CHECKED_AT_ONCE = 10_000
_ROWS_A_LOOK = 500
_ROOM = 2 << 20
_SETTINGS = "rocksdict-config.json"


class View:
    """The iterator that a commit has published. Readers in any thread share it, so each read has it for itself.

    Two threads that move one iterator give each other's rows, or end the process.
    """

    __slots__ = ("iterator", "lock")

    def __init__(self, iterator: RdictIter):
        self.iterator = iterator
        self.lock = threading.Lock()


class RocksReader(SealedReader):
    """Reads through the iterator that the newest commit has published: it stays at its moment.

    (A `Snapshot` would name the same moment, but rocksdict's iterators over one see what came later.)
    """

    def __init__(self, backend: RocksBackend):
        self._backend = backend
        self._view: View | None = backend.view()

    def _open(self) -> View:
        if self._view is None:
            raise StoreClosed("this view was closed")
        return self._view

    def _row(self, key: bytes) -> tuple[bytes, int] | None:
        view = self._open()
        iterator = view.iterator
        with view.lock, _Translated(self._backend.path):
            iterator.seek(key)
            if not iterator.valid() or iterator.key() != key:
                iterator.status()
                return None
            data = iterator.value()
        return _opened(key, data)

    def _select(self, start: bytes, end: bytes, *, reverse: bool, limit: int | None) -> list[tuple[bytes, bytes, bytes]]:
        view = self._open()
        with view.lock, _Translated(self._backend.path):
            found = select(view.iterator, start, end, reverse=reverse, limit=limit)
        return [(key, data[SEAL_BYTES:], data[:SEAL_BYTES]) for key, data in found]

    def close(self) -> None:
        if self._view is not None:
            self._view = None
            self._backend.end_view()

    def again(self) -> RocksReader:
        return RocksReader(self._backend)

    def dispose(self) -> None:
        self.close()


class RocksBackend:
    """The contract over one RocksDB folder.

    Unless `strict`, a log that is damaged is taken up to there. `preset` is a name of `PRESETS`.
    """

    inline = False
    alone = True

    def __init__(self, path: str, *, create: bool = True, strict: bool = True, preset: str = "default"):
        if preset not in PRESETS:
            raise DefinitionError(f"unknown preset {preset!r} for rocksdb:; there are {', '.join(sorted(PRESETS))}")
        self.path = path
        self.checked = False
        self._strict = strict
        self._preset = preset
        self._views = Views(path)
        self._rows: dict[bytes, Row | None] = {}
        self._newest: list[list[Row]] = []
        self._ranges: list[tuple[bytes, bytes]] = []
        self._sync = True
        self._unsure = False
        self._revision = -1
        self._lazy = False
        prepare_folder(path, "rocksdb", create=create, is_ours=_is_ours)
        self._db = self._opened(create=create)
        try:
            self._open_format()
            self._view: View | None = self._viewed()
            # by rows and not by bytes, which are compressed
            if (self._db.property_int_value("rocksdb.estimate-num-keys") or 0) <= _CHECKED_AT_ONCE:
                after = b""
                while not self.checked:
                    after = self.check(after)
        except BaseException:
            attempt(self._db.close)
            raise

    # Opening

    def _opened(self, *, create: bool) -> Rdict:
        # rocksdict's own note says nothing that is not said here, and one that a crash has torn could not be read
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.path, _SETTINGS))
        with _Translated(self.path):
            if not self._strict:
                return Rdict(self.path, self._options(create=create))
            db, error = attempt(Rdict, self.path, self._options(create=create, whole=True))
            if error is None:
                return db  # type: ignore[no-any-return]
            if "Corruption" not in str(error):
                raise error
        lost = rockslog.lost(self.path)
        if lost and not self._was_lazy():
            raise StoreCorrupt(
                f"{self.path}: {lost}; restore a backup, or open the store once with durability='relaxed' to go on without "
                "what is lost"
            )
        with _Translated(self.path):
            return Rdict(self.path, self._options(create=False))

    def _was_lazy(self) -> bool:
        with _Translated(self.path):
            db = Rdict(self.path, self._options(create=False), access_type=AccessType.read_only(False))
            try:
                return db.get(LAZY) is not None
            finally:
                db.close()

    def _options(self, *, create: bool, whole: bool = False) -> Options:
        options = Options(raw_mode=True)
        options.create_if_missing(create)
        options.set_paranoid_checks(True)
        options.set_keep_log_file_num(2)
        options.set_max_log_file_size(1 << 20)
        # a torn end of the log is what a crash leaves; `whole` asks to be told of everything else
        modes = DBRecoveryMode
        options.set_wal_recovery_mode(modes.tolerate_corrupted_tail_records() if whole else modes.point_in_time())
        PRESETS[self._preset](options)
        return options

    def _open_format(self) -> None:
        with _Translated(self.path):
            found = self._db.get(FORMAT)
            self._lazy = self._db.get(LAZY) is not None
            if found is None:
                iterator = self._db.iter()
                iterator.seek_to_first()
                if iterator.valid():
                    raise StoreCorrupt(f"{self.path} is a RocksDB folder of another application; choose another path")
        if found is not None:
            value, _ = _opened(FORMAT, found)
            if value == _LAYOUT:
                return
            if value not in _EARLIER:
                raise StoreTooNew(
                    f"{self.path} has format {value!r}, but {LAYOUT} is the newest that is known; install a newer Spellwork"
                )
        # before any row that an earlier Spellwork would misread
        batch = WriteBatch(raw_mode=True)
        batch.put(*seal_rows([(FORMAT, _LAYOUT, 0)])[0])
        with _Translated(self.path):
            self._write(batch, sync=True)

    def check(self, after: bytes) -> bytes:
        view = self.view()
        try:
            with view.lock, _Translated(self.path):
                found = select(view.iterator, after + b"\0", b"\xff" * 64, reverse=False, limit=_ROWS_A_LOOK)
        finally:
            self.end_view()
        rows = [(key, data[SEAL_BYTES:], data[:SEAL_BYTES]) for key, data in found]
        strays = sum(not is_whole(*row) and not names_its_row(row[0], row[2]) for row in rows)
        if strays:
            raise StoreCorrupt(f"{self.path}: {strays} rows do not stand under their own keys; restore a backup")
        self.checked = len(rows) < _ROWS_A_LOOK
        return rows[-1][0] if rows else after

    # The write transaction: what it changes is kept aside until `commit`

    def begin(self, *, sync: bool) -> tuple[int, bool]:
        self._rows, self._newest, self._ranges, self._sync = {}, [], [], sync
        if not sync and not self._lazy:
            # before the first commit that is not synced: from then on a power cut may leave gaps in the log
            self._rows[LAZY] = (LAZY, b"", 0)
            self._sync = True
        changed = self._revision < 0
        if changed:
            row = self.get(REVISION)
            self._revision = int.from_bytes(row[0], "big") if row else 0
        return self._revision, changed

    def _index(self) -> None:
        """Make what was written findable. Most transactions write once and look no more, and need none of it."""
        for rows in self._newest:
            self._rows.update([(row[0], row) for row in rows])
        self._newest = []

    def get(self, key: bytes) -> tuple[bytes, int] | None:
        self._index()
        if key in self._rows:
            row = self._rows[key]
            return row and row[1:]
        if any(start <= key < end for start, end in self._ranges):
            return None
        with _Translated(self.path):
            data = self._db.get(key)
        return None if data is None else _opened(key, data)

    def versions(self, start: bytes, end: bytes) -> list[tuple[bytes, int]]:
        self._index()
        with _Translated(self.path):
            stored = select(self._db.iter(), start, end, reverse=False, limit=None)
        keys = {key for key, _ in stored} | {key for key in self._rows if start <= key < end}
        return [(key, row[1]) for key in sorted(keys) if (row := self.get(key)) is not None]

    def write(self, rows: list[Row], deletes: list[bytes]) -> None:
        if deletes:
            self._index()
            self._rows.update(dict.fromkeys(deletes))
        self._newest.append(rows)

    def delete_range(self, start: bytes, end: bytes) -> None:
        self._index()
        if start < end:  # RocksDB fails where there is nothing to delete
            self._rows = {key: row for key, row in self._rows.items() if not start <= key < end}
            self._ranges.append((start, end))

    def commit(self, revision: int) -> None:
        batch = WriteBatch(raw_mode=True)
        for start, end in self._ranges:
            batch.delete_range(start, end)
        put = batch.put
        if self._rows:
            self._index()
            for key, row in self._rows.items():
                if row is None:
                    batch.delete(key)
        for rows in self._newest or [[row for row in self._rows.values() if row is not None]]:
            for key, data in seal_rows(rows):
                put(key, data)
        self._unsure = True
        with _Translated(self.path):
            self._write(batch, sync=self._sync)
        self._unsure = False
        # now and not when somebody reads: rows can be seen as soon as they are written, but they are durable only now
        self._view = self._viewed()
        self._lazy = self._lazy or LAZY in self._rows
        self._rows, self._newest, self._ranges, self._revision = {}, [], [], revision

    def _write(self, batch: WriteBatch, *, sync: bool) -> None:
        self._db.write(batch)
        if sync:
            self._db.flush_wal(True)

    def rollback(self) -> None:
        self._rows, self._newest, self._ranges, self._revision = {}, [], [], -1
        if self._unsure:
            # RocksDB takes no more writes after one that failed
            raise StoreFailed(f"{self.path}: whether the last batch is there is not known until the store is opened again")

    def reopen(self) -> None:
        unwritten, _ = attempt(self._db.property_int_value, "rocksdb.cur-size-all-mem-tables")
        needed = _ROOM + (unwritten or 0)
        if shutil.disk_usage(self.path).free < needed:
            # it could be closed and not be opened: as it is, it can still be read
            raise StoreFull(f"{self.path}: the disk is full; free {needed >> 20} MB and try again: every acknowledged step is kept")
        with self._views.none(_VIEWS_WAIT):
            self._view = None  # it holds the database, and that its lock
            attempt(self._db.close)
            try:
                self._db = self._opened(create=False)
            except StoreError:
                self._db = self._readable()
                self._view = self._viewed()
                raise
            self._view = self._viewed()
        self._unsure = False

    def _readable(self) -> Rdict:
        """What still can be read of a store that cannot be written."""
        with _Translated(self.path):
            return Rdict(self.path, self._options(create=False), access_type=AccessType.read_only(False))

    # Reading

    def _viewed(self) -> View:
        with _Translated(self.path):
            return View(self._db.iter())

    def view(self) -> View:
        """What the newest commit has published; the database stays open until `end_view`."""
        self._views.enter()
        if self._view is None:
            self._views.leave()
            raise StoreClosed(f"{self.path}: the database was closed")
        return self._view

    def end_view(self) -> None:
        """A view was let go."""
        self._views.leave()

    def reader(self) -> RocksReader:
        return RocksReader(self)

    def doorbell(self) -> int:
        return 0  # there is no other process

    def size(self) -> int:
        with os.scandir(self.path) as entries:
            return sum(_size_of(entry) for entry in entries)

    def compact(self) -> None:
        """Bring everything into its final order, without what was deleted."""
        with _Translated(self.path):
            self._db.flush()
            self._db.compact_range(None, None)
        self._view = self._viewed()  # the old one keeps the old files

    def close(self) -> None:
        self._view = None
        attempt(self._db.close)  # one that failed complains once more


def select(iterator: RdictIter, start: bytes, end: bytes, *, reverse: bool, limit: int | None) -> list[tuple[bytes, bytes]]:
    """Keys and stored bytes with start <= key < end."""
    found: list[tuple[bytes, bytes]] = []
    left = -1 if limit is None else limit
    # not `items()`: that ends where a block is damaged, as if there were no more
    valid, key_of, value_of = iterator.valid, iterator.key, iterator.value
    if reverse:
        step = iterator.prev
        iterator.seek_for_prev(end)
        if valid() and key_of() == end:
            step()
    else:
        step = iterator.next
        iterator.seek(start)
    while left and valid():
        key = key_of()
        if key < start or key >= end:
            break
        found.append((key, value_of()))
        left -= 1
        step()
    iterator.status()
    return found


def _opened(key: bytes, data: bytes) -> tuple[bytes, int]:
    value = data[SEAL_BYTES:]
    return value, version_of(key, value, data[:SEAL_BYTES])


def _size_of(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except FileNotFoundError:  # a compaction has just ended
        return 0


def _is_ours(name: str) -> bool:
    """Whether RocksDB may have made a file of this name."""
    stem, _, ending = name.partition(".")
    return name in ("CURRENT", "IDENTITY", "LOCK", _SETTINGS) or stem == "LOG" or stem.startswith(("MANIFEST-", "OPTIONS-")) or (
        stem.isdecimal() and ending in ("log", "sst", "dbtmp")
    )  # fmt: skip


class _Translated:
    """Turns what RocksDB reports into the error tree: rocksdict raises plain exceptions, with RocksDB's own words in them."""

    __slots__ = ("_path",)

    def __init__(self, path: str):
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if error is None or kind not in (Exception, DbClosedError, MemoryError):
            return
        raise _translation(self._path, error) from error


_WORDS: tuple[tuple[tuple[str, ...], type[StoreError], str], ...] = (
    (
        ("No space left", "quota exceeded"), StoreFull,
        "the disk is full; free some space and try again (an engine is opened again): every acknowledged step is kept",
    ),
    (
        ("lock hold by current process", "/LOCK: "), StoreUnavailable,
        "it is open already, here or in another process, and a rocksdb: store belongs to one; close it there, or use sqlite: or "
        "lmdb: where several processes share a store",
    ),
    (
        ("Corruption", "does not exist"), StoreCorrupt,
        "it is damaged or no RocksDB folder ({said}); restore a backup, or move it away to start anew",
    ),
    (
        ("Permission denied", "Read-only file system"), StoreUnavailable,
        "it cannot be written ({said}); check the permissions of the folder",
    ),
)  # fmt: skip


def _translation(path: str, error: BaseException) -> StoreError:
    if isinstance(error, DbClosedError):
        return StoreClosed(f"{path}: the database was closed")
    if isinstance(error, MemoryError):
        return StoreUnavailable(f"{path}: out of memory; free some and open the engine again")
    said = str(error)
    for words, kind, message in _WORDS:
        if any(word in said for word in words):
            return kind(f"{path}: {message.format(said=said)}")
    return StoreFailed(f"{path}: reading or writing failed ({said}); check the disk and open the engine again")
