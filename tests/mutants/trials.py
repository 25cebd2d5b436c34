"""Owns which mutants each trial of `spellwork chaos` claims to catch, and puts the claim to the test: the trial alone must see it.
It must never count a trial that broke off, or that was skipped, as one that caught its mutant.

    python -m tests.mutants.trials [TRIAL...]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.mutants.catalog import MUTANTS
from tests.mutants.mutant import ROOT, Mutant, Outcome, copied

SEED = 20261126
_TIMEOUT = 600.0
_BROKE_OFF = "a share of the trial died"

CLAIMS: dict[str, tuple[str, ...]] = {
    "kills": ("acknowledged-before-commit", "step-entry-forgotten"),
    "machines": ("signals-not-deduplicated", "acknowledged-before-commit"),
    "sweep": ("run-numbers-start-anew",),
    "errors": ("hole-behind-a-failure",),
    "disk": ("hole-behind-a-failure",),
    "limits": ("acknowledged-before-commit",),
    "clock": ("lease-by-the-wall-clock", "journal-time-runs-backwards", "takeover-before-the-lease"),
    "zombies": ("epoch-not-required", "epoch-not-raised", "claim-of-another-process-not-noticed"),
    "poison_runs": ("quarantine-never", "waiting-runs-counted"),
    "topics": ("key-not-waited-for",),
    "power": ("never-synced",),
    "damage": ("scans-do-not-check-values",),
    "care": ("scans-do-not-check-values",),
    "poison": ("names-as-they-come",),
    "steps": ("next-step-before-durable", "child-id-by-chance"),
    "simulation": ("message-dropped-before-its-effect", "merge-without-receipt", "trigger-goes-on-before-its-runs-begin"),
}


def mutant_named(name: str) -> Mutant:
    """The mutant of the catalog."""
    return next(mutant for mutant in MUTANTS if mutant.name == name)


def judge(mutant: Mutant, trial: str) -> Outcome:
    """Run the short form of a trial against a copy of the source with the mutant."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-", ignore_cleanup_errors=True) as place:
        source = copied(Path(place))
        mutant.apply(source)
        verdict, said = _verdict(trial, source)
    return Outcome(mutant, verdict, time.monotonic() - began, said)


def _verdict(trial: str, source: Path) -> tuple[str, str]:
    command = [sys.executable, "-B", "-m", "spellwork", "chaos", trial, "--seed", str(SEED), "--json"]
    environment = os.environ | {"PYTHONPATH": str(source), "TMPDIR": str(source.parent)}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "invalid", f"no end within {_TIMEOUT:.0f} s"
    try:
        figure: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        return "invalid", (done.stdout + done.stderr).strip()[-1500:]
    seen = [each for each in figure["broken"] if not each.startswith(_BROKE_OFF)]
    if seen:
        return "killed", f"{len(seen)} violations, {figure['count']} faults: {seen[0]}"
    if figure["broken"]:
        return "invalid", figure["broken"][0]
    return ("survived" if figure["ok"] else "invalid"), f"{figure['count']} faults; {figure['skipped']}"


def main(names: list[str]) -> int:
    """Judge the claims of all trials, or of those named; 1 if one is not met."""
    missed = 0
    for trial, mutant in _claims(names or list(CLAIMS)):
        outcome = judge(mutant, trial)
        missed += outcome.verdict != "killed"
        print(f"{outcome.verdict:8} {outcome.seconds:6.1f} s  {trial}: {mutant.name}: {outcome.said[:200]}", flush=True)
    return 1 if missed else 0


def _claims(trials: list[str]) -> Iterator[tuple[str, Mutant]]:
    for trial in trials:
        for name in CLAIMS[trial]:
            yield trial, mutant_named(name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
