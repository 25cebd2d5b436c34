"""`spellwork worker`: a process that runs workflows until it is told to stop."""

import signal

import pytest

from spellwork.clock import process_is_gone

FLOW = """
    @activity
    async def gate() -> int:
        Path("at the gate").touch()
        while not Path("go").exists():
            await asyncio.sleep(0.01)
        return 1

    @workflow
    async def gated() -> int:
        return await gate()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_worker_gives_its_store_back(write, process, spellwork, folder, eventually, number):
    """It ends with 0, and the next process takes the unfinished run up at once."""
    write("flow.py", FLOW)
    spellwork("start", "flow.py", "--id", "g")
    first = process("worker", "flow.py", "--grace", "0").says("running gated")
    eventually((folder / "at the gate").exists)
    first.send(number)
    done = first.end()
    assert done.code == 0
    assert "stopping" in done.err
    assert "nobody now" in spellwork("show", "g").out
    (folder / "go").touch()
    assert spellwork("resume", "flow.py", "g").value == 1


def test_stopping_does_not_wait_for_an_activity_in_a_process(write, process, spellwork, folder, eventually):
    """A CPU-bound activity is ended with the worker that started it; its step runs again elsewhere."""
    write(
        "busy.py",
        """
        import os, threading
        @activity(executor="process")
        def busy() -> None:
            Path("busy.pid").write_text(str(os.getpid()))
            threading.Event().wait(60)
        @workflow
        async def works() -> None:
            await busy()
        """,
    )
    spellwork("start", "busy.py")
    first = process("worker", "busy.py", "--grace", "0").says("running works")
    pid = eventually(lambda: (folder / "busy.pid").exists() and (folder / "busy.pid").read_text())
    first.popen.terminate()
    assert first.end().code == 0
    eventually(lambda: process_is_gone(int(pid), ""))


def test_grace_lets_an_activity_finish(write, process, spellwork, folder, eventually):
    """Within --grace what is under way is still recorded."""
    write("flow.py", FLOW)
    spellwork("start", "flow.py", "--id", "g")
    first = process("worker", "flow.py", "--grace", "15").says("running gated")
    eventually((folder / "at the gate").exists)
    first.send(signal.SIGTERM)
    first.says("stopping")
    (folder / "go").touch()
    assert first.end().code == 0
    kinds = [entry["kind"] for entry in spellwork("history", "g", "--json").lines]
    assert "StepCompleted" in kinds


def test_a_second_worker_is_refused_or_stands_by(write, process, spellwork, folder, eventually):
    """Without --standby it is told who runs the store; with it, it takes over when that one dies."""
    write("flow.py", FLOW)
    spellwork("start", "flow.py", "--id", "g")
    first = process("worker", "flow.py").says("running gated")
    refused = process("worker", "flow.py").end()
    assert refused.code == 4
    assert f"is run by process {first.popen.pid}" in refused.err
    assert "--standby" in refused.err
    process("worker", "flow.py", "--standby").says("running gated")
    eventually((folder / "at the gate").exists)
    first.kill()
    (folder / "go").touch()
    eventually(lambda: spellwork("show", "g", "--json").value["status"] == "completed")


def test_a_worker_needs_workflows(write, spellwork, folder):
    """Files that declare none, or are not there, are found out before the store is made."""
    write("empty.py", "")
    assert spellwork("worker", "empty.py").code == 3
    assert spellwork("worker", "missing.py").code == 3
    assert spellwork("worker").code == 2
    assert not list(folder.glob("*.db*"))


def test_with_json_a_worker_tells_events(write, process, eventually):
    """One document a line: ready, stopping."""
    write("flow.py", FLOW)
    first = process("worker", "flow.py", "--json")
    eventually(lambda: "ready" in first.out)
    first.send(signal.SIGTERM)
    assert [line["event"] for line in first.end().lines] == ["ready", "stopping"]


def test_a_worker_of_several_files_runs_them_all(write, process, spellwork, eventually):
    """Each file's workflows are registered."""
    write("one.py", "@workflow\nasync def one() -> int:\n    return 1\n")
    write("two.py", "@workflow\nasync def two() -> int:\n    return 2\n")
    process("worker", "one.py", "two.py").says("running one, two")
    for name in ("one", "two"):
        assert spellwork("start", name, "--id", name).code == 0
    eventually(lambda: len(spellwork("ps", "--status", "completed", "--json").lines) == 2)
