"""That the durable review finds what is planted, does nothing twice, and goes on where it was stopped."""

import asyncio
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from spellwork import Engine
from spellwork.demo.command import demo
from spellwork.demo.pipeline import Ledger, Line, prove, review
from spellwork.demo.pipeline.attended import kill_points
from spellwork.demo.pipeline.proof import Kill
from spellwork.demo.pipeline.standing import Committed, Standing
from spellwork.demo.review import Report

PLANTED = Path(__file__).parent / "planted"
COMMAND = [sys.executable, "-m", "spellwork.cli", "demo", "review"]


def run(*arguments):
    """Run the command in a process of its own."""
    return subprocess.run([*COMMAND, *map(str, arguments)], check=False, capture_output=True, text=True, timeout=100)


def tree(folder, files):
    """Write a tree of small files, each with one thing to find."""
    for number in range(files):
        (folder / f"f{number}.py").write_text(f"def f(x=[]):\n    return eval(str(x)) + {number}\n")
    return folder


def test_the_planted_defects_are_in_the_report(tmp_path):
    """A hard-coded secret, MD5 and a token without expiry come out of the pipeline in both forms of the report."""
    done = CliRunner().invoke(demo, ["review", str(PLANTED), "--approve", "--out", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    report = msgspec.json.decode(Path(summary["findings"]).read_bytes(), type=Report)
    assert {"hardcoded-secret", "weak-hash", "no-expiry"} <= set(report.by_rule)
    assert "`weak-hash`" in Path(summary["report"]).read_text()
    assert summary["proof"]["holds"]
    assert summary["proof"]["ledger_lines"] == summary["files"] == 2


def test_a_finished_review_run_again_is_a_new_run(tmp_path):
    """The same path and folder give the next number; the ledger keeps both apart."""
    arguments = ["review", str(PLANTED), "--approve", "--out", str(tmp_path), "--json"]
    first, second = (json.loads(CliRunner().invoke(demo, arguments).stdout) for _ in range(2))
    assert first["run"].removesuffix("-1") == second["run"].removesuffix("-2")
    assert second["proof"]["ledger_lines"] == 2
    assert len((tmp_path / "ledger.jsonl").read_text().splitlines()) == 4


@pytest.mark.slow
def test_a_review_that_is_killed_from_outside_does_nothing_twice(tmp_path):
    """After four kills at random points every file was committed once, and only what was in flight was repeated."""
    (tmp_path / "src").mkdir()
    out = tmp_path / "out"
    done = run(tree(tmp_path / "src", 40), "--chaos", "--kills", 4, "--seed", 1, "--approve", "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    proof = summary["proof"]
    assert proof["holds"]
    assert proof["committed"] == proof["planned"] == summary["files"] == 40
    assert len({kill["pid"] for kill in summary["kills"]}) == 4
    assert proof["ledger_lines"] == 40 + proof["repeated_in_flight"]
    assert proof["repeated_in_flight"] <= sum(len(kill["in_flight"]) for kill in summary["kills"])
    assert done.stderr.count("kill -9") == 4


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C can't be sent to another process there")
def test_ctrl_c_leaves_a_review_that_the_same_command_resumes(tmp_path):
    """Interrupted while it waits for approval, it says how to go on, and then finishes without a second analysis."""
    arguments = [str(PLANTED), "--out", str(tmp_path)]
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        until = next(line for line in process.stdout if "spellwork signal" in line)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert "approval true --store sqlite:" in until
    assert process.returncode == 130
    assert "2 of 2 files are done" in told
    assert "spellwork demo review" in told
    done = run(*arguments, "--approve", "--json")
    assert done.returncode == 0, done.stderr
    assert "resuming run" in done.stderr
    assert json.loads(done.stdout)["proof"]["ledger_lines"] == 2


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_a_path_with_nothing_to_review_is_an_error(tmp_path, make):
    """A path that does not exist and one without Python files end with 3; both are named, and no store is made."""
    make(tmp_path / "tree")
    done = CliRunner().invoke(demo, ["review", str(tmp_path / "tree"), "--out", str(tmp_path / "out")])
    assert done.exit_code == 3
    assert "nothing to review" in done.stderr
    assert "tree" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("chaos", [[], ["--chaos"]])
def test_a_store_that_another_process_owns_is_left_alone(tmp_path, chaos):
    """A second review of the same folder, with or without kills, is told who owns the store."""

    async def beside_the_owner():
        async with Engine(f"sqlite:{tmp_path}/review.db", workflows=[review]):
            return await asyncio.to_thread(run, PLANTED, "--out", tmp_path, *chaos)

    done = asyncio.run(beside_the_owner())
    assert done.returncode != 0
    assert f"is owned by process {os.getpid()}" in done.stderr
    assert "store-owned" in done.stderr or not chaos
    assert "kill -9" not in done.stdout


def test_a_rejected_report_is_not_written(tmp_path):
    """Approval is a signal like any other: when it says no, the command ends with 5 and there is no report."""
    out = tmp_path / "out"
    with subprocess.Popen([*COMMAND, str(PLANTED), "--out", str(out)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = next(line for line in process.stdout if "spellwork signal" in line)
        arguments = shlex.split(told.replace(" true ", " false "))[1:]
        subprocess.run([sys.executable, "-m", "spellwork.cli", *arguments], check=True, capture_output=True, timeout=60)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 5
    assert "rejected" in said
    assert not (out / "report.md").exists()


def test_the_ledger_survives_a_line_that_was_half_written(tmp_path):
    """Half a line counts for nothing and does not spoil the next."""
    ledger = Ledger(tmp_path / "ledger.jsonl")
    lines = [Line("r", f"{number}.py", "00", f"r:1:{number}", "t", os.getpid()) for number in range(3)]
    ledger.append(lines[0])
    ledger.append(lines[1])
    data = ledger.file.read_bytes()
    ledger.file.write_bytes(data[: len(data) - 9])
    ledger.append(lines[2])
    assert ledger.lines("r") == [lines[0], lines[2]]
    assert ledger.lines("another") == []


def line(n, token="a", pid=1):
    """A ledger line of step `n`."""
    return Line("r", f"{n}.py", "00", f"r:1:{n}", token, pid)


STATE = Standing(["1.py", "2.py"], [Committed(f"{n}.py", "00", n, "a") for n in (1, 2)], answered=True, ended=True)


def test_the_proof_holds_where_only_work_in_flight_was_repeated():
    """An attempt of a killed process before the committed one is counted, not held against the review."""
    lines = [line(1), line(2, "lost"), line(2, "a", 2)]
    found = prove(STATE, lines, "r", 1, 2, [Kill(1, 1, ["r:1:2"])])
    assert found.holds
    assert (found.repeated_in_flight, found.in_flight_bound, found.processes) == (1, 2, 2)


@pytest.mark.parametrize(
    ("lines", "committed", "kills", "problem"),
    [
        ([line(1), line(2), line(1, "b", 2)], (1, 2), [], "1.py was analysed again after its step was committed"),
        ([line(1)], (1, 2), [], "2.py is in the journal but not on the ledger"),
        ([line(1), line(2)], (1,), [], "2.py was committed 0 times"),
        ([line(1), line(2)], (1, 2, 2), [], "2.py was committed 2 times"),
        ([line(1), line(2), line(3)], (1, 2), [], "r:1:3 is on the ledger but not in the journal"),
        ([line(1, "x"), line(1, "a", 2), line(2)], (1, 2), [Kill(1, 1, [])], "which the journal had when it died"),
        (
            [line(1, "x"), line(2, "x"), line(1, "a", 2), line(2, "a", 2)],
            (1, 2),
            [],
            "left 2 analyses behind, more than the 1",
        ),
    ],
)
def test_the_proof_fails_where_something_was_lost_or_done_twice(lines, committed, kills, problem):
    """Each way in which ledger and journal can disagree is found and told."""
    state = msgspec.structs.replace(STATE, committed=[Committed(f"{n}.py", "00", n, "a") for n in committed])
    found = prove(state, lines, "r", 1, 1, kills)
    assert not found.holds
    assert any(problem in each for each in found.problems), found.problems


def test_kills_are_spread_over_what_is_left_and_the_same_for_a_seed():
    """Points are ahead of what is done, in order, as many as asked for even where few files are left."""
    points = kill_points(10, 50, 5, seed=3)
    assert points == kill_points(10, 50, 5, seed=3) == sorted(set(points))
    assert all(10 < point <= 50 for point in points)
    assert kill_points(49, 50, 3, seed=3) == [50, 50, 50]
