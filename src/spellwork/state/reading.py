"""Owns the reads of a tree, the same whether it is read as it is now, in a snapshot or in a transaction.
It must never know where the rows come from.
"""

from __future__ import annotations

import abc
from collections.abc import AsyncIterator, Generator, Iterable
from typing import Any, Generic, NamedTuple, TypeVar, overload

from spellwork.state.keys import Key
from spellwork.state.look import Found, Seen, Span
from spellwork.state.rows import TreeRows

V = TypeVar("V")
D = TypeVar("D")
_PAGE = 200


class Versioned(NamedTuple, Generic[V]):
    """A value with its version, and the revision of the store at which it was read.

    `version` is the revision that wrote it (0: the key has no value, and `value` is None). A watch with `since=revision` continues
    where the read ended. What a transaction has written itself has no version yet: 0.
    """

    value: V | None
    version: int
    revision: int


class Reads(abc.ABC, Generic[V]):
    """The verbs that read a tree."""

    def __init__(self, rows: TreeRows[V]):
        self.rows = rows

    @abc.abstractmethod
    async def _see(self, keys: tuple[bytes, ...], spans: tuple[Span, ...] = (), *, versions: bool = False) -> Seen:
        """Look at keys and ranges, all as of one moment; `versions` are filled in on request."""

    async def _find(self, span: Span) -> Found:
        return (await self._see((), (span,))).spans[0]

    @overload
    async def get(self, key: Key) -> V | None: ...

    @overload
    async def get(self, key: Key, default: D) -> V | D: ...

    async def get(self, key: Key, default: D | None = None) -> V | D | None:
        """The value of `key`, or `default`; raises `PayloadError` if what is stored does not fit the tree's annotation."""
        full = self.rows.key(key)
        row = (await self._see((full,))).rows.get(full)
        return default if row is None else self.rows.value(key, row)

    async def get_versioned(self, key: Key) -> Versioned[V]:
        """The value of `key` with its version."""
        full = self.rows.key(key)
        seen = await self._see((full,), versions=True)
        row = seen.rows.get(full)
        if row is None:
            return Versioned(None, 0, seen.revision)
        return Versioned(self.rows.value(key, row), seen.versions[full], seen.revision)

    async def get_many(self, keys: Iterable[Key]) -> dict[Key, V]:
        """The values of those of `keys` that have one, all as of one moment."""
        full = {self.rows.key(key): key for key in keys}
        rows = (await self._see(tuple(full))).rows
        return {key: self.rows.value(key, rows[name]) for name, key in full.items() if name in rows}

    async def exists(self, key: Key) -> bool:
        """Whether `key` has a value."""
        full = self.rows.key(key)
        return full in (await self._see((full,))).rows

    async def count(self, *, prefix: Key | None = None, start: Key | None = None, stop: Key | None = None) -> int:
        """How many keys have a value."""
        span = self.rows.span(prefix=prefix, start=start, stop=stop)
        return len((await self._find(Span(span.start, span.end, names=True))).rows)

    def scan(
        self,
        *,
        prefix: Key | None = None,
        start: Key | None = None,
        stop: Key | None = None,
        reverse: bool = False,
        limit: int | None = None,
        after: Key | None = None,
    ) -> Scan[V]:
        """Keys and values in the order of the keys: `await` it for a list, or go through it with `async for`.

        - `prefix`: keys that begin with this text, these bytes, or these elements of a tuple; or start <= key < stop.
        - `after`: only what comes behind this key (with `reverse`: before it), to go on where a page ended.

        A list is of one moment. `async for` reads a page at a time, each of its own moment, unless it goes through a snapshot or a
        transaction.
        """
        return Scan(self, self.rows.span(prefix=prefix, start=start, stop=stop, reverse=reverse, limit=limit, after=after))


class Scan(Generic[V]):
    """What `scan` gives: a list when it is awaited, pages when it is gone through."""

    def __init__(self, reads: Reads[V], span: Span):
        self._reads = reads
        self._span = span

    def __await__(self) -> Generator[Any, None, list[tuple[Key, V]]]:
        return self._page(self._span).__await__()

    async def __aiter__(self) -> AsyncIterator[tuple[Key, V]]:
        span = self._span
        left = span.limit
        while left is None or left > 0:
            wanted = _PAGE if left is None else min(left, _PAGE)
            page = await self._page(Span(span.start, span.end, span.reverse, wanted))
            for pair in page:
                yield pair
            if len(page) < wanted:
                return
            last = self._reads.rows.key(page[-1][0])
            span = Span(span.start, last, True) if span.reverse else Span(last + b"\x00", span.end)
            left = None if left is None else left - len(page)

    async def _page(self, span: Span) -> list[tuple[Key, V]]:
        rows = self._reads.rows
        found = (await self._reads._find(span)).rows
        pairs = []
        for full, row, _ in found:
            key = rows.key_of(full)
            pairs.append((key, rows.value(key, row)))
        return pairs
