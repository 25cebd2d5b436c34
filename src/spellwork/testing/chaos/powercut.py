"""Owns power cuts: a run is taped once, cut at many moments in many ways, and what is left is opened by the ordinary code.
It must never take a row's word for it: the truth is what SQLite itself said after each commit while the power was on.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import hashlib
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw

from spellwork import Engine
from spellwork.errors import SpellworkError
from spellwork.store import Batch, open_store
from spellwork.store import sqlite as backend_module
from spellwork.store.keyspace import REVISION
from spellwork.store.sqlite import SqliteBackend
from spellwork.testing.chaos import corpus, laws
from spellwork.testing.chaos.tape import Disk, Tape, no_more_cuts, write_files
from spellwork.testing.chaos.trial import Deadline, Figure, LawBroken, Trial

LAW = "at `full` a power cut loses nothing acknowledged; at every level what is left is whole commits, in order, and work goes on"
_CUTS = 100
_FINISH_EVERY = 50
_SLACK = 1.0
_WINDOW = 10
_LEVELS = (f"batched({_WINDOW})", "relaxed")
_MUTANTS = {"synchronous=OFF": "OFF", "synchronous=NORMAL": "NORMAL"}


@dataclasses.dataclass
class Recording:
    """A taped run: `truth` maps each revision that was ever the newest to the digest of all rows then."""

    kind: str
    level: str
    seed: int
    tape: Tape
    names: list[str]
    truth: dict[int, bytes] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return f"workload {self.kind} at {self.level}, seed {self.seed}"


# Taping


def record(place: Path, kind: str, level: str, seed: int, *, synchronous: str | None = None) -> Recording:
    """Run a workload under the tape. `synchronous` is a mutant: what SQLite is told instead of what the level wants."""
    place.mkdir(parents=True)
    rng = random.Random(seed)
    stem = place / "store.db"
    names = rng.sample(list(corpus.SHAPES), rng.randint(2, 5)) if kind == "engine" else []
    done = Recording(kind, level, seed, Tape(stem), names)
    base = apsw.vfs_names()[0]

    def probe(point: str) -> None:
        if point == "commit.after":
            revision, digest = newest_commit(stem, base)
            done.truth[revision] = digest
            done.tape.mark(revision)

    work = _engine_work(stem, level, names, probe) if kind == "engine" else _store_work(stem, level, rng, probe, done.tape)
    with _checkpoints(rng.choice((4, 16, 64))), _mutated(synchronous), done.tape.recording(), _ledger(None):
        asyncio.run(work)
    done.truth[0] = digest_of([])
    return done


def newest_commit(stem: Path, vfs: str) -> tuple[int, bytes]:
    """The revision of a store that is in use, and the digest of its rows."""
    connection = apsw.Connection(str(stem), vfs=vfs)
    try:
        rows: list[Any] = connection.execute("SELECT k, v FROM kv ORDER BY k").fetchall()
    finally:
        connection.close()
    return int.from_bytes(dict(rows)[REVISION], "big"), digest_of(rows)


def digest_of(rows: list[tuple[bytes, bytes]]) -> bytes:
    """One value for the keys and values of a store."""
    whole = hashlib.blake2b(digest_size=16)
    for key, value in rows:
        whole.update(len(key).to_bytes(4, "big") + key + len(value).to_bytes(4, "big") + value)
    return whole.digest()


async def _engine_work(stem: Path, level: str, names: list[str], probe: Callable[[str], None]) -> None:
    async with Engine(f"sqlite:{stem}", workflows=corpus.WORKFLOWS, durability=level, probe=probe) as engine:
        await corpus.drive(engine, names, lambda _line: None)


async def _store_work(stem: Path, level: str, rng: random.Random, probe: Callable[[str], None], tape: Tape) -> None:
    store = open_store(f"sqlite:{stem}", durability=level, probe=probe)
    model: dict[bytes, bytes] = {}
    try:
        for _ in range(rng.randint(10, 30)):
            batches = [_batch(rng) for _ in range(rng.choice((1, 1, 2, 5)))]
            for revision in await asyncio.gather(*(store.commit(batch) for batch in batches)):
                tape.mark(revision)
            for batch in batches:  # those of one turn commit in the order in which they were submitted
                _apply(batch, model)
            if rng.random() < 0.2:
                await asyncio.sleep(0.002)
        if dict(await store.scan(b"\x10", b"\xff")) != model:
            raise LawBroken("with the power on, the store does not hold what was committed")
    finally:
        await store.close()


def _apply(batch: Batch, model: dict[bytes, bytes]) -> None:
    """What a batch means, said in another way than the committer's."""
    for start, end in batch.ranges:
        for key in [key for key in model if start <= key < end]:
            del model[key]
    for key, value in batch.rows.items():
        model.pop(key, None)
        if value is not None:
            model[key] = value
    for key, _, operand in batch.merges:
        total = int.from_bytes(model.get(key, b""), "big") + int.from_bytes(operand, "big")
        model[key] = total.to_bytes(8, "big")


