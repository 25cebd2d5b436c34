"""Topics that are deleted: whole, in steps, and not under the hands of others."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import apsw
import pytest

from spellwork import Engine, workflow
from spellwork.engine.fsck import check
from spellwork.errors import Lagged, StoreClosed, TopicError, TopicNotFound
from spellwork.events.durable import Cursor, Retention, Topics, open_topics
from spellwork.events.durable.deletion import _forget_news
from spellwork.events.durable.keys import Spaces, event_key, rows_of
from spellwork.journal.rows import Keys
from spellwork.workflow.events import Event


@pytest.fixture(params=["memory:", "sqlite"])
def url(request, tmp_path: Path) -> str:
    """Each kind of store."""
    return request.param if request.param == "memory:" else f"sqlite:{tmp_path / 'store.db'}"


async def take(consumer, count: int) -> list:
    return [await asyncio.wait_for(anext(consumer), 5) for _ in range(count)]


async def left(topics, topic: str) -> dict[int, int]:
    """How many rows of a topic there are in each keyspace."""
    spaces = [space for name, space in vars(Spaces).items() if name.isupper()]
    found = {space: len(await topics.store.scan(*rows_of(space, topic), damaged=b"")) for space in spaces}
    return {space: count for space, count in found.items() if count}


async def rich(topics, name: str, count: int = 12):
    """A topic with everything that a topic can have."""
    topic = await topics.topic(name, type=int, partitions=2, dedup=60, compact=True, retention=Retention(count=1000))
    await topic.publish_many(range(1, count + 1), key=lambda n: f"k{n % 5}", id=str)
    async with topic.consume("mail", max_attempts=1) as consumer:
        for delivery in await take(consumer, 5):
            await delivery.nack()
    await topics.replay(name, "mail", (await topics.dead_letters(name, "mail"))[0].offset)
    await topics.sweep()
    return topic


async def test_a_topic_is_deleted_whole_and_others_stay(url: str) -> None:
    """Events, groups, dead letters, ids and options; only its counter is left, so that no offset is given twice."""
    async with open_topics(url, sweep_every=None) as topics:
        await rich(topics, "orders")
        await rich(topics, "orders.eu")
        before = await left(topics, "orders.eu")
        assert len(await left(topics, "orders")) > 8
        assert await topics.delete("orders") == 12
        assert await left(topics, "orders") == {Spaces.LOG: 1, Spaces.SWEPT: 1}
        assert await left(topics, "orders.eu") == before
        assert await topics.names() == ["orders.eu"]
        for gone in (topics.stats("orders"), topics.delete("orders"), topics.dead_letters("orders", "mail")):
            with pytest.raises(TopicNotFound):
                await gone
        topic = await topics.topic("orders", type=int, dedup=60)
        assert await topic.publish(7, id="7") == 13
        assert [event.sequence async for event in topic.read(follow=False)] == [13]
        async with topic.consume("mail") as consumer:
            assert [delivery.offset for delivery in await take(consumer, 1)] == [13]


async def test_much_is_deleted_in_steps(monkeypatch) -> None:
    """No commit deletes more than a bounded number of rows."""
    monkeypatch.setattr("spellwork.events.durable.deletion._AT_ONCE", 10)
    async with open_topics("memory:") as topics:
        await rich(topics, "orders", 200)
        commit, most = topics.store.commit, 0

        async def watched(batch):
            nonlocal most
            for start, end in batch.ranges:
                most = max(most, len(await topics.store.scan(start, end)))
            return await commit(batch)

        monkeypatch.setattr(topics.store, "commit", watched)
        await topics.delete("orders")
        assert 0 < most <= 10
        assert await left(topics, "orders") == {Spaces.LOG: 1, Spaces.SWEPT: 1}


async def test_a_deletion_that_is_broken_off_anywhere_is_finished_by_the_next(monkeypatch) -> None:
    """After each of its commits the store is one that can be used, and asking again leaves nothing."""
    monkeypatch.setattr("spellwork.events.durable.deletion._AT_ONCE", 4)
    for alive in range(100):
        async with open_topics("memory:") as topics:
            await rich(topics, "orders")
            commit, commits = topics.store.commit, 0

            async def dying(batch, commit=commit, alive=alive):
                nonlocal commits
                if commits == alive:
                    raise KeyError
                commits += 1
                return await commit(batch)

            with monkeypatch.context() as crash:
                crash.setattr(topics.store, "commit", dying)
                try:
                    await topics.delete("orders")
                except KeyError:
                    pass
                else:
                    break
            topic = await topics.topic("orders", type=int)
            offset = await topic.publish(7, id="7")
            ended = (await topics.stats("orders")).trimmed == 12
            assert offset == 13 or (offset == 7 and not ended)  # the old topic may still know the id, a new one must not
            _ = [event async for event in topic.read(follow=False)]
            async with topic.consume("mail") as consumer:
                got = await take(consumer, 1)
                assert got[0].offset == 13 or not ended
            await topics.delete("orders")
            assert await left(topics, "orders") == {Spaces.LOG: 1, Spaces.SWEPT: 1}
    assert alive > 8


async def test_a_topic_with_consumers_is_not_deleted(url: str) -> None:
    """They are to be stopped first; nothing was deleted."""
    async with open_topics(url) as topics:
        topic = await topics.topic("orders", type=int)
        await topic.publish(1)
        async with topic.consume("mail") as consumer:
            with pytest.raises(TopicError, match="has consumers; stop them first"):
                await topics.delete("orders", force=True)
            (delivery,) = await take(consumer, 1)
            await delivery.ack()
        assert await topics.delete("orders") == 1


async def test_who_reads_meanwhile_is_told(url: str) -> None:
    """A reader of the topic by `TopicNotFound`, wherever it is; one of a pattern by `Lagged`, if it has missed something."""
    async with open_topics(url) as topics:
        topic = await topics.topic("orders", type=int)
        await topic.publish_many(range(600))
        waiting, slow = topic.read("latest"), topic.read()
        assert (await anext(slow)).data == 0
        following = topics.read("orders")
        first = await anext(following)
        last = [seen async for seen in topics.read("orders", follow=False)][-1]
        news = asyncio.ensure_future(anext(waiting))
        await asyncio.sleep(0.05)
        await topics.delete("orders")
        with pytest.raises(TopicNotFound, match="deleted while it was read"):
            await asyncio.wait_for(news, 5)
        with pytest.raises(TopicNotFound, match="deleted while it was read"):
            _ = [event async for event in slow]
        with pytest.raises(Lagged):
            _ = [seen async for seen in following]
        with pytest.raises(Lagged):
            _ = [seen async for seen in topics.read("orders", first.cursor, follow=False)]
        assert [seen async for seen in topics.read("orders", last.cursor, follow=False)] == []
        await topic.publish(7)
        assert [seen.event.data async for seen in topics.read("orders", last.cursor, follow=False)] == [7]
        assert [seen.event.data async for seen in topics.read("orders", Cursor(), follow=False)] == [7]


async def test_what_is_published_meanwhile_is_a_new_topics(monkeypatch) -> None:
    """No event that was published after the topic's end is lost, and each of them has an offset of its own."""
    monkeypatch.setattr("spellwork.events.durable.deletion._AT_ONCE", 3)
    async with open_topics("memory:") as topics:
        topic = await topics.topic("orders", type=int)
        published: list[int] = []

        async def publisher() -> None:
            for n in range(300):
                published.append(await topic.publish(n))
                await asyncio.sleep(0)

        publishing = asyncio.ensure_future(publisher())
        while len(published) < 60:
            await asyncio.sleep(0)
        deleted = await topics.delete("orders")
        await publishing
        kept = [event.sequence async for event in topic.read(follow=False)]
        assert published == list(range(1, 301))
        assert kept == list(range(deleted + 1, 301))
        assert 60 <= deleted < 300
        assert await topics.names() == ["orders"]


