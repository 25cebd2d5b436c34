"""Owns setting aside what a check has found: only what was hit, and nothing without keeping what can be kept.
It must never write while somebody else owns a partition, nor touch a row that is whole again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from spellwork.clock import Clock
from spellwork.engine import rows
from spellwork.engine.fsck import INDEXES, Report, check
from spellwork.engine.ownership import COUNT, Owner, Ownership, pack_claim, partition_of, read_claim
from spellwork.errors import Conflict, RowDamaged, StoreCorrupt, StoreOwned
from spellwork.journal import RunRow, Started, Status, unpack_entry
from spellwork.journal.entries import ENDINGS
from spellwork.journal.rows import (
    Address,
    Keys,
    active_key,
    blocked_key,
    journal_key,
    journal_range,
    number_of,
    pack_address,
    pack_row,
    timer_of,
)
from spellwork.state.scopes import ASIDE as MIGRATED
from spellwork.state.scopes import DUE, OPERATIONS, SCHEMAS
from spellwork.store import Batch, Reader, Store
from spellwork.store.fsck import ASIDE, Finding, SetAside, examined, pack_aside
from spellwork.store.keyspace import FEED, FEED_FLOOR, META, PARTITIONS
from spellwork.supervision import attempt

_PASSES = 5
TOPICS = range(0x30, 0x40)
_ENDS = {
    "Completed": "COMPLETED",
    "Failed": "FAILED",
    "Cancelled": "CANCELLED",
    "Terminated": "TERMINATED",
    "Continued": "CONTINUED",
}
_REASON = "fsck found its journal damaged; `spellwork resume` tries again once that was restored"
_REBUILT = "fsck rebuilt its row from its journal; `spellwork resume` goes on"


class Outcome(msgspec.Struct, frozen=True):
    """What a quarantine did, in words, and what the check says afterwards."""

    done: list[str]
    report: Report


async def quarantine(store: Store, clock: Clock) -> Outcome:
    """Set aside or rebuild what is damaged; raises `StoreOwned` while an engine that is alive owns a part of the store.

    Indexes that follow from other rows are rebuilt. A run whose journal or row is damaged is parked as quarantined. A damaged
    entry of the change feed makes those who are behind it `Lagged`. Any other damaged row moves to the keyspace of what was set
    aside, under its key, with the bytes that it has; a mark of what was done and an event of a topic stay in place. What the store
    itself needs (its settings, the schemas of trees) is left; restore a backup then.
    """
    owner = Ownership(store, clock, 10.0)
    try:
        done = await _own_all(store, owner)
        for _ in range(_PASSES):
            report = await store.examine(check)
            said = await _Quarantine(store, clock, owner, report).run()
            if not said:
                break
            done += said
        return Outcome(done, await store.examine(check))
    finally:
        await owner.release()
        owner.close()


async def _own_all(store: Store, owner: Ownership) -> list[str]:
    """Take every partition, so that no engine writes meanwhile. One whose row is damaged gets a new epoch first."""
    count = await owner.stored_count()
    hurt = [key for index in range(count) if (key := await _damaged(store, owner, index)) is not None]
    done = []
    for key in hurt:
        # above every earlier epoch: each of those came with a commit of its own
        claim = pack_claim(await store.revision() + 1, Owner())
        await store.commit(Batch().require_damaged(key).put(key, claim))
        done.append(f"partition {int.from_bytes(key[1:], 'big')}: a new epoch in place of its damaged row")
    await owner.claim(count, count)
    if len(owner.held) < count:
        raise _owned(store, str(next(iter(await owner.owners(count)), "another process")))
    return done


async def _damaged(store: Store, owner: Ownership, index: int) -> bytes | None:
    """The key of a partition whose row is damaged; raises `StoreOwned` if somebody alive owns it."""
    try:
        claim = await store.read(lambda reader: read_claim(reader, index))
    except RowDamaged as error:
        return error.key
    if not owner.is_free(claim):
        raise _owned(store, str(claim.owner))
    return None


def _owned(store: Store, name: str) -> StoreOwned:
    return StoreOwned(f"{store.url} is owned by {name}; stop it before anything is set aside", owner=name)


class _Quarantine:
    """One pass over the findings of a report."""

    def __init__(self, store: Store, clock: Clock, owner: Ownership, report: Report):
        self._store = store
        self._clock = clock
        self._owner = owner
        self._report = report
        self._handled: set[bytes] = set()
        self._rebuilt = False

    async def run(self) -> list[str]:
        """Deal with each finding in a batch of its own; returns what was done."""
        done = []
        for finding in sorted(self._report.findings, key=lambda finding: finding.key[0] == Keys.IDS):
            if finding.aside or finding.key in self._handled or (self._rebuilt and finding.key[0] == Keys.IDS):
                continue  # addresses are judged in the next pass, by the rows that there are then
            self._handled.add(finding.key)
            said = await self._deal_with(finding)
            if said:
                done.append(said)
        return done

    async def _deal_with(self, finding: Finding) -> str:
        batch = Batch()
        if finding.kind == "damaged":
            batch.require_damaged(finding.key)
        for index, epoch in self._owner.held.items():
            batch.require_epoch(index, epoch)
        said = await self._plan(finding, batch)
        if said:
            try:
                await self._store.commit(batch)
            except Conflict:
                return ""  # somebody has written the row anew
        return said

    async def _plan(self, finding: Finding, batch: Batch) -> str:
        """Fill the batch that deals with a finding; returns what it does, or "" for nothing."""
        plans = {
            META.prefix: self._settings,
            PARTITIONS.prefix: self._settings,
            ASIDE.prefix: self._settings,
            FEED.prefix: self._feed,
            Keys.IDS: self._address,
            Keys.RUNS: self._row,
            Keys.JOURNAL: self._journal,
            Keys.RECEIPTS: self._journal,
            DUE.prefix: self._expiry,
            SCHEMAS.prefix: self._settings,
            **dict.fromkeys((OPERATIONS.prefix, MIGRATED.prefix, *TOPICS), self._note),
            **dict.fromkeys(INDEXES, self._index),
        }
        return await plans.get(finding.key[0], self._move)(finding, batch)

    async def _settings(self, finding: Finding, batch: Batch) -> str:
        return self._floor(batch, self._report.revision) if finding.key == FEED_FLOOR else ""

    async def _move(self, finding: Finding, batch: Batch) -> str:
        await self._keep(finding, batch)
        batch.delete(finding.key)
        return f"{finding.message}: set aside"

    async def _keep(self, finding: Finding, batch: Batch) -> None:
        def salvage(reader: Reader) -> bytes | None:
            get: Callable[[bytes], bytes | None] = getattr(reader, "salvage", reader.get)
            value, problem = attempt(get, finding.key)
            if problem is None or isinstance(problem, RowDamaged):  # not every backend hands over what is damaged
                return value  # type: ignore[no-any-return]
            raise problem

        found = await self._store.examine(salvage)
        batch.put(ASIDE.key(finding.key), pack_aside(SetAside(finding.message, self._clock.now(), found)))

    async def _expiry(self, finding: Finding, batch: Batch) -> str:
        if finding.kind == "unreadable":
            return await self._move(finding, batch)
        batch.put(finding.key, b"")  # its key says everything
        return "a moment of expiry was rebuilt"

    # The feed

    async def _feed(self, finding: Finding, batch: Batch) -> str:
        number = int.from_bytes(finding.key[1:], "big")
        if finding.kind != "damaged" and not 0 < number <= self._report.revision:
            batch.delete(finding.key)
            return f"{finding.message}: removed"
        floor = int.from_bytes(await self._store.get(FEED_FLOOR) or b"", "big")
        return self._floor(batch, max(number, floor))

    def _floor(self, batch: Batch, number: int) -> str:
        """Let the feed begin after a revision."""
        batch.delete_range(FEED.key(), FEED.key((number + 1).to_bytes(8, "big")))
        batch.put(FEED_FLOOR, number.to_bytes(8, "big"))
        return f"the change feed begins after revision {number} now; whoever is behind that gets Lagged"

    # Runs

    async def _address(self, finding: Finding, batch: Batch) -> str:
        run_id = finding.key[1:].decode("utf-8", "surrogatepass")
        runs = [row for row in self._report.runs.values() if row.id == run_id]
        if not runs:
            return await (self._note if finding.kind == "missing" else self._move)(finding, batch)
        newest = max(runs, key=lambda row: (row.status is not Status.CONTINUED, row.number))
        batch.put(finding.key, pack_address(Address(newest.number, newest.partition)))
        return f"run {run_id}: its address was rebuilt"

    async def _note(self, finding: Finding, batch: Batch) -> str:
        """Note what cannot be brought back, and must not look as if it had never been: whoever needs it gets `RowDamaged`."""
        await self._keep(finding, batch)
        return f"{finding.message}: noted"

    async def _row(self, finding: Finding, batch: Batch) -> str:
        if finding.kind == "dangling":
            return await self._note(finding, batch)
        row = await self._store.examine(lambda reader: _rebuilt(reader, finding.number or number_of(finding.key)))
        if row is None:
            return await (self._note if finding.kind == "missing" else self._move)(finding, batch)
        await self._keep(finding, batch)
        self._rebuilt = True
        batch.put(finding.key, pack_row(row))
        if not row.status.ended:
            batch.put(blocked_key(row.partition, row.number), b"").delete(active_key(row.partition, row.number))
        return f"run {row.id}: its row was rebuilt from its journal, it is {row.status}"

    async def _journal(self, finding: Finding, batch: Batch) -> str:
        await self._keep(finding, batch)
        row = self._report.runs.get(finding.number)
        if row is None or row.status.ended or row.status is Status.QUARANTINED:
            return f"{finding.message}: noted"
        # the row of its timer becomes a stale one, and goes in the next pass
        self._report.runs[finding.number] = rows.block(batch, row, None, Status.QUARANTINED, _REASON, self._clock.now())
        return f"{finding.message}: the run is quarantined"

    async def _index(self, finding: Finding, batch: Batch) -> str:
        row = self._report.runs.get(finding.number)
        if row is not None and finding.kind != "stale" and INDEXES[finding.key[0]](row) and self._is_of(finding.key, row):
            batch.put(finding.key, b"")
            return f"run {row.id}: its row in an index was rebuilt"
        if finding.kind == "stale":
            batch.delete(finding.key)
            return f"{finding.message}: removed"
        return await self._move(finding, batch)

    def _is_of(self, key: bytes, row: RunRow) -> bool:
        if key[0] == Keys.TIMERS:
            return int.from_bytes(key[1:3], "big") == row.partition and timer_of(key)[1] == row.number
        return key in (active_key(row.partition, row.number), blocked_key(row.partition, row.number))


def _rebuilt(reader: Reader, number: int) -> RunRow | None:
    """The row of a run as its journal tells it, or None if that does not begin with its start."""
    seen = list(examined(reader, *journal_range(number)))
    entries = [_entry(row.key, row.value) for row in seen]
    if not entries or not isinstance(started := entries[0], Started) or seen[0].key != journal_key(number, 0):
        return None
    last = entries[-1]
    ended = isinstance(last, ENDINGS)
    return RunRow(
        id=started.run_id,
        number=number,
        partition=_partition(reader, started),
        workflow=started.workflow,
        version=started.version,
        status=Status[type(last).__name__.upper()] if ended else Status.QUARANTINED,
        created=started.at,
        updated=last.at if last is not None else started.at,
        digest=b"",
        parent=started.parent,
        reason="" if ended else _REBUILT,
    )


def _entry(key: bytes, value: bytes | None) -> Any:
    try:
        return None if value is None else unpack_entry(key, value)
    except StoreCorrupt:
        return None


def _partition(reader: Reader, started: Started) -> int:
    if started.parent is not None:
        return started.parent.partition  # a child lives where its parent does
    return partition_of(started.run_id, int.from_bytes(reader.get(COUNT) or b"", "big") or 1)
