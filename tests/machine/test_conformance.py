"""The W3C's tests of SCXML and the scripted ones, read where they stand beside the checkout."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from spellwork.machine.machine import Machine
from spellwork.machine.scxml import from_scxml
from spellwork.machine.waiting import VirtualTime
from tests.machine.python_model import PythonModel

FOLDER = Path(__file__).parents[2].parent / "shared" / "conformance" / "scxml"
HTTP = {"201", "509", "510", "518", "519", "520", "522", "531", "532", "534", "567", "577"}


def charts(part: str) -> list[str]:
    """The charts of a part that have a script beside them."""
    return sorted(str(f.relative_to(FOLDER)) for f in (FOLDER / part).rglob("*.scxml") if f.with_suffix(".json").exists())


def play(name: str) -> None:
    """Start the chart, send what its script says, and compare the leaves each time."""
    file = FOLDER / name
    script = json.loads(file.with_suffix(".json").read_text())

    def load(source):
        if isinstance(source, ElementTree.Element):
            return from_scxml(ElementTree.tostring(source), expressions=PythonModel(file.parent))
        return from_scxml((file.parent / source.removeprefix("file:")).read_bytes(), expressions=PythonModel(file.parent))

    clock = VirtualTime()
    machine = Machine(from_scxml(file.read_bytes(), expressions=PythonModel(file.parent)), charts=load, clock=clock)
    if not script["events"]:
        for _ in range(100):
            if not machine.running or clock.next_due is None:
                break
            clock.advance(clock.next_due)
    assert sorted(machine.state) == sorted(script["initialConfiguration"])
    for step in script["events"]:
        machine.advance(step.get("after", 0) / 1000)
        machine.send(step["event"]["name"], step["event"].get("data"))
        assert sorted(machine.state) == sorted(step["nextConfiguration"]), step


needed = pytest.mark.skipif(not FOLDER.is_dir(), reason="shared/conformance/scxml is not beside the checkout")


@needed
@pytest.mark.parametrize("name", charts("w3c/mandatory"))
def test_mandatory(name):
    """The chart ends in `pass`."""
    play(name)


@needed
@pytest.mark.parametrize("name", charts("w3c/optional"))
def test_optional(name):
    """The chart ends in `pass`, unless it needs the HTTP processor."""
    if Path(name).stem.removeprefix("test") in HTTP:
        pytest.skip("needs the Basic HTTP Event I/O Processor")
    play(name)


@needed
@pytest.mark.parametrize("name", charts("scripted"))
def test_scripted(name):
    """After each event the leaves are those of the script."""
    play(name)


@needed
def test_the_suite_is_whole():
    """All charts are played: 160, 33 and 122."""
    assert [len(charts(part)) for part in ("w3c/mandatory", "w3c/optional", "scripted")] == [160, 33, 122]
