"""Owns a backend that fails on request, over a real one; and the making of each backend there is.
It must never fail where nothing was asked to fail.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from spellwork.clock import SystemClock
from spellwork.errors import StoreFailed, StoreFull
from spellwork.store import Backend, Durability, Store
from spellwork.store.lmdb import LmdbBackend
from spellwork.store.memory import MemoryBackend
from spellwork.store.rocksdb import RocksBackend
from spellwork.store.sqlite import SqliteBackend

MAKERS: dict[str, Callable[[Path], Any]] = {
    "memory": lambda _place: MemoryBackend(),
    "sqlite": lambda place: SqliteBackend(str(place / "store.db")),
    "lmdb": lambda place: LmdbBackend(str(place / "store.mdb")),
    "rocksdb": lambda place: RocksBackend(str(place / "store")),
}
WRITES = ("begin", "write", "delete_range", "commit", "after")


class Faulty:
    """Counts the steps of write transactions; `fails(step, number)` says what the n-th one raises instead of being done.

    The step "after" is a commit that was done, of which nobody hears: as after a failed sync.
    """

    def __init__(self, inner: Backend, fails: Callable[[str, int], BaseException | None]):
        self._inner: Any = inner
        self._fails = fails
        self.steps = 0
        self.reopened = 0
        self.journal: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @property
    def inline(self) -> bool:
        return bool(self._inner.inline)

    def _step(self, name: str) -> None:
        self.journal.append(name)
        self.steps += 1
        error = self._fails(name, self.steps)
        if error is not None:
            raise error

    def begin(self, *, sync: bool) -> tuple[int, bool]:
        self._step("begin")
        found: tuple[int, bool] = self._inner.begin(sync=sync)
        return found

    def write(self, rows: Any, deletes: Any) -> None:
        self._step("write")
        self._inner.write(rows, deletes)

    def delete_range(self, start: bytes, end: bytes) -> None:
        self._step("delete_range")
        self._inner.delete_range(start, end)

    def commit(self, revision: int) -> None:
        self._step("commit")
        self._inner.commit(revision)
        self._step("after")

    def reopen(self) -> None:
        self.reopened += 1
        self.journal.append("reopen")
        if not isinstance(self._inner, MemoryBackend):
            self._inner.reopen()


def full(step: str) -> StoreFull:
    return StoreFull(f"no room at {step}")


def broken(step: str) -> StoreFailed:
    return StoreFailed(f"refused at {step}")


def store_over(backend: Any, durability: str = "full") -> Store:
    """A store over a backend as it is."""
    level = "memory" if backend.inline else durability
    return Store("faulty:", backend, Durability.parse(level), SystemClock())
