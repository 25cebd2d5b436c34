"""Owns what it takes for files and folders to be on the disk, and a lock between processes.
It must never leave a name in place whose content is not there yet.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from spellwork.errors import StoreUnavailable
from spellwork.store.turn import try_lock


def sync_file(file: IO[bytes]) -> None:
    """Bring what was written to the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    if sys.platform == "win32":
        return  # folders cannot be opened there, and names are durable with their files
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def move(old: Path, new: Path) -> None:
    """Give a file or folder another name, durably."""
    old.replace(new)
    sync_folder(new.parent)


@contextlib.contextmanager
def alone(path: Path, what: str) -> Iterator[None]:
    """Be the only process in this block for the lock file `path`; raises `StoreUnavailable` if another one is.

    Who is in the block may remove the file.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        # one that was removed after it was opened here locks out nobody: the next process makes another one
        if not try_lock(handle) or not path.exists() or not os.path.samestat(os.fstat(handle), path.stat()):
            raise StoreUnavailable(f"another process is {what}; wait for it, or stop it")
        yield
    finally:
        os.close(handle)  # which unlocks it
