"""Owns the count of open views of a store, for what may only be done while there is none: moving its map, opening it anew.
It must never let a view in while that is done.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from spellwork.errors import StoreUnavailable


class Views:
    """Counts views from any thread."""

    def __init__(self, path: str):
        self._path = path
        self._changed = threading.Condition()
        self._count = 0
        self._busy = False

    def enter(self, *, wait: bool = True) -> bool:
        """Count one more; without `wait` it says False while something is done that bears no view."""
        with self._changed:
            if self._busy and not wait:
                return False
            self._changed.wait_for(lambda: not self._busy)
            self._count += 1
            return True

    def leave(self) -> None:
        """Count one less."""
        with self._changed:
            self._count -= 1
            self._changed.notify_all()

    @contextlib.contextmanager
    def none(self, seconds: float) -> Iterator[None]:
        """Wait until there is no view, and let none in; raises `StoreUnavailable` when one stays open for so long."""
        with self._changed:
            if not self._changed.wait_for(lambda: not self._count and not self._busy, seconds):
                raise StoreUnavailable(
                    f"{self._path}: a snapshot has kept the store where it is for {seconds:.0f} s; close it and try again"
                )
            self._busy = True
        try:
            yield
        finally:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
