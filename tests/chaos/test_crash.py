"""Crash laws under real kills: the short ones are part of every test run, the long ones run by `make chaos`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from spellwork.testing.chaos import laws
from spellwork.testing.chaos.sweep import sweep

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="fork and SIGKILL are POSIX's")
STRACE = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


def kill(kills: int, seed: int, place: Path, *, timeout: float) -> dict[str, object]:
    """Run the killer in a process of its own (it forks) and return its report."""
    done = subprocess.run(
        [sys.executable, "-m", "spellwork.testing.chaos.kills", str(kills), str(seed), str(place)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"seed {seed}: {done.stdout[-4000:]} {done.stderr[-2000:]}"
    report = json.loads(done.stdout)
    sys.stdout.write(f"{report}\n")
    return report


@POSIX
@pytest.mark.slow
def test_random_kills_lose_and_repeat_nothing(tmp_path: Path) -> None:
    """150 random kill -9 over the corpus: nothing acknowledged is lost, nothing committed repeated, results as undisturbed."""
    report = kill(150, 20261123, tmp_path, timeout=110)
    assert (report["kills"], report["lost"], report["repeated"]) == (150, 0, 0)


@POSIX
@pytest.mark.chaos
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(int(os.environ.get("CHAOS_SEEDS", "4"))))
def test_a_thousand_random_kills_lose_and_repeat_nothing(tmp_path: Path, seed: int) -> None:
    """1,000 random kill -9 in all (CHAOS_SEEDS times 250), each seed its own."""
    report = kill(250, seed, tmp_path, timeout=800)
    assert (report["kills"], report["lost"], report["repeated"]) == (250, 0, 0)


@STRACE
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_kill_at_every_write_and_sync(tmp_path: Path) -> None:
    """A kill -9 swept over every write and sync of a canonical run: the next process finishes everything, once."""
    figures = sweep(tmp_path)
    sys.stdout.write(f"{figures}\n")
    assert figures["pwrite64"] > 50
    assert figures["fdatasync"] > 10
    # some positions lie behind the end of a run that happened to group its batches in fewer syncs
    assert figures["died"] > figures["positions"] / 2


def test_the_laws_catch_their_mutants(tmp_path: Path) -> None:
    """A lost step, a repeated step, a lost acknowledgement and a hole in a journal are each caught by their law."""
    before, after = laws.Journals.__new__(laws.Journals), laws.Journals.__new__(laws.Journals)
    before.steps, before.runs, after.steps, after.runs = {"a:1:1"}, {"a"}, {"a:1:1"}, {"a"}
    effects = Counter({"a:1:1": 1})
    laws.committed_once(before, effects, effects)
    laws.nothing_lost(before, after)
    with pytest.raises(AssertionError, match="ran again"):
        laws.committed_once(before, effects, Counter({"a:1:1": 2}))
    after.steps = set()
    with pytest.raises(AssertionError, match="lost"):
        laws.nothing_lost(before, after)
    acks = tmp_path / "acks"
    acks.write_text("started b\n")
    with pytest.raises(AssertionError, match="acknowledged and is lost"):
        laws.acknowledged_kept(acks, after)


_MUTANTS = {
    "acknowledges before it commits": (
        "import spellwork.store.committer as c\n"
        "old = c.Committer._transaction\n"
        "def early(self, group, *, sync):\n"
        "    self._notify([(done, 1) for _, done in group]); import time; time.sleep(0.004)\n"
        "    return [(lambda _o: None, o) for _, o in old(self, group, sync=sync)]\n"
        "c.Committer._transaction = early\n"
    ),
    "does not write steps": (
        "import spellwork.engine.host as h\n"
        "from spellwork.journal import StepCompleted\n"
        "old = h.Host.append\n"
        "def forget(self, live, entry):\n"
        "    key = h.journal_key(live.number, live.execution.position)\n"
        "    old(self, live, entry)\n"
        "    if isinstance(entry, StepCompleted): live.partition.batch().rows.pop(key, None)\n"
        "h.Host.append = forget\n"
    ),
}


@POSIX
@pytest.mark.slow
@pytest.mark.parametrize("name", list(_MUTANTS))
def test_random_kills_catch_a_broken_engine(tmp_path: Path, name: str) -> None:
    """Mutants: an engine that acknowledges early or forgets steps does not survive the random kills."""
    mutant = tmp_path / "mutant.py"
    mutant.write_text(
        _MUTANTS[name]
        + "import runpy, sys\nsys.argv = sys.argv[1:]\n"
        + "runpy.run_module('spellwork.testing.chaos.kills', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, str(mutant), "killer", "120", "3", str(tmp_path / "rounds")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode != 0, f"the mutant survived: {done.stdout}"
    assert "broken" in done.stdout, done.stderr
