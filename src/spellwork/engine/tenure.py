"""Owns which partitions an engine holds: claims free ones, shows signs of life, and lets go of what another owner has taken over.
It must never go on as an owner once it shows no signs of life.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from spellwork.clock import Clock
from spellwork.engine.host import Host
from spellwork.engine.ownership import Ownership
from spellwork.engine.partition import Partition
from spellwork.errors import Fenced, InternalError, StoreClosed, StoreError

log = logging.getLogger("spellwork.engine")
_TIDY_EVERY = 3600.0

Why = Callable[[], StoreError | InternalError | None]


class Tenure:
    """Holds up to `most` of the `count` partitions of a store; both may be changed.

    `take_up` is what is done with a partition that was claimed, `gone` is told when one was lost, `tidy` is done now and then by
    whoever holds the first. `fail` stops the engine for an error of the store, `broken` for any other; `why` is what stopped it.
    """

    def __init__(  # noqa: PLR0913 - what an engine is made of
        self,
        host: Host,
        ownership: Ownership,
        clock: Clock,
        *,
        most: int,
        lease: float,
        take_up: Callable[[Partition], Awaitable[None]],
        gone: Callable[[], None],
        tidy: Callable[[], Awaitable[None]],
        fail: Callable[[StoreError], None],
        broken: Callable[[BaseException], None],
        why: Why,
    ) -> None:
        self.ownership = ownership
        self.most = most
        self.count = 0
        self._host = host
        self._clock = clock
        self._lease = lease
        self._take_up = take_up
        self._gone = gone
        self._tidy = tidy
        self._fail = fail
        self._broken = broken
        self._why = why
        self._kept: asyncio.Future[Any] | None = None

    async def claim(self) -> None:
        """Take what is free, as far as this engine wants it."""
        won = await self.ownership.claim(self.count, self.most)
        if won and not self.ownership.session:
            await self.ownership.open_session()
        if won and (error := self._why()) is not None:
            raise error
        for index in won:
            partition = Partition(index, self.ownership.held[index], self._host.store, self._host.durable, self._lost)
            self._host.partitions[index] = partition
            self._host.spawn(self._take_up(partition))

    def keep(self) -> None:
        """From now on renew the leases, claim what becomes free, and look over the store once."""
        self._kept = asyncio.gather(self._renew(), self._check())
        self._kept.add_done_callback(self._ended)

    async def stop(self) -> None:
        """Show no more signs of life."""
        if self._kept is not None:
            self._kept.cancel()
            await asyncio.gather(self._kept, return_exceptions=True)
            self._kept = None

    async def release(self) -> None:
        """Give back what is held, so that nobody has to wait for the end of a lease."""
        if self._why() is None:
            try:
                await self.ownership.release()
            except StoreError as error:
                log.warning("the partitions were not released: %s", error)

    def taken_over(self, partition: Partition) -> None:
        """Another owner has taken over `partition`: let go of it, if it is still held."""
        if self._host.partitions.get(partition.index) is partition:
            self._forget(partition.index)

    @property
    def _wants_more(self) -> bool:
        return len(self._host.partitions) < min(self.most, self.count)

    async def _renew(self) -> None:
        tidy_at = self._clock.monotonic()
        while self._why() is None:
            await asyncio.sleep(min(self._lease / 3, 1.0) if self._wants_more else self._lease / 3)
            try:
                await self.ownership.renew(self._forget)
                if self._wants_more:
                    await self.claim()
                if 0 in self._host.partitions and self._clock.monotonic() >= tidy_at:
                    await self._tidy()
                    tidy_at += _TIDY_EVERY
            except StoreError as error:
                self._fail(error)

    async def _check(self) -> None:
        try:
            await self._host.store.check()
        except StoreError as error:
            self._fail(error)

    def _ended(self, done: asyncio.Future[Any]) -> None:
        # without signs of life others take the partitions, and this engine must not seem to go on
        error = None if done.cancelled() else done.exception()
        if error is not None and error is not self._why() and not isinstance(error, asyncio.CancelledError):
            self._broken(error)

    def _lost(self, partition: Partition, error: StoreError) -> None:
        if isinstance(error, Fenced):
            self._forget(partition.index)
        elif not isinstance(error, StoreClosed):
            self._fail(error)

    def _forget(self, index: int) -> None:
        partition = self._host.partitions.get(index)
        self.ownership.held.pop(index, None)
        if partition is not None:
            log.warning("partition %d was taken over by another owner; its runs go on there", index)
            self._host.drop_partition(partition)
            self._gone()
