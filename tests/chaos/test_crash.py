"""The crash laws catch their mutants: laws alone, and under real kills."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from spellwork.testing.chaos import laws

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="fork and SIGKILL are POSIX's")


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


def test_the_law_of_a_single_crash_catches_its_mutants() -> None:
    """A step that was committed at the crash stands once in the ledger, one in flight twice: neither more nor less passes."""
    before, after = laws.Journals.__new__(laws.Journals), laws.Journals.__new__(laws.Journals)
    before.steps, after.steps = {"committed"}, {"committed", "in flight", "to come"}
    then = Counter({"committed": 1, "in flight": 1})
    due = Counter({"committed": 1, "in flight": 2, "to come": 1})
    laws.repeated_only_in_flight(before, then, after, due)
    for step in (*due, "of nobody"):
        with pytest.raises(AssertionError, match=f"too many: .'{step}': 1"):
            laws.repeated_only_in_flight(before, then, after, due + Counter([step]))
    for step in due:
        with pytest.raises(AssertionError, match=f"too few: .'{step}': 1"):
            laws.repeated_only_in_flight(before, then, after, due - Counter([step]))


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
