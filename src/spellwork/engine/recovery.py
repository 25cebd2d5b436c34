"""Owns bringing back the runs that were at work when their owner stopped, and finding those that keep killing it.
It must never count a restart against a run that was merely waiting.
"""

from __future__ import annotations

import asyncio
import logging

from spellwork.clock import Clock
from spellwork.engine import rows
from spellwork.engine.host import Host
from spellwork.engine.partition import Partition
from spellwork.errors import RunFinished, SpellworkError, StoreCorrupt, StoreError
from spellwork.journal import Status
from spellwork.journal.rows import Keys, active_key, number_of, partition_range, run_key, unpack_row
from spellwork.store import Batch

log = logging.getLogger("spellwork.engine")
_PAGE = 1000
SUSPECT = 2
_SUSPECT_PATIENCE = 30.0


class Recovery:
    """Loads active runs; those that were active at two crashes in a row go one at a time, so that the guilty one shows.

    `trial` is held while one of them is tried. Whatever else might kill the process waits for that: runs of other partitions that
    were at work, and timers that were due at the crash. Else a run would be blamed for what another did.
    """

    def __init__(self, host: Host, clock: Clock, max_recoveries: int):
        self._host = host
        self._clock = clock
        self.bound = max_recoveries
        self.trial = asyncio.Lock()
        self._unproven: set[int] = set()

    async def partition(self, partition: Partition) -> None:
        """Take up everything of a partition that was just claimed."""
        active = await self._scan(Keys.ACTIVE, partition)
        counts = {number_of(key): (value or b"\0")[0] for key, value in active}
        innocent = [number for number, count in counts.items() if count < SUSPECT]
        suspects = [number for number, count in counts.items() if count >= SUSPECT]
        for start in range(0, len(innocent), _PAGE):
            page = innocent[start : start + _PAGE]
            async with self.trial:
                await self._admit(partition, {number: counts[number] + 1 for number in page})
                await asyncio.gather(*(self._load(number) for number in page))
                self._unproven.update(page)
        for number in suspects:
            async with self.trial:
                await self._progress(self._unproven)
                self._unproven.clear()
                await self._try(partition, number, counts[number])
        for key, _ in await self._scan(Keys.BLOCKED, partition):
            await self._retry_blocked(number_of(key))

    async def _try(self, partition: Partition, number: int, count: int) -> None:
        if count >= self.bound:
            await self.quarantine(partition, number, count)
            return
        await self._admit(partition, {number: count + 1})
        await self._load(number)
        await self._progress({number})

    async def _scan(self, keyspace: int, partition: Partition) -> list[tuple[bytes, bytes]]:
        return await self._host.store.scan(*partition_range(keyspace, partition.index), damaged=b"")

    async def _admit(self, partition: Partition, counts: dict[int, int]) -> None:
        batch = Batch().require_epoch(partition.index, partition.epoch)
        for number, count in counts.items():
            # one that is here already was started since: it may have been parked, and must not be called at work again
            if number not in self._host.runs:
                batch.put(active_key(partition.index, number), bytes((min(count, 255),)))
        await self._host.store.commit(batch)

    async def _load(self, number: int) -> None:
        try:
            await self._host.loader.load(number)
        except RunFinished:
            await self._forget(number)
        except StoreCorrupt as error:
            log.warning("run number %d was not recovered: %s", number, error)
        except StoreError:
            raise  # nobody would look for this run again: the engine must not go on without it
        except SpellworkError:
            return  # blocked, with its reason in its row

    async def _forget(self, number: int) -> None:
        """A run that has ended must not stay in the index, where it would be counted as killing its process."""
        data = await self._host.store.get(run_key(number))
        if data is not None:
            await self._host.store.commit(Batch().delete(active_key(unpack_row(data).partition, number)))

    async def _progress(self, numbers: set[int]) -> None:
        """Wait until these runs have come further than they were, but not for ever: some just take long."""
        deadline = self._clock.monotonic() + _SUSPECT_PATIENCE
        while any(map(self._is_behind, numbers)) and self._clock.monotonic() < deadline:  # noqa: ASYNC110 - many things are progress
            await asyncio.sleep(0.02)

    def _is_behind(self, number: int) -> bool:
        live = self._host.runs.get(number)
        return live is not None and not live.parked and live.recoveries > 0

    async def quarantine(self, partition: Partition, number: int, count: int, timer_key: bytes | None = None) -> None:
        """Set a run aside; it goes on only when somebody asks for it."""
        data = await self._host.store.get(run_key(number))
        if data is None:
            return
        row = unpack_row(data)
        if row.status.ended:
            await self._forget(number)
            return
        reason = f"its process died {count} times while it was running; `spellwork resume {row.id}` tries again after a fix"
        log.error("run %s is quarantined: %s", row.id, reason)
        batch = Batch().require_epoch(partition.index, partition.epoch)
        row = rows.block(batch, row, timer_key, Status.QUARANTINED, reason, self._clock.now())
        await self._host.store.commit(batch)
        self._host.blocked(row)

    async def _retry_blocked(self, number: int) -> None:
        data = await self._host.store.get(run_key(number))
        try:
            blocked = data is not None and unpack_row(data).status is Status.BLOCKED
        except StoreCorrupt as error:
            log.warning("run number %d stays blocked: %s", number, error)
            return
        if blocked:
            await self._load(number)
