"""Owns `Tree`: one tree of values as it is now.
It must never keep a value: each read sees what is committed.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from spellwork.clock import Duration
from spellwork.errors import Conflict, DefinitionError, MergeRefused
from spellwork.state.keys import Key
from spellwork.state.look import Look, Seen, Span
from spellwork.state.reading import Reads
from spellwork.state.row import due_of, is_live
from spellwork.state.rows import Operation, TreeRows
from spellwork.state.watching import StateChange, changes_of
from spellwork.store import Batch, Reader

if TYPE_CHECKING:
    from spellwork.state.store import StateStore

V = TypeVar("V")

_ROWS_A_READ = 1000


class TreeStats(msgspec.Struct, frozen=True):
    """How many values a tree has, their bytes as stored (with keys), and how many of them will expire."""

    keys: int
    bytes: int
    expiring: int


class Tree(Reads[V], Generic[V]):
    """A tree of values of one type. Made by `store.tree(name, annotation)`.

    Each write is atomic and durable when it returns, and returns its revision. What `put_into`, `delete_into`, `clear_into` and
    `merge_into` add to a `Batch` is written when that is committed.
    """

    def __init__(self, rows: TreeRows[V], store: StateStore):
        super().__init__(rows)
        self._store = store

    def __repr__(self) -> str:
        return f"<Tree {self.rows}>"

    async def _see(self, keys: tuple[bytes, ...], spans: tuple[Span, ...] = (), *, versions: bool = False) -> Seen:
        return await self._store.look(Look(self._store.clock.now(), keys, spans, versions=versions))

    # Writes

    async def set(
        self, key: Key, value: V, *, ttl: Duration | None = None, if_version: int | None = None, if_absent: bool = False
    ) -> int:
        """Set `key` to `value`.

        - `ttl`: seconds after which the value is gone. Without it, the value stays, also if the one before would have expired.
        - `if_version`: only if the value has this version (0: there is none); `if_absent`: only if there is none.

        Raises `Conflict` if such a condition does not hold, `PayloadError` if the value does not fit the tree.
        """
        batch = Batch()
        self.put_into(batch, key, value, ttl=ttl)
        if if_absent:
            if if_version not in (None, 0):
                raise DefinitionError("give either if_version= or if_absent=, not both")
            if_version = 0
        return await self._written_if(key, batch, if_version)

    async def delete(self, key: Key, *, if_version: int | None = None) -> int:
        """Remove `key` if it is there; with `if_version` only if its value has this version, else it raises `Conflict`."""
        batch = Batch()
        self.delete_into(batch, key)
        return await self._written_if(key, batch, if_version)

    async def _written_if(self, key: Key, batch: Batch, wanted: int | None) -> int:
        if wanted is None:
            return await self._store.commit(batch)
        full = self.rows.key(key)
        while True:
            seen = await self._see((full,), versions=True)
            version, live = seen.versions[full], full in seen.rows
            if (version if live else 0) != wanted:
                raise Conflict(f"tree {self.rows}, key {key!r} has {_told(version if live else 0)}, not {_told(wanted)}", key=full)
            conditional = Batch()
            conditional.rows.update(batch.rows)
            conditional.require_version(full, version)  # that of an expired value, where there is still one
            # a conflict means that the value was changed, that one came, or that an expired one was swept: look again
            with contextlib.suppress(Conflict):
                return await self._store.commit(conditional)

    async def clear(self, prefix: Key | None = None) -> int:
        """Remove every key, or those that begin with `prefix`, however many there are."""
        batch = Batch()
        self.clear_into(batch, prefix)
        return await self._store.commit(batch)

    async def merge(self, key: Key, op: str, operand: Any, *, id: str | None = None) -> int:
        """Combine the value of `key` with `operand`, exactly, however many do so at the same time; returns the revision.

        `op` is "add", "append", "union", "min", "max", "merge-patch" (RFC 7396) or one that the store was opened with. The value
        keeps its time of expiry. Raises `MergeRefused` if the two do not fit, or if the result would not fit the tree.

        With an `id` it is done once: again with the same id, it returns the revision that did it. Ids are kept for the store's
        `merge_window`. Raises `Conflict` if the id was used for another operand or operator.
        """
        while True:
            batch = Batch()
            operation = self.merge_into(batch, key, op, operand, id=id)
            try:
                return await self._store.commit(batch)
            except Conflict as error:
                if error.key != operation.key:
                    raise
                # it was done already, unless its id was forgotten just now
                done = await self._done(key, operation)
                if done:
                    return done
            except MergeRefused as error:
                raise MergeRefused(f"tree {self.rows}, key {key!r}: {error.__cause__}", key=error.key) from error.__cause__

    async def _done(self, key: Key, operation: Operation) -> int:
        row, version = await self._store.read(lambda reader: (reader.get(operation.key), reader.version(operation.key)))
        if row is not None and row[8:] != operation.digest:
            raise Conflict(
                f"tree {self.rows}, key {key!r}: the id of this merge was used for another one; use a new id", key=operation.key
            )
        return version

    def put_into(self, batch: Batch, key: Key, value: V, *, ttl: Duration | None = None) -> None:
        """Add `set` to a batch; it needs no read and cannot fail when the batch is committed."""
        due = self.rows.put_into(batch, key, value, ttl=ttl, now=self._store.clock.now() if ttl is not None else 0)
        if due:
            self._store.sweeper.expect(due)  # whoever commits the batch may not come by the sweeper

    def delete_into(self, batch: Batch, key: Key) -> None:
        """Add `delete` to a batch; it needs no read and cannot fail when the batch is committed."""
        self.rows.delete_into(batch, key)

    def clear_into(self, batch: Batch, prefix: Key | None = None) -> None:
        """Add `clear` to a batch; what the batch puts into the range afterwards stays."""
        self.rows.clear_into(batch, prefix)

    def merge_into(self, batch: Batch, key: Key, op: str, operand: Any, *, id: str | None = None) -> Operation:
        """Add `merge` to a batch, which is refused as a whole with `MergeRefused` if it doesn't fit.

        It is refused with `Conflict` on the key of the operation that is returned if that was done already.
        """
        return self.rows.merge_into(batch, key, op, operand, self._store.clock, id=id, window=self._store.merge_window)

    # Beyond single keys

    def watch(self, prefix: Key | None = None, *, since: int | None = None) -> AsyncGenerator[StateChange[V]]:
        """Changes of the tree (or of the keys that begin with `prefix`) after their commit, in the order of their revisions.

        It begins after the revision `since`, without it at the first change after the iteration has begun. Raises `Lagged` once
        changes that it has not seen are no longer retained: read the tree anew and watch from there.
        """
        span = self.rows.span(prefix=prefix)
        return changes_of(self._store.low, self.rows, span.start, span.end, since)

    async def stats(self) -> TreeStats:
        """Count the tree; it reads all of it."""
        now, start, end = self._store.clock.now(), self.rows.prefix, self.rows.end
        return await self._store.read(lambda reader: _counted(reader, start, end, now))


def _counted(reader: Reader, start: bytes, end: bytes, now: int) -> TreeStats:
    keys = size = expiring = 0
    while page := reader.rows(start, end, limit=_ROWS_A_READ):
        for key, row, _ in page:
            if is_live(row, now):
                keys, size, expiring = keys + 1, size + len(key) + len(row), expiring + (due_of(row) > 0)
        start = page[-1][0] + b"\x00"
    return TreeStats(keys, size, expiring)


def _told(version: int) -> str:
    return f"version {version}" if version else "no value"
