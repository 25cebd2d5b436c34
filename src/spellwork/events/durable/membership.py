"""Owns who takes part in a group: consumers that are alive, and which of them has which lane.
It must never compare wall clocks of two processes, nor take a lane from a consumer that is alive.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import msgspec

from spellwork.clock import Clock, machine_identity, new_id, process_is_gone, process_started
from spellwork.errors import Conflict
from spellwork.events.durable.keys import Spaces, row_key, rows_of, touched_key
from spellwork.events.durable.rows import Claim, Member, pack_row, unpack_row
from spellwork.store import Batch, Reader, Store

_OPEN: set[str] = set()
"""Ids of the consumers that are open in this process."""


class View(NamedTuple):
    """A group as the store has it: its members by id with the version of their rows, and each lane's claim with its version."""

    members: dict[str, tuple[Member, int]]
    claims: list[tuple[Claim, int]]


def claim_key(topic: str, group: str, partition: int) -> bytes:
    """The key of a lane's claim."""
    return row_key(Spaces.CLAIMS, topic, group, partition)


def view(reader: Reader, topic: str, group: str, partitions: int) -> View:
    """The members and claims of a group."""
    members = {}
    for key, data, version in reader.rows(*rows_of(Spaces.MEMBERS, topic, group)):
        member = unpack_row(Member, key, data)
        members[member.id] = (member, version)
    claims = []
    for partition in range(partitions):
        key = claim_key(topic, group, partition)
        row = reader.get(key)
        claims.append((Claim() if row is None else unpack_row(Claim, key, row), reader.version(key)))
    return View(members, claims)


def runs_here(member: Member) -> bool:
    """Whether the consumer is one of this machine, so that `has_ended` is the whole truth about it."""
    return member.machine == machine_identity()


def has_ended(member: Member) -> bool:
    """Whether the consumer is certainly gone: its process is, or it was closed in this one."""
    if not runs_here(member):
        return False
    if member.pid == os.getpid() and member.started == process_started(member.pid):
        return member.id not in _OPEN
    return process_is_gone(member.pid, member.started)


class Membership:
    """One consumer's part in its group, whose row was `made` at this revision: another group of that name is none of its."""

    def __init__(self, store: Store, clock: Clock, topic: str, group: str, made: int, lease: float):
        self._store = store
        self._made = made
        self._clock = clock
        self._topic = topic
        self._group = group
        pid = os.getpid()
        self.me = Member(new_id(clock), machine_identity(), pid, process_started(pid), lease)
        self._version = 0
        self._seen: dict[str, tuple[int, float]] = {}

    async def join(self) -> None:
        """Show that this consumer is there; raises `Conflict` if its group is not, or not the same."""
        _OPEN.add(self.me.id)
        self._version = await self._store.commit(self._of_group(self._news().put(self._key(self.me.id), pack_row(self.me))))

    async def beat(self) -> bool:
        """Show that this consumer is alive; False if the others have given it up."""
        me = msgspec.structs.replace(self.me, beat=self.me.beat + 1)
        batch = Batch().put(self._key(me.id), pack_row(me)).require_version(self._key(me.id), self._version)
        try:
            self._version = await self._store.commit(batch)
        except Conflict:
            return False
        self.me = me
        return True

    async def leave(self) -> None:
        """Take no part any more."""
        await self._store.commit(self._news().delete(self._key(self.me.id)))

    def close(self) -> None:
        """Whatever happened, this consumer does nothing more."""
        _OPEN.discard(self.me.id)

    async def alive(self, seen: View) -> list[str]:
        """The members that are alive, sorted; those that are gone lose their rows, and find that out by their next beat."""
        gone = [(member.id, version) for member, version in seen.members.values() if self._is_gone(member)]
        for member_id, version in gone:
            key = self._key(member_id)
            try:
                await self._store.commit(self._news().delete(key).require_version(key, version))
            except Conflict:
                continue  # it is alive after all, or somebody else was faster
        return sorted(seen.members.keys() - {member_id for member_id, _ in gone} | {self.me.id})

    def share(self, alive: list[str], partitions: int) -> set[int]:
        """The lanes that are this consumer's by right."""
        place = alive.index(self.me.id)
        return {partition for partition in range(partitions) if partition % len(alive) == place}

    async def claim(self, partition: int, version: int) -> int:
        """Take a free lane: the version that all its batches require, 0 if somebody else was faster, or the group is gone."""
        key = claim_key(self._topic, self._group, partition)
        batch = self._of_group(Batch().put(key, pack_row(Claim(self.me.id))))
        try:
            return await self._store.commit(batch.require_version(key, version))
        except Conflict:
            return 0

    def release(self, batch: Batch, partition: int) -> None:
        """Give a lane back."""
        batch.put(claim_key(self._topic, self._group, partition), pack_row(Claim()))
        batch.rows[touched_key(self._topic, self._group)] = b""

    def _is_gone(self, member: Member) -> bool:
        if member.id == self.me.id:
            return False
        if has_ended(member):
            return True
        # how long the beat stood still, on this process's own monotonic clock
        now = self._clock.monotonic()
        beat, since = self._seen.get(member.id, (-1, now))
        if beat != member.beat:
            self._seen[member.id] = (member.beat, now)
            return False
        return now - since >= member.lease

    def _key(self, member_id: str) -> bytes:
        return row_key(Spaces.MEMBERS, self._topic, self._group, member_id.encode())

    def _of_group(self, batch: Batch) -> Batch:
        # who slept while its group was dropped and begun anew, with other lanes, would divide the events in another way
        return batch.require_version(row_key(Spaces.GROUPS, self._topic, self._group), self._made)

    def _news(self) -> Batch:
        return Batch().put(touched_key(self._topic, self._group), b"")
