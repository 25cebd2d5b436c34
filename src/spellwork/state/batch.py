"""Owns `StateBatch`: writes to several trees, collected and committed as one.
It must never read.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Self, TypeVar

from spellwork.clock import Duration
from spellwork.state.keys import Key
from spellwork.state.tree import Tree
from spellwork.store import Batch

V = TypeVar("V")


class StateBatch:
    """Writes that are collected, and committed as one."""

    def __init__(self, commit: Callable[[Batch], Awaitable[int]]):
        self._commit = commit
        self._batch = Batch()

    def put(self, tree: Tree[V], key: Key, value: V, *, ttl: Duration | None = None) -> Self:
        """Set `key` of `tree` to `value`; see `Tree.set`."""
        tree.put_into(self._batch, key, value, ttl=ttl)
        return self

    def delete(self, tree: Tree[Any], key: Key) -> Self:
        """Remove `key` of `tree`."""
        tree.delete_into(self._batch, key)
        return self

    def clear(self, tree: Tree[Any], prefix: Key | None = None) -> Self:
        """Remove every key of `tree`, or those that begin with `prefix`; what is put there afterwards stays."""
        tree.clear_into(self._batch, prefix)
        return self

    def merge(self, tree: Tree[Any], key: Key, op: str, operand: Any) -> Self:
        """Combine the value of `key` with `operand`; see `Tree.merge`. One that does not fit refuses the whole batch."""
        tree.merge_into(self._batch, key, op, operand)
        return self

    async def commit(self) -> int:
        """Write it; returns the revision. The batch is empty afterwards."""
        batch, self._batch = self._batch, Batch()
        return await self._commit(batch)