async def test_a_deletion_that_comes_late_turns_no_offset_back(url: str) -> None:
    """Two have deleted the topic; before the last commit of one of them it was used, and deleted, once more."""

    class Late:
        def __init__(self, topics: Topics):
            self._topics = topics
            self.commit = topics.store.commit

        async def read(self, query: Any) -> Any:
            seen = await self._topics.store.read(query)
            await (await self._topics.topic("orders", type=int)).publish_many(range(6))
            await self._topics.delete("orders")
            return seen

    async with open_topics(url, sweep_every=None) as topics:
        await (await topics.topic("orders", type=int)).publish_many(range(5))
        await topics.delete("orders")
        await _forget_news(Late(topics), "orders")  # type: ignore[arg-type]
        assert await (await topics.topic("orders", type=int)).publish(1) == 12


async def test_a_damaged_topic_can_be_deleted(tmp_path: Path) -> None:
    """Damaged events and notes of news do not keep it."""
    path = tmp_path / "store.db"
    async with open_topics(f"sqlite:{path}") as topics:
        topic = await topics.topic("orders", type=int)
        await topic.publish_many([1, 2, 3])
    connection = apsw.Connection(str(path))
    for key in (event_key("orders", 3), rows_of(Spaces.TOUCHED, "orders")[0]):
        connection.execute("UPDATE kv SET v = x'00' WHERE k = ?", (key,))
    connection.close()
    async with open_topics(f"sqlite:{path}") as topics:
        assert await topics.delete("orders") == 3
        assert await topics.names() == []


