"""Recovery: what goes on after a restart, what is quarantined, what sleeps on disk, what is evicted."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from spellwork import Engine, RunFailed, Signal, activity, query, workflow
from spellwork.clock import SystemClock
from spellwork.engine.loading import Loader
from spellwork.engine.partition import Partition
from spellwork.errors import RunQuarantined, StoreUnavailable
from spellwork.store import Batch, open_store
from spellwork.testing import Ledger, TestEngine

go = Signal[int]("go")


@activity
async def echo(x: int) -> int:
    return x


@workflow
async def waits(n: int) -> int:
    steps = [await echo(i) for i in range(3)]

    @query
    def seen() -> int:
        return sum(steps)

    return n + await go.receive()


@workflow
async def sleeps(days: int) -> int:
    await asyncio.sleep(days * 86400)
    return days


@workflow
async def naps() -> str:
    await asyncio.sleep(60)
    return "awake"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX's")
def test_run_that_keeps_killing_its_process_is_quarantined_and_its_neighbours_finish(tmp_path: Path) -> None:
    """After max_recoveries deaths the guilty run is set aside; runs that merely waited or were caught beside it go on."""
    url, ledger = f"sqlite:{tmp_path / 'store.db'}", tmp_path / "ledger"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    lives = 0
    while True:
        lives += 1
        done = subprocess.run(
            [sys.executable, "-m", "tests.engine.killer_run", url, str(ledger)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode == 0:
            break
        assert lives < 12, f"still dying: {done.stderr}"
    assert done.stdout.startswith("quarantined 5 its process died 3 times")
    counts = Ledger(ledger).counts()
    assert counts["deadly"] <= 4
    assert all(counts[f"n{i}"] == 1 for i in range(5))


async def test_quarantined_run_says_so_and_can_be_resumed(tmp_path: Path) -> None:
    """result() of a quarantined run raises RunQuarantined; resume() tries it again."""
    from spellwork.engine import rows
    from spellwork.journal import Status

    async with TestEngine(f"sqlite:{tmp_path / 'store.db'}", workflows=[waits]) as engine:
        run = await engine.start(waits, 1, id="r")
        await engine.settle()
        row = await engine.store.read(lambda reader: rows.read_row(reader, "r"))
        assert row is not None
        partition = engine._host.partitions[row.partition]
        engine._host.drop(engine._host.runs[row.number])
        rows.block(partition.batch(), row, None, Status.QUARANTINED, "killed its process", 0)
        await engine.settle()
        with pytest.raises(RunQuarantined, match="killed its process"):
            await run.result()
        await run.resume()
        await run.signal(go, 4)
        assert await run.result() == 5


async def test_nothing_else_that_may_kill_the_process_is_tried_beside_a_suspect(tmp_path: Path) -> None:
    """While a suspect is on trial, timers that were due and runs at work in other partitions wait: it is not blamed for them."""
    from spellwork.engine import rows
    from spellwork.journal.rows import Keys, active_key

    url, released, told = f"sqlite:{tmp_path / 'store.db'}", asyncio.Event(), []

    @activity
    async def held(name: str) -> str:
        told.append(f"began {name}")
        if name == "p3":
            await released.wait()
        return name

    @workflow
    async def works(name: str) -> str:
        return await held(name)

    @workflow
    async def wakes() -> str:
        await asyncio.sleep(1)
        told.append("woke")
        return "awake"

    async with Engine(url, workflows=[works, wakes]) as engine:
        ids = {engine._partition_of(str(i)): str(i) for i in range(100)}
        for partition, run_id in sorted(ids.items()):
            await engine.start(*((wakes,) if partition == 0 else (works, f"p{partition}")), id=run_id)
        numbers = {}
        for partition, run_id in ids.items():
            address = await engine.store.read(functools.partial(rows.find, run_id=run_id))
            assert address is not None
            numbers[partition] = address.number
    told.clear()
    store = open_store(url)
    batch = Batch().put(active_key(3, numbers[3]), b"\2")  # at work at two crashes
    for key, _ in await store.scan(bytes((Keys.TIMERS,)), bytes((Keys.TIMERS + 1,))):
        batch.put(key, b"\2")
    await store.commit(batch)
    await store.close()
    async with Engine(url, workflows=[works, wakes]) as engine:
        while "began p3" not in told:
            await asyncio.sleep(0.01)
        seen = len(told)
        await asyncio.sleep(1.2)
        assert told[seen:] == [], "something began while the suspect was on trial"
        released.set()
        for run_id in ids.values():
            await (await engine.get(run_id)).result(timeout=30)
    assert set(told) == {"woke", "began p3"} | ({"began p1", "began p2"} & set(told))


async def test_waiting_runs_survive_any_number_of_restarts(tmp_path: Path) -> None:
    """A run that waits is not counted against, however often its process comes and goes."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    async with TestEngine(url, workflows=[waits]) as engine:
        await engine.start(waits, 1, id="r")
        await engine.settle()
    for _ in range(20):
        async with TestEngine(url, workflows=[waits], max_recoveries=3) as engine:
            await engine.settle()
            assert engine.loaded == 0, "a waiting run is not loaded when the engine opens"
    async with TestEngine(url, workflows=[waits]) as engine:
        run = await engine.get("r")
        assert await run.query("seen") == 3
        await run.signal(go, 1)
        assert await run.result() == 2


