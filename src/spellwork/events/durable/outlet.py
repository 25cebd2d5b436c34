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
        self._batch = Batch()
        self._futures: list[asyncio.Future[int]] = []

    def publish(self, topic: str, record: Record) -> asyncio.Future[int]:
        """Queue an event; the future gets its offset, or what went wrong."""
        loop = asyncio.get_running_loop()
        if not self._futures:
            loop.call_soon(self._flush)
        elif len(self._futures) >= _LARGEST:
            self._submit()
        append_event(self._batch, topic, record)
        future: asyncio.Future[int] = loop.create_future()
        self._futures.append(future)
        return future

    def _flush(self) -> None:
        if self._futures:
            self._submit()

    def _submit(self) -> None:
        batch, futures = self._batch, self._futures
        self._batch, self._futures = Batch(), []

        def done(outcome: int | StoreError) -> None:
            if isinstance(outcome, StoreError):
                for future in futures:
                    if not future.done():
                        future.set_exception(outcome)
            else:
                for future, offset in zip(futures, batch.sequences, strict=True):
                    if not future.done():
                        future.set_result(offset)

        self._store.submit(batch, done)
