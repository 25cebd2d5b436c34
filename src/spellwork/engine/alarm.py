"""Owns the timers of parked runs, which lie in the store: finding those that are due, and when to look next.
It must never hold anything for a run that is not in memory.
"""

from __future__ import annotations

import asyncio
import logging
import weakref

from spellwork.clock import MICROSECONDS, Clock
from spellwork.engine.host import Host
from spellwork.engine.partition import Partition
from spellwork.engine.recovery import SUSPECT, Recovery
from spellwork.errors import RunFinished, SpellworkError, StoreCorrupt, StoreError
from spellwork.journal.rows import Keys, partition_range, timer_of
from spellwork.store import Batch

log = logging.getLogger("spellwork.engine")
_PAGE = 500


class Alarm:
    """Loads the runs whose timers are due and lets the host fire them.

    What was due already when a partition was claimed may be what killed its last owner: the code that a timer wakes runs before
    anything of it is durable. So these are counted in their rows first, and treated as `Recovery` treats active runs.
    """

    def __init__(self, host: Host, clock: Clock, recovery: Recovery):
        self._host = host
        self._clock = clock
        self._recovery = recovery
        self._one_at_a_time = asyncio.Lock()
        self._taken_up: weakref.WeakSet[Partition] = weakref.WeakSet()
        host.sweep_due = lambda: host.spawn(self.sweep())

    async def peek(self, partition: Partition) -> None:
        """Find out when the first timer of a partition is due."""
        first = await self._host.store.scan(*partition_range(Keys.TIMERS, partition.index), limit=1, damaged=b"")
        self._host.timers.stored(timer_of(first[0][0])[0] if first else None)

    async def sweep(self) -> None:
        """Fire what is due in every partition."""
        for partition in list(self._host.partitions.values()):
            try:
                async with self._one_at_a_time:
                    await self._sweep(partition)
            except StoreError as error:
                log.warning("looking for due timers failed, once more in a second: %s", error)
                self._host.timers.stored(self._clock.now() + MICROSECONDS)

    async def _sweep(self, partition: Partition) -> None:
        now = self._clock.now()
        found = await self._host.store.scan(*partition_range(Keys.TIMERS, partition.index), limit=_PAGE, damaged=b"")
        due = [(key, value) for key, value in found if timer_of(key)[0] <= now]
        if partition in self._taken_up:
            for key, _ in due:
                await self._fire(partition, key, timer_of(key)[1])
        else:
            async with self._recovery.trial:
                await self._take_up(partition, due)
        if len(due) == _PAGE:
            self._host.timers.stored(now)
            return
        self._taken_up.add(partition)
        if len(due) < len(found):
            self._host.timers.stored(timer_of(found[len(due)][0])[0])
        elif len(found) == _PAGE:
            self._host.timers.stored(now)

    async def _take_up(self, partition: Partition, due: list[tuple[bytes, bytes]]) -> None:
        counts = {key: (value or b"\0")[0] for key, value in due}
        innocent = [key for key, count in counts.items() if count < SUSPECT]
        await self._admit(partition, {key: counts[key] + 1 for key in innocent})
        for key in innocent:
            await self._fire(partition, key, timer_of(key)[1])
        for key, count in counts.items():
            if count < SUSPECT:
                continue
            await self._host.store.commit(Batch())  # what was fired before is durable, whatever this one does
            if count >= self._recovery.bound:
                await self._recovery.quarantine(partition, timer_of(key)[1], count, key)
            else:
                await self._admit(partition, {key: count + 1})
                await self._fire(partition, key, timer_of(key)[1])

    async def _admit(self, partition: Partition, counts: dict[bytes, int]) -> None:
        batch = Batch().require_epoch(partition.index, partition.epoch)
        for key, count in counts.items():
            batch.put(key, bytes((min(count, 255),)))
        if counts:
            await self._host.store.commit(batch)

    async def _fire(self, partition: Partition, key: bytes, number: int) -> None:
        try:
            live = await self._host.loader.load(number)
        except SpellworkError as error:
            if isinstance(error, StoreError) and not isinstance(error, StoreCorrupt):
                raise
            if not isinstance(error, RunFinished):
                log.warning("the timer of run number %d waits until the run is mended: %s", number, error)
            if partition.held:
                partition.batch().delete(key)  # a run that goes on after a fix writes its timer anew
        else:
            self._host.fire_due(live)
            due = timer_of(key)[0]
            if live.timer_key == key and due > self._clock.now():
                self._host.timers.stored(due)  # the clock was set back meanwhile, and nobody else looks for this one again
            elif live.timer_key != key and partition.held:
                partition.batch().delete(key)  # also one that was left behind: it must not be found again and again
