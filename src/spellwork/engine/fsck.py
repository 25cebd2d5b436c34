"""Owns the check of a whole store: every checksum, and whatever refers to something else.
It must never write, nor call a store damaged for what a crash or a running engine leaves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain

import msgspec

from spellwork.engine import messages as m
from spellwork.engine.ownership import COUNT, Owner
from spellwork.errors import StoreCorrupt
from spellwork.events.durable.fsck import SPACES, check_topics
from spellwork.journal import (
    Cancelled,
    ChildStarted,
    Completed,
    Continued,
    Failed,
    RunRow,
    Started,
    Status,
    unpack_entry,
)
from spellwork.journal.entries import ENDINGS
from spellwork.journal.rows import (
    Keys,
    blocked_key,
    id_key,
    journal_key,
    number_of,
    run_key,
    timer_of,
    unpack_address,
    unpack_row,
)
from spellwork.state.fsck import check_state
from spellwork.state.scopes import ASIDE as MIGRATED
from spellwork.state.scopes import DUE, OPERATIONS, SCHEMAS, STATE
from spellwork.store import Reader
from spellwork.store.fsck import ASIDE, Finding, Seen, check_feed, examined, newest_revision, set_aside
from spellwork.store.keyspace import FEED, META, PARTITIONS

PARKED = (Status.BLOCKED, Status.QUARANTINED)
KNOWN = {
    META.prefix: "meta",
    PARTITIONS.prefix: "partitions",
    FEED.prefix: "feed",
    Keys.ACTIVE: "active",
    Keys.BLOCKED: "blocked",
    Keys.INBOX: "inbox",
    Keys.REPLIES: "replies",
    Keys.TIMERS: "timers",
    Keys.JOURNAL: "journal",
    Keys.RUNS: "runs",
    Keys.IDS: "ids",
    Keys.RECEIPTS: "receipts",
    STATE.prefix: "state",
    DUE.prefix: "expiries",
    OPERATIONS.prefix: "merges done",
    SCHEMAS.prefix: "schemas",
    MIGRATED.prefix: "values before a migration",
    ASIDE.prefix: "set aside",
    **SPACES,
}
_LAST = {Status.COMPLETED: Completed, Status.FAILED: Failed, Status.CANCELLED: Cancelled, Status.CONTINUED: Continued}
_INDEX_BYTES = 11
INDEXES: dict[int, Callable[[RunRow], bool]] = {
    Keys.ACTIVE: lambda row: row.status is Status.RUNNING,
    Keys.BLOCKED: lambda row: row.status in PARKED,
    Keys.TIMERS: lambda row: row.status is Status.RUNNING,
}
"""The indexes of runs, and which runs may stand in each."""


class Report(msgspec.Struct):
    """What a check found. `rows` counts by keyspace, `unknown` by prefix byte those of which only the checksum could be checked."""

    revision: int = 0
    rows: dict[str, int] = {}
    unknown: dict[int, int] = {}
    findings: list[Finding] = []
    runs: dict[int, RunRow] = {}

    @property
    def damage(self) -> list[Finding]:
        """What no quarantine has dealt with yet. Stale rows of an index are none: engines pass over them."""
        return [finding for finding in self.findings if not finding.aside and finding.kind != "stale"]


def check(reader: Reader) -> Report:
    """Check everything that `reader` sees; raises `RowDamaged` only where the store's newest revision itself is damaged."""
    return _Check(reader).run()


