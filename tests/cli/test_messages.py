"""Sending to runs: to a process that runs them, and into the inbox when there is none."""

import asyncio
import signal

import apsw
import pytest

from spellwork import Engine, Signal, workflow
from spellwork.cli.messages import deliver
from spellwork.engine.messages import AskSignal
from spellwork.errors import StoreUnavailable

SHOP = """
    approval = Signal[bool]("approval")

    @activity
    async def clean_up() -> None:
        Path("cleaned").touch()

    @workflow
    async def order(customer: int = 0) -> dict:
        limits = []

        @query
        def state(key: str = "limits") -> dict:
            return {key: limits}

        @update
        async def set_limit(n: int) -> int:
            if n == 13:
                raise ArithmeticError("unlucky")
            limits.append(n)
            return len(limits)

        @set_limit.validator
        def check(n: int) -> None:
            if n < 0:
                raise ValueError("below zero")

        try:
            first = await approval.receive()
            second = await approval.receive(timeout=0) if first else None
        finally:
            await asyncio.shield(clean_up())
        return {"first": first, "second": second, "limits": limits}
"""


@pytest.fixture
def shop(write):
    """shop.py, with a workflow that waits for approval."""
    write("shop.py", SHOP)


@pytest.fixture
def worker(shop, process):
    """A process that runs the store."""
    return process("worker", "shop.py").says("running order")


def status_of(spellwork, run_id):
    """Where a run stands; None if it is not there yet."""
    done = spellwork("show", run_id, "--json")
    return done.value["status"] if done.code == 0 else None


def test_a_running_process_is_reached_from_another(worker, spellwork, eventually):
    """Start, look, ask, change, signal: all of it against the store of a program that runs."""
    assert spellwork("start", "order", "--id", "o", "--input", "[7]").out == "o\n"
    assert status_of(spellwork, "o") == "running"
    assert f"process {worker.popen.pid}" in spellwork("show", "o").out
    assert spellwork("query", "o", "state").value == {"limits": []}
    assert spellwork("update", "o", "set_limit", "5").value == 1
    assert spellwork("query", "o", "state", "text").value == {"text": [5]}
    assert spellwork("query", "o", "state", "--json").value == {"id": "o", "query": "state", "answer": {"limits": [5]}}
    assert spellwork("update", "o", "set_limit", "6", "--json").value["answer"] == 2
    sent = spellwork("signal", "o", "approval", "true", "--json")
    assert sent.value == {"id": "o", "sent": "signal approval", "state": "delivered"}
    eventually(lambda: status_of(spellwork, "o") == "completed")
    assert spellwork("run", "shop.py", "--id", "o", "--input", "[7]").value["limits"] == [5, 6]


def test_what_a_run_refuses_is_told(worker, spellwork):
    """A rejected update and an unknown query end with 5, in the run's own words."""
    spellwork("start", "shop.py", "--id", "o")
    rejected = spellwork("update", "o", "set_limit", "--json", "--", "-1")
    assert (rejected.code, rejected.error["error"]) == (5, "update-rejected")
    assert "below zero" in rejected.error["message"]
    unknown = spellwork("query", "o", "stat")
    assert unknown.code == 5
    assert "state" in unknown.err
    assert spellwork("query", "nobody", "state").code == 3
    assert spellwork("signal", "nobody", "approval").code == 3
    assert spellwork("signal", "o", "approval", "{").code == 2


def test_an_update_that_raised_ends_with_1(worker, spellwork):
    """What its handler raised is told."""
    spellwork("start", "shop.py", "--id", "o")
    raised = spellwork("update", "o", "set_limit", "13", "--timeout", "2")
    assert raised.code == 1
    assert "ArithmeticError: unlucky" in raised.err


def test_the_same_update_id_is_applied_once(worker, spellwork):
    """Sent twice, it is answered twice."""
    spellwork("start", "shop.py", "--id", "o")
    for _ in range(2):
        assert spellwork("update", "o", "set_limit", "5", "--update-id", "u").value == 1
    assert spellwork("query", "o", "state").value == {"limits": [5]}


def test_cancel_unwinds_and_terminate_does_not(worker, spellwork, folder, eventually):
    """The reason stands in the list; what has ended refuses to be told more."""
    spellwork("start", "shop.py", "--id", "t")
    assert spellwork("terminate", "t", "--reason", "stuck").code == 0
    assert status_of(spellwork, "t") == "terminated"
    assert not (folder / "cleaned").exists()
    spellwork("start", "shop.py", "--id", "c")
    assert spellwork("cancel", "c", "--reason", "called off").code == 0
    eventually(lambda: status_of(spellwork, "c") == "cancelled")
    assert (folder / "cleaned").exists()
    assert [line["reason"] for line in spellwork("ps", "--json").lines] == ["called off", "stuck"]
    refused = spellwork("signal", "t", "approval", "true", "--json")
    assert (refused.code, refused.error["error"]) == (5, "run-finished")
    ended = spellwork("run", "shop.py", "--id", "c", "--json")
    assert (ended.code, ended.error["error"]) == (1, "run-cancelled")


