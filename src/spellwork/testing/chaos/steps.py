"""Owns kill -9 at each boundary of workflows of twenty steps: around each commit, and in each step before and after its effect.
It must never kill twice in one store: what a single death may repeat can be told exactly. POSIX only.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spellwork import Engine
from spellwork.testing import shapes
from spellwork.testing.chaos import laws, worker
from spellwork.testing.chaos.life import Ending, Inside, Life, Work
from spellwork.testing.chaos.share import Share, Tally, split
from spellwork.testing.chaos.trial import Deadline, Figure, LawBroken
from spellwork.workflow import ActivityContext

LAW = "killed at any boundary of 20 steps, a committed step has had its effect once, one in flight twice, and the result is right"
SEEDS = 200
STEPS = 20
KINDS = ("sequential", "parallel", "nested")
_LIFE = 30.0


def run(place: Path, seed: int, count: int, deadline: Deadline) -> Figure:
    """Kill `count` times, as often in each of 200 programs, in four processes: half of the time they wait for the disk."""
    return split(__name__, LAW, place, seed, count, deadline, parts=4)


def share(part: Share, tally: Tally) -> None:
    """Run this share's programs undisturbed, then kill at their boundaries."""
    worker.warm_up()
    rng, mine = part.rng, range(part.index, SEEDS, part.of)
    deaths: list[Twenty] = []
    for number in mine:
        if not tally.goes_on(part):
            break
        calm = Twenty(part, number)
        with tally.judging(str(calm)):
            passed = calm.boundaries()
            chosen = rng.sample(range(1, passed + 1), min(passed, -(-part.count // len(mine))))
            deaths += [Twenty(part, number, n) for n in chosen]
        tally.note("seeds")
    rng.shuffle(deaths)  # should time be up, each program has had its part of it
    deaths = deaths[: part.count]
    tally.wanted = len(deaths)
    for twenty in deaths:
        if not tally.goes_on(part):
            break
        with tally.judging(str(twenty)):
            twenty.die(tally)


class Twenty:
    """One of the programs, and a store in which it dies at its boundary number `last`, or at none."""

    def __init__(self, part: Share, number: int, last: int = 0):
        self._kind = KINDS[number % len(KINDS)]
        self._program = shapes.of_steps(random.Random(f"{part.seed}/{number}"), self._kind, STEPS)
        self._last = last
        self._place = part.place / f"{number}-{self._kind}-{last}"
        self._name = f"seed {part.seed}, program {number} ({self._kind}), killed at boundary {last}, files in {self._place}"

    def __str__(self) -> str:
        return self._name

    def boundaries(self) -> int:
        """How many it passes when nothing disturbs it; raises `LawBroken` if that is not right already."""
        self._place.mkdir()
        return self._finish(laws.Journals(self._database), laws.effects(self._ledger))

    def die(self, tally: Tally) -> None:
        """Let it die, and finish in another life; raises `LawBroken`."""
        self._place.mkdir()
        life = Life(self._life(self._last), self._place / "log")
        for words in life.words(_LIFE):
            if "dies" in words:
                tally.note(f"died_at_{words['dies']}")
        ending = life.end(_LIFE)
        if not (ending.done or ending.signal == signal.SIGKILL) or ending.noise:
            raise LawBroken(f"the life failed: {ending}")
        # parallel steps do not fall into the same groups each time: some runs are over before their last boundaries
        tally.count += bool(ending.signal)
        tally.note("ended_before", not ending.signal)
        before, effects = laws.Journals(self._database), laws.effects(self._ledger)
        laws.acknowledged_kept(self._place / "acks", before)
        in_flight = effects.keys() - before.steps
        tally.note("steps_in_flight", len(in_flight))
        if self._kind == "sequential" and len(in_flight) > 1:
            raise LawBroken(f"{sorted(in_flight)} were under way at once: one began before the one before it was durable")
        self._finish(before, effects)

    def _finish(self, before: laws.Journals, effects: laws.Effects) -> int:
        """The last life, and what there must be after it; returns how many boundaries it has passed."""
        ending: Ending = Life(self._life(), self._place / "log-last").end(_LIFE)
        if not ending.done or ending.noise:
            raise LawBroken(f"the last life failed: {ending}")
        result, passed = ending.value
        after, now = laws.Journals(self._database), laws.effects(self._ledger)
        laws.nothing_lost(before, after)
        laws.committed_once(before, effects, now)
        laws.repeated_only_in_flight(before, effects, after, now)
        if len(after.steps) != STEPS:
            raise LawBroken(f"of {STEPS} steps {len(after.steps)} are in the journals")
        if result != shapes.expected(self._program):
            raise LawBroken(f"the result is {result}, not {shapes.expected(self._program)}")
        shutil.rmtree(self._place)
        return int(passed)

    @property
    def _database(self) -> Path:
        return self._place / "store.db"

    @property
    def _ledger(self) -> Path:
        return self._place / "ledger"

    def _life(self, last: int = 0) -> Work:
        """A life that ends at its boundary number `last`, or well, with the result and how many boundaries it has passed."""

        def work(inside: Inside) -> tuple[Any, int]:
            numbers = itertools.count(1)
            ledger, acknowledged = (_appended(self._place / name) for name in ("ledger", "acks"))

            def boundary(point: str) -> None:
                if next(numbers) == last:  # they are passed in many threads
                    inside.say(dies=point)
                    os.kill(os.getpid(), signal.SIGKILL)

            def step(context: ActivityContext) -> None:
                boundary("step.begun")
                ledger(context.idempotency_key)
                boundary("step.done")

            async def whole() -> Any:
                async with Engine(f"sqlite:{self._database}", workflows=shapes.WORKFLOWS, probe=boundary) as engine:
                    run = await engine.start(shapes.perform, self._program, id="twenty")
                    acknowledged("started twenty")
                    result = await shapes.drive(run, self._program)
                    acknowledged("result twenty")
                    return result

            shapes.observers.append(step)
            return asyncio.run(whole()), next(numbers) - 1

        return work


def _appended(path: Path) -> Callable[[str], None]:
    # what is written outlives the process, if not the machine: a `Ledger` that syncs would take a third of the time
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def append(line: str) -> None:
        os.write(handle, f"{line}\n".encode())

    return append
