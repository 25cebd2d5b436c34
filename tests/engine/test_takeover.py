"""What simulation found about takeovers: each was a seed before it was a test."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from spellwork import Engine, RunCancelled, Signal, activity, start_child, update, workflow
from spellwork.clock import SystemClock
from spellwork.engine.errands import Errands
from spellwork.engine.ownership import Owner, Ownership, pack_claim, partition_key, read_claims
from spellwork.journal.rows import Keys
from spellwork.store import Batch, open_store

go = Signal[int]("go")


@activity
async def slow(value: int) -> int:
    await asyncio.sleep(0.05)
    return value


@workflow
async def adds() -> int:
    total = 0

    @update
    async def add(value: int) -> int:
        nonlocal total
        total += await slow(value)
        return total

    last = await go.receive()
    return total + last


async def evict(engine: Engine) -> None:
    """Somebody with the right to do so takes every partition from its owner, who does not know yet."""
    store = engine.store
    for claim in await store.read(lambda reader: read_claims(reader, 4)):
        await store.commit(Batch().put(partition_key(claim.index), pack_claim(claim.epoch + 1, Owner())))


async def test_calls_that_meet_a_takeover_reach_the_new_owner(tmp_path: Path) -> None:
    """start, update, signal and result go on in the new owner; the caller sees no Fenced."""
    url = f"sqlite:{tmp_path}/work.db"
    async with Engine(url, workflows=[adds], lease=60) as first, Engine(url, workflows=[adds], standby=True, lease=60) as second:
        run = await first.start(adds, id="a")
        waiting = asyncio.ensure_future(run.result(20))
        await evict(first)
        while second.owned < 4:
            await asyncio.sleep(0.05)
        assert first.owned > 0  # it learns of its loss from the refusal of what it writes
        other = await first.start(adds, id="b")
        assert await run.update("add", 3, id="three") == 3
        await run.signal(go, 4)
        await other.signal(go, 5)
        assert await waiting == 7
        assert await other.result(20) == 5


async def test_an_update_whose_answer_was_not_durable_is_answered_by_the_new_owner(tmp_path: Path) -> None:
    """The answer was known, but its entry was refused: whoever waits asks the new owner instead of waiting for ever."""
    url = f"sqlite:{tmp_path}/work.db"
    async with Engine(url, workflows=[adds], lease=60) as first, Engine(url, workflows=[adds], standby=True, lease=60) as second:
        run = await first.start(adds, id="a")
        asking = asyncio.ensure_future(run.update("add", 3, id="three"))
        await asyncio.sleep(0.02)  # it was accepted, its step is under way
        await evict(first)
        async with asyncio.timeout(20):
            assert await asking == 3
        assert second.owned
        await run.signal(go, 0)
        assert await run.result(20) == 3


async def test_the_sign_of_life_never_starts_anew(tmp_path: Path) -> None:
    """An owner that lost a partition and claimed it again must not look, to an old observer, as if it had stood still."""
    store = open_store(f"sqlite:{tmp_path}/work.db")
    owner, observer = Ownership(store, SystemClock(), 0.05), Ownership(store, SystemClock(), 0.05)
    assert await owner.claim(1, 1) == [0]
    await owner.renew(lambda _index: None)
    assert await observer.claim(1, 1) == []  # it saw this count
    await asyncio.sleep(0.06)
    await store.commit(Batch().put(partition_key(0), pack_claim(7, Owner())))
    owner.held.clear()
    assert await owner.claim(1, 1) == [0]
    (claim,) = await store.read(lambda reader: read_claims(reader, 1))
    assert claim.owner.beat > 2
    assert await observer.claim(1, 1) == []
    owner.close()
    observer.close()
    await store.close()


@workflow
async def sleeper() -> None:
    await asyncio.sleep(3600)


@workflow
async def stops_its_child() -> str:
    child = await start_child(sleeper)
    child.cancel("enough")
    try:
        await child
    except RunCancelled as error:
        return error.reason
    return "it ended"


async def test_a_run_is_at_work_until_its_child_has_been_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A crash before the cancellation is durable must find the parent among the active runs, which alone are recovered."""
    url = f"sqlite:{tmp_path}/work.db"
    told = asyncio.Event()
    real = Errands._cancel_child

    async def never(_self, _live, _command):
        told.set()

    monkeypatch.setattr(Errands, "_cancel_child", never)
    async with Engine(url, workflows=[sleeper, stops_its_child]) as engine:
        await engine.start(stops_its_child, id="p")
        await told.wait()
        await asyncio.sleep(0.05)
        number = (await (await engine.get("p")).status()).number
        active = await engine.store.scan(bytes((Keys.ACTIVE,)), bytes((Keys.ACTIVE + 1,)))
        assert any(int.from_bytes(key[-8:], "big") == number for key, _ in active)
    monkeypatch.setattr(Errands, "_cancel_child", real)
    async with Engine(url, workflows=[sleeper, stops_its_child]) as engine:
        assert await (await engine.get("p")).result(20) == "enough"
