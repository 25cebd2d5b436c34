"""A takeover in the middle of bringing events to runs: nothing is lost, nothing comes twice, and nobody else is held up."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from spellwork import Engine, workflow
from spellwork.engine import messages as m
from spellwork.engine.ownership import Owner, pack_claim, partition_key, read_claims
from spellwork.engine.triggers import Trigger
from spellwork.errors import Fenced
from spellwork.events.durable import open_topics
from spellwork.events.event import Event as Happened
from spellwork.journal.rows import Keys, cursor_key, trigger_key
from spellwork.store import Batch
from spellwork.testing import check_laws
from spellwork.workflow.events import Event


@workflow
async def collects(name: str, count: int) -> list[int]:
    event = Event(f"{name}.*", int)
    return [(await event.receive()).data for _ in range(count)]


async def evict(engine: Engine) -> None:
    """Somebody with the right to do so takes the partition from its owner, who does not know yet."""
    store = engine.store
    (claim,) = await store.read(lambda reader: read_claims(reader, 1))
    await store.commit(Batch().put(partition_key(0), pack_claim(claim.epoch + 1, Owner())))


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("at", ["first", "second", "cursor"])
async def test_a_takeover_while_events_are_brought_loses_and_doubles_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, at: str, in_memory: bool
) -> None:
    """Before the first event, between two of one run, or before the cursor: the old owner notices, the new one brings the rest."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    caplog.set_level(logging.WARNING, "spellwork.engine")
    cache = 256 if in_memory else 0  # a run in memory takes its events on the short way
    async with Engine(url, workflows=[collects], partitions=1, lease=60, cache=cache) as old:
        await old.start(collects, "a", 3, id="a")
        async with asyncio.timeout(5):
            while not await old.store.scan(bytes((Keys.SUBSCRIPTIONS,)), bytes((Keys.SUBSCRIPTIONS + 1,))):
                await asyncio.sleep(0.01)
            while not old.idle:
                await asyncio.sleep(0.01)
        dispatch, (partition,) = old._data._dispatch, old._host.partitions.values()
        assert dispatch is not None
        brought: list[str] = []
        real_bring, real_commit = dispatch._bring_in, old.store.commit

        async def bring(message: Any, partition: Any) -> Any:
            if len(brought) == {"first": 0, "second": 1}.get(at):
                await evict(old)
            outcome = await real_bring(message, partition)
            brought.append(message.id)
            return outcome

        async def commit(batch: Batch) -> int:
            if at == "cursor" and cursor_key(0) in batch.rows:
                monkeypatch.setattr(old.store, "commit", real_commit)
                await evict(old)
            return await real_commit(batch)

        monkeypatch.setattr(dispatch, "_bring_in", bring)
        monkeypatch.setattr(old.store, "commit", commit)
        topic = await old.topics.topic("a.x", type=int)
        await topic.publish_many([0, 1])
        async with asyncio.timeout(5):
            while partition.held:  # long before its next sign of life is due
                await asyncio.sleep(0.01)
        assert len(brought) == {"first": 0, "second": 1, "cursor": 2}[at]
        assert await old.store.get(cursor_key(0)) is None, "its new owner begins where the stored cursor is"
        assert partition not in dispatch._cursors
        assert "taken over by another owner" in caplog.text
        assert "not brought to runs for now" not in caplog.text, "the other partitions are not held up"
        async with Engine(url, workflows=[collects], partitions=1) as new:
            await topic.publish(2)
            assert await (await new.get("a")).result(timeout=10) == [0, 1, 2]
            assert await check_laws(new, "a") == 1
            got = [each async for each in (await new.topics.stored("a.x", type=int)).read(follow=False)]
            assert [each.data for each in got] == [0, 1, 2]


async def test_what_a_lost_partition_is_brought_is_refused_as_fenced(tmp_path: Path) -> None:
    """Whoever brings an event into a partition that is gone is told so, and sends nothing to its new owner."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    async with Engine(url, workflows=[collects], partitions=1, lease=60) as engine:
        await engine.start(collects, "a", 1, id="a")
        (partition,) = engine._host.partitions.values()
        await evict(engine)
        engine._tenure.taken_over(partition)
        with pytest.raises(Fenced):
            await engine._router.bring(m.AskSignal("a", "event a.*", b"", "a.x:1:a.*"), partition)
        assert not await engine.store.scan(bytes((Keys.INBOX,)), bytes((Keys.INBOX + 1,)))
    async with open_topics(url, sweep_every=None) as topics:
        assert await topics.names() == []


async def test_a_takeover_at_the_cursor_of_a_trigger_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run was started, the cursor was refused: the new owner pulls the event again, and the run is there once."""
    url = f"sqlite:{tmp_path / 'store.db'}"

    @workflow
    async def handles(event: Happened[int]) -> None:
        assert event.data == 7

    def engine(lease: float) -> Engine:
        return Engine(url, workflows=[handles], triggers=[Trigger("a.*", handles, int)], partitions=1, lease=lease)

    async with engine(60) as old:
        (partition,), real = old._host.partitions.values(), old.store.commit
        key = trigger_key("a.* handles")
        place = await old.store.get(key)

        async def commit(batch: Batch) -> int:
            if key in batch.rows:
                monkeypatch.setattr(old.store, "commit", real)
                await evict(old)
            return await real(batch)

        monkeypatch.setattr(old.store, "commit", commit)
        await (await old.topics.topic("a.x", type=int)).publish(7, id="seven")
        async with asyncio.timeout(5):
            while partition.held:
                await asyncio.sleep(0.01)
        assert await old.store.get(key) == place
        async with engine(10) as new, asyncio.timeout(10):
            while await new.store.get(key) == place:
                await asyncio.sleep(0.01)
            await (await new.get("handles:seven")).result()
            assert len(await new.list(workflow="handles")) == 1
