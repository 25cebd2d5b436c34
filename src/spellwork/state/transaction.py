"""Owns one attempt of a transaction: what it has read, what it will write, and the batch that both make.
It must never let its reader see half of another transaction, nor write anything before its commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Generic, NoReturn, Self, TypeVar

from spellwork.clock import Clock, Duration
from spellwork.errors import Conflict, MergeRefused, TransactionConflict, UsageError
from spellwork.state.keys import Key
from spellwork.state.look import Found, Held, Look, Seen, Span
from spellwork.state.reading import Reads
from spellwork.state.rows import TreeRows
from spellwork.store import Batch
from spellwork.supervision import attempt

V = TypeVar("V")

Read = Callable[[Look], Awaitable[Seen]]
"""Performs a look. `spellwork.state.look.perform` does it on a reader."""

Commit = Callable[[Batch], Awaitable[int]]
"""Commits a batch and returns its revision, or raises `Conflict`."""


class Transaction:
    """Reads and writes of several trees that happen as one, or not at all: `tx[tree]` reads and writes a tree in it.

    Serializable: what it has read is unchanged when it is committed, else it raises `TransactionConflict` and nothing is written.
    Its reads are of one moment, with its own writes on top. It is committed at the end of `async with`, and forgotten if the block
    raises.

    `read` and `commit` are given by whoever makes it. Without a `commit`, its owner takes what it comes to with `into(batch)`.
    """

    def __init__(self, read: Read, commit: Commit | None, clock: Clock, *, now: int | None = None):
        self._read = read
        self._commit = commit
        self.clock = clock
        self.now = clock.now() if now is None else now
        self.revision = 0
        self._held = Held()
        self._rows: dict[bytes, bytes | None] = {}
        self._writes = Batch()
        self._lost: bytes | None = None
        self._ended = False
        self._looking = asyncio.Lock()
        self.before_first_read: Callable[[bytes], Awaitable[None]] | None = None

    def __getitem__(self, tree: Reads[V]) -> TreeIn[V]:
        return TreeIn(tree.rows, self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            await self.commit()
        self._ended = True

    @property
    def lost(self) -> bytes | None:
        """The key at which it has lost, if it has."""
        return self._lost

    @property
    def writes(self) -> bool:
        """Whether there is anything to commit."""
        batch = self._writes
        return bool(batch.rows or batch.ranges or batch.merges)

    def into(self, batch: Batch) -> Batch:
        """Add what was read (as requirements) and written to a batch; nothing can be added to the transaction afterwards.

        The batch must hold nothing for the trees of this transaction yet.
        """
        self._check_open()
        self._ended = True
        for key, version in self._held.versions.items():
            batch.require_version(key, version)
        for (start, end), seen in self._held.ranges.items():
            batch.require_unchanged(start, end, seen)
        batch.ranges += self._writes.ranges
        batch.rows.update(self._writes.rows)
        batch.merges += self._writes.merges
        return batch

    async def commit(self) -> int:
        """Commit it now; returns the revision. Raises `TransactionConflict`, or `MergeRefused`: nothing was written then."""
        self._check_open()
        if self._commit is None:
            raise UsageError("this transaction is committed by what it belongs to; leave the block instead")
        if not self.writes:
            self._ended = True
            return self.revision  # all it has read was so at this revision: there is nothing to check
        try:
            return await self._commit(self.into(Batch()))
        except Conflict as error:
            self._lose(error.key, error)

    def _check_open(self) -> None:
        if self._lost is not None:
            self._lose(self._lost)
        if self._ended:
            raise UsageError("the transaction has ended; begin another one")

    def _lose(self, key: bytes, cause: Conflict | None = None) -> NoReturn:
        self._lost = key
        self._ended = True
        raise TransactionConflict(
            "something that the transaction has read was changed by another one; nothing was written. Use `store.run(function)` or "
            "`@transactional`, which try again",
            key=key,
            attempts=1,
        ) from cause

    async def look(self, keys: tuple[bytes, ...], spans: tuple[Span, ...] = ()) -> Seen:
        """What is stored, as of the moment of this transaction and without its own writes; it is recorded as read."""
        async with self._looking:  # each look checks what those before it have seen
            self._check_open()
            unknown = tuple(key for key in keys if key not in self._rows)
            found = await self._performed(unknown, spans) if unknown or spans else []
        rows = {key: row for key in keys if (row := self._rows[key]) is not None}
        return Seen(self.revision, rows, {key: self._held.versions[key] for key in keys}, found)

    async def _performed(self, keys: tuple[bytes, ...], spans: tuple[Span, ...]) -> list[Found]:
        if self.before_first_read is not None:
            wait, self.before_first_read = self.before_first_read, None
            await wait(keys[0] if keys else spans[0].start)
        held = self._held if self._held.versions or self._held.ranges else None
        seen = await self._read(Look(self.now, keys, spans, versions=True, record=True, since=self.revision, held=held))
        if seen.broken is not None:
            self._lose(seen.broken)
        self._remember(keys, seen)
        return seen.spans

    def _remember(self, keys: tuple[bytes, ...], seen: Seen) -> None:
        self.revision = seen.revision
        for key in keys:
            self._rows[key] = seen.rows.get(key)
        self._held.versions.update(seen.versions)
        for found in seen.spans:
            self._held.ranges[found.start, found.end] = found.fingerprint

    @property
    def pending(self) -> Batch:
        """What it has written up to now."""
        self._check_open()
        return self._writes


class TreeIn(Reads[V], Generic[V]):
    """A tree inside a transaction: reads see the transaction's own writes, and writes wait for its commit."""

    def __init__(self, rows: TreeRows[V], transaction: Transaction):
        super().__init__(rows)
        self._transaction = transaction

    async def _see(
        self,
        keys: tuple[bytes, ...],
        spans: tuple[Span, ...] = (),
        *,
        versions: bool = False,  # noqa: ARG002 - a transaction needs them always
    ) -> Seen:
        transaction = self._transaction
        for key in keys:
            await self._settle(key)
        own = transaction.pending
        written = {key for key in keys if _is_written(own, key)}
        stored = tuple(key for key in keys if key not in written)
        seen = await transaction.look(stored, tuple(_widened(own, span) for span in spans))
        for key in written:
            seen.versions[key] = 0
            row = own.rows.get(key)
            if row is not None:
                seen.rows[key] = row
        for span in spans:
            for key in [key for key, _, _ in own.merges if span.start <= key < span.end]:
                await self._settle(key)
        seen.spans = [_overlaid(own, span, found) for span, found in zip(spans, seen.spans, strict=True)]
        return seen

    async def _settle(self, key: bytes) -> None:
        """Work out what the transaction's own merges into `key` come to: it is about to be read."""
        own = self._transaction.pending
        if not any(merge[0] == key for merge in own.merges):
            return
        stored = None if _is_written(own, key) else (await self._transaction.look((key,))).rows.get(key)
        row = own.rows.get(key) if _is_written(own, key) else stored
        for _, operator, operand in [merge for merge in own.merges if merge[0] == key]:
            row, problem = attempt(operator, row, operand)
            if problem is not None:
                raise MergeRefused(f"the merge into {key!r} was refused: {problem}", key=key) from problem
        own.merges = [merge for merge in own.merges if merge[0] != key]
        own.rows[key] = row

    async def set(self, key: Key, value: V, *, ttl: Duration | None = None) -> None:
        """Set `key` to `value` at the commit; with `ttl` (seconds) it expires so much later than the transaction began."""
        self.rows.put_into(self._transaction.pending, key, value, ttl=ttl, now=self._transaction.now)

    async def delete(self, key: Key) -> None:
        """Remove `key` at the commit, if it is there."""
        self.rows.delete_into(self._transaction.pending, key)

    async def clear(self, prefix: Key | None = None) -> None:
        """Remove every key, or those that begin with `prefix`, at the commit."""
        self.rows.clear_into(self._transaction.pending, prefix)

    async def merge(self, key: Key, op: str, operand: Any) -> None:
        """Combine the value of `key` with `operand` at the commit.

        It needs no read, so it conflicts with nobody. One that doesn't fit refuses the whole transaction with `MergeRefused`.
        """
        self.rows.merge_into(self._transaction.pending, key, op, operand, self._transaction.clock)


def _is_written(own: Batch, key: bytes) -> bool:
    return key in own.rows or any(start <= key < end for start, end in own.ranges)


def _widened(own: Batch, span: Span) -> Span:
    """A span that finds enough rows, though the transaction itself has removed or replaced some of them."""
    if span.limit is None or span.limit == 0:
        return span
    if any(start < span.end and span.start < end for start, end in own.ranges):
        return Span(span.start, span.end, span.reverse, names=span.names)
    hidden = sum(row is None and span.start <= key < span.end for key, row in own.rows.items())
    return Span(span.start, span.end, span.reverse, span.limit + hidden, span.names)


def _overlaid(own: Batch, span: Span, found: Found) -> Found:
    rows = [row for row in found.rows if not _is_written(own, row[0])]
    rows += [(key, row, 0) for key, row in own.rows.items() if row is not None and span.start <= key < span.end]
    rows.sort(reverse=span.reverse)
    return Found(rows if span.limit is None else rows[: span.limit], span.start, span.end)
