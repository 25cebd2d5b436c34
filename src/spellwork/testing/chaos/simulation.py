"""Owns the trial of many simulated seeds, twice each, with every kind of fault that the simulation knows.
It must never count a seed that was not run to its end.
"""

from __future__ import annotations

from pathlib import Path

from spellwork.testing.chaos.trial import Deadline, Figure
from spellwork.testing.sim.seeds import OFTEN, RARE, Tally, run_seeds

LAW = "under every seed's plan of faults nothing is lost or repeated, everything finishes, and a second run is the same bit for bit"
_OFTEN_FROM, _RARE_FROM = 300, 5_000
_SPREAD = 1_000_000


def run(_place: Path, seed: int, count: int, deadline: Deadline) -> Figure:
    """Simulate `count` seeds; with enough of them, each branch that is named must have been reached."""
    first, total = seed % 1000 * _SPREAD, Tally()
    for tally in run_seeds(range(first, first + count), over=lambda: not deadline.left or len(total.broken) > 2):
        total.add(tally)
    wanted = OFTEN | RARE if total.seeds >= _RARE_FROM else OFTEN if total.seeds >= _OFTEN_FROM else frozenset[str]()
    broken = [*total.broken, *(f"no seed reached the branch {mark!r}" for mark in total.missing(wanted))]
    facts = {
        "commits": total.commits,
        "virtual hours": round(total.virtual_seconds / 3600, 1),
        "branches": len(total.marks),
    }
    if count >= _RARE_FROM > total.seeds:
        facts["rare_branches_not_judged"] = len(RARE)
    return Figure("simulation", LAW, seed, count, total.seeds, tuple(broken), facts, round(deadline.spent, 1))
