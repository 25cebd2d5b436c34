"""Owns which rows stand for a run in each of its states, and how they are read together.
It must never decide when a run changes its state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from spellwork.errors import StoreCorrupt
from spellwork.journal import Entry, RunRow, Started, Status, pack_entry, unpack_entry
from spellwork.journal.rows import (
    Address,
    active_key,
    blocked_key,
    command_of,
    id_key,
    journal_key,
    journal_range,
    pack_address,
    pack_row,
    receipt_range,
    run_key,
    unpack_address,
    unpack_row,
)
from spellwork.store import Batch, Reader


class StoredRun(msgspec.Struct):
    """A run as the store has it. `recoveries` is None when it is not in the index of active runs; `receipts` are by command."""

    row: RunRow
    entries: list[Any]
    recoveries: int | None
    timer_key: bytes | None
    damage: StoreCorrupt | None
    receipts: dict[int, Any]


def find(reader: Reader, run_id: str) -> Address | None:
    """Where the run of this id lives."""
    data = reader.get(id_key(run_id))
    return unpack_address(data) if data is not None else None


def read_row(reader: Reader, run_id: str) -> RunRow | None:
    """The row of the run of this id."""
    address = find(reader, run_id)
    if address is None:
        return None
    data = reader.get(run_key(address.number))
    if data is None:
        raise StoreCorrupt(f"the row of run {run_id} (number {address.number}) is missing; restore a backup")
    return unpack_row(data)


def read_entries(reader: Reader, number: int) -> list[Any]:
    """The journal of a run; raises `StoreCorrupt` at a damaged or missing entry."""
    return read_entries_from(reader, number, 0)


def read_entries_from(reader: Reader, number: int, start: int, limit: int | None = None) -> list[Any]:
    """The entries of a run from a position on; raises `StoreCorrupt` at a damaged or missing one."""
    entries = []
    found = reader.scan(journal_key(number, start), journal_range(number)[1], limit=limit)
    for position, (key, frame) in enumerate(found, start):
        if key != journal_key(number, position):
            raise StoreCorrupt(f"entry {position} of run number {number} is missing; restore a backup")
        entries.append(unpack_entry(key, frame))
    return entries


def read_numbered(reader: Reader, number: int) -> RunRow | None:
    """The row of a run by its number."""
    data = reader.get(run_key(number))
    return None if data is None else unpack_row(data)


def find_in_chain(reader: Reader, run_id: str, wanted: Callable[[Any], bool]) -> Any:
    """The entry that is wanted, in the journal of a run or of one that it continued, the newest run first; else None."""
    row = read_row(reader, run_id)
    while row is not None:
        found = next((entry for entry in read_entries(reader, row.number) if wanted(entry)), None)
        if found is not None:
            return found
        data = reader.get(run_key(row.previous)) if row.previous else None
        row = unpack_row(data) if data is not None else None
    return None


def read_run(reader: Reader, number: int) -> StoredRun | None:
    """Everything that is needed to bring a run into memory."""
    data = reader.get(run_key(number))
    if data is None:
        return None
    row = unpack_row(data)
    active = reader.get(active_key(row.partition, number))
    entries: list[Any] = []
    receipts: dict[int, Any] = {}
    damage = None
    try:
        entries = read_entries(reader, number)
        for key, frame in reader.scan(*receipt_range(number)):
            receipts[command_of(key)] = unpack_entry(key, frame)
        if not entries or not isinstance(entries[0], Started):
            damage = StoreCorrupt(f"the journal of run {row.id} has no beginning; restore a backup")
    except StoreCorrupt as error:
        damage = error
    return StoredRun(row, entries, None if active is None else (active or b"\0")[0], None, damage, receipts)


def read_last(reader: Reader, number: int) -> Any:
    """The last entry of a journal."""
    found = reader.scan(*journal_range(number), reverse=True, limit=1)
    return unpack_entry(*found[0]) if found else None


def put_start(batch: Batch, row: RunRow, started: Started) -> None:
    """The rows of a run that begins."""
    key = journal_key(row.number, 0)
    batch.put(key, pack_entry(key, started))
    batch.put(run_key(row.number), pack_row(row))
    batch.put(id_key(row.id), pack_address(Address(row.number, row.partition)))
    batch.put(active_key(row.partition, row.number), b"")


def put_end(batch: Batch, row: RunRow, timer_key: bytes | None) -> None:
    """The rows of a run that has ended with the status of `row`."""
    batch.put(run_key(row.number), pack_row(row))
    batch.delete(active_key(row.partition, row.number))
    if timer_key is not None:
        batch.delete(timer_key)


def block(batch: Batch, row: RunRow, timer_key: bytes | None, status: Status, reason: str, now: int) -> RunRow:
    """The rows of a run that is parked with a reason."""
    row = msgspec.structs.replace(row, status=status, reason=reason, updated=now)
    put_end(batch, row, timer_key)
    batch.put(blocked_key(row.partition, row.number), b"")
    return row


def unblock(batch: Batch, row: RunRow, now: int) -> RunRow:
    """The rows of a run that goes on after it was blocked."""
    row = msgspec.structs.replace(row, status=Status.RUNNING, reason="", updated=now)
    batch.put(run_key(row.number), pack_row(row))
    batch.put(active_key(row.partition, row.number), b"")
    batch.delete(blocked_key(row.partition, row.number))
    return row


def put_entry(batch: Batch, number: int, position: int, entry: Entry) -> None:
    """One more entry of a journal."""
    key = journal_key(number, position)
    batch.put(key, pack_entry(key, entry))
