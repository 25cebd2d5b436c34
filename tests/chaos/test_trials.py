"""Every trial of `spellwork chaos` with few faults: the gate. What the machine lacks is skipped by name."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from spellwork.cli.exits import Exit
from spellwork.testing.chaos import Deadline, Figure, Trial, command
from spellwork.testing.chaos.trials import TRIALS

SEED = 20261123


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.name)
def test_trial_breaks_no_law(tmp_path: Path, trial: Trial) -> None:
    """Under its gate's count of real faults, the trial's law holds."""
    figure = trial.run(tmp_path, SEED, trial.gate, Deadline(120))
    sys.stdout.write(f"{figure}\n")
    if figure.skipped:
        pytest.skip(f"{trial.name}: {figure.skipped}")
    assert not figure.broken, "\n".join(figure.broken)
    assert figure.ok
    assert figure.trial == trial.name


def _trial(name: str, **figure) -> Trial:
    def run(place: Path, seed: int, count: int, deadline: Deadline) -> Figure:
        place.mkdir(parents=True)
        return Figure(name, "it holds", seed, count, **figure)

    return Trial(name, "nothing", run, 1, 2, 3)


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch):
    """The command knows three trials: one that holds, one whose law is broken, one that cannot run."""
    made = (
        _trial("good", count=2, facts={"deaths": 1}),
        _trial("bad", count=1, broken=("it did not hold",)),
        _trial("none", skipped="a moon"),
    )
    monkeypatch.setattr(command, "TRIALS", made)


@pytest.mark.usefixtures("trials")
def test_command_prints_a_line_a_trial_and_fails_when_a_law_was_broken() -> None:
    """Held, broken and skipped are told apart; a violation comes with what reproduces it, and decides the exit code."""
    done = CliRunner().invoke(command.chaos, ["--seed", "7"], standalone_mode=False)
    lines = done.stdout.splitlines()
    assert [line.split()[:3] for line in lines[1:4]] == [
        ["good", "held", "2/2"],
        ["bad", "broken", "1/2"],
        ["none", "skipped", "0/2"],
    ]
    assert "missing: a moon" in lines[3]
    assert "it did not hold" in done.stdout
    assert "again: spellwork chaos bad --seed 7" in done.stdout
    assert done.return_value == Exit.FAILED


def test_trial_that_was_cut_short_gets_the_time_that_others_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It begins anew with more time; the figure that came further is the one that counts, and each trial has one figure."""
    lives: list[tuple[str, float]] = []

    def run(place: Path, seed: int, count: int, deadline: Deadline) -> Figure:
        lives.append((place.name, deadline.left))
        time.sleep(deadline.left + 0.01)
        return Figure("slow", "it holds", seed, count, count=1 if len(lives) == 1 else 2, seconds=deadline.spent)

    slow, quick = Trial("slow", "nothing", run, 1, 2, 3, 0.2), _trial("quick", count=2)
    monkeypatch.setattr(command, "TRIALS", (slow, quick))
    done = CliRunner().invoke(
        command.chaos, ["--json", "--seed", "7", "--minutes", "0.02", "--keep", str(tmp_path)], standalone_mode=False
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(each["trial"], each["count"]) for each in found] == [("quick", 2), ("slow", 2)]
    assert [name for name, _ in lives] == ["slow-7", "slow-7-again"]
    assert lives[1][1] > 2 * lives[0][1]


@pytest.mark.usefixtures("trials")
def test_command_runs_what_was_asked_for(tmp_path: Path) -> None:
    """Trials by name, the full counts, JSON, and files that are kept."""
    given = ["good", "--full", "--json", "--keep", str(tmp_path), "--seed", "1"]
    done = CliRunner().invoke(command.chaos, given, standalone_mode=False)
    record = json.loads(done.stdout)
    assert (record["trial"], record["wanted"], record["ok"]) == ("good", 3, True)
    assert (tmp_path / "good-1").is_dir()
    assert done.return_value == Exit.OK
    assert "there is no trial 'best'" in str(CliRunner().invoke(command.chaos, ["best"], standalone_mode=False).exception)


@pytest.mark.skipif(sys.platform == "win32", reason="fork is POSIX's")
def test_process_with_threads_forks_no_life(tmp_path: Path) -> None:
    """A fork copies locks that other threads hold: the harness refuses."""
    from spellwork.testing.chaos.life import Life

    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    thread.start()
    try:
        with pytest.raises(RuntimeError, match="with threads"):
            Life(lambda _inside: None, tmp_path / "log")
    finally:
        release.set()
        thread.join()
