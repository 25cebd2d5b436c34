"""The disk that power is cut from, and the mutants that the laws of damage and of poison must catch."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from spellwork.testing.chaos import Deadline, damage, poison
from spellwork.testing.chaos.tape import Disk, Op, Tape


def test_what_was_synced_survives_and_the_rest_may_not() -> None:
    """A cut keeps synced bytes whatever the seed, and over many seeds keeps, drops and tears what was not."""
    ops = [
        Op("write", "", 0, b"a" * 1024),
        Op("sync", ""),
        Op("directory", ""),
        Op("write", "", 512, b"b" * 1024),
    ]
    seen = set()
    for seed in range(200):
        disk = Disk(ops)
        disk.advance(len(ops))
        image = disk.cut(random.Random(seed))[""]
        assert image[:512] == b"a" * 512
        seen.add(image)
    assert b"a" * 1024 in seen
    assert b"a" * 512 + b"b" * 1024 in seen
    assert len(seen) > 4


def test_files_that_no_directory_knows_may_be_gone() -> None:
    """A file that was created since the directory was last synced may vanish; one that was deleted may come back."""
    ops = [Op("create", "-wal"), Op("write", "-wal", 0, b"x"), Op("sync", "-wal"), Op("directory", ""), Op("delete", "-wal")]
    for position, both in ((3, True), (4, False), (5, True)):
        outcomes = set()
        for seed in range(100):
            disk = Disk(ops)
            disk.advance(position)
            outcomes.add("-wal" in disk.cut(random.Random(seed)))
        assert outcomes == ({True, False} if both else {True})


def test_tape_knows_its_files(tmp_path: Path) -> None:
    """Only the database, its log and its journal are taped; the index of the log need not survive."""
    tape = Tape(tmp_path / "store.db")
    names = ["store.db", "store.db-wal", "store.db-shm", "other.db"]
    assert [tape.suffix(str(tmp_path / name)) for name in names] == ["", "-wal", None, None]


@pytest.mark.slow
def test_damage_law_catches_a_store_without_seals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: rows are believed unseen. Wrong values come through, and the law says so."""
    from spellwork.store import seal, sqlite

    monkeypatch.setattr(sqlite, "is_whole", lambda *_row: True)
    monkeypatch.setattr(seal, "is_whole", lambda *_row: True)
    figure = damage.run(tmp_path, 1, 250, Deadline(60))
    assert any("reads wrong" in line or "rows that nobody wrote" in line or "nothing was said" in line for line in figure.broken)


@pytest.mark.slow
def test_poison_law_catches_unchecked_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: names and reasons are taken as they come. Something untyped comes through, and the law says so."""
    from spellwork.engine import run

    monkeypatch.setattr(run, "check_name", lambda value, _what: value)
    monkeypatch.setattr(run, "check_reason", lambda value: value)
    figure = poison.run(tmp_path, 20261123, 250, Deadline(60))
    assert any("untyped" in line for line in figure.broken)
