"""`ps`, `show`, `history`: looking at runs without touching them."""

import os
import re
import subprocess
import sys

import pytest

FLOWS = """
    @activity(retry=Retry(max_attempts=3, initial=0.01))
    async def flaky(n: int) -> int:
        if activity_context().attempt == 1:
            raise ValueError("try again")
        return n

    @workflow
    async def good(n: int = 1) -> int:
        return await flaky(n)

    @workflow
    async def bad() -> int:
        raise ValueError("boom")
"""


@pytest.fixture
def runs(write, spellwork):
    """A store with three runs."""
    write("flows.py", FLOWS)
    for name, run_id in (("good", "a"), ("bad", "b"), ("good", "c")):
        spellwork("run", f"flows.py:{name}", "--id", run_id)


def test_ps_lists_runs_newest_first(runs, spellwork):
    """People get a table with the reason of a failure."""
    lines = spellwork("ps").out.splitlines()
    assert lines[0].split() == ["ID", "WORKFLOW", "STATUS", "STARTED", "CHANGED", "REASON"]
    assert [line.split()[:3] for line in lines[1:]] == [
        ["c", "good", "completed"],
        ["b", "bad", "failed"],
        ["a", "good", "completed"],
    ]
    assert "ValueError: boom (" in lines[2]


def test_ps_filters_and_pages(runs, spellwork):
    """--status, --workflow, --limit and --after combine; JSON comes a line a run."""

    def ids(*options):
        return [line["id"] for line in spellwork("ps", "--json", *options).lines]

    assert ids() == ["c", "b", "a"]
    assert ids("--status", "failed") == ["b"]
    assert ids("--workflow", "good") == ["c", "a"]
    assert ids("--limit", 1) == ["c"]
    assert ids("--limit", 1, "--after", "c") == ["b"]
    assert ids("--after", "a") == []
    assert "there may be more: --after c" in spellwork("ps", "--limit", 1).err
    assert spellwork("ps", "--after", "nobody").code == 3


def test_an_empty_list_says_so_on_stderr(runs, spellwork):
    """Stdout stays empty for whoever counts lines."""
    done = spellwork("ps", "--status", "blocked")
    assert (done.code, done.out, done.err) == (0, "", "no such runs\n")


def test_show_has_a_header_and_a_timeline(runs, spellwork):
    """Steps come with attempts, durations and failures."""
    out = spellwork("show", "a").out
    assert "workflow  good (version 1)" in out
    assert "status    completed" in out
    assert re.search(r"attempt failed  flaky  1        ValueError: try again \(\w+\.py:\d+ in flaky\); next after", out)
    assert "= 1" in out
    document = spellwork("show", "a", "--json").value
    assert document["status"] == "completed"
    kinds = [(moment["what"], moment["attempt"]) for moment in document["timeline"]]
    assert kinds == [("started", 0), ("attempt failed", 1), ("step", 2), ("completed", 0)]
    assert document["timeline"][2]["took"] >= 0
    assert "failed" in spellwork("show", "b").out


def test_show_says_what_a_run_was_started_for(write, spellwork):
    """By whom, and what began it all if that is something else."""
    body = "    if depth:\n        await (await start_child(kin, depth - 1, id=f'k{depth - 1}'))\n"
    write("kin.py", f"@workflow\nasync def kin(depth: int) -> None:\n{body}")
    spellwork("run", "kin.py:kin", "--input", "2", "--id", "k2")
    assert [spellwork("show", f"k{depth}", "--json").value["timeline"][0]["note"] for depth in (2, 1, 0)] == [
        "with 2", "because of k2, with 1", "for k2, because of k1, with 0",
    ]  # fmt: skip
    assert spellwork("history", "k0", "--json").lines[0]["data"]["correlation"] == "k2"


def test_history_prints_every_entry(runs, spellwork):
    """One line an entry, as JSON lines with --json."""
    assert len(spellwork("history", "a").out.splitlines()) == 4
    entries = spellwork("history", "a", "--json").lines
    assert [entry["kind"] for entry in entries] == ["Started", "AttemptFailed", "StepCompleted", "Completed"]
    assert [entry["position"] for entry in entries] == [0, 1, 2, 3]
    assert entries[2]["data"]["result"] == 1


def test_stored_text_cannot_steer_the_terminal(write, spellwork):
    """Control characters in what is stored are spelled out."""
    write("rude.py", "@workflow\nasync def rude() -> None:\n    raise ValueError('\\x1b[2Jgone')\n")
    spellwork("run", "rude.py", "--id", "r")
    for verb in ("ps", "show"):
        out = spellwork(verb, *(["r"] if verb == "show" else [])).out
        assert "\x1b" not in out
        assert "\\x1b[2Jgone" in out


@pytest.mark.parametrize(
    "arguments",
    [
        ["ps"],
        ["show", "x"],
        ["history", "x"],
        ["signal", "x", "s", "1"],
        ["query", "x", "q"],
        ["update", "x", "u"],
        ["cancel", "x"],
        ["terminate", "x"],
        ["resume", "x"],
        ["start", "somewhere"],
        ["replay", "flows.py", "x"],
        ["replay", "flows.py", "--all"],
    ],
    ids=" ".join,
)
def test_reading_never_makes_a_store(write, spellwork, folder, arguments):
    """A store that is not there stays so, and the error says where it was looked for."""
    write("flows.py", FLOWS)
    done = spellwork(*arguments, "--store", "nowhere.db", "--json")
    assert (done.code, done.error["error"]) == (3, "store-missing")
    assert "nowhere.db" in done.error["message"]
    assert [file.name for file in folder.iterdir() if not file.name.startswith("__")] == ["flows.py"]


@pytest.mark.parametrize("verb", ["show", "history", "cancel", "terminate", "resume"])
def test_unknown_runs_are_not_found(runs, spellwork, verb):
    """The message names the id and how to list those there are."""
    done = spellwork(verb, "nobody")
    assert done.code == 3
    assert "there is no run 'nobody'" in done.err
    assert "spellwork ps" in done.err


def test_a_closed_pipe_ends_quietly(runs, folder):
    """`spellwork history | head -0` prints no complaint."""
    command = f"{sys.executable} -m spellwork.cli history a --json | {sys.executable} -c ''"
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
