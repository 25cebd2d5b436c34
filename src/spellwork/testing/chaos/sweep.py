"""Owns kill -9 at every write and sync of one canonical run: `python -m spellwork.testing.chaos.sweep DIRECTORY`.
It must never share a store between positions: one life dies there, one finishes, the laws are checked in between. Linux only.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from spellwork.testing.chaos import corpus, laws
from spellwork.testing.chaos.trial import LawBroken

CANONICAL = ["sequence", "nested", "signals", "timers", "cancelled", "continued", "updates"]
CALLS = ("pwrite64", "fdatasync", "fsync", "ftruncate")


def _worker(place: Path) -> list[str]:
    # the real interpreter, not the venv's link: strace follows what it execs
    return [
        os.path.realpath(sys.executable), "-m", "spellwork.testing.chaos.worker",
        str(place / "store.db"), str(place / "ledger"), str(place / "acks"), *CANONICAL,
    ]  # fmt: skip


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def _strace(place: Path, *options: str) -> list[str]:
    files = [f"--trace-path={place / name}" for name in ("store.db", "store.db-wal")]
    return ["strace", "-f", "-qq", "-o", str(place / "trace"), "-e", f"trace={','.join(CALLS)}", *files, *options]


def count(place: Path) -> dict[str, int]:
    """How often an undisturbed run makes each call on the store's files."""
    place.mkdir(parents=True)
    done = subprocess.run(
        [*_strace(place), *_worker(place)], env=_environment(), capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        raise LawBroken(f"the undisturbed run failed: {done.stderr}")
    trace = (place / "trace").read_text()
    return {call: len(re.findall(rf"\b{call}\(", trace)) for call in CALLS}


@dataclasses.dataclass(frozen=True)
class Position:
    """The n-th call of its kind."""

    call: str
    n: int

    def check(self, directory: Path) -> bool:
        """Die here, come back, and hold the laws; returns whether the process really died."""
        place = directory / f"{self.call}-{self.n}"
        place.mkdir(parents=True)
        inject = f"--inject={self.call}:signal=KILL:when={self.n}"
        first = subprocess.run(
            [*_strace(place, inject), *_worker(place)],
            env=_environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        before, seen = laws.Journals(place / "store.db"), laws.effects(place / "ledger")
        laws.acknowledged_kept(place / "acks", before)
        second = subprocess.run(_worker(place), env=_environment(), capture_output=True, text=True, timeout=60, check=False)
        if second.returncode:
            raise LawBroken(f"{self}: the next life failed: {second.stderr[-2000:]}")
        laws.committed_once(before, seen, laws.effects(place / "ledger"))
        laws.nothing_lost(before, laws.Journals(place / "store.db"))
        expected = {name: corpus.SHAPES[name][3] for name in CANONICAL}
        if json.loads(second.stdout) != expected:
            raise LawBroken(f"{self}: {second.stdout} != {expected}")
        shutil.rmtree(place)
        return first.returncode != 0


def sweep(directory: Path, *, stride: int = 1) -> dict[str, int]:
    """Check every `stride`-th position of each call; returns how many were swept, and how many died there."""
    counts = count(directory / "count")
    positions = [Position(call, n) for call, total in counts.items() for n in range(1, total + 1, stride)]
    died = 0
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for dead in pool.map(lambda position: position.check(directory), positions):
            died += dead
    return {**counts, "positions": len(positions), "died": died}


if __name__ == "__main__":
    began = time.monotonic()
    figures = sweep(Path(sys.argv[1]), stride=int(sys.argv[2]) if len(sys.argv) > 2 else 1)
    sys.stdout.write(json.dumps({**figures, "seconds": round(time.monotonic() - began)}) + "\n")
