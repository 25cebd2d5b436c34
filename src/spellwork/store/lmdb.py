"""Owns the LMDB backend: one memory-mapped file that grows by itself, and that several processes share.
It must never move the map under a reader, nor wait for LMDB's own lock, whose waits have no end.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import lmdb

from spellwork.errors import StoreClosed, StoreCorrupt, StoreFailed, StoreFull, StoreMissing, StoreTooNew, StoreUnavailable
from spellwork.store.backend import Row
from spellwork.store.keyspace import FORMAT, LAYOUT, REVISION
from spellwork.store.longkeys import Found, LongKeys
from spellwork.store.place import prepare_file
from spellwork.store.seal import is_whole, names_its_row, seal_rows, version_of
from spellwork.store.sealed import SealedReader
from spellwork.store.turn import Turn, WriteLock
from spellwork.store.views import Views

if TYPE_CHECKING:
    Txn = lmdb.Transaction[bytes]  # no generic class when it runs

MAP_SIZE = 16 << 30
"""Address space, not memory or disk: the file grows with what is in it."""
_SMALLEST_MAP = 1 << 20
_LAYOUT = b"%d" % LAYOUT
_EARLIER = [b"%d" % number for number in range(1, LAYOUT)]
_READERS = 512
_LOCK_WAIT = 30.0
_VIEWS_WAIT = 10.0
_CHECKED_AT_ONCE = 4 << 20
# a value that became shorter in the transaction that wrote it keeps its pages, which the counts do not tell
_HARMLESS = ("a leak", "header mp_pages", "overflow pages, record says")
_VERIFIED_AT_ONCE = 1 << 20  # 60 ms
_ROWS_A_LOOK = 500
_ROOM = 1 << 20
_FULL = "the disk is full; free some space and try again (an engine is opened again): every acknowledged step is kept"
_STALE_EVERY = 256
_KEYS = LongKeys(511)


class LmdbReader(SealedReader):
    """Reads through a read transaction, which blocks no writer."""

    def __init__(self, backend: LmdbBackend):
        self._backend = backend
        self._txn: Txn | None = backend.view()

    def _open(self) -> Txn:
        if self._txn is None:
            raise StoreClosed("this view was closed")
        return self._txn

    def _row(self, key: bytes) -> tuple[bytes, int] | None:
        with translated(self._backend.path):
            row = _KEYS.get(self._open(), key)
        return (row[0], version_of(key, *row)) if row else None

    def _select(self, start: bytes, end: bytes, *, reverse: bool, limit: int | None) -> list[Found]:
        with translated(self._backend.path):
            return _KEYS.scan(self._open(), start, end, reverse=reverse, limit=limit)

    def close(self) -> None:
        txn, self._txn = self._txn, None
        if txn is not None:
            self._backend.end_view(txn)

    def again(self) -> LmdbReader:
        return LmdbReader(self._backend)

    def dispose(self) -> None:
        self.close()


class LmdbBackend:
    """The contract over one LMDB file.

    `strict=False` leaves the page with the newest root to the next commit: a power cut may then undo the last commit, no more.
    """

    inline = False

    def __init__(self, path: str, *, create: bool = True, strict: bool = True, map_size: int = MAP_SIZE):
        self.path = path
        self.checked = False
        self._strict = strict
        self._map_size = map_size
        self._views = Views(path)
        self._txn: Txn | None = None
        self._steps: list[Callable[[Txn], None]] = []
        self._sync = True
        self._unsure = False
        self._written: list[list[tuple[bytes, bytes]]] = []
        self._begun = self._ours = self._before = self._foreign = self._revision = 0
        prepare_file(path, "lmdb", create=create)
        with translated(path):
            self._turn = Turn(f"{path}-turn")
            self._lock = WriteLock(f"{path}-writer")
        self._holds = False
        try:
            self._open(create=create)
        except BaseException:
            self._turn.close()
            self._lock.close()
            raise

    # Opening

    def _open(self, *, create: bool, checked: bool = False) -> None:
        self._take_lock()
        try:
            with translated(self.path):
                if self._strict:
                    _judge(self.path)
                self._env = self._mapped()
                try:
                    self._env.reader_check()
                    self._open_format(create=create)
                except BaseException:
                    self._env.close()
                    raise
                self._ours = self._env.info()["last_txnid"]
        finally:
            self._give_lock()
        if not checked and self.size() <= _CHECKED_AT_ONCE:
            after = b""
            while not self.checked:
                after = self.check(after)

    def _mapped(self) -> lmdb.Environment:
        size = self._map_size
        while True:
            try:
                return lmdb.Environment(
                    self.path, map_size=size, subdir=False, metasync=self._strict, mode=0o600, max_readers=_READERS
                )
            except lmdb.Error as error:
                # a limit on address space (ulimit -v): what is needed at first is far less
                if error.code != errno.ENOMEM or size <= _SMALLEST_MAP:
                    raise
                size //= 4

    def _open_format(self, *, create: bool) -> None:
        with self._env.begin() as txn:
            found, entries = _KEYS.get(txn, FORMAT), txn.stat()["entries"]
        if found is None and entries:
            raise StoreCorrupt(f"{self.path} is an LMDB file of another application; choose another path")
        if found is None and not create:
            raise StoreMissing(f"{self.path} is empty, not a store; check --store, or start a run to create one")
        if found is not None:
            version_of(FORMAT, *found)
            if found[0] == _LAYOUT:
                return
            if found[0] not in _EARLIER:
                raise StoreTooNew(
                    f"{self.path} has format {found[0]!r}, but {LAYOUT} is the newest that is known; install a newer Spellwork"
                )
        # before any row that an earlier Spellwork would misread
        with self._env.begin(write=True) as txn:
            txn.put(*_KEYS.placed(seal_rows([(FORMAT, _LAYOUT, 0)]))[0])
        self._env.sync(True)

    def check(self, after: bytes) -> bytes:
        view = self.view()
        try:
            with translated(self.path):
                rows = _KEYS.scan(view, after + b"\0", b"\xff" * 64, reverse=False, limit=_ROWS_A_LOOK)
        finally:
            self.end_view(view)
        strays = sum(not is_whole(*row) and not names_its_row(row[0], row[2]) for row in rows)
        if strays:
            raise StoreCorrupt(f"{self.path}: {strays} rows do not stand under their own keys; restore a backup")
        self.checked = len(rows) < _ROWS_A_LOOK
        return rows[-1][0] if rows else after

    # The write transaction

    def _take_lock(self) -> None:
        self._lock.take(self._turn, _LOCK_WAIT, self.path)
        self._holds = True

    def _give_lock(self) -> None:
        if self._holds:
            self._holds = False
            self._lock.give()

    def begin(self, *, sync: bool) -> tuple[int, bool]:
        self._turn.let_others_in()
        self._take_lock()
        self._sync, self._steps, self._written, self._before = sync, [], [], self._ours
        with translated(self.path):
            self._begun += 1
            if self._begun % _STALE_EVERY == 0:
                self._env.reader_check()  # a reader that was killed would keep old pages for ever
            txn = self._begin()
            self._before = txn.id() - 1
            changed = self._before != self._ours or not self._revision
            if changed:
                self._foreign = max(self._foreign, self._before if self._before > self._ours else 0)
                self._revision = _stored_revision(txn)
            self._ours = txn.id()  # before it is committed, so that the doorbell never takes it for another process's
            return self._revision, changed

    def _begin(self) -> Txn:
        try:
            self._txn = self._env.begin(write=True)
        except lmdb.MapResizedError:
            self._remap(0)
            self._txn = self._env.begin(write=True)
        return self._txn

    def _remap(self, size: int) -> None:
        """Give the map another size; 0 is that which another process has given it."""
        with self._views.none(_VIEWS_WAIT):
            self._env.set_mapsize(size)

    def _step(self, step: Callable[[Txn], None]) -> None:
        """Do a part of the transaction; when the map is full, enlarge it and do the whole transaction once more."""
        self._steps.append(step)
        with translated(self.path):
            try:
                step(self._writer)
            except lmdb.MapFullError:
                self._grow()

    def _grow(self) -> None:
        while True:
            self._writer.abort()
            self._txn = None
            self._remap(2 * self._env.info()["map_size"])
            txn = self._begin()
            try:
                for step in self._steps:
                    step(txn)
            except lmdb.MapFullError:
                continue
            return

    @property
    def _writer(self) -> Txn:
        if self._txn is None:
            raise StoreClosed(f"{self.path}: there is no write transaction")
        return self._txn

    def get(self, key: bytes) -> tuple[bytes, int] | None:
        with translated(self.path):
            row = _KEYS.get(self._writer, key)
        return (row[0], version_of(key, *row)) if row else None

    def versions(self, start: bytes, end: bytes) -> list[tuple[bytes, int]]:
        with translated(self.path):
            found = _KEYS.scan(self._writer, start, end, reverse=False, limit=None)
        return [(key, version_of(key, value, sealed)) for key, value, sealed in found]

    def write(self, rows: list[Row], deletes: list[bytes]) -> None:
        items = _KEYS.placed(seal_rows(rows))
        gone = [_KEYS.place(key) for key in deletes]
        self._written.append(items)

        def step(txn: Txn) -> None:
            for place in gone:
                txn.delete(place)
            txn.cursor().putmulti(items)  # in one call, since a busy event loop may keep the GIL for 5 ms after each

        self._step(step)

    def delete_range(self, start: bytes, end: bytes) -> None:
        self._step(lambda txn: _KEYS.delete_range(txn, start, end))

    def commit(self, revision: int) -> None:
        with translated(self.path):
            try:
                self._committed()
            except lmdb.Error as error:
                raise (self._full(error) or error) from error
        self._revision = revision
        self._give_lock()

    def _committed(self) -> None:
        try:
            self._writer.commit()
        except lmdb.MapFullError:
            self._grow()
            self._writer.commit()
        self._txn = None
        if self._sync and not self._strict:
            self._env.sync(True)

    def _full(self, error: lmdb.Error) -> StoreFull | None:
        """LMDB calls it an error of the disk when a full one has cut a write short."""
        free, written = shutil.disk_usage(self.path).free, sum(len(data) for items in self._written for _, data in items)
        if error.code != errno.EIO or free > _ROOM + 4 * written:
            return None
        self._unsure = True
        return StoreFull(f"{self.path}: {_FULL}")

    def rollback(self) -> None:
        txn, self._txn = self._txn, None
        # its number may become another process's, and the revision that was read may not be the newest any more
        self._ours, self._revision = self._before, 0
        with contextlib.suppress(lmdb.Error):
            if txn is not None:
                txn.abort()
        self._give_lock()
        if self._unsure:
            raise StoreFailed(f"{self.path}: whether the last batch is there is not known until the store is opened again")

    def reopen(self) -> None:
        with self._views.none(_VIEWS_WAIT):
            self._env.close()
            self._open(create=False, checked=True)
        self._unsure, self._revision = False, 0  # another process may have committed since it was read

    # Reading

    def view(self) -> Txn:
        """A read transaction; the map stays where it is until `end_view`."""
        self._views.enter()
        try:
            with translated(self.path):
                try:
                    return self._env.begin()
                except lmdb.ReadersFullError:
                    self._env.reader_check()
                    return self._env.begin()
                except lmdb.MapResizedError:
                    self._adopt()
                    return self._env.begin()
        except BaseException:
            self._views.leave()
            raise

    def _adopt(self) -> None:
        self._views.leave()
        try:
            self._lock.take(self._turn, _LOCK_WAIT, self.path)  # so that no write transaction is open in this process
            try:
                self._remap(0)
            finally:
                self._lock.give()
        finally:
            self._views.enter()

    def end_view(self, txn: Txn) -> None:
        """Let a read transaction go."""
        try:
            txn.abort()
        finally:
            self._views.leave()

    def reader(self) -> LmdbReader:
        return LmdbReader(self)

    def doorbell(self) -> int:
        if self._views.enter(wait=False):  # looking reads the map
            try:
                newest = self._newest()
            finally:
                self._views.leave()
            if newest > self._ours:
                self._foreign = newest
            elif newest < 0:
                return newest
        return self._foreign

    def _newest(self) -> int:
        """The newest transaction that a reader would see; `info()` tells of one that is still being synced."""
        try:
            with self._env.begin() as txn:
                return txn.id()
        except lmdb.MapResizedError:
            return -int(self._env.info()["last_txnid"])  # the next reader takes the larger map, and then it is another number
        except lmdb.Error:
            return 0  # no slot is free, or it is being opened anew: the next look tells

    def size(self) -> int:
        return os.path.getsize(self.path)

    def close(self) -> None:
        with translated(self.path):
            self._env.close()
        self._turn.close()
        self._lock.close()


def _judge(path: str) -> None:
    """LMDB believes what it finds, and a page that points to nowhere ends the process: a small file is looked at before."""
    size = os.path.getsize(path)
    if not size or size > _VERIFIED_AT_ONCE:
        return
    try:
        from lmdb.verify import VerifyError, verify  # noqa: PLC0415 - since lmdb 3.0
    except ImportError:
        return
    try:
        found = verify(path)  # type: ignore[no-untyped-call] # theirs
    except VerifyError as error:
        found = [str(error)]
    problems = [problem for problem in found if not any(words in problem for words in _HARMLESS)]
    if problems:
        raise StoreCorrupt(
            f"{path} is damaged or no LMDB file ({problems[0]}); restore a backup, or open it with durability='relaxed' "
            "and copy what can be read"
        )


def _stored_revision(txn: Txn) -> int:
    row = _KEYS.get(txn, REVISION)
    if row is None:
        return 0
    version_of(REVISION, *row)
    return int.from_bytes(row[0], "big")


@contextlib.contextmanager
def translated(path: str) -> Iterator[None]:
    """Turn what LMDB reports into the error tree."""
    try:
        yield
    except lmdb.Error as error:
        raise _translation(path, error) from error
    except MemoryError as error:
        raise StoreUnavailable(f"{path}: out of memory; free some and open the engine again") from error
    except OSError as error:
        raise StoreUnavailable(f"{path}: {error}") from error


def _translation(path: str, error: lmdb.Error) -> Exception:
    if isinstance(error, lmdb.DiskError) or error.code == errno.EDQUOT:
        return StoreFull(f"{path}: {_FULL}")
    if isinstance(error, (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError, lmdb.VersionMismatchError)):
        return StoreCorrupt(f"{path} is damaged or no LMDB file ({error}); restore a backup, or move it away to start anew")
    if "already open in this process" in str(error):
        return StoreUnavailable(f"{path}: it is open in this process already; use that store, or close it first")
    if isinstance(error, lmdb.ReadersFullError):
        return StoreUnavailable(f"{path}: {_READERS} readers have it open; close some")
    if isinstance(error, (lmdb.ReadonlyError, lmdb.LockError, lmdb.MemoryError)) or error.code in (errno.EPERM, errno.EROFS):
        return StoreUnavailable(f"{path} cannot be opened or written ({error}); check permissions, ulimit -v and the file system")
    return StoreFailed(f"{path}: reading or writing failed ({error}); check the disk and open the engine again")
