"""Owns the list of trials: what each is called, its law, and how many faults are enough for whom.
It must never run one.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from spellwork.testing.chaos.trial import Deadline, Figure, Trial


def _trial(name: str, law: str, gate: int, short: int, full: int, seconds: float) -> Trial:
    """A trial whose module is imported when it runs."""

    def run(place: Path, seed: int, count: int, deadline: Deadline) -> Figure:
        if sys.platform == "win32":
            return Figure(name, law, seed, count, skipped="fork and signals, which are POSIX's")
        figure: Figure = importlib.import_module(f"spellwork.testing.chaos.{name}").run(place, seed, count, deadline)
        return figure

    return Trial(name, law, run, gate, short, full, seconds)


ALL = 1_000_000
"""Every position that there is."""

TRIALS: tuple[Trial, ...] = (
    _trial("kills", "kill -9 at random moments", 150, 1_500, 10_000, 100),
    _trial("machines", "kill -9 over hosted machines with timers", 2, 3, 50, 40),
    _trial("sweep", "kill -9 at each write and sync", 70, ALL, ALL, 40),
    _trial("errors", "EIO and ENOSPC at each write and sync", 30, 400, ALL, 60),
    _trial("disk", "full and read-only disks", 10, 60, 600, 30),
    _trial("limits", "no more files, memory, threads", 8, 60, 600, 80),
    _trial("clock", "wall clocks that jump", 6, 24, 120, 80),
    _trial("zombies", "owners frozen past their lease", 4, 40, 500, 50),
    _trial("poison_runs", "runs that kill their process", 5, 20, 100, 40),
    _trial("topics", "kill -9 of publishers and consumers", 4, 30, 50, 60),
    _trial("power", "power cuts under SQLite", 400, 2_500, 10_000, 40),
    _trial("damage", "flipped bytes, cut and swapped pages", 200, 1_000, 5_000, 50),
    _trial("care", "damage that fsck names and sets aside", 80, 600, 5_000, 60),
    _trial("poison", "values that cannot be kept, at every entry", 250, 2_000, 2_000, 20),
    _trial("simulation", "seeds of every fault at once, in virtual time", 500, 2_000, 10_000, 350),
    _trial("steps", "kill -9 at each boundary of twenty steps", 200, 600, ALL, 130),
)
"""In the order in which they run. The command gives each its part of the time, by what it would like to have."""
