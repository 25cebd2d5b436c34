"""What a type checker refuses: handlers and guards that do not fit their event."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import spellwork

GOOD = """
from dataclasses import dataclass
from spellwork.machine import Handled, Machine, Super, To, chart, handler, initial, on

@dataclass(frozen=True)
class Pressed: ...

@dataclass(frozen=True)
class Reset: ...

@dataclass(frozen=True)
class Again: ...

@dataclass(frozen=True)
class Elapsed:
    ms: int

def long(context: int, event: Elapsed) -> bool:
    return event.ms > 5

def soft(context: int, event: Pressed) -> bool:
    return True

class States:
    @initial
    class On:
        @handler(Elapsed, "Off")
        @staticmethod
        def elapsed(context: int, event: Elapsed) -> To | Handled:
            return To("Off") if event.ms > 3 else Handled()

        @on(Pressed, "Off")
        @staticmethod
        def pressed(context: int, event: Pressed) -> None: ...

    class Off:
        @handler(Pressed, "On")
        @staticmethod
        def pressed(context: int, event: Pressed) -> To | Super:
            return To(States.On)

        @on(Elapsed, "On", guard=long)
        @staticmethod
        def elapsed(context: int, event: Elapsed) -> None: ...

        @on(Reset, "On")
        @staticmethod
        def reset(context: int, event: Reset) -> None: ...

        @handler(Again, "Off")
        @staticmethod
        def stay(context: int, event: Again) -> To:
            return To(States.Off)

machine = Machine(chart(States, events=[Pressed, Elapsed, Reset, Again]))
machine.is_in(States.On)
machine.send(Elapsed(9))
"""


# what is replaced, by what, and what kind of error mypy must find on that line
WRONG = (
    ('To("Off") if', "1 if", "return-value"),
    ('@on(Pressed, "Off")', '@on("Pressed", "Off")', "arg-type"),
    ('@handler(Pressed, "On")', "@handler(Pressed, 7)", "arg-type"),
    ("To(States.On)", "To(States.Onn)", "attr-defined"),
    ("guard=long)", "guard=soft)", "arg-type"),
    ('@on(Reset, "On")', "@on(Reset, 7.5)", "arg-type"),
    ("To(States.Off)", "To(3)", "arg-type"),
    ('@handler(Again, "Off")', '@handler(Pressed, "Off")', "arg-type"),
    ("chart(States, ", "chart(States(), ", "arg-type"),
    ("machine.is_in(States.On)", "machine.is_in(States.Onn)", "attr-defined"),
    ("machine.send(Elapsed(9))", 'machine.send(Elapsed("9"))', "arg-type"),
)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_type_checker_refuses_other_events_and_states(tmp_path):
    """The sample is clean; each mistake in it, of an event or of a state, is found on its line, and says the same kind of thing."""
    wrong = GOOD
    for old, new, _ in WRONG:
        assert (wrong.count(old), wrong.count(new)) == (1, 0), old
        wrong = wrong.replace(old, new)
    wanted = [(wrong[: wrong.index(new)].count("\n") + 1, kind) for _, new, kind in WRONG]
    (tmp_path / "good.py").write_text(GOOD)
    (tmp_path / "wrong.py").write_text(wrong)
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "good.py", "wrong.py"],
        cwd=tmp_path, env={"MYPYPATH": str(Path(spellwork.__file__).parents[1]), "PATH": ""}, capture_output=True, text=True, check=False,  # noqa: E501
    )  # fmt: skip
    errors = [line for line in found.stdout.splitlines() if ": error: " in line]
    told = [(int(line.split(":")[1]), line.rpartition("[")[2].rstrip("]")) for line in errors if line.startswith("wrong.py:")]
    assert len(told) == len(errors), found.stdout + found.stderr
    assert sorted(told) == sorted(wanted), found.stdout + found.stderr


def test_the_sample_runs(tmp_path):
    """What the type checker finds good is: classes are states for targets and for `is_in`."""
    (tmp_path / "good.py").write_text(GOOD)
    sample = runpy.run_path(str(tmp_path / "good.py"), run_name="good")
    machine, states = sample["machine"], sample["States"]
    assert (machine.state, machine.is_in(states.Off), machine.is_in(states.On)) == (("Off",), True, False)
    machine.send(sample["Reset"]())
    assert machine.is_in(states.On)
