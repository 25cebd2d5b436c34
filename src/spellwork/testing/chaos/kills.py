"""Owns random kill -9 over the corpus: `python -m spellwork.testing.chaos.kills KILLS SEED DIRECTORY` prints one JSON line.
It must never start a thread: each life is forked from this process, so that it costs milliseconds. Linux and macOS.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

from spellwork.testing.chaos import corpus, laws, worker
from spellwork.testing.chaos.trial import LawBroken


class Round:
    """One store, killed again and again until its corpus has ended."""

    def __init__(self, directory: Path, rng: random.Random):
        self.database = directory / "store.db"
        self.ledger = directory / "ledger"
        self.acks = directory / "acks"
        self.rng = rng
        self.kills = 0
        self.slowest_reopen = 0.0
        self.shapes = rng.sample(list(corpus.SHAPES), rng.randint(1, len(corpus.SHAPES)))

    def play(self, limit: int) -> None:
        """Kill until `limit` kills, then let it end; raises AssertionError when a law is broken."""
        before, seen = None, laws.effects(self.ledger)
        while True:
            delay = None if self.kills >= limit else self.rng.uniform(0.0, 0.12) ** 1.2
            results = self.life(delay)
            now = laws.effects(self.ledger)
            after = laws.Journals(self.database)
            if before is not None:
                laws.committed_once(before, seen, now)
                laws.nothing_lost(before, after)
            laws.acknowledged_kept(self.acks, after)
            if results is not None:
                expected = {name: corpus.SHAPES[name][3] for name in self.shapes}
                if results != expected:
                    raise LawBroken(f"results differ: {results} != {expected}")
                return
            before, seen = after, now

    def life(self, delay: float | None) -> dict[str, Any] | None:
        """Fork a process that drives the corpus; kill it after `delay` seconds, or return its results."""
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            self._child(writing)
        os.close(writing)
        ready, _, _ = select.select([reading], [], [], 60 if delay is None else delay)
        if not ready:
            os.kill(pid, signal.SIGKILL)
            self.kills += 1
        chunks = []
        while chunk := os.read(reading, 65536):
            chunks.append(chunk)
        os.close(reading)
        os.waitpid(pid, 0)
        if not ready:
            return None
        answer = json.loads(b"".join(chunks))
        if "error" in answer:
            raise LawBroken(answer["error"])
        results: dict[str, Any] = answer["results"]
        return results

    def _child(self, writing: int) -> None:
        os.environ[corpus.LEDGER] = str(self.ledger)
        try:
            results = asyncio.run(worker.live(str(self.database), str(self.acks), self.shapes))
            answer: dict[str, Any] = {"results": results}
        except BaseException as error:  # noqa: BLE001 - told to the parent, which fails
            import traceback

            answer = {"error": "".join(traceback.format_exception(error))}
        os.write(writing, json.dumps(answer).encode())
        os._exit(0)


def main(kills: int, seed: int, directory: Path) -> None:
    """Play rounds until there were `kills` kills."""
    rng = random.Random(seed)
    done = rounds = 0
    began = time.monotonic()
    while done < kills:
        place = directory / f"round-{rounds}"
        place.mkdir(parents=True)
        current = Round(place, rng)
        try:
            current.play(min(kills - done, rng.randint(1, 12)))
        except AssertionError as error:
            sys.stdout.write(json.dumps({"seed": seed, "round": rounds, "place": str(place), "broken": str(error)}) + "\n")
            sys.exit(1)
        done += current.kills
        rounds += 1
    report = {
        "seed": seed,
        "kills": done,
        "rounds": rounds,
        "lost": 0,
        "repeated": 0,
        "seconds": round(time.monotonic() - began, 1),
    }
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
