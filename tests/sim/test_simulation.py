"""The simulation: the same bits every time, and a harness that finds what it should. Many seeds are a trial of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest

from spellwork.engine.ownership import Ownership
from spellwork.testing.sim import Errand, Fault, Plan, Workload, simulate
from spellwork.testing.sim.data import TRIGGERS, WORKFLOWS
from spellwork.testing.sim.seeds import check, explain
from spellwork.testing.sim.workload import calling, counting, hearing
from spellwork.workflow import activity, workflow


@pytest.mark.slow
def test_a_seed_is_the_same_bit_for_bit_in_every_process() -> None:
    """Neither the hash seed nor the process decides anything."""
    code = "from spellwork.testing.sim import simulate; print([simulate(seed).digest for seed in (1, 7, 23, 42)])"
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "77")
    }
    assert len(printed) == 1


def test_a_plan_is_the_seeds() -> None:
    """A plan is drawn before anything runs, and can be changed fault by fault."""
    plan = Plan.of(11)
    assert plan == Plan.of(11)
    assert plan != Plan.of(12)
    faulty = next(plan for plan in map(Plan.of, range(20)) if plan.faults)
    assert len(faulty.without(0).faults) == len(faulty.faults) - 1
    assert str(faulty.faults[0]) in str(faulty)


@activity
async def shout(word: str) -> str:
    return word.upper()


@workflow
async def shouts(words: list[str]) -> list[str]:
    return [await shout(word) for word in words]


def shouting(expected: list[str]) -> Workload:
    async def errand(engine):
        return await engine.run(shouts, ["a", "b", "c"], id="shouts")

    return Workload([shouts], [Errand("shouts", errand, expected)])


def test_users_simulate_their_own_workflows() -> None:
    """A workload of one's own: what a driver is answered is held against what is expected."""
    for seed in range(5):
        assert simulate(seed, workload=lambda _: shouting(["A", "B", "C"])).ok
    outcome = simulate(3, workload=lambda _: shouting(["A", "B"]))
    assert not outcome.ok
    assert "expected ['A', 'B']" in outcome.broken[0]


def test_a_lease_that_is_not_waited_for_is_found_and_its_plan_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: whoever wants a partition takes it. The account names the law, the seed and the fewest faults that show it."""
    monkeypatch.setattr(Ownership, "is_free", lambda _self, _claim: True)
    found = next(tally for seed in range(50) if (tally := check(seed)).broken)
    assert "after its last sign of life" in found.broken[0]
    assert "smallest plan" in found.broken[0]
    assert "again: python -m spellwork.testing.sim --from" in found.broken[0]


def test_the_smallest_plan_keeps_only_what_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recovery that forgets the runs at work needs a crash to show: everything else is left out."""
    monkeypatch.setattr("spellwork.engine.recovery.Recovery._load", lambda _self, _number: _nothing())
    faults = (Fault(1_000, "clock", 0, 1.0), Fault(45_000, "crash", 0, 0.1, 0), Fault(2_000_000, "duplicate", 0))
    plan = Plan(5, 1, 0, 1, 1, "full", 256, (faults[0], faults[1], faults[2]))
    outcome = simulate(5, plan=plan, workload=lambda _: shouting(["A", "B", "C"]))
    assert not outcome.ok, outcome.story
    account = explain(outcome, lambda _: shouting(["A", "B", "C"]))
    assert "(1 of 3 faults)" in account
    assert "crash" in account.split("what happened last")[0]


def test_killed_at_any_moment_a_run_hears_each_event_once_and_data_are_what_the_journals_say() -> None:
    """One process, killed once, at every other millisecond of what it does: the windows that random plans seldom hit."""
    reached: Counter[str] = Counter()
    for at in range(60_000, 180_000, 2_000):
        for count in (0, 7):
            plan = Plan(at + count, 1, 0, 1, 1, "full", 256, (Fault(at, "crash", 0, 0.02, count),))
            outcome = simulate(plan.seed, plan=plan, workload=lambda _: telling())
            assert outcome.ok, (plan, outcome.broken)
            reached += outcome.marks
    assert {"a receipt was found by another process", "a transaction was refused", "an active run was recovered"} <= reached.keys()


def telling() -> Workload:
    errands = [hearing("hears", 3), counting("counts-0", 2), counting("counts-1", 2), calling("calls", 3)]
    return Workload(WORKFLOWS, errands, triggers=TRIGGERS)


async def _nothing() -> None:
    return None