class AnHourAhead(SystemClock):
    def now(self) -> int:
        return super().now() + 3_600_000_000


@pytest.mark.parametrize(("deaths", "status"), [(0, "completed"), (2, "completed"), (3, "quarantined")])
async def test_timers_that_were_due_at_a_death_are_counted(tmp_path: Path, deaths: int, status: str) -> None:
    """A run whose timer was due at as many deaths as the bound is set aside; before that it is tried once more."""
    from spellwork.journal.rows import Keys, partition_range
    from spellwork.store import Batch

    async def timers(engine: Engine) -> list[bytes]:
        return [key for index in range(4) for key, _ in await engine.store.scan(*partition_range(Keys.TIMERS, index))]

    url = f"sqlite:{tmp_path / 'store.db'}"
    async with Engine(url, workflows=[naps]) as engine:
        await engine.start(naps, id="r")
        while not (keys := await timers(engine)):
            await asyncio.sleep(0)
        await engine.store.commit(Batch().put(keys[0], bytes((deaths,))))
    async with Engine(url, workflows=[naps], clock=AnHourAhead(), max_recoveries=3) as engine:
        run = await engine.get("r")
        with contextlib.suppress(RunQuarantined):
            await run.result(10)
        assert (await run.status()).status == status
        assert not await timers(engine)


async def test_idle_runs_leave_memory_and_come_back() -> None:
    """Beyond `cache` waiting runs the oldest are evicted; a signal, a query or a timer replays them."""
    async with TestEngine(workflows=[waits, sleeps], cache=3) as engine:
        runs = [await engine.start(waits, i, id=f"w{i}") for i in range(10)]
        sleeper = await engine.start(sleeps, 2)
        await engine.settle()
        assert engine.loaded <= 3
        assert [await run.query("seen") for run in runs] == [3] * 10
        for run in runs:
            await run.signal(go, 100)
        assert [await run.result() for run in runs] == [100 + i for i in range(10)]
        assert await sleeper.result() == 2


async def test_evicted_workflow_does_not_run_its_clean_up() -> None:
    """`finally` blocks that await are not carried out when a run merely leaves memory."""
    cleaned: list[str] = []

    @activity
    async def clean() -> None:
        cleaned.append("cleaned")

    @workflow
    async def careful(n: int) -> int:
        try:
            return await go.receive()
        finally:
            await clean()

    async with TestEngine(workflows=[careful], cache=0) as engine:
        run = await engine.start(careful, 1)
        await engine.settle()
        assert engine.loaded == 0
        assert cleaned == []
        await run.signal(go, 9)
        assert await run.result() == 9
        assert cleaned == ["cleaned"]


