"""Owns a partition that this process holds: its epoch, and the rows of one turn of the event loop as one fenced batch.
It must never write without requiring its epoch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from spellwork.engine.live import LiveRun
from spellwork.errors import Fenced, StoreError
from spellwork.store import Batch, Store


class Partition:
    """Collects rows; `durable(live)` is called for each run of a batch that was committed, `lost` when a batch was refused."""

    def __init__(
        self,
        index: int,
        epoch: int,
        store: Store,
        durable: Callable[[LiveRun], None],
        lost: Callable[[Partition, StoreError], None],
    ):
        self.index = index
        self.epoch = epoch
        self.held = True
        self._loop = asyncio.get_running_loop()
        self._store = store
        self._durable = durable
        self._lost = lost
        self._batch: Batch | None = None
        self._marks: dict[LiveRun, int] = {}
        self._after: list[Callable[[], None]] = []
        self._told: list[asyncio.Future[None]] = []

    def batch(self) -> Batch:
        """The batch of this turn of the loop."""
        batch = self._batch
        if batch is None or batch.sealed:
            batch = self._batch = Batch().require_epoch(self.index, self.epoch)
            marks: dict[LiveRun, int] = {}
            after: list[Callable[[], None]] = []
            told: list[asyncio.Future[None]] = []
            self._marks, self._after, self._told = marks, after, told
            self._store.submit(batch, lambda outcome: self._done(marks, after, told, outcome))
        return batch

    def mark(self, live: LiveRun) -> Batch:
        """The batch of this turn, which from now on covers `live` up to its position."""
        batch = self._batch
        if batch is None or batch.sealed:
            batch = self.batch()
        if live not in self._marks:
            live.unacked += 1
        self._marks[live] = live.execution.position
        return batch

    def remark(self, live: LiveRun) -> None:
        """Note that `live` has moved on within the batch of this turn."""
        self._marks[live] = live.execution.position

    def then(self, callback: Callable[[], None]) -> None:
        """Call back when the batch of this turn is durable."""
        self.batch()
        self._after.append(callback)

    def settled(self) -> asyncio.Future[None]:
        """Done when the batch of this turn is durable, which commits behind everything before it; raises what refused it."""
        future: asyncio.Future[None] = self._loop.create_future()
        if self.held:
            self.batch()
            self._told.append(future)
        else:
            # a batch of ours would be refused, and that would be taken for the loss of what this process may have claimed since
            future.set_exception(Fenced(f"partition {self.index} belongs to another owner now", partition=self.index))
        return future

    def _done(
        self,
        marks: dict[LiveRun, int],
        after: list[Callable[[], None]],
        told: list[asyncio.Future[None]],
        outcome: int | StoreError,
    ) -> None:
        if not isinstance(outcome, int):
            self._lost(self, outcome)
            for future in told:
                if not future.done():
                    future.set_exception(outcome)
            return
        durable = self._durable
        for live, position in marks.items():
            live.acked = position
            live.unacked -= 1
            durable(live)
        for callback in after:
            callback()
        for future in told:
            if not future.done():
                future.set_result(None)
