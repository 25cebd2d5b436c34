"""Owns `StateSnapshot`: all trees as they were at one revision.
It must never see what was written since.
"""

from __future__ import annotations

import functools
from typing import Generic, TypeVar

from spellwork.state.look import Look, Seen, Span, perform
from spellwork.state.reading import Reads
from spellwork.state.rows import TreeRows
from spellwork.store.store import Snapshot

V = TypeVar("V")


class StateSnapshot:
    """A view of all trees as they were at its `revision`."""

    def __init__(self, view: Snapshot, now: int, revision: int):
        self._view = view
        self._now = now
        self.revision = revision

    def __getitem__(self, tree: Reads[V]) -> TreeAt[V]:
        return TreeAt(tree.rows, self._view, self._now)


class TreeAt(Reads[V], Generic[V]):
    """A tree in a snapshot."""

    def __init__(self, rows: TreeRows[V], view: Snapshot, now: int):
        super().__init__(rows)
        self._view = view
        self._now = now

    async def _see(self, keys: tuple[bytes, ...], spans: tuple[Span, ...] = (), *, versions: bool = False) -> Seen:
        return await self._view.read(functools.partial(perform, look=Look(self._now, keys, spans, versions=versions)))
