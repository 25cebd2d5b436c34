"""Dead letters, figures, and groups that are dropped."""

from __future__ import annotations

import asyncio
from pathlib import Path

import apsw
import pytest

from spellwork.errors import StoreCorrupt, TopicDiffers, TopicError, TopicNotFound
from spellwork.events.durable import Topics, open_topics
from spellwork.events.durable.keys import event_key
from spellwork.events.durable.rows import GroupRow, pack_row, unpack_row
from spellwork.testing import VirtualClock


async def failed(topics: Topics, count: int, group: str = "mail") -> None:
    """Make the first `count` events of the topic dead letters of a group."""
    topic = await topics.topic("orders", type=int)
    async with topic.consume(group, max_attempts=1, ack_within=1) as consumer:
        for _ in range(count):
            delivery = await asyncio.wait_for(anext(consumer), 5)
            await delivery.nack(reason=f"no {delivery.data}")


@pytest.fixture(params=["memory:", "sqlite"])
def url(request, tmp_path: Path) -> str:
    """Each kind of store."""
    return request.param if request.param == "memory:" else f"sqlite:{tmp_path / 'store.db'}"


async def test_after_its_last_attempt_an_event_is_a_dead_letter_and_its_key_goes_on(url: str) -> None:
    """The letter has the event, the attempts and the last reason; the other groups are not concerned."""
    clock = VirtualClock()
    async with open_topics(url, clock=clock) as topics:
        topic = await topics.topic("orders", type=int)
        await topic.publish(1, key="a", id="one")
        await topic.publish(2, key="a")
        async with topic.consume("mail", max_attempts=3, lease=1000) as consumer:
            for attempt in (1, 2, 3):
                delivery = await asyncio.wait_for(anext(consumer), 5)
                assert (delivery.data, delivery.attempt) == (1, attempt)
                await delivery.nack(reason=f"no {attempt}")
            delivery = await asyncio.wait_for(anext(consumer), 5)
            assert (delivery.data, delivery.attempt) == (2, 1)
            await delivery.ack()
        (letter,) = await topics.dead_letters("orders", "mail")
        assert (letter.offset, letter.attempts, letter.reason) == (1, 3, "no 3")
        assert letter.event is not None
        assert (letter.event.id, letter.event.data, letter.event.key) == ("one", 1, "a")
        assert letter.at.timestamp() * 1e6 == clock.now()
        async with topic.consume("bill") as consumer:
            assert (await asyncio.wait_for(anext(consumer), 5)).data == 1


async def test_replay_delivers_each_dead_letter_again_once(url: str) -> None:
    """One, or all; two who ask at once deliver each once; attempts begin anew; a running consumer gets it at once."""
    async with open_topics(url) as topics:
        topic = await topics.topic("orders", type=int, partitions=2)
        await topic.publish_many(range(1, 9))
        await failed(topics, 8)
        assert [letter.offset for letter in await topics.dead_letters("orders", "mail", after=2, limit=3)] == [3, 4, 5]
        async with topic.consume("mail") as consumer:
            assert await topics.replay("orders", "mail", 5) == 1
            delivery = await asyncio.wait_for(anext(consumer), 5)
            assert (delivery.data, delivery.attempt, delivery.offset) == (5, 1, 5)
            await delivery.ack()
        assert sum(await asyncio.gather(*(topics.replay("orders", "mail") for _ in range(3)))) == 7
        with pytest.raises(TopicNotFound, match="no dead letter at 5"):
            await topics.replay("orders", "mail", 5)
        async with topic.consume("mail") as consumer:
            again = [await asyncio.wait_for(anext(consumer), 5) for _ in range(7)]
            assert sorted(delivery.data for delivery in again) == [1, 2, 3, 4, 6, 7, 8]
            for delivery in again[:3]:
                await delivery.ack()
        async with topic.consume("mail") as consumer:
            again = [await asyncio.wait_for(anext(consumer), 5) for _ in range(4)]
            await asyncio.gather(*(delivery.ack() for delivery in again))
        async with topic.consume("mail") as consumer:
            waiting = asyncio.ensure_future(anext(consumer))
            done, _ = await asyncio.wait([waiting], timeout=0.1)
            assert not done
            waiting.cancel()
            await asyncio.wait([waiting])
        stats = await topics.stats("orders")
        assert [(group.lag, group.pending, group.dead) for group in stats.groups] == [(0, 0, 0)]


async def test_a_replayed_letter_may_die_again(url: str) -> None:
    """It is a dead letter again then, and not delivered any more."""
    async with open_topics(url) as topics:
        topic = await topics.topic("orders", type=int)
        await topic.publish(1)
        await failed(topics, 1)
        await topics.replay("orders", "mail")
        await failed(topics, 1)
        (letter,) = await topics.dead_letters("orders", "mail")
        assert letter.attempts == 1
        assert await topics.drop("orders", "mail", 1) == 1
        assert await topics.dead_letters("orders", "mail") == []


