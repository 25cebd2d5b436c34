"""Owns applying one mutant: a copy of the source with one fault in it, and the check that must fail there.
It must never count a check that could not run (a syntax error, no test found) as one that caught its mutant.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_TEST_FAILED = 1
_TIMEOUT = 150.0
_FAR_LESS = 3


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One fault. `old` stands exactly once in `file` (below src/spellwork) and becomes `new`; `law` says which promise that breaks.

    `check` is what must fail: test nodes, or a command that begins with `-m`. `core` mutants are applied by `make test` too.
    """

    name: str
    law: str
    file: str
    old: str
    new: str
    check: str
    core: bool = False

    def apply(self, source: Path) -> None:
        """Put the fault into a copy of the source."""
        path = source / "spellwork" / self.file
        text = path.read_text()
        if text.count(self.old) != 1:
            raise LookupError(f"{self.name}: the text to replace stands {text.count(self.old)} times in {self.file}, not once")
        path.write_text(text.replace(self.old, self.new))


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a mutant: killed, survived, or invalid (the check did not run, or fails without the mutant too)."""

    mutant: Mutant
    verdict: str
    seconds: float
    said: str


def copied(place: Path) -> Path:
    """A copy of the source in `place`."""
    source = place / "src"
    # with what is compiled: it stays valid, but for the module with the fault (a half-written file has a longer name)
    shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("*.pyc.*"))
    return source


def run_check(check: str, source: Path, *, timeout: float = _TIMEOUT) -> tuple[int | None, str]:
    """Run a check against the source in a folder: its exit code (None when it hung) and the end of what it said."""
    nodes = shlex.split(check)
    pytest = [
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "--no-header",
        "--tb=line",
        "--timeout=40",
    ]
    command = [sys.executable, "-B", *(nodes if nodes[0] == "-m" else [*pytest, *nodes])]
    environment = os.environ | {"PYTHONPATH": str(source), "HYPOTHESIS_STORAGE_DIRECTORY": str(source.parent / "hypothesis")}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return None, "it hangs"
    return done.returncode, (done.stdout + done.stderr).strip()[-1500:]


def judge(mutant: Mutant, *, timeout: float = _TIMEOUT) -> Outcome:
    """Apply a mutant to a copy of the source and run its check.

    A check that hangs has caught its mutant only where it takes far less time without it: on a busy machine each one is slow.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as place:
        source = copied(Path(place))
        mutant.apply(source)
        code, said = run_check(mutant.check, source, timeout=timeout)
    verdict = "killed" if code in (_TEST_FAILED, None) else "survived" if code == 0 else "invalid"
    if code is None and not _is_quick(mutant.check, timeout / _FAR_LESS):
        verdict, said = "invalid", f"it hangs, and without the mutant it takes more than {timeout / _FAR_LESS:.0f} s too"
    return Outcome(mutant, verdict, time.monotonic() - began, said)


def _is_quick(check: str, seconds: float) -> bool:
    with tempfile.TemporaryDirectory(prefix="mutant-") as place:
        code, _ = run_check(check, copied(Path(place)), timeout=seconds)
    return code == 0


def sound(checks: Iterable[str]) -> dict[str, str]:
    """Run checks against an unchanged copy; returns those that fail there (which would catch anything), with what they said."""
    unsound = {}
    with tempfile.TemporaryDirectory(prefix="mutant-") as place:
        source = copied(Path(place))
        found = subprocess.run(
            [sys.executable, "-c", "import spellwork; print(spellwork.__file__)"],
            env=os.environ | {"PYTHONPATH": str(source)}, capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
        if not found.startswith(str(source)):
            raise LookupError(f"the copy is not what is imported: {found}")
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            unique = list(dict.fromkeys(checks))
            for check, (code, said) in zip(unique, pool.map(lambda each: run_check(each, source), unique), strict=True):
                if code != 0:
                    unsound[check] = said
    return unsound


def judge_all(mutants: Iterable[Mutant]) -> Iterable[Outcome]:
    """Judge mutants, two at a time, in their order."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        yield from pool.map(judge, mutants)