def _batch(rng: random.Random) -> Batch:
    def key() -> bytes:
        return bytes((rng.choice((0x10, 0x11, 0x90)),)) + rng.randbytes(1).zfill(rng.choice((4, 12)))

    batch = Batch()
    for _ in range(rng.randint(1, 8)):
        batch.put(key(), rng.randbytes(rng.choice((0, 10, 200, 200, 6000))))
    if rng.random() < 0.3:
        batch.delete(key())
    if rng.random() < 0.2:
        start = key()
        batch.delete_range(start, start[:1] + b"\xff" * 12)
    if rng.random() < 0.3:
        batch.merge(b"\x10sum", "add", (1).to_bytes(8, "big"))
    return batch


@contextlib.contextmanager
def _checkpoints(pages: int) -> Iterator[None]:
    """Let checkpoints happen within a short run."""
    before = backend_module._PRAGMAS
    changed = tuple(f"wal_autocheckpoint={pages}" if line.startswith("wal_auto") else line for line in before)
    backend_module._PRAGMAS = changed  # type: ignore[assignment]
    try:
        yield
    finally:
        backend_module._PRAGMAS = before


@contextlib.contextmanager
def _mutated(synchronous: str | None) -> Iterator[None]:
    """A backend that tells SQLite less than it promises."""
    begin = SqliteBackend.begin
    if synchronous is None:
        yield
        return

    def careless(self: SqliteBackend, *, sync: bool) -> tuple[int, bool]:
        self._synced = sync
        self._writer.execute(f"PRAGMA synchronous={synchronous}")
        return begin(self, sync=sync)

    SqliteBackend.begin = careless  # type: ignore[method-assign]
    try:
        yield
    finally:
        SqliteBackend.begin = begin  # type: ignore[method-assign]


@contextlib.contextmanager
def _ledger(path: Path | None) -> Iterator[None]:
    before = os.environ.pop(corpus.LEDGER, None)
    if path is not None:
        os.environ[corpus.LEDGER] = str(path)
    try:
        yield
    finally:
        os.environ.pop(corpus.LEDGER, None)
        if before is not None:
            os.environ[corpus.LEDGER] = before


# Cutting


@dataclasses.dataclass
class Cutter:
    """Cuts one recording again and again, in the order of its moments."""

    recording: Recording
    place: Path
    seed: int
    losses: int = 0
    oldest: float = 0.0
    finished: int = 0

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)
        self._disk = Disk(self.recording.tape.ops)
        self.place.mkdir(parents=True, exist_ok=True)
        self._stem = self.place / "store.db"
        self._acked = _newest(self.recording, synced_only=False)
        self._synced = _newest(self.recording, synced_only=True)

    def moments(self, count: int) -> list[int]:
        """Positions on the tape: half of them anywhere, half beside a sync, a checkpoint's end or an acknowledgement."""
        ops = self.recording.tape.ops
        edges = [i + side for i, op in enumerate(ops) for side in (0, 1) if op.kind in ("sync", "mark", "truncate", "delete")]
        return sorted(self._rng.choice(edges) if self._rng.random() < 0.5 else self._rng.randint(0, len(ops)) for _ in range(count))

    def cut(self, position: int, *, finish: bool = False) -> None:
        """Cut the power before event `position`; raises `LawBroken`."""
        self._disk.advance(position)
        files = self._disk.cut(self._rng)
        write_files(files, self._stem)
        try:
            with no_more_cuts():
                revision = self._survivor()
                self._judge(position, revision)
                if finish:
                    self._finish()
        except (LawBroken, SpellworkError) as error:
            kept = self.place / f"broken-{position}"
            kept.mkdir(exist_ok=True)
            write_files(files, kept / "store.db")
            raise LawBroken(f"{self.recording}, cut at event {position}, kept in {kept.name}: {error}") from error

    def _survivor(self) -> int:
        backend = SqliteBackend(str(self._stem))
        try:
            reader = backend.reader()
            rows = reader.scan(b"", b"\xff" * 64)
            reader.dispose()
            check = apsw.Connection(str(self._stem))
            verdict = check.execute("PRAGMA integrity_check").get
            check.close()
        finally:
            backend.close()
        if verdict != "ok":
            raise LawBroken(f"SQLite finds damage: {verdict}")
        revision = int.from_bytes(dict(rows).get(REVISION, b""), "big")
        if self.recording.truth.get(revision) != digest_of(rows):
            raise LawBroken(f"the rows are not those of revision {revision}: part of a commit is there")
        return revision

    def _judge(self, position: int, revision: int) -> None:
        acked, synced = self._acked[position], self._synced[position]
        full = self.recording.level == "full"
        floor = acked if full else synced
        if revision < floor:
            raise LawBroken(f"revision {floor} was {'acknowledged' if full else 'synced'}, {revision} is left")
        if revision < acked:
            self.losses += 1
            self._age(position, revision)

    def _age(self, position: int, revision: int) -> None:
        ops = self.recording.tape.ops
        now = ops[min(position, len(ops) - 1)].at
        told = min(op.at for op in ops[:position] if op.kind == "mark" and op.note > revision)
        self.oldest = max(self.oldest, now - told)
        if self.recording.level.startswith("batched") and now - told > _WINDOW / 1000 + _SLACK:
            raise LawBroken(f"a commit was lost {now - told:.3f} s after it was acknowledged; the window is {_WINDOW} ms")

    def _finish(self) -> None:
        if self.recording.kind != "engine":
            return
        before = laws.Journals(self._stem)
        ledger = self.place / "ledger"
        ledger.unlink(missing_ok=True)

        async def go_on() -> dict[str, Any]:
            async with Engine(f"sqlite:{self._stem}", workflows=corpus.WORKFLOWS) as engine:
                return await corpus.drive(engine, self.recording.names, lambda _line: None)

        with _ledger(ledger):
            results = asyncio.run(go_on())
        expected = {name: corpus.SHAPES[name][3] for name in self.recording.names}
        if results != expected:
            raise LawBroken(f"results differ: {results} != {expected}")
        laws.committed_once(before, collections.Counter(), laws.effects(ledger))
        laws.nothing_lost(before, laws.Journals(self._stem))
        self.finished += 1


