"""Owns running many seeds: twice each, side by side, and the shortest account of what went wrong.
It must never count a seed whose two runs differ as one that passed.
"""

from __future__ import annotations

import difflib
import functools
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterator

import msgspec

from spellwork.testing.sim.plan import Plan
from spellwork.testing.sim.run import Outcome, simulate
from spellwork.testing.sim.workload import Workload, mixed

_CHUNK = 25
_CHUNKS = 20

OFTEN = frozenset({
    "crash in a turn", "commit fail", "commit unknown", "commit torn", "a commit of a dead process landed",
    "a message was sent", "a message was sent again", "a message came twice", "unsynced commits lost",
    "a batch was refused: fenced", "a batch was refused: store-conflict",
    "a partition was taken over", "an active run was recovered", "a run with a timer was parked",
    "log: nothing more is run: %s", "log: partition %d was taken over by another owner; its runs go on there",
    "fault slow", "fault isolate", "fault freeze", "fault clock", "fault evict", "fault power",
    "entry AttemptFailed", "entry StepFailed", "entry TimerFired", "entry SignalReceived", "entry SignalSent",
    "entry UpdateAccepted", "entry ChildStarted", "entry ChildEnded", "entry CancelRequested", "entry Cancelled",
    "entry Continued", "entry Failed", "entry Patched", "entry Performed", "a transaction was refused",
    "a trigger has pulled",
})  # fmt: skip
"""Branches that a few hundred seeds must have reached."""

RARE = frozenset({
    "an owner that was replaced began an effect", "log: a message for run %s waits: %s",
    "log: the partitions were not released: %s", "a receipt was found by another process",
})  # fmt: skip
"""Branches that some thousand seeds must have reached as well."""


class Tally(msgspec.Struct):
    """What many seeds showed."""

    seeds: int = 0
    commits: int = 0
    virtual_seconds: float = 0.0
    marks: dict[str, int] = msgspec.field(default_factory=dict)
    broken: list[str] = msgspec.field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Take in what another tally showed."""
        self.seeds += other.seeds
        self.commits += other.commits
        self.virtual_seconds += other.virtual_seconds
        self.marks = dict(Counter(self.marks) + Counter(other.marks))
        self.broken += other.broken

    def missing(self, wanted: frozenset[str]) -> list[str]:
        """Marks that no seed reached."""
        return sorted(wanted - self.marks.keys())


def check(seed: int, workload: Callable[[int], Workload] = mixed) -> Tally:
    """Run one seed twice; a broken law comes with its smallest plan, a difference between the runs is one as well."""
    first, second = simulate(seed, workload=workload), simulate(seed, workload=workload)
    tally = Tally(1, first.commits, first.seconds, dict(first.marks))
    if not first.ok:
        tally.broken.append(explain(first, workload))
    elif (first.digest, first.marks) != (second.digest, second.marks):
        tally.broken.append(f"seed {seed}: two runs differ: {first.digest} {second.digest}\n{_difference(first, second)}")
    return tally


def run_seeds(
    seeds: range,
    *,
    jobs: int | None = None,
    workload: Callable[[int], Workload] = mixed,
    over: Callable[[], bool] = lambda: False,
) -> Iterator[Tally]:
    """Check every seed, `jobs` at a time (default: the processors'), and yield what each chunk showed until `over()`."""
    chunks = [seeds[start : start + _CHUNK] for start in range(0, len(seeds), _CHUNK)]
    work = functools.partial(_chunk, workload=workload)
    jobs = jobs or min(os.cpu_count() or 1, len(chunks))
    if jobs <= 1:
        for chunk in chunks:
            if over():
                return
            yield work(chunk)
        return
    # a process is replaced now and then: what a world leaves behind is not all garbage to the collector
    with multiprocessing.get_context("spawn").Pool(jobs, maxtasksperchild=_CHUNKS) as pool:
        for tally in pool.imap_unordered(work, chunks):
            yield tally
            if over():
                return


def _chunk(seeds: range, workload: Callable[[int], Workload]) -> Tally:
    total = Tally()
    for seed in seeds:
        total.add(check(seed, workload))
    return total


def shrink(outcome: Outcome, workload: Callable[[int], Workload] = mixed) -> Outcome:
    """The same seed with as few faults as still break a law."""
    smallest, index = outcome, 0
    while index < len(smallest.plan.faults):
        candidate = simulate(outcome.plan.seed, plan=smallest.plan.without(index), workload=workload)
        if candidate.ok:
            index += 1
        else:
            smallest = candidate
    return smallest


def explain(outcome: Outcome, workload: Callable[[int], Workload] = mixed) -> str:
    """A broken law: the seed, the smallest plan that still breaks it, what happened last, and how journals differ."""
    smallest = shrink(outcome, workload)
    calm = simulate(outcome.plan.seed, plan=_calm(outcome.plan), workload=workload)
    return "\n".join([
        f"seed {outcome.plan.seed}: {smallest.broken[0]}",
        f"smallest plan ({len(smallest.plan.faults)} of {len(outcome.plan.faults)} faults): {smallest.plan}",
        "what happened last:", *smallest.story[-30:],
        "against the run without faults:", _difference(calm, smallest),
        f"again: python -m spellwork.testing.sim --from {outcome.plan.seed} --seeds 1",
    ])  # fmt: skip


def _calm(plan: Plan) -> Plan:
    return msgspec.structs.replace(plan, faults=())


def _difference(first: Outcome, second: Outcome) -> str:
    lines: list[str] = []
    for run in sorted(first.journals.keys() | second.journals.keys()):
        one, two = first.journals.get(run, ()), second.journals.get(run, ())
        if one != two:
            lines += difflib.unified_diff(one, two, f"{run}, first", f"{run}, second", lineterm="", n=1)
    return "\n".join(lines[:80]) or "(the journals are equal)"
