"""The engine on LMDB and RocksDB: the same promises, through kill -9, restarts and takeovers."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from spellwork import Engine, Signal, activity, workflow
from spellwork.errors import StoreFull, StoreUnavailable
from spellwork.store import Batch
from spellwork.testing import Ledger, TestEngine, check_laws
from spellwork.testing.chaos import corpus

go = Signal[int]("go")


@activity
async def echo(x: int) -> int:
    return x


@workflow
async def waits(n: int) -> int:
    steps = [await echo(i) for i in range(3)]
    return n + sum(steps) + await go.receive()


@workflow
async def naps(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "awake"


@pytest.fixture(params=["lmdb", "rocksdb"])
def url(request, tmp_path: Path) -> str:
    return f"{request.param}:{tmp_path / 'store'}"


async def test_every_shape_of_workflow_gives_its_result(url: str) -> None:
    """The corpus of workflows runs to the results it has everywhere, and its journals obey the laws of replay."""
    async with Engine(url, workflows=corpus.WORKFLOWS) as engine:
        results = await corpus.drive(engine, list(corpus.SHAPES), lambda _line: None)
        assert results == {name: corpus.SHAPES[name][3] for name in corpus.SHAPES}
        assert await check_laws(engine) >= len(corpus.SHAPES)


async def test_runs_go_on_after_a_restart(url: str) -> None:
    """A run that waits, and one that sleeps, survive closing; a signal and a due timer end them."""
    async with TestEngine(url, workflows=[waits, naps]) as engine:
        await engine.start(waits, 1, id="w")
        await engine.start(naps, 3600.0, id="n")
        await engine.settle()
    async with TestEngine(url, workflows=[waits, naps]) as engine:
        await (await engine.get("w")).signal(go, 5)
        assert await (await engine.get("w")).result() == 9
        await engine.advance(3601)
        assert await (await engine.get("n")).result() == "awake"


async def test_an_engine_stops_at_the_first_failure(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ahead of its store in memory: after one full disk it writes no more; opened again it goes on."""
    async with TestEngine(url, workflows=[waits]) as engine:
        run = await engine.start(waits, 1, id="w")
        await engine.settle()
        kind = type(engine.store._backend)
        commit, full = kind.commit, [True]

        def fails(self, revision: int) -> None:
            if full:
                full.pop()
                raise StoreFull("no room")
            commit(self, revision)

        monkeypatch.setattr(kind, "commit", fails)
        store, before = engine.store, await engine.store.revision()
        with pytest.raises(StoreFull):
            await run.signal(go, 5)
        with pytest.raises(StoreFull):
            await store.commit(Batch())
        with pytest.raises(StoreFull):
            await engine.start(waits, 2, id="x")
        assert await store.revision() == before
    async with Engine(url, workflows=[waits]) as again:
        run = await again.get("w")
        await run.signal(go, 6)
        assert await run.result(10) == 10


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX's")
def test_killed_processes_lose_nothing(url: str, tmp_path: Path) -> None:
    """A run that kills its process is set aside after three deaths; the runs beside it finish, each step once."""
    ledger = tmp_path / "ledger"
    done: Any = None
    for _ in range(12):
        done = subprocess.run(
            [sys.executable, "-m", "tests.engine.killer_run", url, str(ledger)],
            capture_output=True, text=True, timeout=60, check=False,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )  # fmt: skip
        if done.returncode == 0:
            break
    assert done.stdout.startswith("quarantined 5 its process died 3 times"), done.stderr
    counts = Ledger(ledger).counts()
    assert all(counts[f"n{i}"] == 1 for i in range(5))


@pytest.mark.slow
async def test_a_killed_owner_is_replaced_on_lmdb(tmp_path: Path) -> None:
    """A standby process takes over what a killed one held and finishes it; a client of either reaches the runs."""
    url, ledger = f"lmdb:{tmp_path / 'store'}", str(tmp_path / "ledger")
    owner, standby = _owner(url, "first"), None
    try:
        assert _hear(owner) == "owns 4"
        _tell(owner, f"start patient p {ledger}")
        assert _hear(owner) == "started p"
        standby = _owner(url, "standby")
        assert _hear(standby) == "owns 0"
        async with Engine(url, client=True) as client:
            assert (await (await client.get("p")).status()).status == "running"
        while Ledger(ledger).counts()["first"] < 1:
            await asyncio.sleep(0.02)
        owner.kill()
        owner.wait()
        _tell(standby, "signal p 3")
        assert _hear(standby) == "signalled"
        _tell(standby, "result p")
        assert _hear(standby) == "result got 3"
        assert Ledger(ledger).counts() == {"first": 1, "got 3": 1}
    finally:
        for process in (owner, standby):
            if process is not None:
                process.kill()
                process.wait()
                process.stdin.close()
                process.stdout.close()


async def test_a_second_engine_on_rocksdb_is_told_why_not(tmp_path: Path) -> None:
    """A rocksdb: store belongs to one process, also for clients."""
    url = f"rocksdb:{tmp_path / 'store'}"
    async with Engine(url, workflows=[waits]):
        with pytest.raises(StoreUnavailable, match="belongs to one"):
            async with Engine(url, client=True):
                pass


def _owner(url: str, mode: str) -> Any:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.engine.owner", url, "1.0", "0", mode],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )  # fmt: skip


def _tell(process: Any, line: str) -> None:
    process.stdin.write(line + "\n")
    process.stdin.flush()


def _hear(process: Any) -> str:
    return process.stdout.readline().strip()
