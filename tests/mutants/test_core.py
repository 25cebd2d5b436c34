"""The mutants of the core laws, applied by every test run; `make mutants` applies the others too."""

from __future__ import annotations

import shlex

import pytest

from spellwork.testing.chaos.trials import TRIALS
from tests.mutants.catalog import MUTANTS
from tests.mutants.mutant import ROOT, Mutant, judge, judge_all
from tests.mutants.trials import CLAIMS


@pytest.mark.slow
def test_every_core_mutant_is_killed() -> None:
    """Each core fault, put into a copy of the source, makes its check fail."""
    survivors = [
        f"{outcome.mutant.name} {outcome.verdict}: {outcome.said}"
        for outcome in judge_all(mutant for mutant in MUTANTS if mutant.core)
        if outcome.verdict != "killed"
    ]
    assert not survivors


def test_every_mutant_fits_the_source() -> None:
    """Each mutant replaces text that stands exactly once, has a name of its own, leaves a module that compiles, and has its check."""
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 25
    for mutant in MUTANTS:
        text = (ROOT / "src/spellwork" / mutant.file).read_text()
        assert text.count(mutant.old) == 1, f"{mutant.name}: {text.count(mutant.old)}"
        compile(text.replace(mutant.old, mutant.new), mutant.file, "exec")
        if not mutant.check.startswith("-m "):
            file = shlex.split(mutant.check)[0].partition("::")[0]
            assert (ROOT / file).exists(), f"{mutant.name}: there is no {file}"


@pytest.mark.slow
def test_a_check_that_is_slow_by_itself_catches_no_mutant_by_hanging() -> None:
    """A hang counts where the check ends soon without the mutant, and not where it would have hung anyway."""
    hangs = ("MICROSECONDS = 1_000_000\n", "MICROSECONDS = 1_000_000\nwhile True:\n    pass\n")
    quick = Mutant("quick", "", "clock.py", *hangs, "-m timeit -n 1 -r 1 'import spellwork.clock'")
    slow = Mutant("slow", "", "clock.py", *hangs, "-m timeit -n 1 -r 1 'import time; time.sleep(60)'")
    assert judge(quick, timeout=15).verdict == "killed"
    judged = judge(slow, timeout=3)
    assert (judged.verdict, "without the mutant" in judged.said) == ("invalid", True)


def test_every_trial_claims_a_mutant_that_there_is() -> None:
    """`python -m tests.mutants.trials` lets each trial find its own, which takes a quarter of an hour."""
    assert set(CLAIMS) == {trial.name for trial in TRIALS}
    assert {name for names in CLAIMS.values() for name in names} <= {mutant.name for mutant in MUTANTS}
    assert all(CLAIMS.values())
