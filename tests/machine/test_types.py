"""What a type checker refuses: handlers and guards that do not fit their event."""

import subprocess
import sys
from pathlib import Path

import pytest

import spellwork

GOOD = """
from dataclasses import dataclass
from spellwork.machine import Handled, To, handler, on

@dataclass(frozen=True)
class Pressed: ...

@dataclass(frozen=True)
class Elapsed:
    ms: int

class States:
    class On:
        @handler(Elapsed, "Off")
        @staticmethod
        def elapsed(context: int, event: Elapsed) -> To | Handled:
            return To("Off") if event.ms > 3 else Handled()

        @on(Pressed, "Off")
        @staticmethod
        def pressed(context: int, event: Pressed) -> None: ...
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_type_checker_refuses_handlers_of_other_events(tmp_path):
    """The sample is clean; each of three mistakes in it is found on its line."""
    wrong = GOOD.replace("event: Pressed) -> None", "event: Elapsed) -> None").replace('return To("Off") if', "return 1 if")
    wrong += "\nfrom spellwork.machine import Machine, from_text\nMachine(from_text('A(x) => A')).state = ('B',)\n"
    (tmp_path / "good.py").write_text(GOOD)
    (tmp_path / "wrong.py").write_text(wrong)
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "good.py", "wrong.py"],
        cwd=tmp_path, env={"MYPYPATH": str(Path(spellwork.__file__).parents[1]), "PATH": ""}, capture_output=True, text=True, check=False,  # noqa: E501
    )  # fmt: skip
    errors = [line.split(": ")[0] for line in found.stdout.splitlines() if ": error: " in line]
    lines = [wrong[: wrong.index(text)].count("\n") + 1 for text in ("return 1 if", "@on(Pressed", ".state = ")]
    assert errors == [f"wrong.py:{line}" for line in lines], found.stdout + found.stderr
