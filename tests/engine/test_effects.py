"""Effects: what a workflow does to Spellwork's own data is done exactly once, whatever dies when."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from spellwork import Engine, Signal, workflow
from spellwork.engine import rows
from spellwork.errors import Conflict, RunBlocked
from spellwork.events.durable import Topics
from spellwork.journal import Performed, unpack_entry
from spellwork.journal.rows import journal_range
from spellwork.store import Batch, Reader, open_store
from spellwork.testing import CRASH_POINTS, TestEngine, check_laws
from spellwork.workflow.effects import Commit, Write
from spellwork.workflow.events import publish
from spellwork.workflow.verbs import current
from tests.engine.effects_run import COUNTER, LOG, ROUNDS, WRITES, busy, counted, number, seen, written

go = Signal[int]("go")


def _number(reader: Reader) -> int:
    row = rows.read_row(reader, "busy")
    assert row is not None
    return row.number


def life(url: str, point: str, n: int) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.run(
        [sys.executable, "-m", "tests.engine.effects_run", url, point, str(n)],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX's")
def test_killed_at_each_commit_everything_is_done_once(tmp_path: Path) -> None:
    """A process that dies at one passage of a crash point after the other ends with each write and each transaction done once."""
    for point in CRASH_POINTS:
        path = tmp_path / f"{point}.db"
        url = f"sqlite:{path}"
        lives = 0
        while (done := life(url, point, 7 + lives % 9)).returncode != 0:
            lives += 1
            assert done.returncode in (-9, 137), done.stderr
            assert lives < 60, "no progress"
        assert lives > 3
        assert done.stdout.strip() == str(ROUNDS)

        async def check(url: str = url) -> None:
            store = open_store(url, create=False)
            assert number(await store.get(COUNTER)) == ROUNDS
            assert number(await store.get(WRITES)) == ROUNDS == number(await store.get(LOG))
            lines = [value for _, value in await store.scan(LOG + b"\0", LOG + b"\xff")]
            assert [line.split()[1] for line in lines] == [str(i).encode() for i in range(ROUNDS)]
            assert not await store.scan(b"\x40", b"\x41")
            published = [each.event.data async for each in Topics(store).read("rounds", follow=False)]
            assert published == list(range(ROUNDS))
            await store.close()

        asyncio.run(check())


async def test_the_rows_of_a_write_are_there_if_and_only_if_its_entry_is(tmp_path: Path) -> None:
    """Each row that a workflow writes was committed in the batch of the entry that says so: they have one revision."""
    async with Engine(f"sqlite:{tmp_path / 'store.db'}", workflows=[busy]) as engine:
        run = await engine.start(busy, id="busy")
        assert await run.result() == ROUNDS

        def look(reader: Reader) -> tuple[list[int], list[int]]:
            number = _number(reader)
            entries = [(unpack_entry(key, frame), version) for key, frame, version in reader.rows(*journal_range(number))]
            said = [version for entry, version in entries if isinstance(entry, Performed) and entry.name.startswith("write")]
            return said, [version for _, _, version in reader.rows(LOG + b"\0", LOG + b"\xff")]

        said, written = await engine.store.read(look)
        assert said == written
        assert len(said) == ROUNDS


async def test_two_runs_that_change_one_row_see_conflicts_and_lose_nothing(tmp_path: Path) -> None:
    """Transactions that read what another has changed since are refused, and the code may try again."""

    @workflow
    async def adds(times: int) -> int:
        refused = 0
        for _ in range(times):
            while True:
                value, version = await seen()
                try:
                    await counted(value + 1, version)
                    break
                except Conflict:
                    refused += 1
        return refused

    async with Engine(f"sqlite:{tmp_path / 'store.db'}", workflows=[adds]) as engine:
        runs = [await engine.start(adds, 10) for _ in range(8)]
        refused = [await run.result(timeout=60) for run in runs]
        assert number(await engine.store.get(COUNTER)) == 80
        assert sum(refused) > 0


async def test_effects_obey_the_laws_of_replay() -> None:
    """Journals with writes, reads and transactions are a fixed point, monotone, prefix-closed and exact."""
    async with TestEngine(workflows=[busy]) as engine:
        run = await engine.start(busy, id="busy")
        await run.result()
        assert await check_laws(engine, run.id) == 1


async def test_a_different_effect_on_replay_is_reported() -> None:
    """Another name, other words: NonDeterminismError at the first difference."""
    words = ["a"]

    @workflow
    async def fickle() -> int:
        await current("x").perform(Write("write it", words[0], lambda batch, _moment: None))
        return await go.receive()

    async with TestEngine(workflows=[fickle], cache=0) as engine:
        run = await engine.start(fickle)
        await engine.settle()
        words[0] = "b"
        await run.signal(go, 1)
        await engine.settle()
        with pytest.raises(RunBlocked, match="write it with other arguments"):
            await run.result()


async def test_a_workflow_that_only_writes_waits_for_the_disk_now_and_then(tmp_path: Path) -> None:
    """Thousands of writes in a row neither recurse nor starve the loop; each is there once."""

    @workflow
    async def writer(count: int) -> int:
        for i in range(count):
            await written(str(i))
        return count

    async with Engine(f"sqlite:{tmp_path / 'store.db'}", workflows=[writer]) as engine:
        run = await engine.start(writer, 3000)
        turns = 0
        while not (await run.status()).status.ended:
            turns += 1
            await asyncio.sleep(0)
        assert await run.result() == 3000
        assert turns > 5
        assert number(await engine.store.get(WRITES)) == 3000


async def test_a_write_that_nobody_awaited_is_done_before_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the code asked for before its end is written, also what waited for the disk, and replays."""
    monkeypatch.setattr("spellwork.engine.host._AHEAD", 8)

    @workflow
    async def hasty() -> str:
        tasks = [asyncio.create_task(written(str(i))) for i in range(30)]
        await asyncio.sleep(0)
        await tasks[15]  # one that waits for the disk, as all behind it do
        return "over"

    async with Engine(f"sqlite:{tmp_path / 'store.db'}", workflows=[hasty]) as engine:
        run = await engine.start(hasty)
        assert await run.result() == "over"
        assert number(await engine.store.get(WRITES)) == 30
        assert await check_laws(engine, run.id) == 1


