"""`spellwork replay`: stored runs against today's code."""

from pathlib import Path

import pytest

FLOW = """
    @activity
    async def add(a: int, b: int) -> int:
        return a + b

    @workflow
    async def total(n: int) -> int:
        result = 0
        for i in range(n):
            result = await add(result, i)
        return result
"""


@pytest.fixture
def runs(write, spellwork):
    """A store with two completed runs of flow.py."""
    write("flow.py", FLOW)
    for run_id in ("a", "b"):
        spellwork("run", "flow.py", "--id", run_id, "--input", "3")


def test_unchanged_code_replays_the_same(runs, spellwork):
    """Every run is named, the exit code is 0."""
    done = spellwork("replay", "flow.py", "--all")
    assert done.code == 0
    assert done.out.splitlines() == ["a  total  same", "b  total  same"]
    one = spellwork("replay", "flow.py", "b", "--json").value
    assert (one["run_id"], one["ok"]) == ("b", True)


def test_changed_code_is_found_at_its_first_difference(runs, write, spellwork):
    """The exit code is 1 and the position that of the first entry that differs."""
    write("flow.py", FLOW.replace("await add(result, i)", "await add(result, i * 2)"))
    done = spellwork("replay", "flow.py", "a", "--json")
    assert done.code == 1
    assert (done.value["ok"], done.value["position"]) == (False, 2)
    assert "DIFFERS" in spellwork("replay", "flow.py", "a").out


def test_a_changed_result_is_a_difference_too(runs, write, spellwork):
    """Equal steps with another end do not pass."""
    write("flow.py", FLOW.replace("return result", "return -result"))
    assert spellwork("replay", "flow.py", "--all").code == 1


def test_all_leaves_out_runs_of_other_files(runs, write, spellwork):
    """What the file does not declare is not judged by it, unless it is asked for by id."""
    write("other.py", "@workflow\nasync def other() -> None: ...\n")
    done = spellwork("replay", "other.py", "--all")
    assert (done.code, done.out) == (0, "")
    assert "2 runs of workflows that other.py does not declare were left out" in done.err
    assert spellwork("replay", "other.py", "a").code == 1


def test_replay_writes_nothing(runs, write, spellwork):
    """The runs stay what they were, even those that differ."""
    before = Path("spellwork.db").read_bytes()
    write("flow.py", FLOW.replace("add(result, i)", "add(i, result)"))
    spellwork("replay", "flow.py", "--all")
    assert Path("spellwork.db").read_bytes() == before


def test_replay_needs_ids_or_all(runs, spellwork):
    """Neither and both are usage errors; an unknown id is not found."""
    assert spellwork("replay", "flow.py").code == 2
    assert spellwork("replay", "flow.py", "a", "--all").code == 2
    assert spellwork("replay", "flow.py", "nobody").code == 3
