"""What is deleted in the course of time, and what never is."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from spellwork.errors import Lagged
from spellwork.events.durable import Retention, open_topics
from spellwork.events.durable.keys import Spaces, space_range
from spellwork.testing import VirtualClock


@pytest.fixture(params=["memory:", "sqlite"])
def url(request, tmp_path: Path) -> str:
    """Each kind of store."""
    return request.param if request.param == "memory:" else f"sqlite:{tmp_path / 'store.db'}"


async def data_of(topic, start="earliest") -> list:
    return [event.data async for event in topic.read(start, follow=False)]


async def test_retention_by_count_keeps_the_newest(url: str) -> None:
    """Whoever asks for what is gone is told so; offsets go on."""
    async with open_topics(url, sweep_every=None) as topics:
        topic = await topics.topic("numbers", type=int, retention=Retention(count=3))
        await topic.publish_many(range(1, 11))
        swept = await topics.sweep()
        assert (swept.trimmed, await data_of(topic), await data_of(topic, 8)) == (7, [8, 9, 10], [8, 9, 10])
        with pytest.raises(Lagged, match="up to 7 are no longer retained") as lagged:
            await data_of(topic, 5)
        assert lagged.value.missed == 3
        assert (await topics.sweep()).trimmed == 0
        assert await topic.publish(11) == 11


async def test_retention_by_age_stops_at_the_first_young_event(url: str) -> None:
    """An event from a clock that was behind delays nothing but itself, and none that is young goes."""
    clock = VirtualClock()
    async with open_topics(url, clock=clock, sweep_every=None) as topics:
        topic = await topics.topic("numbers", type=int, retention=Retention(age=100))
        for n in range(1, 11):
            await topic.publish(n)
            clock.advance(20)
        assert (await topics.sweep()).trimmed == 5
        assert await data_of(topic) == [6, 7, 8, 9, 10]
        clock.advance(1000)
        await topic.publish(11)
        await topics.sweep()
        assert await data_of(topic) == [11]


@pytest.mark.parametrize("count", [30, 1300])
async def test_retention_by_bytes_keeps_at_most_so_many(url: str, count: int) -> None:
    """The stored bytes of what is kept are within the limit, and the next sweep reads on."""
    async with open_topics(url, sweep_every=None) as topics:
        topic = await topics.topic("texts", type=str, retention=Retention(bytes=100 * count))
        for _ in range(2):
            await topic.publish_many(["x" * 100] * count)
            await topics.sweep()
            start, end = space_range(Spaces.LOG)
            rows = await topics.store.scan(start, end)
            kept = sum(len(key) + len(data) for key, data in rows[1:])
            assert 100 * count * 0.4 < kept <= 100 * count


async def test_retention_waits_for_the_slowest_group(url: str) -> None:
    """What a group has not finished stays, unless the topic is declared otherwise."""
    async with open_topics(url, sweep_every=None) as topics:
        topic = await topics.topic("numbers", type=int, retention=Retention(count=1))
        await topic.publish_many(range(1, 11))
        async with topic.consume("slow", in_flight=5) as consumer:
            got = [await asyncio.wait_for(anext(consumer), 5) for _ in range(5)]
            for delivery in got[:2] + got[3:]:
                await delivery.ack()
            await topics.sweep()
            assert await data_of(topic) == [3, 4, 5, 6, 7, 8, 9, 10]
            topic = await topics.topic("numbers", type=int, retention=Retention(count=1, beyond_groups=True), change=True)
            await topics.sweep()
            assert await data_of(topic) == [10]
        async with topic.consume("slow") as consumer:
            assert (await asyncio.wait_for(anext(consumer), 5)).data == 10


async def test_a_reader_that_is_overtaken_by_retention_is_told(url: str) -> None:
    """Nothing is skipped in silence."""
    async with open_topics(url, sweep_every=None) as topics:
        topic = await topics.topic("numbers", type=int, retention=Retention(count=1))
        await topic.publish_many(range(1, 501))
        events = topic.read()
        assert (await anext(events)).data == 1
        await topic.publish_many(range(501, 1001))
        await topics.sweep()
        with pytest.raises(Lagged):
            _ = [event async for event in events]


async def test_compaction_keeps_the_newest_event_of_each_key(url: str) -> None:
    """Among those that all groups have finished; events without a key stay."""
    async with open_topics(url, sweep_every=None) as topics:
        topic = await topics.topic("prices", type=int, compact=True)

        def key(n: int) -> str | None:
            return None if n == 7 else f"k{n % 3}"

        await topic.publish_many(range(1, 11), key=key)
        assert (await topics.sweep()).compacted == 6
        assert await data_of(topic) == [7, 8, 9, 10]
        await topic.publish_many(range(11, 1301), key=key)
        async with topic.consume("slow", in_flight=3) as consumer:
            got = [await asyncio.wait_for(anext(consumer), 5) for _ in range(3)]
            await topics.sweep()
            assert len(await data_of(topic)) == 1294
            for delivery in got:
                await delivery.ack()
        await topics.drop_group("prices", "slow")
        assert (await topics.sweep()).compacted == 1290
        assert await data_of(topic) == [7, 1298, 1299, 1300]
        topic = await topics.topic("prices", type=int, retention=Retention(count=2), change=True)
        await topics.sweep()
        assert await data_of(topic) == [1299, 1300]
        start, end = space_range(Spaces.NEWEST)
        assert len(await topics.store.scan(start, end)) == 2


async def test_ids_are_forgotten_after_their_window_and_not_before(url: str) -> None:
    """Also when an id was used again meanwhile."""
    clock = VirtualClock()
    async with open_topics(url, clock=clock, sweep_every=None) as topics:
        topic = await topics.topic("orders", type=int, dedup=60)
        await topic.publish(1, id="a")
        await topic.publish(2, id="b")
        clock.advance(61)
        await topic.publish(3, id="a")
        assert (await topics.sweep()).forgotten == 2
        assert await topic.publish(4, id="a") == 3
        clock.advance(61)
        assert (await topics.sweep()).forgotten == 1
        for space in (Spaces.IDS, Spaces.EXPIRIES):
            assert await topics.store.scan(*space_range(space)) == []


async def test_two_sweepers_at_once_do_the_work_of_one(tmp_path: Path) -> None:
    """Each step is taken by one of them."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    async with open_topics(url, sweep_every=None) as one, open_topics(url, sweep_every=None) as two:
        topic = await one.topic("numbers", type=int, retention=Retention(count=5), compact=True)
        for n in range(60):
            await topic.publish(n, key=f"k{n % 10}")
        done = await asyncio.gather(one.sweep(), two.sweep(), one.sweep())
        assert sum(each.trimmed for each in done) == 55
        assert await data_of(topic) == [55, 56, 57, 58, 59]


async def test_open_topics_are_swept_now_and_then() -> None:
    """Nobody needs to ask."""
    clock = VirtualClock()
    async with open_topics("memory:", clock=clock, sweep_every=30) as topics:
        topic = await topics.topic("numbers", type=int, retention=Retention(count=1))
        await topic.publish_many(range(5))
        await asyncio.sleep(0.01)
        clock.advance(31)
        await asyncio.sleep(0.01)
        assert await data_of(topic) == [4]