async def test_dropping_deletes_one_or_all(url: str) -> None:
    """Nothing of them is delivered any more."""
    async with open_topics(url) as topics:
        await (await topics.topic("orders", type=int)).publish_many(range(1, 1202))
        await failed(topics, 1201)
        assert await topics.drop("orders", "mail", 3) == 1
        assert await topics.drop("orders", "mail") == 1200
        assert await topics.drop("orders", "mail") == 0
        with pytest.raises(TopicNotFound):
            await topics.drop("orders", "mail", 3)
        with pytest.raises(TopicNotFound, match="topic orders has no group nobody; it has mail"):
            await topics.drop("orders", "nobody")


async def test_what_cannot_be_read_is_a_dead_letter_at_once(tmp_path: Path) -> None:
    """A damaged row, and data that does not fit the type: neither stops the others."""
    path = tmp_path / "store.db"
    async with open_topics(f"sqlite:{path}") as topics:
        await (await topics.topic("orders")).publish_many([1, 2, "text", 4])
    connection = apsw.Connection(str(path))
    connection.execute("UPDATE kv SET v = x'00' WHERE k = ?", (event_key("orders", 2),))
    connection.close()
    async with open_topics(f"sqlite:{path}") as topics:
        topic = await topics.topic("orders", type=int)
        async with topic.consume("mail") as consumer:
            got = [await asyncio.wait_for(anext(consumer), 5) for _ in range(2)]
            assert [delivery.data for delivery in got] == [1, 4]
            for delivery in got:
                await delivery.ack()
        damaged, unfit = await topics.dead_letters("orders", "mail")
        assert (damaged.offset, damaged.event, "damaged" in damaged.reason) == (2, None, True)
        assert (unfit.offset, unfit.event.data if unfit.event else None) == (3, "text")
        assert "its data cannot be read" in unfit.reason
        with pytest.raises(TopicError, match="was damaged"):
            await topics.replay("orders", "mail", 2)
        assert await topics.replay("orders", "mail") == 1
        assert [letter.offset for letter in await topics.dead_letters("orders", "mail")] == [2]
        anything = await topics.topic("orders")
        async with anything.consume("mail") as consumer:
            assert (await asyncio.wait_for(anext(consumer), 5)).data == "text"


async def test_figures_tell_where_groups_stand(url: str) -> None:
    """Lag, what is pending and out, dead letters and consumers."""
    async with open_topics(url) as topics:
        topic = await topics.topic("orders", type=int)
        await topic.publish_many(range(1, 11))
        async with topic.consume("mail", in_flight=4) as consumer:
            got = [await asyncio.wait_for(anext(consumer), 5) for _ in range(4)]
            await got[1].ack()
            stats = await topics.stats("orders")
            assert (stats.newest, stats.trimmed, stats.declared, stats.options.partitions) == (10, 0, True, 1)
            (group,) = stats.groups
            assert (group.group, group.lag, group.pending, group.out, group.consumers) == ("mail", 10, 4, 4, 1)
        (group,) = (await topics.stats("orders")).groups
        assert (group.lag, group.out, group.consumers) == (10, 0, 0)
        with pytest.raises(TopicNotFound, match="no topic bills"):
            await topics.stats("bills")


async def test_a_group_is_dropped_only_without_consumers_and_begins_anew(url: str) -> None:
    """Its dead letters go with it; its partitions may change then."""
    async with open_topics(url) as topics:
        topic = await topics.topic("orders", type=int)
        await topic.publish_many(range(1, 4))
        await failed(topics, 3)
        with pytest.raises(TopicDiffers, match="has groups that share 1 partitions"):
            await topics.topic("orders", partitions=2, change=True)
        async with topic.consume("mail"):
            with pytest.raises(TopicError, match="has consumers"):
                await topics.drop_group("orders", "mail")
        await topics.drop_group("orders", "mail")
        with pytest.raises(TopicNotFound):
            await topics.drop_group("orders", "mail")
        topic = await topics.topic("orders", partitions=2, change=True)
        async with topic.consume("mail") as consumer:
            assert sorted([(await asyncio.wait_for(anext(consumer), 5)).data for _ in range(3)]) == [1, 2, 3]


@pytest.mark.parametrize("partitions", [0, -1, 2**40])
def test_a_group_of_as_many_lanes_as_no_topic_has_is_damage(partitions: int) -> None:
    """A row may be whole and hold what nobody has written. Found by fuzzing."""
    data = pack_row(GroupRow(partitions, 0, 0))
    with pytest.raises(StoreCorrupt, match="cannot be read"):
        unpack_row(GroupRow, b"k", data)
