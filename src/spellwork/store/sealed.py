"""Owns how a view reads rows that lie beside their seals, the same on every backend that keeps them so.
It must never give a row that is not as it was written.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable
from typing import Any

from spellwork.store.backend import Row
from spellwork.store.seal import version_of, whole_pairs


class SealedReader(abc.ABC):
    """The reads of `Reader`, over one row and over a range as the medium has them."""

    @abc.abstractmethod
    def _row(self, key: bytes) -> tuple[bytes, int] | None:
        """Value and version of a row; raises `RowDamaged`."""

    @abc.abstractmethod
    def _select(self, start: bytes, end: bytes, *, reverse: bool, limit: int | None) -> Iterable[tuple[Any, Any, Any]]:
        """Key, value and seal of the rows with start <= key < end, unchecked."""

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`, or None."""
        row = self._row(key)
        return row[0] if row else None

    def version(self, key: bytes) -> int:
        """The revision that wrote `key`, 0 if it does not exist."""
        row = self._row(key)
        return row[1] if row else 0

    def scan(
        self, start: bytes, end: bytes, *, reverse: bool = False, limit: int | None = None, damaged: bytes | None = None
    ) -> list[tuple[bytes, bytes]]:
        """The pairs with start <= key < end; a damaged row raises `RowDamaged`, unless `damaged` stands for its value."""
        return whole_pairs(self._select(start, end, reverse=reverse, limit=limit), damaged)

    def rows(self, start: bytes, end: bytes, *, reverse: bool = False, limit: int | None = None) -> list[Row]:
        """As `scan`, with the version of each row."""
        found = self._select(start, end, reverse=reverse, limit=limit)
        return [(key, value, version_of(key, value, sealed)) for key, value, sealed in found]