async def test_timers_due_while_nobody_ran_fire_once_when_somebody_does(tmp_path: Path) -> None:
    """A sleep that ended while the process was down ends when it comes back, and not before it is due."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    async with TestEngine(url, workflows=[sleeps]) as engine:
        for days in (1, 2, 3):
            await engine.start(sleeps, days, id=f"s{days}")
        await engine.settle()
    async with TestEngine(url, workflows=[sleeps]) as engine:
        await engine.advance(86400 * 2.5)
        states = {info.id: info.status.value for info in await engine.list()}
        assert states == {"s1": "completed", "s2": "completed", "s3": "running"}
        assert await (await engine.get("s3")).result() == 3


async def test_many_engines_in_one_process_do_not_see_each_other(tmp_path: Path) -> None:
    """Engines are isolated: same ids, different stores, different results."""
    async with (
        Engine("memory:", workflows=[waits]) as one,
        Engine("memory:", workflows=[waits]) as two,
        Engine(f"sqlite:{tmp_path / 'store.db'}", workflows=[waits]) as three,
    ):
        runs = [await engine.start(waits, i, id="same") for i, engine in enumerate((one, two, three))]
        for run in runs:
            await run.signal(go, 10)
        assert [await run.result(5) for run in runs] == [10, 11, 12]


async def test_terminated_run_does_not_unwind() -> None:
    """terminate() ends a run at once; its finally blocks do nothing durable."""
    touched: list[int] = []

    @activity
    async def touch() -> None:
        touched.append(1)

    @workflow
    async def stubborn() -> None:
        try:
            await go.receive()
        finally:
            await touch()

    async with TestEngine(workflows=[stubborn]) as engine:
        run = await engine.start(stubborn)
        await engine.settle()
        await run.terminate("enough")
        info = await run.status()
        assert (info.status, info.reason) == ("terminated", "enough")
        assert touched == []


async def test_a_failing_workflow_keeps_its_cause() -> None:
    """RunFailed carries the workflow's own error, with the chain of causes, live and from the store."""

    @workflow
    async def fails() -> None:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError("outer", 7) from error

    async with TestEngine(workflows=[fails]) as engine:
        for _ in range(2):
            with pytest.raises(RunFailed) as caught:
                await engine.run(fails, id="f")
            cause = caught.value.__cause__
            assert isinstance(cause, ValueError)
            assert cause.args == ("outer", 7)
            assert isinstance(cause.__cause__, KeyError)


async def test_list_pages_and_filters() -> None:
    """list() gives runs newest first, by status and workflow, page after page."""
    async with TestEngine(workflows=[waits, sleeps]) as engine:
        for i in range(7):
            await engine.start(waits, i, id=f"w{i}")
        await engine.run(sleeps, 1, id="s")
        page = await engine.list(workflow="waits", limit=4)
        assert [info.id for info in page] == ["w6", "w5", "w4", "w3"]
        assert [info.id for info in await engine.list(limit=10, after="w3")] == ["w2", "w1", "w0"]
        assert [info.id for info in await engine.list(status="completed")] == ["s"]


async def test_signals_to_a_blocked_run_are_kept_for_it(tmp_path: Path) -> None:
    """A signal that comes while a run is blocked by bad code is durable, and received once the code is back."""

    @workflow(name="w")
    async def good() -> int:
        await echo(1)
        return await go.receive()

    @workflow(name="w")
    async def bad() -> int:
        await echo(2)
        return await go.receive()

    url = f"sqlite:{tmp_path / 'store.db'}"
    async with TestEngine(url, workflows=[good]) as engine:
        await engine.start(good, id="r")
        await engine.settle()
    async with TestEngine(url, workflows=[bad]) as engine:
        run = await engine.get("r")
        await run.signal(go, 42)
        assert (await run.status()).status == "blocked"
    async with TestEngine(url, workflows=[good]) as engine:
        assert await (await engine.get("r")).result() == 42


