"""Owns building a whole store beside its place and moving it there.
It must never overwrite a store: what is replaced is moved aside.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

from spellwork.errors import StoreError, StoreFailed, StoreUnavailable
from spellwork.store import handles
from spellwork.store.backend import Backend
from spellwork.store.durable import alone, move, sync_folder
from spellwork.store.opening import open_backend
from spellwork.store.turn import try_record_lock

_BUILDING, _LOCK, _REPLACED = ".building", ".restore-lock", ".replaced-"
_HARMLESS = ("-shm", "-turn", "-lock", "-writer")
_SHARED = (0x40000002, 510)
"""The bytes of its file that each connection of SQLite in WAL mode has locked, shared (sqlite.org/fileformat, 1.5.1)."""
_SIDES = ("-wal", "-journal", *_HARMLESS)


@contextlib.contextmanager
def built(url: str, *, replace: bool = False, probe: Callable[[str], None] = lambda _point: None) -> Iterator[Backend]:
    """A new backend, which is at `url` once the block has ended well; otherwise nothing is.

    Raises `StoreUnavailable` if something is there and not to be replaced, or is in use, or the place can't be written to.
    """
    scheme, _, rest = url.partition(":")
    rest, mark, query = rest.partition("?")
    place = Path(rest)
    if scheme == "memory" or not rest:
        raise StoreUnavailable(f"{url} keeps nothing; name a file, such as sqlite:restored.db")
    if not place.parent.is_dir():
        raise StoreUnavailable(f"the directory {place.parent} does not exist; create it first")
    new, lock = place.with_name(place.name + _BUILDING), place.with_name(place.name + _LOCK)
    try:
        with alone(lock, f"building {url}"):
            try:
                _refuse(url, place, replace=replace)
                _remove(new)
                _, backend = open_backend(f"{scheme}:{new}{mark}{query}")
                try:
                    yield backend
                finally:
                    backend.close()
                _tidy(new)
                probe("built")
                _refuse(url, place, replace=replace)  # building takes long: somebody may have begun a store there meanwhile
                if replace:
                    _move_aside(place, probe)
                move(new, place)
                probe("moved")
            finally:
                _remove(new)
                with contextlib.suppress(PermissionError):  # Windows keeps the name of what is open; an empty file does no harm
                    lock.unlink(missing_ok=True)
    except OSError as error:
        raise StoreUnavailable(f"{url} could not be built: {error}") from error


def _refuse(url: str, place: Path, *, replace: bool) -> None:
    # a log without its database would become that of the new one
    there = [path for path in (place, *_sides(place)) if path.exists() and not path.name.endswith(_HARMLESS)]
    if there and not replace:
        raise StoreUnavailable(f"{there[0]} is there already; name another place, or replace it (it is moved aside)")
    if place.exists() and _is_used(url, place):
        raise StoreUnavailable(f"{url} is in use; stop what uses it first")


def _is_used(url: str, place: Path) -> bool:
    """Whether somebody has the store open."""
    if not url.startswith("sqlite:"):
        is_lmdb = url.startswith("lmdb:")
        try:
            open_backend(url, create=False)[1].close()
        except StoreUnavailable:
            return True
        except StoreError as error:
            # LMDB fails so where this process has it open. What is damaged can't be opened, but who has it open may not know
            if is_lmdb and (isinstance(error, StoreFailed) or _is_open_here(place)):
                return True
        return is_lmdb and _is_locked(place.with_name(place.name + "-lock"))  # each holds a shared lock on its first byte
    import apsw  # noqa: PLC0415 - a database library

    # in this mode SQLite wants the file for itself, which it gets if no other connection is open
    try:
        with contextlib.closing(apsw.Connection(str(place), flags=apsw.SQLITE_OPEN_READWRITE)) as connection:
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            connection.execute("BEGIN IMMEDIATE; ROLLBACK")
    except (apsw.BusyError, apsw.LockedError):
        return True
    except apsw.Error:  # what is damaged can't be opened, but who has it open may not know
        return handles.is_used(str(place)) or _is_locked(place, *_SHARED)
    return False


def _is_open_here(place: Path) -> bool:
    """Whether this process has the LMDB store open, which its library tells before it looks at the file."""
    import lmdb  # noqa: PLC0415 - a database library

    try:
        lmdb.Environment(str(place), subdir=False, readonly=True, lock=False).close()
    except lmdb.Error as error:
        return "already open in this process" in str(error)
    return False


def _is_locked(file: Path, start: int = 0, size: int = 1) -> bool:
    """Whether another process has locked some bytes of a file, where this one has no connection whose own locks would go."""
    try:
        handle = os.open(file, os.O_RDWR)
    except FileNotFoundError:
        return False  # what is there was never opened
    try:
        return not try_record_lock(handle, start, size)
    finally:
        os.close(handle)


def _sides(place: Path) -> list[Path]:
    """The files that a database keeps beside its own: log, index of the log, locks."""
    return [path for suffix in _SIDES if (path := place.with_name(place.name + suffix)).exists()]


def _tidy(new: Path) -> None:
    for side in _sides(new):
        if side.name.endswith("-wal") and side.stat().st_size:
            raise StoreFailed(f"{new} was not written to its end; check the disk, and restore again")
        side.unlink()
    sync_folder(new.parent)


def _move_aside(place: Path, probe: Callable[[str], None]) -> None:
    if not place.exists() and not _sides(place):
        return
    aside = next(path for n in count(1) if not (path := place.with_name(f"{place.name}{_REPLACED}{n}")).exists())
    # the database first: without it the log beside it means nothing, while it without its log would be an older store
    sides = _sides(place)
    if place.exists():
        move(place, aside)
        probe("aside")
    for side in sides:
        move(side, aside.with_name(aside.name + side.name[len(place.name) :]))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    for each in (path, *_sides(path)):
        each.unlink(missing_ok=True)
