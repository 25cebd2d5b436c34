"""Owns the laws of a simulation: checked at every commit and every effect, and once more at the end.
It must never ask an engine what is true: it reads the disk, and what really happened.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec

from spellwork.clock import MICROSECONDS
from spellwork.codec import Codec
from spellwork.engine.ownership import Owner, pack_claim, partition_key
from spellwork.engine.registry import Registry
from spellwork.engine.replay import replay_journal
from spellwork.journal import (
    Cancelled,
    ChildEnded,
    ChildStarted,
    Completed,
    Continued,
    ErrorRegistry,
    Failed,
    Performed,
    RunRow,
    SignalReceived,
    SignalSent,
    Status,
    StepCompleted,
    StepFailed,
    Terminated,
    TimerFired,
    UpdateAccepted,
    UpdateCompleted,
    unpack_entry,
)
from spellwork.journal.rows import Keys, run_key, unpack_row
from spellwork.store import Batch
from spellwork.store.keyspace import PARTITIONS
from spellwork.supervision import attempt
from spellwork.testing import linear
from spellwork.testing.sim.data import differences
from spellwork.testing.sim.process import LEASE
from spellwork.workflow.activity import ActivityContext
from spellwork.workflow.execution import AFTER_THE_END

if TYPE_CHECKING:
    from spellwork.testing.sim.disk import Write
    from spellwork.testing.sim.process import Life
    from spellwork.testing.sim.world import World

_ENDS = (Completed, Failed, Cancelled, Terminated, Continued)
_ONCE = (StepCompleted, StepFailed, TimerFired, ChildStarted, ChildEnded, SignalSent, Performed)
_STORY = 60
_REPLAY_ONE_IN = 3


class Journal:
    """What the disk holds of one run, kept in step with it."""

    __slots__ = ("entries", "frames", "once")

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.entries: list[Any] = []
        self.once: set[Any] = set()


class Witness:
    """Sees every transaction and every effect. `story` keeps the latest things that happened."""

    def __init__(self, world: World):
        self._world = world
        self.journals: dict[int, Journal] = {}
        self.story: deque[str] = deque(maxlen=_STORY)
        self._renewed: dict[bytes, int] = {}
        self._registry = Registry(world.workload.workflows, ())
        self._codec = Codec()
        self._errors = ErrorRegistry()
        self._effects = 0
        self._letters: set[bytes] = set()
        self._receipts: dict[bytes, str] = {}

    # At every commit

    def transaction(self, writer: str, write: Write) -> None:
        """The laws of what may be written, by whom."""
        rows, deletes, _ = write
        fresh = {key: value for key, value, _ in rows}
        for key, value, _ in rows:
            kind = key[0]
            if kind == Keys.JOURNAL:
                self._entry(writer, key, value, fresh)
            elif kind == PARTITIONS.prefix:
                self._claim(key, value)
            elif kind == Keys.INBOX:
                self._world.mark("a message was sent again" if key in self._letters else "a message was sent")
                self._letters.add(key)
                self._world.letter(key, value)
            elif kind == Keys.TIMERS:
                self._world.mark("a run with a timer was parked")
            elif kind == Keys.RECEIPTS:
                self._receipts[key] = writer
            elif kind == Keys.TRIGGERS and self._world.disk.tables.get(key) is not None:
                self._world.mark("a trigger has pulled")
            elif kind == Keys.ACTIVE and value not in (b"", b"\0"):
                self._world.mark("an active run was recovered")
        for key in deletes:
            if key[0] == Keys.JOURNAL:
                self._violated(f"{writer} deleted a journal entry {key.hex()}")
            elif key[0] == Keys.RECEIPTS and self._receipts.pop(key, writer) != writer:
                self._world.mark("a receipt was found by another process")

    def _entry(self, writer: str, key: bytes, frame: bytes, fresh: dict[bytes, bytes]) -> None:
        number, position = int.from_bytes(key[1:9], "big"), int.from_bytes(key[9:13], "big")
        journal = self.journals.setdefault(number, Journal())
        if position < len(journal.frames):
            if journal.frames[position] != frame:
                self._violated(f"{writer} overwrote entry {position} of run {number:x}")
            return
        if position > len(journal.frames):
            self._violated(f"{writer} left a hole before entry {position} of run {number:x}")
            return
        entry = unpack_entry(key, frame)
        row = self._row(number, fresh)
        if row is None:
            self._violated(f"{writer} wrote an entry of run {number:x}, which has no row")
            return
        self._owned(writer, row)
        if journal.entries and isinstance(journal.entries[-1], _ENDS) and not isinstance(entry, AFTER_THE_END):
            self._violated(f"run {row.id} had ended, and {writer} added {entry}")
        self._once(writer, row, journal, entry)
        if isinstance(entry, TimerFired):
            self._not_early(writer, row, entry)
        journal.frames.append(frame)
        journal.entries.append(entry)
        self._world.mark(f"entry {type(entry).__name__}")
        if isinstance(entry, Performed) and entry.failure is not None:
            self._world.mark("a transaction was refused")

    def _owned(self, writer: str, row: RunRow) -> None:
        claim = self._world.disk.tables.get(partition_key(row.partition))
        life = self._life(writer)
        if claim is None or life is None or life.engine is None:
            return
        owner = msgspec.msgpack.decode(claim[0][8:], type=Owner)
        if owner.id != life.engine._ownership.me.id:
            self._violated(f"{writer} wrote to run {row.id}, but partition {row.partition} belongs to {owner.id or 'nobody'}")

    def _once(self, writer: str, row: RunRow, journal: Journal, entry: Any) -> None:
        mark: Any = None
        if isinstance(entry, _ONCE):
            kind = StepCompleted if isinstance(entry, StepFailed) else type(entry)
            mark = (kind.__name__, entry.n)
        elif isinstance(entry, SignalReceived | UpdateAccepted | UpdateCompleted) and entry.id:
            mark = (type(entry).__name__, entry.id)
        if mark is not None:
            if mark in journal.once:
                self._violated(f"{writer} wrote {mark} of run {row.id} a second time")
            journal.once.add(mark)

    def _not_early(self, writer: str, row: RunRow, entry: TimerFired) -> None:
        life = self._life(writer)
        if life is not None and entry.at > self._world.wall(life.slot) and not self._world.jumped:
            self._violated(
                f"{writer} fired a timer of run {row.id} {(entry.at - self._world.wall(life.slot)) / MICROSECONDS} s early"
            )

    def _claim(self, key: bytes, value: bytes) -> None:
        world = self._world
        before = world.disk.tables.get(key)
        owner = msgspec.msgpack.decode(value[8:], type=Owner)
        if before is not None:
            last = msgspec.msgpack.decode(before[0][8:], type=Owner)
            if last.id and owner.id and last.id != owner.id:
                still = (world.now - self._renewed.get(key, -10 * MICROSECONDS)) / MICROSECONDS
                world.mark("a partition was taken over")
                if still < LEASE and self._is_alive(last.id):
                    self._violated(f"partition {key.hex()} was taken from {last.id} {still:.3f} s after its last sign of life")
            if int.from_bytes(value[:8], "big") < int.from_bytes(before[0][:8], "big"):
                self._violated(f"the epoch of partition {key.hex()} went back")
        self._renewed[key] = world.now

    # At every effect

    def effect(self, life: Life, name: str, context: ActivityContext) -> None:
        """An activity begins in `life`: its step was not committed, and what is durable asks for this very attempt."""
        world = self._world
        self.story.append(
            f"{world.now / MICROSECONDS:10.4f} {life.name} begins {name} {context.idempotency_key} #{context.attempt}"
        )
        number, n = context.number, context.n
        journal = self.journals.get(number)
        if journal is None:
            self._violated(f"{life.name} began {name} of run {context.run_id}, which is not on disk")
            return
        row = self._row(number, {})
        claim = world.disk.tables.get(partition_key(row.partition)) if row is not None else None
        engine = life.engine
        if claim is None or row is None or engine is None:
            return
        if msgspec.msgpack.decode(claim[0][8:], type=Owner).id != engine._ownership.me.id:
            world.mark("an owner that was replaced began an effect")
            return  # effects are at least once: only its writes are refused
        if (StepCompleted.__name__, n) in journal.once:
            self._violated(f"{life.name} began {name} of run {context.run_id} again: step {n} is committed")
            return
        self._effects += 1
        if self._effects % _REPLAY_ONE_IN == 0:
            self._follows(life, name, context, row, journal)

    def _follows(self, life: Life, name: str, context: ActivityContext, row: RunRow, journal: Journal) -> None:
        definition = self._registry.find(row.workflow, row.version)
        execution = definition.execution(row.number, self._codec, self._errors, self._registry)
        life.loop.enter(execution.replay, journal.entries)
        pending = execution.pending.get(context.n)
        if pending is None or pending.attempt + 1 != context.attempt:
            found = "does not ask for it" if pending is None else f"has counted {pending.attempt} attempts"
            self._violated(
                f"{life.name} began {name} of run {context.run_id} (step {context.n}, attempt {context.attempt}), "
                f"but its durable journal of {len(journal.entries)} entries {found}"
            )
        life.loop.enter(execution.close)

    # At the end

    def all_ended(self) -> bool:
        """Whether every run has ended."""
        return all(unpack_row(value).status.ended for _, value in self._rows())

    def at_the_end(self) -> None:
        """Everything has finished: are the results right, and is every journal a fixed point of replay?"""
        for errand in self._world.workload.errands:
            for process, answer in errand.answers:
                if answer != errand.expected:
                    self._violated(f"errand {errand.id}: {process} was answered {answer!r}, expected {errand.expected!r}")
        seen: set[str] = set()
        for _, value in self._rows():
            row = unpack_row(value)
            journal = self.journals.get(row.number)
            if journal is None or not journal.entries:
                self._violated(f"run {row.id} has no journal")
                continue
            if row.status is not Status.CONTINUED and row.id in seen:
                self._violated(f"there are two runs with the id {row.id}")
            if row.status is not Status.CONTINUED:
                seen.add(row.id)
            _, error = attempt(
                replay_journal,
                row.number,
                self._registry.find(row.workflow, row.version),
                journal.entries,
                self._codec,
                self._errors,
            )
            if error is not None:
                self._violated(f"run {row.id} does not replay: {error}")

        entries = (journal.entries for journal in self.journals.values())
        # what a power cut took back is not driven again, so a lossy world ends while some of it is still under way
        for difference in differences(self._world.disk.reader, entries, at_rest=not self._world.lossy):
            self._violated(difference)

    def linearizable(self) -> None:
        """What clients were told about runs by their ids has an explanation as one thing after the other."""
        verdict = linear.check(self._world.workload.history.operations, linear.RunsById())
        if not verdict:
            self._violated(str(verdict))

    def unfinished(self, turns: int) -> None:
        """Faults have stopped long ago, and something is still not done."""
        waiting = [errand.id for errand in self._world.workload.errands if not errand.done]
        running = [
            f"{row.id} ({row.status} {row.reason})"
            for row in (unpack_row(value) for _, value in self._rows())
            if not row.status.ended
        ]
        self._violated(f"not finished after {turns} turns: errands {waiting}, runs {running}")

    def readable(self) -> dict[str, tuple[str, ...]]:
        """Each journal as lines, without times and numbers, which differ between runs that do the same."""
        return {
            f"{journal.entries[0].run_id} generation {journal.entries[0].generation}": tuple(map(_line, journal.entries))
            for journal in self.journals.values()
            if journal.entries
        }

    # Reading the disk

    def reread(self) -> None:
        """The power failed: what is known of journals is what the disk still has."""
        self.journals.clear()
        start, end = bytes((Keys.JOURNAL,)), bytes((Keys.JOURNAL + 1,))
        for key, frame in self._world.disk.reader.scan(start, end):
            number, position = int.from_bytes(key[1:9], "big"), int.from_bytes(key[9:13], "big")
            journal = self.journals.setdefault(number, Journal())
            if position != len(journal.frames):
                self._violated(f"after the power cut run {number:x} has a hole before entry {position}")
            entry = unpack_entry(key, frame)
            row = self._row(number, {})
            if row is None:
                self._violated(f"after the power cut run {number:x} has no row")
                continue
            self._once("the disk", row, journal, entry)
            journal.frames.append(frame)
            journal.entries.append(entry)
        self._renewed.clear()

    def evict(self) -> None:
        """Somebody with the right to do so takes every partition from its owner."""
        batch = Batch()
        for index in range(self._world.plan.partitions):
            claim = self._world.disk.tables.get(partition_key(index))
            if claim is not None:
                batch.put(partition_key(index), pack_claim(int.from_bytes(claim[0][:8], "big") + 1, Owner()))
        if batch.rows:
            self._world.write("an operator", batch)

    def _rows(self) -> list[tuple[bytes, bytes]]:
        return self._world.disk.reader.scan(bytes((Keys.RUNS,)), bytes((Keys.RUNS + 1,)))

    def _row(self, number: int, fresh: dict[bytes, bytes]) -> RunRow | None:
        key = run_key(number)
        stored = fresh.get(key)
        if stored is None:
            found = self._world.disk.tables.get(key)
            stored = found[0] if found is not None else None
        return unpack_row(stored) if stored is not None else None

    def _life(self, writer: str) -> Life | None:
        slot, dot, _ = writer.partition(".")
        life = self._world.lives[int(slot)] if dot else None
        return life if life is not None and life.name == writer else None

    def _is_alive(self, owner: str) -> bool:
        return any(
            life is not None and not life.dead and life.engine is not None and life.engine._ownership.me.id == owner
            for life in self._world.lives
        )

    def _violated(self, what: str) -> None:
        self._world.violated(what)


def _line(entry: Any) -> str:
    number = f" {entry.n}" if hasattr(entry, "n") else ""
    name = getattr(entry, "name", getattr(entry, "id", ""))
    payload = getattr(entry, "result", getattr(entry, "payload", b""))
    return f"{type(entry).__name__}{number} {name} {payload!r}".rstrip()
