"""Owns kill -9 at each write, sync and truncation of a canonical run: while a store is made, used and closed. Linux only.
It must never share a store between positions: one life dies there, one finishes, the laws are checked in between.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from spellwork.store.sqlite import SqliteBackend
from spellwork.testing.chaos import laws, worker
from spellwork.testing.chaos.life import Ending, Life
from spellwork.testing.chaos.share import Share, Tally, skipped, split
from spellwork.testing.chaos.tracer import Tracer, missing
from spellwork.testing.chaos.trial import Deadline, Figure, LawBroken

LAW = "kill -9 at each write and sync loses nothing; the next process finishes everything, once"
CANONICAL = ["sequence", "nested", "signals", "timers", "cancelled", "continued", "updates"]
STAGES = {"making": "opening", "using": "opening", "closing": "closing"}
"""Each stage, and where the life pauses until it is traced.

strace counts calls by thread, and the first thread to reach the number is hit: a new store is made by one thread, used by
another, and closed by the first.
"""
LIFE = 30.0


@dataclasses.dataclass(frozen=True, slots=True)
class Position:
    """The n-th call of its kind in a stage."""

    stage: str
    call: str
    n: int

    def __str__(self) -> str:
        return f"{self.stage} {self.call} {self.n}"


def run(place: Path, seed: int, count: int, deadline: Deadline) -> Figure:
    """Die at up to `count` positions, in two processes."""
    if lacking := missing():
        return skipped(__name__, LAW, seed, count, lacking)
    return split(__name__, LAW, place, seed, count, deadline)


def share(part: Share, tally: Tally) -> None:
    """Sweep this share's positions."""
    mine = part.of_all(positions(part.place))
    tally.wanted = len(mine)
    for position in mine:
        if not tally.goes_on(part):
            break
        place = part.place / str(position).replace(" ", "-")
        with tally.judging(f"kill at {position}, files in {place}"):
            ending = lived(place, position.stage, f"--inject={position.call}:signal=KILL:when={position.n}")
            if ending.raw or ending.typed:
                raise LawBroken(f"the life failed: {ending}")
            # a run that happened to group its batches in fewer syncs ends before the last positions
            tally.count += bool(ending.signal)
            tally.note("ended_before", not ending.signal)
            finish(place)
            shutil.rmtree(place)


def positions(place: Path) -> list[Position]:
    """Every call of an undisturbed run, stage by stage."""
    worker.warm_up()
    found = []
    for stage in STAGES:
        counted = place / f"count-{stage}"
        tracer: list[Tracer] = []
        ending = lived(counted, stage, tracers=tracer)
        if not ending.done:
            raise LawBroken(f"the undisturbed run failed: {ending}")
        for call, number in sorted(tracer[0].counts().items()):
            found += [Position(stage, call, n) for n in range(1, number + 1)]
        shutil.rmtree(counted)
    return found


def lived(place: Path, stage: str, *options: str, tracers: list[Tracer] | None = None) -> Ending:
    """One life in a fresh folder under strace with these options, from the stage's pause on."""
    place.mkdir(parents=True)
    if stage != "making":
        SqliteBackend(str(place / "store.db")).close()
    pause = STAGES[stage]
    life = Life(worker.life_of(place, CANONICAL, pause), place / "log")
    life.reach(pause, LIFE)
    tracer = Tracer(life, place, options)
    try:
        life.go_on()
        return life.end(LIFE)
    finally:
        tracer.close()
        if tracers is not None:
            tracers.append(tracer)


def finish(place: Path, shapes: list[str] = CANONICAL, database: Path | None = None) -> None:
    """The laws after a life that was cut short, and the life that finishes its work."""
    database = database or place / "store.db"
    before, seen = laws.Journals(database), laws.effects(place / "ledger")
    laws.acknowledged_kept(place / "acks", before)
    ending = Life(worker.life_of(place, shapes, database=database), place / "log-next").end(LIFE)
    if not ending.done:
        raise LawBroken(f"the next life failed: {ending}")
    laws.committed_once(before, seen, laws.effects(place / "ledger"))
    laws.nothing_lost(before, laws.Journals(database))
    laws.results_right(ending.value, shapes)