async def test_what_a_run_waits_for_keeps_the_topic_unless_forced(tmp_path: Path) -> None:
    """The event was published while no engine ran, and the run was not brought it."""
    url = f"sqlite:{tmp_path / 'store.db'}"

    @workflow
    async def patient() -> int:
        return (await Event("orders", int).receive()).data

    async with Engine(url, workflows=[patient]) as engine:
        await engine.start(patient, id="patient")
        async with asyncio.timeout(5):
            while not await engine.store.scan(bytes((Keys.SUBSCRIPTIONS,)), bytes((Keys.SUBSCRIPTIONS + 1,))):
                await asyncio.sleep(0.01)
    async with open_topics(url, sweep_every=None) as topics:
        await (await topics.topic("orders", type=int)).publish(42)
        with pytest.raises(TopicError, match="were not yet brought"):
            await topics.delete("orders")
        await (await topics.topic("others", type=int)).publish(1)
        assert await topics.delete("others") == 1
    async with Engine(url, workflows=[patient]) as engine:
        assert await (await engine.get("patient")).result(timeout=10) == 42
    async with open_topics(url, sweep_every=None) as topics:
        assert await topics.delete("orders") == 1


async def test_what_comes_meanwhile_keeps_its_id(monkeypatch) -> None:
    """An event that survives the deletion is still known by its id: whoever publishes it again adds nothing."""
    monkeypatch.setattr("spellwork.events.durable.deletion._AT_ONCE", 3)
    async with open_topics("memory:", sweep_every=None) as topics:
        topic = await topics.topic("orders", type=int, dedup=60)
        for n in range(8):
            await topic.publish(n, id=str(n))
        commit, commits, fresh = topics.store.commit, 0, {}

        async def meanwhile(batch):
            nonlocal commits
            commits += 1
            with monkeypatch.context() as once:
                once.setattr(topics.store, "commit", commit)
                fresh[f"new{commits}"] = await topic.publish(9, id=f"new{commits}")
            return await commit(batch)

        with monkeypatch.context() as racing:
            racing.setattr(topics.store, "commit", meanwhile)
            assert await topics.delete("orders") == 8
        assert len(fresh) > 5
        assert {name: await topic.publish(9, id=name) for name in fresh} == fresh
        assert await topic.publish(0, id="0") == max(fresh.values()) + 1, "the old topic's ids are forgotten"
        found = await left(topics, "orders")
        assert found[Spaces.IDS] == found[Spaces.EXPIRIES] == len(fresh) + 1
        await topics.delete("orders")
        assert await left(topics, "orders") == {Spaces.LOG: 1, Spaces.SWEPT: 1}


async def test_a_consumer_that_joined_a_group_just_dropped_does_not_keep_the_topic() -> None:
    """Its row is all that is left of the group: while it lives it keeps the topic, and then no longer."""
    async with open_topics("memory:", sweep_every=None) as topics:
        topic = await topics.topic("orders", type=int)
        await topic.publish(1)
        consumer = topic.consume("mail")
        join = consumer._join

        async def late() -> None:
            await topics.drop_group("orders", "mail")  # it was declared, and has no members yet
            await join()
            with pytest.raises(TopicError, match="has consumers"):
                await topics.delete("orders")

        consumer._join = late  # type: ignore[method-assign]
        with pytest.raises(TopicNotFound, match="was dropped"):
            async with consumer:
                await anext(consumer)
        async with asyncio.timeout(5):
            assert await topics.delete("orders") == 1
        assert await left(topics, "orders") == {Spaces.LOG: 1, Spaces.SWEPT: 1}


async def test_a_deletion_that_is_broken_off_has_forgotten_no_event_that_is_there(url: str, monkeypatch) -> None:
    """Killed at each of its commits, it leaves a topic that is whole, and knows the id of each event that it still has."""
    monkeypatch.setattr("spellwork.events.durable.deletion._AT_ONCE", 3)
    for lives in range(40):
        name = f"orders-{lives}"
        async with open_topics(url, sweep_every=None) as topics:
            await rich(topics, name)
            commit, more = topics.store.commit, [None] * lives

            async def dies(batch, commit=commit, more=more):
                if not more:
                    raise StoreClosed("killed")
                more.pop()
                return await commit(batch)

            with monkeypatch.context() as killed:
                killed.setattr(topics.store, "commit", dies)
                try:
                    await topics.delete(name)
                except StoreClosed:
                    pass
                else:
                    break
            assert (await topics.store.examine(check)).findings == []
            topic = await topics.stored(name, type=int)
            for event in [event async for event in topic.read(follow=False)]:
                if topic.options.dedup:
                    assert await topic.publish(event.data, id=event.id) == event.sequence
            await topics.delete(name)
            assert await left(topics, name) == {Spaces.LOG: 1, Spaces.SWEPT: 1}
    assert 8 < lives < 40
