"""Owns the claim on partitions: leases by a renewal counter, epochs, and takeover from owners that are gone.
It must never compare wall clocks of two processes, nor write to a partition without its epoch.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable

import msgspec

from spellwork.clock import Clock, machine_identity, new_id, process_is_gone, process_started
from spellwork.errors import Conflict, Fenced, StoreCorrupt
from spellwork.store import Batch, Reader, Store
from spellwork.store.keyspace import META, PARTITIONS

COUNT = META.key(b"partition-count")
_SESSION = META.key(b"session")
_EPOCH_BYTES = 8


class Owner(msgspec.Struct, frozen=True, array_like=True):
    """Who holds a partition. `beat` grows with each renewal; `id` is empty when it was released."""

    id: str = ""
    machine: str = ""
    pid: int = 0
    started: str = ""
    beat: int = 0
    lease: float = 0.0

    def __str__(self) -> str:
        return f"process {self.pid} on {self.machine.split('|')[0]}" if self.id else "nobody"


class Claim(msgspec.Struct, frozen=True):
    """A partition's row as read: its index, epoch, owner and version."""

    index: int
    epoch: int
    owner: Owner
    version: int


def partition_key(index: int) -> bytes:
    """The key of a partition's row."""
    return PARTITIONS.key(index.to_bytes(2, "big"))


def partition_of(run_id: str, count: int) -> int:
    """The partition of a run that nobody else started."""
    return int.from_bytes(hashlib.blake2b(run_id.encode(), digest_size=2).digest(), "big") % count


def read_claims(reader: Reader, count: int) -> list[Claim]:
    """The rows of all partitions."""
    return [read_claim(reader, index) for index in range(count)]


def read_claim(reader: Reader, index: int) -> Claim:
    """The row of a partition."""
    data = reader.get(partition_key(index))
    if data is None:
        return Claim(index, 0, Owner(), 0)
    try:
        owner = msgspec.msgpack.decode(data[_EPOCH_BYTES:], type=Owner)
    except (msgspec.MsgspecError, ValueError) as error:
        raise StoreCorrupt(f"the row of partition {index} cannot be read: {error}; restore a backup") from error
    return Claim(index, int.from_bytes(data[:_EPOCH_BYTES], "big"), owner, reader.version(partition_key(index)))


def pack_claim(epoch: int, owner: Owner) -> bytes:
    """The stored form: the epoch first, since the committer reads it on every batch."""
    return epoch.to_bytes(_EPOCH_BYTES, "big") + msgspec.msgpack.encode(owner)


_OPEN: set[str] = set()
"""Ids of the owners that are open in this process."""


class Ownership:
    """Claims, renews and gives back partitions for one engine."""

    def __init__(self, store: Store, clock: Clock, lease: float):
        self._store = store
        self._clock = clock
        self.lease = lease
        pid = os.getpid()
        self.me = Owner(new_id(clock), machine_identity(), pid, process_started(pid), 0, lease)
        _OPEN.add(self.me.id)
        self.held: dict[int, int] = {}
        self.session = 0
        self._beat = 0
        self._seen: dict[int, tuple[str, int, float]] = {}

    async def stored_count(self) -> int:
        """How many partitions the store has, 0 if nobody has opened it as an owner yet."""
        return int.from_bytes(await self._store.get(COUNT) or b"", "big")

    async def partition_count(self, wanted: int) -> int:
        """How many partitions the store has; fixed by whoever made it."""
        stored = await self.stored_count()
        if not stored:
            try:
                await self._store.commit(Batch().put(COUNT, wanted.to_bytes(2, "big")).require_absent(COUNT))
            except Conflict:
                return await self.partition_count(wanted)
            return wanted
        return stored

    async def open_session(self) -> None:
        """Take a session number: the upper part of every run number that this engine gives."""
        while not self.session:
            version, value = await self._store.read(lambda reader: (reader.version(_SESSION), reader.get(_SESSION)))
            session = int.from_bytes(value or b"", "big") + 1
            try:
                await self._store.commit(Batch().put(_SESSION, session.to_bytes(8, "big")).require_version(_SESSION, version))
            except Conflict:
                continue
            self.session = session

    async def claim(self, count: int, limit: int) -> list[int]:
        """Claim what is free, released, or held by an owner that is gone, up to `limit` in all; returns the new ones."""
        claims = await self._store.read(lambda reader: read_claims(reader, count))
        free = [claim for claim in claims if claim.index not in self.held and self.is_free(claim)]
        wanted = free[: max(limit - len(self.held), 0)]
        # side by side, so that they share a sync: one after the other, a busy disk made a takeover last for many seconds
        outcomes = await asyncio.gather(*map(self._claimed, wanted), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return [claim.index for claim, is_ours in zip(wanted, outcomes, strict=True) if is_ours]

    async def _claimed(self, claim: Claim) -> bool:
        key, epoch = partition_key(claim.index), claim.epoch + 1
        batch = Batch().put(key, pack_claim(epoch, self._alive())).require_version(key, claim.version)
        try:
            await self._store.commit(batch)
        except Conflict:
            return False
        self.held[claim.index] = epoch
        return True

    async def owners(self, count: int) -> list[Owner]:
        """Who holds the partitions that are not ours."""
        claims = await self._store.read(lambda reader: read_claims(reader, count))
        return [claim.owner for claim in claims if claim.index not in self.held]

    def is_free(self, claim: Claim) -> bool:
        """Whether a partition was released, or its owner is gone."""
        owner = claim.owner
        if not owner.id:
            return True
        if owner.machine == self.me.machine and self._is_gone(owner):
            return True
        # The lease is judged by how long the counter stood still on this process's own monotonic clock.
        now = self._clock.monotonic()
        seen = self._seen.get(claim.index)
        if seen is None or seen[:2] != (owner.id, owner.beat):
            self._seen[claim.index] = (owner.id, owner.beat, now)
            return False
        return now - seen[2] >= max(owner.lease, self.lease)

    def _is_gone(self, owner: Owner) -> bool:
        if owner.pid == self.me.pid and owner.started == self.me.started:
            return owner.id not in _OPEN  # an engine of this very process that failed before it could release
        return process_is_gone(owner.pid, owner.started)

    def _alive(self) -> Owner:
        # the counter goes on when a lost partition is claimed again, else whoever saw its beginning would take it for still
        self._beat += 1
        return msgspec.structs.replace(self.me, beat=self._beat)

    async def renew(self, lost: Callable[[int], None]) -> None:
        """Show that this owner is alive, in one batch if nothing was lost, else one by one."""
        owner = self._alive()
        batch = Batch()
        for index, epoch in self.held.items():
            batch.put(partition_key(index), pack_claim(epoch, owner)).require_epoch(index, epoch)
        try:
            if self.held:
                await self._store.commit(batch)
        except Fenced:
            for index, epoch in list(self.held.items()):
                single = Batch().put(partition_key(index), pack_claim(epoch, owner)).require_epoch(index, epoch)
                try:
                    await self._store.commit(single)
                except Fenced:
                    self.held.pop(index, None)
                    lost(index)

    def close(self) -> None:
        """This owner writes no more."""
        _OPEN.discard(self.me.id)

    async def release(self) -> None:
        """Give everything back, so that the next owner need not wait."""
        given = [
            self._store.commit(Batch().put(partition_key(index), pack_claim(epoch, Owner())).require_epoch(index, epoch))
            for index, epoch in self.held.items()
        ]
        self.held.clear()
        for outcome in await asyncio.gather(*given, return_exceptions=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, Fenced):
                raise outcome