def test_start_is_idempotent_and_refuses_what_differs(worker, spellwork):
    """The same id and input is the run that exists; other input, or an unknown workflow, is refused."""
    assert spellwork("start", "shop.py:order", "--id", "o", "--input", "1", "--json").value["state"] == "started"
    again = spellwork("start", "shop.py:order", "--id", "o", "--input", "1", "--json")
    assert again.value == {"id": "o", "workflow": "order", "state": "existing"}
    assert spellwork("start", "shop.py:order", "--id", "o", "--input", "2").code == 5
    unknown = spellwork("start", "ordr", "--json")
    assert (unknown.code, unknown.error["error"]) == (3, "unknown-workflow")
    assert "order" in unknown.error["message"]
    assert spellwork("start", "shop.py", "--input", '"x"').code == 5


def test_the_owner_refuses_arguments_that_do_not_fit(worker, spellwork):
    """With a workflow's NAME only the owner can check them."""
    refused = spellwork("start", "order", "--input", '"x"', "--json")
    assert (refused.code, refused.error["error"]) == (5, "payload")


def test_without_a_running_process_signals_wait_and_questions_are_refused(shop, process, spellwork, eventually):
    """A signal sent while the program is down is received, once, when it is back."""
    first = process("run", "shop.py", "--id", "o")
    eventually(lambda: status_of(spellwork, "o") == "running")
    first.kill()
    for _ in range(2):
        sent = spellwork("signal", "o", "approval", "true", "--signal-id", "once")
        assert sent.code == 0
        assert "queued: nobody runs this store now; it will be delivered when somebody does" in sent.err
    for question in (("query", "o", "state"), ("update", "o", "set_limit", "1")):
        refused = spellwork(*question, "--json")
        assert (refused.code, refused.error["error"]) == (4, "unavailable")
        assert "spellwork worker FILE.py" in refused.error["message"]
    idle = spellwork("resume", "o")
    assert idle.code == 4
    assert "spellwork resume FILE.py o" in idle.err
    assert spellwork("resume", "shop.py", "o").value == {"first": True, "second": None, "limits": []}


@pytest.mark.parametrize(("verb", "status"), [("cancel", "cancelled"), ("terminate", "terminated")])
def test_without_a_running_process_ends_wait_too(shop, process, spellwork, eventually, verb, status):
    """Cancel and terminate are durable, and done by the next process."""
    first = process("run", "shop.py", "--id", "o")
    eventually(lambda: status_of(spellwork, "o") == "running")
    first.kill()
    assert spellwork(verb, "o", "--json").value["state"] == "queued"
    assert spellwork("resume", "shop.py", "o").code == 1
    assert status_of(spellwork, "o") == status


def test_without_a_running_process_starts_wait_too(shop, process, spellwork, eventually):
    """`start` makes the store, and the next worker runs what lies in it."""
    assert spellwork("start", "shop.py", "--id", "o", "--json").value["state"] == "queued"
    assert spellwork("start", "shop.py", "--id", "o").err.startswith("queued: nobody runs this store now")
    assert "run 'o' is queued" in spellwork("show", "o").err
    process("worker", "shop.py").says("running order")
    eventually(lambda: status_of(spellwork, "o") == "running")
    assert len(spellwork("ps", "--json").lines) == 1


def test_a_silent_owner_leaves_signals_in_the_inbox(worker, spellwork, eventually):
    """A stopped process gets the signal when it wakes; a question runs out of time."""
    spellwork("start", "shop.py", "--id", "o")
    worker.send(signal.SIGSTOP)
    sent = spellwork("signal", "o", "approval", "false", "--timeout", "0.3", "--json")
    assert (sent.code, sent.value["state"]) == (0, "unanswered")
    question = spellwork("query", "o", "state", "--timeout", "0.3", "--json")
    assert (question.code, question.error["error"]) == (4, "unavailable")
    change = spellwork("update", "o", "set_limit", "1", "--timeout", "0.3")
    assert change.code == 4
    assert "--update-id" in change.err
    worker.send(signal.SIGCONT)
    eventually(lambda: status_of(spellwork, "o") == "completed")


async def test_a_message_that_cannot_be_written_is_not_called_queued(tmp_path, monkeypatch):
    """An owner that was stopped inside a write holds the lock: the command fails instead of losing what it said it queued."""
    monkeypatch.setattr("spellwork.store.sqlite._LOCK_WAIT", 0.3)
    url = f"sqlite:{tmp_path}/work.db"

    @workflow
    async def waits() -> int:
        return await Signal[int]("go").receive()

    async with Engine(url, workflows=[waits], lease=600) as engine:
        run = await engine.start(waits, id="w")
        while not engine.idle:  # nothing of its own may meet the lock
            await asyncio.sleep(0.01)
        lock = apsw.Connection(f"{tmp_path}/work.db")
        lock.set_busy_timeout(5000)
        lock.execute("BEGIN IMMEDIATE")
        message = AskSignal("w", "go", b"\x07", "once")
        with pytest.raises(StoreUnavailable, match="write lock"):
            await deliver(url, message, lambda its: its.signal("go", 7, id="once"), 0.1)
        lock.execute("ROLLBACK")
        await deliver(url, message, lambda its: its.signal("go", 7, id="once"), 5)
        assert await run.result(5) == 7
        lock.close()
