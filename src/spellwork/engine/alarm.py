"""Owns the timers of parked runs, which lie in the store: finding those that are due, and when to look next.
It must never hold anything for a run that is not in memory.
"""

from __future__ import annotations

import logging

from spellwork.clock import MICROSECONDS, Clock
from spellwork.engine.host import Host
from spellwork.engine.partition import Partition
from spellwork.errors import RunFinished, SpellworkError, StoreCorrupt, StoreError
from spellwork.journal.rows import Keys, partition_range, timer_of

log = logging.getLogger("spellwork.engine")
_PAGE = 500


class Alarm:
    """Loads the runs whose timers are due and lets the host fire them."""

    def __init__(self, host: Host, clock: Clock):
        self._host = host
        self._clock = clock
        host.sweep_due = lambda: host.spawn(self.sweep())

    async def peek(self, partition: Partition) -> None:
        """Find out when the first timer of a partition is due."""
        first = await self._host.store.scan(*partition_range(Keys.TIMERS, partition.index), limit=1, damaged=b"")
        self._host.timers.stored(timer_of(first[0][0])[0] if first else None)

    async def sweep(self) -> None:
        """Fire what is due in every partition."""
        for partition in list(self._host.partitions.values()):
            try:
                await self._sweep(partition)
            except StoreError as error:
                log.warning("looking for due timers failed, once more in a second: %s", error)
                self._host.timers.stored(self._clock.now() + MICROSECONDS)

    async def _sweep(self, partition: Partition) -> None:
        now = self._clock.now()
        found = await self._host.store.scan(*partition_range(Keys.TIMERS, partition.index), limit=_PAGE, damaged=b"")
        for key, _ in found:
            due, number = timer_of(key)
            if due > now:
                self._host.timers.stored(due)
                return
            await self._fire(partition, key, number)
        if len(found) == _PAGE:
            self._host.timers.stored(now)

    async def _fire(self, partition: Partition, key: bytes, number: int) -> None:
        try:
            live = await self._host.load(number)
        except SpellworkError as error:
            if isinstance(error, StoreError) and not isinstance(error, StoreCorrupt):
                raise
            if not isinstance(error, RunFinished):
                log.warning("the timer of run number %d waits until the run is mended: %s", number, error)
            if partition.held:
                partition.batch().delete(key)  # a run that goes on after a fix writes its timer anew
        else:
            self._host.fire_due(live)
            if live.timer_key != key and partition.held:
                partition.batch().delete(key)  # also one that was left behind: it must not be found again and again