async def test_signals_do_not_release_a_quarantined_run(tmp_path: Path) -> None:
    """Only resume() lets a quarantined run go on; a signal waits for that."""
    from spellwork.engine import rows
    from spellwork.journal import Status

    async with TestEngine(f"sqlite:{tmp_path / 'store.db'}", workflows=[waits]) as engine:
        run = await engine.start(waits, 1, id="r")
        await engine.settle()
        row = await engine.store.read(lambda reader: rows.read_row(reader, "r"))
        assert row is not None
        engine._host.drop(engine._host.runs[row.number])
        rows.block(engine._host.partitions[row.partition].batch(), row, None, Status.QUARANTINED, "deadly", 0)
        await engine.settle()
        await run.signal(go, 4)
        assert (await run.status()).status == "quarantined"
        await run.resume()
        assert await run.result() == 5


async def test_a_run_that_starts_while_its_partition_is_taken_up_is_not_called_at_work_again(tmp_path: Path) -> None:
    """It was parked between recovery's look and its mark: the mark must not stand for a run that merely waits."""
    from spellwork.engine.recovery import Recovery
    from spellwork.journal.rows import Keys

    url = f"sqlite:{tmp_path / 'store.db'}"
    async with Engine(url, workflows=[naps]) as engine:
        run = await engine.start(naps, id="r")
        row = await run.status()
        (partition,) = [each for each in engine._host.partitions.values() if engine._host.by_id["r"].partition is each]
        while await engine.store.scan(bytes((Keys.ACTIVE,)), bytes((Keys.ACTIVE + 1,))):
            await asyncio.sleep(0.001)
        await Recovery(engine._host, SystemClock(), 5)._admit(partition, {row.number: 1})
        assert not await engine.store.scan(bytes((Keys.ACTIVE,)), bytes((Keys.ACTIVE + 1,)))


async def test_an_engine_that_cannot_read_a_run_at_work_fails_instead_of_leaving_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would look for that run again; the next engine takes it up."""
    url = f"sqlite:{tmp_path / 'store.db'}"

    @workflow
    async def works() -> str:
        await asyncio.sleep(0)
        return await slow()

    ready = asyncio.Event()

    @activity
    async def slow() -> str:
        await ready.wait()
        return "done"

    async with Engine(url, workflows=[works], activities=[slow]) as engine:
        await engine.start(works, id="w")
        await engine.store.commit(Batch())
    real = Loader.load

    async def fails(self: Loader, number: int, **options: bool) -> object:
        monkeypatch.setattr(Loader, "load", real)
        raise StoreUnavailable("no more files for a moment")

    monkeypatch.setattr(Loader, "load", fails)
    async with Engine(url, workflows=[works], activities=[slow]) as engine:
        with pytest.raises(StoreUnavailable, match="for a moment"):
            await asyncio.wait_for((await engine.get("w")).result(), 10)
    ready.set()
    async with Engine(url, workflows=[works], activities=[slow]) as engine:
        assert await asyncio.wait_for((await engine.get("w")).result(), 10) == "done"


async def test_an_inbox_that_could_not_be_read_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has sent a letter is not told that nobody reads it, and there may be no other news."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    monkeypatch.setattr("spellwork.engine.mail._ONCE_MORE", 0.05)
    async with Engine(url, workflows=[waits], activities=[echo]) as engine:
        await engine.start(waits, 1, id="w")
        while not engine.idle:
            await asyncio.sleep(0.01)
        drain, failures = engine._mail.drain, [StoreUnavailable("no more files for a moment")]

        async def fails(partition: Partition) -> None:
            if failures:
                raise failures.pop()
            await drain(partition)

        monkeypatch.setattr(engine._mail, "drain", fails)
        command = [sys.executable, "-m", "spellwork", "signal", "w", "go", "41", "--store", url, "--timeout", "10"]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert not failures
        assert await asyncio.wait_for((await engine.get("w")).result(), 10) == 42
