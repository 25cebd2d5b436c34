"""Owns random kill -9 over five workloads; `python -m spellwork.testing.chaos.kills KILLS SEED DIRECTORY` prints one JSON line.
It must never judge a store while the process that writes it lives. Linux and macOS.
"""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import sys
import time
from pathlib import Path

from spellwork.testing.chaos import corpus, laws, worker
from spellwork.testing.chaos.life import Life
from spellwork.testing.chaos.share import Share, Tally, split
from spellwork.testing.chaos.trial import Deadline, Figure, LawBroken

LAW = "kill -9 at any moment loses nothing acknowledged and repeats nothing committed"
WORKLOADS = {
    "steps": ["sequence", "continued", "retries"],
    "parallel": ["fan_out", "chance", "sequence"],
    "nested": ["nested", "cancelled"],
    "messages": ["signals", "updates", "timers"],
    "everything": list(corpus.SHAPES),
}
_LIFE = 60.0


def run(place: Path, seed: int, count: int, deadline: Deadline) -> Figure:
    """Kill `count` times, in two processes."""
    return split(__name__, LAW, place, seed, count, deadline)


def share(part: Share, tally: Tally) -> None:
    """Play rounds until there were enough kills."""
    worker.warm_up()
    rng, rounds = part.rng, 0
    spans: dict[str, float] = {}
    while tally.count < part.count and tally.goes_on(part):
        name = list(WORKLOADS)[rounds % len(WORKLOADS)]
        place = part.place / f"{rounds}-{name}"
        place.mkdir()
        with tally.judging(f"seed {part.seed}, share {part.index} of {part.of}, round {rounds} ({name}), files in {place}"):
            _Round(place, WORKLOADS[name], rng, tally).play(min(part.count - tally.count, rng.randint(4, 16)), spans)
            shutil.rmtree(place)
        rounds += 1
    tally.note("rounds", rounds)


class _Round:
    """One store, killed again and again until its workload has ended."""

    def __init__(self, place: Path, shapes: list[str], rng: random.Random, tally: Tally):
        self.place = place
        self.shapes = shapes
        self.rng = rng
        self.tally = tally
        self.kills = 0

    def play(self, limit: int, spans: dict[str, float]) -> None:
        """Kill until `limit` kills, then let it end; raises `LawBroken`."""
        key = "+".join(self.shapes)
        database, ledger = self.place / "store.db", self.place / "ledger"
        before, seen = None, laws.effects(ledger)
        while True:
            began = time.monotonic()
            # as long as a whole life of this workload takes, once that is known
            span = spans.get(key, 0.3)
            results = self._life(None if self.kills >= limit else self.rng.uniform(0.0, 1.1) * span)
            now, after = laws.effects(ledger), laws.Journals(database)
            if before is not None:
                laws.committed_once(before, seen, now)
                laws.nothing_lost(before, after)
            laws.acknowledged_kept(self.place / "acks", after)
            if results is not None:
                if before is None or key not in spans:
                    spans[key] = min(spans.get(key, 10.0), max(0.02, time.monotonic() - began))
                laws.results_right(results, self.shapes)
                return
            before, seen = after, now

    def _life(self, delay: float | None) -> dict[str, object] | None:
        reopening = (self.place / "acks").exists()
        life = Life(worker.life_of(self.place, self.shapes), self.place / "log")
        ended = False
        for words in life.words(_LIFE if delay is None else delay):
            ended = ended or "end" in words
            if "opened" in words and reopening:
                self.tally.note_most("slowest_reopen", words["opened"])
        if delay is not None and not ended:
            life.kill()
            self.kills += 1
            self.tally.count += 1
            self.tally.note("before_first_acknowledgement", not (self.place / "acks").exists())
            return None
        ending = life.end(_LIFE)
        if not ending.done:
            raise LawBroken(f"the life failed: {ending}")
        return dict(ending.value)


def main(kills: int, seed: int, directory: Path) -> None:
    """One share that is the whole."""
    directory.mkdir(parents=True, exist_ok=True)
    tally = Tally()
    share(Share(directory, seed, kills, Deadline(3600), 0, 1), tally)
    sys.stdout.write(json.dumps({"seed": seed, "kills": tally.count, **dataclasses.asdict(tally)}) + "\n")
    sys.exit(1 if tally.broken else 0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
