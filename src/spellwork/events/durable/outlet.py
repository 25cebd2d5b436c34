"""Owns what is on its way into the logs: events published in one turn of the event loop travel in one batch.
It must never tell a publisher its offset before the batch is durable.
"""

from __future__ import annotations

import asyncio

from spellwork.errors import StoreError
from spellwork.events.durable.record import Record, append_event
from spellwork.store import Batch, Store

_LARGEST = 2_000


class Outlet:
    """Collects events of all topics. A batch of its own for each would cost more than the event."""

    def __init__(self, store: Store):
        self._store = store
        self._batch: Batch | None = None
        self._futures: list[asyncio.Future[int]] = []

    def publish(self, topic: str, record: Record) -> asyncio.Future[int]:
        """Add an event to the batch of this turn; the future gets its offset, or what went wrong."""
        batch = self._batch
        # the committer seals a batch when the turn that submitted it ends: until then it may still grow
        if batch is None or batch.sealed or len(self._futures) >= _LARGEST:
            batch = self._batch = self._submitted()
        append_event(batch, topic, record)
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._futures.append(future)
        return future

    def _submitted(self) -> Batch:
        batch = Batch()
        futures = self._futures = []

        def done(outcome: int | StoreError) -> None:
            if self._batch is batch:
                self._batch = None  # a store that is closed has answered without sealing it
            if isinstance(outcome, StoreError):
                for future in futures:
                    if not future.done():
                        future.set_exception(outcome)
            else:
                for future, offset in zip(futures, batch.sequences, strict=True):
                    if not future.done():
                        future.set_result(offset)

        self._store.submit(batch, done)
        return batch
