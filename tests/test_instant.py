"""Tests of stored times: their two bounds, and that no kind of row is read with a time beyond them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import pytest

from spellwork.errors import BackupDamaged, PayloadError, StoreCorrupt
from spellwork.events import Event
from spellwork.events.durable.record import Record, pack_record, unpack_record
from spellwork.events.durable.rows import DeadRow, GroupRow, pack_row, unpack_row
from spellwork.instant import FIRST, LAST, datetime_of, microseconds_of
from spellwork.journal import Completed, RunRow, Status, unpack_entry
from spellwork.journal import rows as journal_rows
from spellwork.journal.entries import pack_entry
from spellwork.store.backup.manifest import MANIFEST, Manifest, packed, read_manifest

KEY = journal_rows.journal_key(7, 0)


def _manifest(folder: Path, time: int) -> Manifest:
    told = Manifest(number=1, kind="full", created=time, revision=1, rows=0, stored=0, encrypted=False, files={})
    (folder / told.name).mkdir()
    (folder / told.name / MANIFEST).write_bytes(packed(told))
    return read_manifest(folder / told.name)


def _run(time: int) -> RunRow:
    return journal_rows.unpack_row(journal_rows.pack_row(RunRow("a", 1, 0, "w", "1", Status.RUNNING, time, 0, b"")))


READS: dict[str, Callable[[int], object]] = {
    "an entry": lambda time: unpack_entry(KEY, pack_entry(KEY, Completed(time, b""))),
    "a run, created": _run,
    "an event": lambda time: unpack_record(b"k", pack_record(Record("id", time, b""))),
    "a group": lambda time: unpack_row(GroupRow, b"k", pack_row(GroupRow(1, 0, time))),
    "a dead letter": lambda time: unpack_row(DeadRow, b"k", pack_row(DeadRow(None, 1, "no", time))),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize("time", [FIRST - 1, LAST + 1, 2**62, -(2**62)])
def test_a_row_with_a_time_that_no_calendar_has_is_damage(read: Callable[[int], object], time: int) -> None:
    """A row may be whole and hold what no clock has said. Found by fuzzing."""
    with pytest.raises(StoreCorrupt, match="cannot be read"):
        read(time)


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize("time", [FIRST, 0, LAST])
def test_the_bounds_themselves_are_read(read: Callable[[int], object], time: int) -> None:
    """The first and the last microsecond of all calendars are times like others."""
    assert read(time)


def test_the_bounds_are_those_of_the_calendar() -> None:
    """The first and the last microsecond of the years 1 to 9999."""
    assert (microseconds_of(dt.datetime.min), microseconds_of(dt.datetime.max)) == (FIRST, LAST)


@pytest.mark.parametrize("time", [FIRST, -1, 0, 1_795_000_000_123_457, LAST])
def test_a_time_comes_back_to_the_microsecond(time: int) -> None:
    """No float is on the way."""
    assert microseconds_of(datetime_of(time)) == time


def test_a_backup_with_such_a_time_is_damaged(tmp_path: Path) -> None:
    """Its manifest shows when it was made."""
    with pytest.raises(BackupDamaged):
        _manifest(tmp_path, LAST + 1)
    (tmp_path / "well").mkdir()
    assert _manifest(tmp_path / "well", LAST).created == LAST


@pytest.mark.parametrize("text", ["9999-12-31T23:59:59-12:00", "0001-01-01T00:00:00+12:00"])
def test_a_cloudevent_of_a_time_that_utc_does_not_have_is_refused(text: str) -> None:
    """By its offset it is beyond the calendar."""
    told = f'{{"specversion": "1.0", "id": "1", "source": "s", "type": "t", "time": "{text}"}}'
    with pytest.raises(PayloadError, match="beyond the calendar"):
        Event.from_cloudevent(told)
