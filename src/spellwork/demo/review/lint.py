"""What ruff says of a file: finding the program, running it once and reading its answer.

It must never let the reviewed tree's or the caller's ruff settings change the result.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec

from spellwork.demo.review.discover import locate
from spellwork.demo.review.finding import Finding, Severity

TIMEOUT_SECONDS = 30.0

# Named, because ruff's own choice grows from release to release and so would the review.
SELECTED = "E4,E7,E9,F"

_OPTIONS = ("--output-format=json", "--no-cache", "--isolated", "--exit-zero")

_GRAVE = ("E9", "F50", "F63", "F7", "F82")


class RuffFailed(RuntimeError):
    """Ruff gave no usable answer for a file: install a working ruff, or review without one."""

    code = "ruff-failed"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"ruff could not check {path!r}: {reason}; repair ruff or review without it")
        self.path = path
        self.reason = reason


class _Location(msgspec.Struct):
    row: int


class _Diagnostic(msgspec.Struct):
    code: str | None
    message: str
    location: _Location


def find_ruff() -> str | None:
    """Return the ruff on PATH or beside the running interpreter, if there is one."""
    return shutil.which("ruff") or shutil.which("ruff", path=str(Path(sys.executable).parent))


def ruff_findings(
    root: str | os.PathLike[str],
    path: str,
    *,
    ruff: str | None = None,
    timeout: float = TIMEOUT_SECONDS,
) -> list[Finding]:
    """Return what ruff's `SELECTED` rules find in one file; nothing where there is no ruff.

    `ruff` is the program to run (by default whatever `find_ruff` finds), `timeout` is in seconds.

    Raises:
        RuffFailed: ruff did not start, took too long or answered something other than its JSON.
    """
    program = ruff or find_ruff()
    if program is None:
        return []
    output = _run(program, str(locate(root, path).absolute()), path, timeout)
    try:
        diagnostics = msgspec.json.decode(output, type=list[_Diagnostic])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RuffFailed(path, f"its output is not the expected JSON ({error})") from error
    return [_finding(path, diagnostic) for diagnostic in diagnostics]


def _run(program: str, file: str, path: str, timeout: float) -> bytes:
    command = [program, "check", f"--select={SELECTED}", *_OPTIONS, "--", file]
    # RUFF_* variables could redirect the output or change its form.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RUFF_")}
    try:
        # No shell, and the one untrusted argument, the path, is absolute and stands after "--".
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, timeout=timeout, env=environment, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise RuffFailed(path, f"no answer after {timeout:g} seconds") from error
    except OSError as error:
        raise RuffFailed(path, f"{program!r} did not start ({error})") from error
    if done.returncode != 0:
        complaint = done.stderr.decode("utf-8", "replace").strip()[:200]
        raise RuffFailed(path, f"it ended with status {done.returncode} ({complaint})")
    return done.stdout


def _finding(path: str, diagnostic: _Diagnostic) -> Finding:
    code = diagnostic.code or "syntax"
    severity: Severity = "medium" if code.startswith(_GRAVE) else "low"
    return Finding(path, diagnostic.location.row, f"ruff-{code}", severity, diagnostic.message, "ruff")