class _Check:
    def __init__(self, reader: Reader):
        self._reader = reader
        self._aside = set_aside(reader)
        self.report = Report(newest_revision(reader))
        self._runs = self.report.runs
        self._hurt_runs: set[int] = set()
        self._ids: dict[str, int] = {}
        self._blocked: set[int] = set()

    def run(self) -> Report:
        """Each keyspace in an order in which what it refers to is known."""
        counts: Counter[int] = Counter()
        for row in examined(self._reader):
            counts[row.key[0] if row.key else -1] += 1
            self._checksum(row)
        self.report.rows = {KNOWN[prefix]: count for prefix, count in sorted(counts.items()) if prefix in KNOWN}
        self.report.unknown = {prefix: count for prefix, count in sorted(counts.items()) if prefix not in KNOWN}
        for finding in chain(check_feed(self._reader, self.report.revision), check_state(self._reader), check_topics(self._reader)):
            self._note(finding)
        self._partitions()
        self._read_runs()
        self._read_ids()
        self._journals()
        self._receipts()
        self._indexes()
        self._letters()
        self._addresses()
        return self.report

    def _rows(self, prefix: int) -> Iterator[tuple[bytes, bytes]]:
        """The whole rows of a keyspace."""
        for row in examined(self._reader, bytes((prefix,)), bytes((prefix + 1,))):
            if row.value is not None:
                yield row.key, row.value

    def _note(self, finding: Finding) -> None:
        if finding.key in self._aside and not finding.aside:
            finding = msgspec.structs.replace(finding, aside=True)
        self.report.findings.append(finding)

    def _checksum(self, row: Seen) -> None:
        if row.value is None:
            number, position = _place(row.key)
            what = KNOWN.get(row.key[0], f"keyspace {row.key[0]:#04x}")
            if row.key[0] in (Keys.RUNS, Keys.JOURNAL, Keys.RECEIPTS):
                self._hurt_runs.add(number)
            where = f", run number {number}" if number else ""
            self._note(
                Finding(
                    kind="damaged", message=f"a row of {what}{where} is damaged (checksum)", key=row.key, number=number,
                    position=position,
                )
            )  # fmt: skip
        elif row.version > self.report.revision:
            message = f"a row has version {row.version}, the newest revision is {self.report.revision}"
            self._note(Finding(kind="unreadable", message=message, key=row.key))

    # What refers to nothing

    def _partitions(self) -> None:
        for key, value in self._rows(PARTITIONS.prefix):
            try:
                msgspec.msgpack.decode(value[8:], type=Owner)
            except (msgspec.MsgspecError, ValueError):
                self._note(Finding(kind="unreadable", message="the row of a partition cannot be read", key=key))

    def _letters(self) -> None:
        count = self._partition_count()
        for key, value in self._rows(Keys.INBOX):
            try:
                m.unpack_envelope(value)
            except StoreCorrupt as error:
                self._note(Finding(kind="unreadable", message=f"a message in an inbox: {error}", key=key))
            if count and int.from_bytes(key[1:3], "big") >= count:
                self._note(Finding(kind="dangling", message="a message lies in the inbox of no partition", key=key))
        for key, value in self._rows(Keys.REPLIES):
            try:
                m.unpack_reply(value)
            except StoreCorrupt as error:
                self._note(Finding(kind="unreadable", message=f"a reply: {error}", key=key))

    def _partition_count(self) -> int:
        row = next(iter(examined(self._reader, COUNT, COUNT + b"\0")), None)
        return int.from_bytes(row.value, "big") if row is not None and row.value is not None else 0

    # Runs

    def _read_runs(self) -> None:
        for key, value in self._rows(Keys.RUNS):
            number = number_of(key)
            try:
                row = unpack_row(value)
            except StoreCorrupt as error:
                self._hurt_runs.add(number)
                self._note(Finding(kind="unreadable", message=f"run number {number}: {error}", key=key, number=number))
                continue
            if row.number != number:
                self._hurt_runs.add(number)
                message = f"the row of run {row.id} stands under number {number}, not its own {row.number}"
                self._note(Finding(kind="unreadable", message=message, key=key, run_id=row.id, number=number))
                continue
            self._runs[number] = row

    def _read_ids(self) -> None:
        for key, value in self._rows(Keys.IDS):
            run_id = key[1:].decode("utf-8", "backslashreplace")
            try:
                address = unpack_address(value)
            except StoreCorrupt as error:
                self._note(Finding(kind="unreadable", message=f"the address of run {run_id}: {error}", key=key, run_id=run_id))
                continue
            self._ids[run_id] = address.number
            row = self._runs.get(address.number)
            if row is None:
                message = f"run {run_id} is said to have number {address.number}, which has no row"
                aside = run_key(address.number) in self._aside
                hurt = address.number in self._hurt_runs  # named already, for what it is
                if not hurt:
                    self._note(self._dangling(message, key, run_id, address.number, aside=aside))
            elif row.id != run_id or row.partition != address.partition:
                message = f"the address of run {run_id} leads to run {row.id} in partition {row.partition}"
                self._note(self._dangling(message, key, run_id, address.number))

    def _dangling(self, message: str, key: bytes, run_id: str, number: int, *, aside: bool = False) -> Finding:
        return Finding(kind="dangling", message=message, key=key, run_id=run_id, number=number, aside=aside)

    def _addresses(self) -> None:
        """Each run must be found by its id, or be an earlier one of a chain."""
        damaged = {finding.key for finding in self.report.findings}
        for number, row in self._runs.items():
            key = id_key(row.id)
            if row.id not in self._ids and key not in damaged:
                message = f"run {row.id} (number {number}) cannot be found by its id"
                self._note(Finding(kind="missing", message=message, key=key, run_id=row.id, number=number))
            elif self._ids.get(row.id, number) != number and row.status is not Status.CONTINUED and key not in damaged:
                message = f"run {row.id} has number {number}, its address leads to {self._ids[row.id]}"
                self._note(self._dangling(message, key, row.id, number))
            if row.parent is not None and row.parent.number not in self._runs and row.parent.number not in self._hurt_runs:
                message = f"the parent of run {row.id}, {row.parent.run_id}, has no row"
                aside = run_key(row.parent.number) in self._aside
                self._note(self._dangling(message, run_key(row.parent.number), row.parent.run_id, row.parent.number, aside=aside))
            if row.status in PARKED and number not in self._blocked and blocked_key(row.partition, number) not in damaged:
                key = blocked_key(row.partition, number)
                message = f"run {row.id} is {row.status} and missing in the index of such runs"
                self._note(Finding(kind="missing", message=message, key=key, run_id=row.id, number=number))

    # Journals

    def _journals(self) -> None:
        journal: list[Seen] = []
        number, seen = -1, set()
        for row in examined(self._reader, bytes((Keys.JOURNAL,)), bytes((Keys.JOURNAL + 1,))):
            if int.from_bytes(row.key[1:9], "big") != number and journal:
                self._journal(number, journal)
                journal = []
            number = int.from_bytes(row.key[1:9], "big")
            seen.add(number)
            journal.append(row)
        if journal:
            self._journal(number, journal)
        for number in self._runs.keys() - seen:
            self._of_run(number, 0, "missing", "the journal is missing")

    def _of_run(self, number: int, position: int, kind: str, what: str) -> None:
        row = self._runs.get(number)
        run_id = row.id if row else ""
        key = journal_key(number, position)
        runs_on = row is not None and row.status in (Status.RUNNING, Status.BLOCKED)  # until it is parked as well
        kept = key in self._aside and not runs_on
        self.report.findings.append(
            Finding(
                kind=kind, message=f"run {run_id or number}, position {position}: {what}", key=key, run_id=run_id, number=number,
                position=position, aside=kept,
            )
        )  # fmt: skip

    def _journal(self, number: int, journal: list[Seen]) -> None:
        row = self._runs.get(number)
        if row is None and number not in self._hurt_runs and run_key(number) not in self._aside:
            message = f"the journal of run number {number} has no row of a run"
            self._note(Finding(kind="missing", message=message, key=run_key(number), number=number))
        last: object = None
        for expected, seen in enumerate(journal):
            if seen.key != journal_key(number, expected):
                self._of_run(number, expected, "missing", "the entry is missing")
                return
            last = self._entry(number, expected, seen)
            if isinstance(last, ChildStarted) and last.failure is None and last.child_id not in self._ids:
                self._child(number, last)
        if row is None or last is None:
            return
        if (row.status in _LAST and not isinstance(last, _LAST[row.status])) or (
            not row.status.ended and isinstance(last, ENDINGS)
        ):
            self._of_run(number, len(journal) - 1, "dangling", f"the run is {row.status}, its last entry {type(last).__name__}")
        elif isinstance(last, Continued) and last.next not in self._runs and last.next not in self._hurt_runs:
            message = f"run {row.id} went on as number {last.next}, which has no row"
            aside = run_key(last.next) in self._aside
            self._note(self._dangling(message, run_key(last.next), row.id, last.next, aside=aside))

    def _entry(self, number: int, position: int, seen: Seen) -> object:
        """The entry, or None if it is damaged, which the checksum of its row has told or this does."""
        if seen.value is None:
            return None
        try:
            entry: object = unpack_entry(seen.key, seen.value)
        except StoreCorrupt as error:
            self._hurt_runs.add(number)
            self._of_run(number, position, "unreadable", str(error))
            return None
        row = self._runs.get(number)
        if position == 0 and (not isinstance(entry, Started) or (row is not None and entry.run_id != row.id)):
            self._of_run(number, 0, "dangling", "the journal does not begin with the start of its run")
        return entry

    def _child(self, number: int, entry: ChildStarted) -> None:
        key = id_key(entry.child_id)
        if any(finding.key == key for finding in self.report.findings):
            return
        message = f"run number {number} has started child {entry.child_id}, which cannot be found by its id"
        self._note(Finding(kind="missing", message=message, key=key, run_id=entry.child_id))

    def _receipts(self) -> None:
        for key, value in self._rows(Keys.RECEIPTS):
            number = int.from_bytes(key[1:9], "big")
            try:
                unpack_entry(key, value)
            except StoreCorrupt as error:
                message = f"run number {number}, receipt of command {int.from_bytes(key[9:], 'big')}: {error}"
                self._note(Finding(kind="unreadable", message=message, key=key, number=number))

    # Indexes

    def _indexes(self) -> None:
        for prefix, fits in INDEXES.items():
            for key, _ in self._rows(prefix):
                self._indexed(KNOWN[prefix], key, fits)

    def _indexed(self, name: str, key: bytes, fits: Callable[[RunRow], bool]) -> None:
        try:
            number = timer_of(key)[1] if key[0] == Keys.TIMERS else number_of(key)
            partition = int.from_bytes(key[1:3], "big")
            is_key = key[0] == Keys.TIMERS or len(key) == _INDEX_BYTES
        except StoreCorrupt:
            number, partition, is_key = 0, 0, False
        if not is_key:
            self._note(Finding(kind="unreadable", message=f"a key in the index {name} cannot be read", key=key))
            return
        if key[0] == Keys.BLOCKED:
            self._blocked.add(number)
        row = self._runs.get(number)
        if row is None and number in self._hurt_runs:
            return
        if row is None or row.partition != partition or not fits(row):
            what = "which has no row" if row is None else f"which is {row.status} in partition {row.partition}"
            message = f"the index {name} of partition {partition} has run number {number}, {what}"
            self._note(Finding(kind="stale", message=message, key=key, run_id=row.id if row else "", number=number))


def _place(key: bytes) -> tuple[int, int | None]:
    """The run number and the position that a key names, as far as it does."""
    if key[0] == Keys.JOURNAL:
        return int.from_bytes(key[1:9], "big"), int.from_bytes(key[9:13], "big")
    if key[0] == Keys.RECEIPTS:
        return int.from_bytes(key[1:9], "big"), None
    if key[0] in (Keys.RUNS, Keys.ACTIVE, Keys.BLOCKED, Keys.TIMERS):
        return number_of(key), None
    return 0, None
