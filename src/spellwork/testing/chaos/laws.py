"""Owns the laws of a crash: what was acknowledged is there, what was committed does not happen again.
It must never look at a store through the engine that it judges.
"""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

import apsw

from spellwork.journal import AttemptFailed, SignalReceived, Started, StepCompleted, StepFailed, unpack_entry
from spellwork.journal.rows import Keys
from spellwork.testing.chaos.trial import LawBroken
from spellwork.testing.ledger import Ledger

Effects = collections.Counter[str]


class Journals:
    """What a store file holds between two lives of its process."""

    def __init__(self, database: Path):
        self.entries = 0
        self.steps: set[str] = set()
        self.attempts: collections.Counter[str] = collections.Counter()
        self.runs: set[str] = set()
        self.signals: collections.Counter[str | None] = collections.Counter()
        if not database.exists():
            return  # it ended before it made the file
        connection = apsw.Connection(str(database))
        try:
            connection.execute("PRAGMA query_only=1")
            check = connection.execute("PRAGMA integrity_check").get
            rows: list[Any] = (
                connection.execute(
                    "SELECT k, v FROM kv WHERE k >= ? AND k < ? ORDER BY k",
                    (bytes((Keys.JOURNAL,)), bytes((Keys.JOURNAL + 1,))),
                ).fetchall()
                if connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'kv'").fetchone()
                else []
            )
        finally:
            connection.close()
        if check != "ok":
            raise LawBroken(f"SQLite finds damage: {check}")
        self.entries = len(rows)
        ids: dict[int, str] = {}
        newest: dict[int, int] = collections.defaultdict(int)
        expected: dict[int, int] = collections.defaultdict(int)
        for key, frame in rows:
            number, position = int.from_bytes(key[1:9], "big"), int.from_bytes(key[9:13], "big")
            if position != expected[number]:
                raise LawBroken(f"run {number:x}: entry {expected[number]} is missing")
            expected[number] += 1
            entry = unpack_entry(key, frame)
            if entry.at < newest[number]:
                raise LawBroken(f"run {number:x}: entry {position} is {newest[number] - entry.at} us older than the one before it")
            newest[number] = entry.at
            if isinstance(entry, Started):
                ids[number] = entry.run_id
                self.runs.add(entry.run_id)
            elif isinstance(entry, StepCompleted | StepFailed):
                step = f"{ids[number]}:{number:x}:{entry.n}"
                if step in self.steps:
                    raise LawBroken(f"step {step} was committed twice")
                self.steps.add(step)
            elif isinstance(entry, SignalReceived):
                self.signals[entry.id] += 1
            elif isinstance(entry, AttemptFailed):
                self.attempts[f"{ids[number]}:{number:x}:{entry.n}"] += 1


def effects(ledger: Path) -> Effects:
    """How often each step has had its effect."""
    return collections.Counter(line.split()[0] for line in Ledger(ledger).lines())


def committed_once(before: Journals, effects_then: Effects, effects_now: Effects) -> None:
    """A step that was committed at a crash has had no further effect since."""
    for step in before.steps:
        if effects_now[step] != effects_then[step]:
            raise LawBroken(f"committed step {step} ran again: {effects_then[step]} -> {effects_now[step]}")


def repeated_only_in_flight(before: Journals, effects_then: Effects, after: Journals, effects_now: Effects) -> None:
    """After a single crash each committed step has had its effect once, or twice if the crash came between effect and commit."""
    in_flight = effects_then.keys() - before.steps
    due = Effects({step: 1 + (step in in_flight) for step in after.steps})
    if effects_now != due:
        raise LawBroken(f"effects too many: {dict(effects_now - due)}, too few: {dict(due - effects_now)}")


def acknowledged_kept(acks: Path, journals: Journals) -> None:
    """What a caller was told is in the store."""
    for line in Ledger(acks).lines():
        verb, _, name = line.partition(" ")
        if verb in ("started", "result") and name not in journals.runs:
            raise LawBroken(f"{line} was acknowledged and is lost")


def nothing_lost(before: Journals, after: Journals) -> None:
    """What was committed stays."""
    if not before.steps <= after.steps or not before.runs <= after.runs:
        raise LawBroken(f"lost: {sorted(before.steps - after.steps)} {sorted(before.runs - after.runs)}")


def results_right(results: dict[str, Any], shapes: list[str]) -> None:
    """Runs that were disturbed return what undisturbed ones do."""
    from spellwork.testing.chaos.corpus import SHAPES

    expected = {name: SHAPES[name][3] for name in shapes}
    if results != expected:
        raise LawBroken(f"results differ: {results} != {expected}")
