"""Owns the look at a path before a database library opens it: what is there, who may write it, who can read it.
It must never make anything where nothing was asked to be made.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from spellwork.errors import StoreMissing, StoreUnavailable
from spellwork.store import handles


def prepare_file(path: str, scheme: str, *, create: bool) -> None:
    """See to it that a store's file is there and can be written; one that is made here is readable by its owner alone."""
    try:
        mode = _mode(path)
        if mode is not None and stat.S_ISDIR(mode):
            raise StoreUnavailable(f"{path} is a directory; name a file in it, such as {scheme}:{path}/spellwork.db")
        _check_folder(path, mode, create=create)
        # made here and not by the library, so that nobody else can read it from the first moment on
        handles.close(path, os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o600))
    except PermissionError as error:
        raise StoreUnavailable(f"{path} cannot be opened for writing: {error.strerror}; check the permissions") from error
    except OSError as error:
        raise _unopenable(path, error) from error


def prepare_folder(path: str, scheme: str, *, create: bool, is_ours: Callable[[str], bool]) -> None:
    """The same for a store that is a folder. One with files in it that are not the library's (`is_ours` of a name) is refused."""
    try:
        mode = _mode(path)
        if mode is not None and not stat.S_ISDIR(mode):
            raise StoreUnavailable(f"{path} is a file, and a {scheme}: store is a folder; choose another path")
        _check_folder(path, mode, create=create)
        if mode is None:
            os.mkdir(path, 0o700)
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            raise StoreUnavailable(f"{path} cannot be opened for writing; check the permissions")
        names = os.listdir(path)
        if not names and not create:
            raise StoreMissing(f"{path} is empty, not a store; check --store, or start a run to create one")
        others = sorted(name for name in names if not is_ours(name))
        if others:
            raise StoreUnavailable(f"{path} has other things in it ({others[0]}); name a folder of its own for the store")
    except OSError as error:
        raise _unopenable(path, error) from error


def _unopenable(path: str, error: OSError) -> StoreUnavailable:
    # also who only looks takes part in the locks of those who write
    hint = "; it takes part in the locks of others: copy the store to where you may write" if error.errno == errno.EROFS else ""
    return StoreUnavailable(f"{path} cannot be opened: {error.strerror or error}{hint}")


def _check_folder(path: str, mode: int | None, *, create: bool) -> None:
    if mode is not None:
        return
    if not create:
        raise StoreMissing(f"there is no store at {path}; check --store, or start a run to create one")
    folder = os.path.dirname(path) or "."
    if not stat.S_ISDIR(_mode(folder) or 0):
        raise StoreUnavailable(f"the directory {folder} does not exist; create it first")


def _mode(path: str) -> int | None:
    """None where nothing is; what may not be looked at raises, which `os.path.exists` hides."""
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
