"""Owns the row of a run (what lists and lookups read) and the keys of everything the engine stores.
It must never hold what only replay needs: that is the journal's.
"""

# Annotations are evaluated here: from strings, msgspec would compile each field's anew when the decoders are made.

import enum
import struct
from typing import NamedTuple

import msgspec

from spellwork.errors import StoreCorrupt
from spellwork.instant import Instant


class Keys:
    """The keyspaces of the engine. Each constant is the prefix byte.

    Small ones that change all the time come first, beside the store's own, so that they share a page of the database.
    """

    ACTIVE = 0x04  # partition, number → recoveries without progress
    BLOCKED = 0x05  # partition, number → nothing
    INBOX = 0x06  # partition, time, random → Message
    REPLIES = 0x07  # request id → Reply
    TIMERS = 0x08  # partition, due, number → nothing
    RECEIPTS = 0x40  # number, command → the entry of a transaction that is committed and not yet in the journal
    SUBSCRIPTIONS = 0x41  # partition, pattern, run id → nothing; its version says since when
    CURSORS = 0x42  # partition → Cursor of the events that were brought to its runs
    TRIGGERS = 0x43  # name of a trigger → Cursor of the events that have started runs
    JOURNAL = 0x10  # number, position → entry
    RUNS = 0x11  # number → RunRow
    IDS = 0x12  # user id → number, partition


class Status(enum.StrEnum):
    """Where a run stands. `blocked` and `quarantined` runs are parked with a reason and can go on."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TERMINATED = "terminated"
    CONTINUED = "continued"
    BLOCKED = "blocked"
    QUARANTINED = "quarantined"

    @property
    def ended(self) -> bool:
        """Whether the run can never go on."""
        return self not in (Status.RUNNING, Status.BLOCKED, Status.QUARANTINED)


class Parent(msgspec.Struct, frozen=True, array_like=True):
    """Who started a child run: the parent's id, number and partition, and the command's number."""

    run_id: str
    number: int
    partition: int
    n: int


class RunRow(msgspec.Struct, frozen=True, array_like=True):
    """What is known of a run without reading its journal. Times are microseconds UTC."""

    id: str
    number: int
    partition: int
    workflow: str
    version: str
    status: Status
    created: Instant
    updated: Instant
    digest: bytes
    parent: Parent | None = None
    reason: str = ""
    previous: int = 0


class Address(NamedTuple):
    """Where a run lives."""

    number: int
    partition: int


_row_encode = msgspec.msgpack.Encoder().encode
_row_decode = msgspec.msgpack.Decoder(RunRow).decode
_JOURNAL = struct.Struct(">BQI")
_RUN = struct.Struct(">BQ")
_PARTITIONED = struct.Struct(">BHQ")
_TIMER = struct.Struct(">BHQQ")
_ADDRESS = struct.Struct(">QH")


def journal_key(number: int, position: int) -> bytes:
    """The key of one entry."""
    return _JOURNAL.pack(Keys.JOURNAL, number, position)


def journal_range(number: int) -> tuple[bytes, bytes]:
    """All entries of one run."""
    return _RUN.pack(Keys.JOURNAL, number), _RUN.pack(Keys.JOURNAL, number + 1)


def receipt_key(number: int, n: int) -> bytes:
    """The key of the receipt for one command of a run."""
    return _JOURNAL.pack(Keys.RECEIPTS, number, n)


def receipt_range(number: int) -> tuple[bytes, bytes]:
    """All receipts of one run."""
    return _RUN.pack(Keys.RECEIPTS, number), _RUN.pack(Keys.RECEIPTS, number + 1)


def command_of(key: bytes) -> int:
    """The number of the command at the end of a receipt's key."""
    return int.from_bytes(key[-4:], "big")


def run_key(number: int) -> bytes:
    """The key of a run's row."""
    return _RUN.pack(Keys.RUNS, number)


def id_key(run_id: str) -> bytes:
    """The key of the address of a user's id."""
    # an id with lone surrogates is refused where runs are started; whoever asks for one finds none
    return bytes((Keys.IDS,)) + run_id.encode("utf-8", "surrogatepass")


def active_key(partition: int, number: int) -> bytes:
    """The key in the index of active runs."""
    return _PARTITIONED.pack(Keys.ACTIVE, partition, number)


def blocked_key(partition: int, number: int) -> bytes:
    """The key in the index of blocked runs."""
    return _PARTITIONED.pack(Keys.BLOCKED, partition, number)


def timer_key(partition: int, due: int, number: int) -> bytes:
    """The key in the index of parked runs' timers."""
    return _TIMER.pack(Keys.TIMERS, partition, due, number)


def timer_of(key: bytes) -> tuple[int, int]:
    """Due time and run number of a timer key."""
    try:
        _, _, due, number = _TIMER.unpack(key)
    except struct.error as error:
        raise StoreCorrupt(f"the timer {key.hex()} cannot be read: {error}; restore it from a backup") from error
    return due, number


def subscription_key(partition: int, pattern: str, run_id: str) -> bytes:
    """The key of a run's subscription to a pattern of topics."""
    return bytes((Keys.SUBSCRIPTIONS,)) + partition.to_bytes(2, "big") + pattern.encode() + b"\0" + run_id.encode()


def subscription_range(partition: int) -> tuple[bytes, bytes]:
    """All subscriptions of the runs of a partition."""
    return partition_range(Keys.SUBSCRIPTIONS, partition)


def subscription_of(key: bytes) -> tuple[str, str]:
    """Pattern and run id of a subscription."""
    pattern, _, run_id = key[3:].partition(b"\0")
    return pattern.decode(), run_id.decode()


def cursor_key(partition: int) -> bytes:
    """The key of how far events were brought to the runs of a partition."""
    return bytes((Keys.CURSORS,)) + partition.to_bytes(2, "big")


def trigger_key(name: str) -> bytes:
    """The key of how far a trigger is."""
    return bytes((Keys.TRIGGERS,)) + name.encode()


def partition_range(keyspace: int, partition: int) -> tuple[bytes, bytes]:
    """Everything of a partition in one of its indexes."""
    start = bytes((keyspace,)) + partition.to_bytes(2, "big")
    return start, bytes((keyspace,)) + (partition + 1).to_bytes(2, "big")


def number_of(key: bytes) -> int:
    """The run number at the end of an index key or a run key."""
    return int.from_bytes(key[-8:], "big")


def pack_address(address: Address) -> bytes:
    """The stored form of an address."""
    return _ADDRESS.pack(*address)


def unpack_address(data: bytes) -> Address:
    """The address of its stored form."""
    try:
        return Address(*_ADDRESS.unpack(data))
    except struct.error as error:
        raise StoreCorrupt(f"the address of a run cannot be read: {error}; restore it from a backup") from error


def pack_row(row: RunRow) -> bytes:
    """The stored form of a row."""
    return _row_encode(row)


def unpack_row(data: bytes) -> RunRow:
    """The row of its stored form; raises `StoreCorrupt`."""
    try:
        return _row_decode(data)
    except (msgspec.MsgspecError, ValueError) as error:
        raise StoreCorrupt(f"a run's row cannot be read ({error}); restore it from a backup") from error