async def test_writes_keep_the_order_in_which_they_were_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of many tasks, when some of them have to wait for the disk, and those that nobody awaits at the end."""
    monkeypatch.setattr("spellwork.engine.host._AHEAD", 8)
    asked: list[int] = []

    @workflow
    async def many() -> None:
        async def two(i: int) -> None:
            for value in (i, i + 1000):
                asked.append(value)
                await publish("values", value)

        tasks = [asyncio.create_task(two(i)) for i in range(30)]
        await asyncio.gather(*tasks[:20])

    async with Engine(f"sqlite:{tmp_path / 'store.db'}", workflows=[many]) as engine:
        run = await engine.start(many)
        await run.result(timeout=20)
        there = [each.event.data async for each in engine.topics.read("values", follow=False)]
        assert there == asked[: len(there)]
        assert len(there) >= 50
        assert await check_laws(engine, run.id) == 1


async def test_a_cancelled_transaction_is_done_or_not_and_leaves_no_receipt(tmp_path: Path) -> None:
    """Cancelling while a transaction is under way leaves its entry or nothing; its receipt never stays."""

    @workflow
    async def slow() -> None:
        def put(batch: Batch, _moment: object) -> None:
            batch.put(COUNTER, b"\x01")

        await current("x").perform(Commit("commit it", "", put))
        await go.receive()

    async with Engine(f"sqlite:{tmp_path / 'store.db'}", workflows=[slow]) as engine:
        for turns in range(12):
            run = await engine.start(slow)
            for _ in range(turns):
                await asyncio.sleep(0.0005)
            await run.cancel("enough")
            with pytest.raises(Exception, match="enough"):
                await run.result(timeout=30)
        assert not await engine.store.scan(b"\x40", b"\x41")
