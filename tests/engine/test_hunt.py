"""What was found by attacking: closing beside errands, updates without an answer, more partitions than the default."""

from __future__ import annotations

import asyncio
import contextvars
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import apsw
import pytest

from spellwork import (
    Engine,
    Retry,
    Run,
    RunCancelled,
    Signal,
    Workflow,
    activity,
    continue_as_new,
    query,
    start_child,
    update,
    workflow,
)
from spellwork.clock import SystemClock, process_is_gone
from spellwork.errors import DefinitionError, RowDamaged, RunBlocked, RunFailed, RunFinished, StoreFailed, UsageError
from spellwork.store.turn import Turn

go = Signal[str]("go")
mark: contextvars.ContextVar[int] = contextvars.ContextVar("mark")


@activity
async def nap(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


@activity(retry=Retry(max_attempts=2, initial=60))
async def failing() -> None:
    mark.set(1)
    raise OSError("not now")


@workflow
async def listener() -> str:
    return await go.receive()


@workflow
async def teller() -> str:
    """Sends its signal while another activity still keeps the closing engine waiting."""
    child = await start_child(listener)
    other = asyncio.create_task(nap(0.4))
    await nap(0.1)
    await child.signal(go, "told")
    await other
    return str(await child.result())


@workflow
async def canceller() -> str:
    child = await start_child(listener)
    other = asyncio.create_task(nap(0.4))
    await nap(0.1)
    child.cancel("enough")
    await other
    return "done"


@workflow
async def stubborn() -> None:
    await failing()


@workflow
async def asked() -> str:
    @query
    def ready() -> bool:
        return True

    @update
    async def ask(how: str) -> str:
        if how == "wait":
            await asyncio.sleep(1000)
        elif how == "spin":
            while True:
                await asyncio.sleep(0)
        elif how == "continue":
            continue_as_new()
        elif how == "exit":
            raise SystemExit(3)
        return how

    return await go.receive()


ALL: list[Workflow[Any, Any]] = [listener, teller, canceller, stubborn, asked]


@pytest.mark.parametrize("of", [teller, canceller])
async def test_what_a_run_asks_of_another_while_its_engine_closes_is_asked_again(tmp_path: Path, of) -> None:
    """It is no failure of the errand: that would be in the journal for ever."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    async with Engine(url, workflows=ALL, grace=5) as engine:
        await engine.start(of, id="run")
        await asyncio.sleep(0.02)
    assert engine._failed is None
    async with Engine(url, workflows=ALL) as engine:
        run = await engine.get("run")
        assert await run.result(10) == ("told" if of is teller else "done")


async def test_an_engine_with_grace_closes_while_steps_wait_for_their_retry(tmp_path: Path) -> None:
    """They are not under way, and there need be no worker for them."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    for _ in range(2):
        began = asyncio.get_running_loop().time()
        async with Engine(url, workflows=ALL, grace=30) as engine:
            run = await engine.start(stubborn, id="run")
            while not any(event.kind == "AttemptFailed" for event in await run.history()):
                await asyncio.sleep(0.01)
        assert asyncio.get_running_loop().time() - began < 20


async def test_all_partitions_of_a_store_are_owned_whatever_a_new_one_would_have(tmp_path: Path) -> None:
    """`partitions` counts for a new store; else the runs of half a store would stand still without a word."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    async with Engine(url, workflows=ALL, partitions=7) as engine:
        assert engine.owned == 7
    async with Engine(url, workflows=ALL) as engine:
        assert engine.owned == 7
    async with Engine(url, workflows=ALL, max_partitions=3) as engine:
        assert engine.owned == 3
    with pytest.raises(DefinitionError, match="max_partitions"):
        Engine(url, max_partitions=0)


@pytest.mark.parametrize("client", [False, True], ids=["owner", "client"])
@pytest.mark.parametrize(
    ("how", "kind"), [("wait", RunFinished), ("spin", RunBlocked), ("continue", UsageError), ("exit", Exception)]
)
async def test_whoever_asks_for_an_update_is_told_whatever_becomes_of_it(tmp_path: Path, client: bool, how: str, kind) -> None:
    url = f"sqlite:{tmp_path / 'store.db'}"
    async with Engine(url, workflows=ALL) as engine, Engine(url, workflows=ALL, client=True) as other:
        run = await engine.start(asked, id="run")
        asker = await (other if client else engine).get("run")
        waiting = asyncio.create_task(asker.update("ask", how))
        if how == "wait":
            while not any(event.kind == "UpdateAccepted" for event in await run.history()):
                await asyncio.sleep(0.01)
            await run.signal(go, "end")
        with pytest.raises(kind):
            await asyncio.wait_for(waiting, 30)
        if how in ("continue", "exit"):
            await run.signal(go, "end")
            assert await run.result(10) == "end"


@pytest.mark.parametrize("verb", ["query", "update", "resume"])
async def test_a_client_is_told_that_a_run_is_damaged(tmp_path: Path, verb: str) -> None:
    path = tmp_path / "store.db"
    async with Engine(f"sqlite:{path}", workflows=ALL) as engine:
        run = await engine.start(asked, id="run")
        await run.update("ask", "x" * 50)
    connection = apsw.Connection(str(path))
    found: Any = connection.execute("SELECT k, v FROM kv WHERE instr(v, ?)", (b"x" * 50,)).fetchone()
    key, value = found
    connection.execute("UPDATE kv SET v = ? WHERE k = ?", (value.replace(b"xxxx", b"xyxx", 1), key))
    connection.close()
    async with Engine(f"sqlite:{path}", workflows=ALL), Engine(f"sqlite:{path}", workflows=ALL, client=True) as client:
        run = await client.get("run")
        asks = {"query": lambda: run.query("ready"), "update": lambda: run.update("ask", "y"), "resume": run.resume}
        with pytest.raises(RowDamaged):
            await asyncio.wait_for(asks[verb](), 10)


async def test_whoever_has_stopped_waiting_for_an_update_keeps_no_run_in_memory() -> None:
    async with Engine("memory:", workflows=ALL, cache=4) as engine:
        for number in range(12):
            run = await engine.start(asked, id=f"run-{number}")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(run.update("ask", "wait"), 0.05)
        while engine.loaded > 4:
            await asyncio.sleep(0.01)


async def test_letters_keep_their_order_when_the_clock_is_set_back(tmp_path: Path) -> None:
    url, clock = f"sqlite:{tmp_path / 'store.db'}", Wrong()
    async with Engine(url, workflows=ALL, clock=clock) as engine:
        await engine.start(asked, id="run")
    async with Engine(url, clock=clock) as engine:  # it has no such workflow: the run is blocked, and its signals wait
        run = await engine.get("run")
        await run.signal(go, "first")
        clock.offset = -5_000_000
        await run.signal(go, "second")
    async with Engine(url, workflows=ALL, clock=clock) as engine:
        run = await engine.get("run")
        assert await run.result(20) == "first"


class Wrong(SystemClock):
    offset = 0

    def now(self) -> int:
        return super().now() + self.offset


@pytest.mark.parametrize("options", [{"initial": float("nan")}, {"initial": float("inf")}, {"backoff": float("inf")}])
def test_no_retry_without_an_end_of_its_wait(options) -> None:
    with pytest.raises(DefinitionError):
        Retry(**options)


@workflow
async def sleeper(seconds: float) -> None:
    await asyncio.sleep(seconds)


def test_a_hand_that_nobody_lowers_holds_up_one_transaction_and_not_each(tmp_path: Path) -> None:
    """As of a process that was stopped while it waited for the lock."""
    stopped, turn = Turn(str(tmp_path / "turn")), Turn(str(tmp_path / "turn"))
    with stopped.raised():
        began = time.monotonic()
        for _ in range(20):
            turn.let_others_in()
            time.sleep(0.003)
        assert time.monotonic() - began < 0.5
    stopped.close()
    turn.close()


@workflow
async def impatient() -> str:
    child = asyncio.create_task(listener())
    await asyncio.sleep(0)
    child.cancel()
    await asyncio.sleep(0)
    child.cancel()
    await asyncio.wait([child])
    return await go.receive()


async def test_a_child_whose_waiter_is_cancelled_twice_is_cancelled() -> None:
    async with Engine("memory:", workflows=[listener, impatient]) as engine:
        await engine.start(impatient, id="run")
        with pytest.raises(RunCancelled):
            await asyncio.wait_for((await found(engine, "run.1")).result(), 10)


async def found(engine: Engine, run_id: str) -> Run:
    while not any(info.id == run_id for info in await engine.list()):
        await asyncio.sleep(0.01)
    return await engine.get(run_id)


async def test_whoever_waits_for_another_owner_hears_that_the_engine_has_failed(tmp_path: Path) -> None:
    async with Engine(f"sqlite:{tmp_path / 'store.db'}", workflows=ALL, max_partitions=1) as engine:
        starts = [asyncio.create_task(engine.start(listener, id=f"run-{number}")) for number in range(8)]
        await asyncio.sleep(0.1)
        engine._fail(StoreFailed("as of a disk that fails"))
        done, pending = await asyncio.wait(starts, timeout=10)
        assert not pending
        assert any(isinstance(task.exception(), StoreFailed) for task in done)


@pytest.mark.slow
def test_an_engine_closes_and_its_program_ends_beside_a_worker_process_that_hangs() -> None:
    """Its step has timed out, so nobody counts it among those under way; the pool would wait for it for ever."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    ended = subprocess.run(
        [sys.executable, "-m", "tests.engine.hung", "2"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.stdout.split("\n")[:2] == ["timed out", "closed"], ended.stderr
    assert ended.returncode == 0


@activity(executor="process", timeout=1, retry=Retry(max_attempts=1))
def hangs() -> None:
    while True:
        time.sleep(0.1)


@activity(executor="process")
def pid(seconds: float = 0.0) -> int:
    time.sleep(seconds)
    return os.getpid()


@activity(executor="process", retry=Retry(max_attempts=1))
def dies() -> None:
    os._exit(3)


@workflow
async def waits_for(what: str) -> int:
    if what == "hangs":
        await hangs()
    elif what == "dies":
        await dies()
    return await pid(0.5 if what == "long" else 0.0)


@pytest.mark.slow
async def test_a_worker_process_that_hangs_is_killed_and_the_next_call_gets_another() -> None:
    """Its step has timed out; with the only worker still at work, everything behind it would time out unexecuted."""
    async with Engine("memory:", workflows=[waits_for], processes=1) as engine:
        first = await engine.run(waits_for, "nothing")
        with pytest.raises(RunFailed, match="exceeded its timeout"):
            await engine.run(waits_for, "hangs")
        while sys.platform != "win32" and not process_is_gone(first, ""):
            await asyncio.sleep(0.05)
        assert await asyncio.wait_for(engine.run(waits_for, "nothing"), 20) != first


@pytest.mark.slow
async def test_a_worker_process_that_dies_takes_no_other_call_with_it() -> None:
    """The activities beside it have workers of their own, and run once."""
    async with Engine("memory:", workflows=[waits_for], processes=2) as engine:
        beside = asyncio.create_task(engine.run(waits_for, "long"))
        with pytest.raises(RunFailed, match="died: killed"):
            await engine.run(waits_for, "dies")
        assert await beside > 0
        run = next(each for each in await engine.list() if each.status == "completed")
        assert [event.data["attempt"] for event in await (await engine.get(run.id)).history() if event.kind == "StepCompleted"] == [
            1
        ]


@workflow
async def chained(generation: int = 0, received: tuple[str, ...] = ()) -> list[str]:
    @update
    def note() -> None: ...

    got = list(received)
    while (value := await go.receive()) != "end":
        if value == "continue":
            continue_as_new(generation + 1, tuple(got))
        got.append(value)
    return got


async def test_ids_of_updates_are_no_ids_of_signals_over_continue_as_new() -> None:
    """A signal is not taken for an update of an earlier run of the chain, and many updates make it forget no signal."""
    async with Engine("memory:", workflows=[chained]) as engine:
        run = await engine.start(chained)
        await run.signal(go, "paid", id="paid")
        await asyncio.gather(*(run.update("note", id=f"note-{number}") for number in range(1100)))
        await run.signal(go, "continue")
        await run.signal(go, "paid", id="paid")
        await run.signal(go, "other", id="note-1099")
        await run.signal(go, "end")
        assert await run.result(20) == ["paid", "other"]
