"""Owns closing handles of a database's own files: only when this process has no connection to that database any more.
It must never close one earlier: then POSIX drops every lock that the process has on the file, by whatever handle.

SQLite's locks are of that kind (sqlite.org/howtocorrupt.html, 2.2). Without them a newcomer takes the database for unused, and
truncates the index of its log, which others have mapped: they die by SIGBUS, or two processes write at once.
"""

from __future__ import annotations

import os
import threading

_LOCK = threading.Lock()
_USERS: dict[str, int] = {}
_LATER: dict[str, list[int]] = {}


def enter(database: str) -> None:
    """This process is about to connect to the database (once more)."""
    with _LOCK:
        key = os.path.realpath(database)
        _USERS[key] = _USERS.get(key, 0) + 1


def leave(database: str) -> None:
    """The connections since `enter` are closed."""
    with _LOCK:
        key = os.path.realpath(database)
        _USERS[key] -= 1
        if not _USERS[key]:
            del _USERS[key]
            for handle in _LATER.pop(key, []):
                os.close(handle)


def is_used(database: str) -> bool:
    """Whether this process has a connection to the database."""
    with _LOCK:
        return os.path.realpath(database) in _USERS


def close(database: str, handle: int) -> None:
    """Close a handle of one of the database's files, now or when the last connection is gone."""
    with _LOCK:
        key = os.path.realpath(database)
        if key in _USERS:
            _LATER.setdefault(key, []).append(handle)
        else:
            os.close(handle)


def read(database: str, file: str, size: int, offset: int = 0) -> bytes:
    """Some bytes of one of the database's files; raises what `open` does."""
    handle = os.open(file, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        os.lseek(handle, offset, os.SEEK_SET)
        return os.read(handle, size)
    finally:
        close(database, handle)