def _newest(recording: Recording, *, synced_only: bool) -> list[int]:
    """For each position of the tape, the newest revision that was acknowledged (or synced) before it."""
    newest, marked, out = 0, 0, [0]
    for op in recording.tape.ops:
        if op.kind == "mark":
            marked = max(marked, op.note)
            if not synced_only:
                newest = marked
        elif op.kind == "sync" and op.file == "-wal":
            newest = marked if synced_only else newest
        out.append(newest)
    return out


# The trial


@dataclasses.dataclass
class _Tally:
    """What all cuts of a trial came to."""

    place: Path
    seed: int
    deadline: Deadline
    broken: list[str] = dataclasses.field(default_factory=list)
    cuts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    lost: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    oldest: dict[str, float] = dataclasses.field(default_factory=dict)
    finished: int = 0
    traces: int = 0

    def play(self, level: str, count: int, *, synchronous: str | None = None) -> list[str]:
        """Cut tapes of one level `count` times; returns the violations."""
        broken: list[str] = []
        label = synchronous or level
        while self.cuts[label] < count and self.deadline.left > 0:
            number, self.traces = self.traces, self.traces + 1
            place = self.place / f"tape-{number}"
            kind = "engine" if number % 2 else "store"
            recording = record(place, kind, level, self.seed * 100_000 + number, synchronous=synchronous)
            cutter = Cutter(recording, place / "cut", self.seed * 100_000 + number)
            for position in cutter.moments(min(_CUTS, count - self.cuts[label])):
                self.cuts[label] += 1
                finish = synchronous is None and self.cuts[label] % _FINISH_EVERY == 0
                try:
                    cutter.cut(position, finish=finish)
                except LawBroken as error:
                    broken.append(str(error))
                if self.deadline.left <= 0:
                    break
            self._add(label, cutter)
            if not broken or synchronous:
                shutil.rmtree(place)
        return broken

    def _add(self, label: str, cutter: Cutter) -> None:
        self.lost[label] += cutter.losses
        self.oldest[label] = max(self.oldest.get(label, 0.0), cutter.oldest)
        self.finished += cutter.finished


def run(place: Path, seed: int, count: int, deadline: Deadline) -> Figure:
    """Cut the power `count` times at `full`, a tenth as often at each weaker level, and show that the mutants are caught."""
    tally = _Tally(place, seed, deadline)
    mutants = {}
    for name, synchronous in _MUTANTS.items():
        caught = len(tally.play("full", max(30, count // 100), synchronous=synchronous))
        mutants[name] = f"caught in {caught} of {tally.cuts[synchronous]} cuts"
        if not caught and tally.deadline.left > 0:
            tally.broken.append(f"the mutant {name} was not caught in {tally.cuts[synchronous]} cuts")
    for level in _LEVELS:
        tally.broken += tally.play(level, max(30, count // 10))
    if not tally.lost["relaxed"] and tally.deadline.left > 0:
        tally.broken.append("no cut at `relaxed` lost anything: the power cuts of this harness do no harm")
    tally.broken += tally.play("full", count)
    facts: dict[str, Any] = {
        "lost at full": tally.lost["full"],
        "mutants": mutants,
        "finished by an engine": tally.finished,
        "tapes": tally.traces,
    }
    for level in _LEVELS:
        oldest = round(tally.oldest.get(level, 0.0) * 1000)
        facts[level] = f"{tally.cuts[level]} cuts, {tally.lost[level]} lost commits, none acknowledged more than {oldest} ms before"
    return Figure(
        "power", LAW, seed, count, tally.cuts["full"], tuple(tally.broken), facts, round(deadline.spent, 1)
    )  # fmt: skip


TRIAL = Trial("power", LAW, run, gate=400, short=2_500, full=10_000, seconds=120.0)
