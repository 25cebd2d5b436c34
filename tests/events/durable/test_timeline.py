"""Timelines: what happened for a correlation id, over all topics, in the order of the commits, by one bounded read of the logs."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from spellwork.errors import DefinitionError, Lagged, PayloadError, RowDamaged
from spellwork.events.durable import Cursor, Found, Record, Retention, Topics, append_event, found_after, open_topics
from spellwork.events.durable.keys import event_key, matcher
from spellwork.store import Batch, Reader
from spellwork.testing import VirtualClock
from tests.engine.test_fsck import hurt


async def told(topics: Topics, correlation: str, *where: Any) -> list[tuple[str, int | None]]:
    """The timeline as topics and offsets."""
    return [(each.event.type, each.event.sequence) async for each in topics.timeline(correlation, *where)]


async def story(topics: Topics) -> list[tuple[str, int | None]]:
    """Two orders whose events lie mixed in three topics, two of them in one commit. What there is of "order-8"."""
    orders, stock, payments = [await topics.topic(name) for name in ("shop.orders", "shop.stock", "payments")]
    await orders.publish({"n": 8}, id="order-8")
    await orders.publish({"n": 9}, id="order-9")
    batch = Batch()  # in the order of their topics, whatever the order in which they were added
    append_event(batch, "shop.stock", stock.record("taken", id="taken", correlation="order-8", causation="order-8"))
    append_event(batch, "payments", payments.record("asked", correlation="order-8", causation="taken"))
    append_event(batch, "shop.stock", stock.record("taken", correlation="order-9", causation="order-9"))
    await topics.store.commit(batch)
    await payments.publish("paid", correlation="order-9", causation="order-8")
    await orders.publish("done", correlation="order-8")
    return [("shop.orders", 1), ("payments", 1), ("shop.stock", 1), ("shop.orders", 3)]


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_a_timeline_is_what_has_the_correlation_over_all_topics_in_order(kind: str, tmp_path: Path) -> None:
    """And the event whose own id it is; with everything that their publishers said, and a cursor to go on behind each."""
    async with open_topics("memory:" if kind == "memory" else f"sqlite:{tmp_path / 'store.db'}") as topics:
        expected = await story(topics)
        assert await told(topics, "order-8") == expected
        seen = [each async for each in topics.timeline("order-8")]
        assert [each.event.data for each in seen] == [{"n": 8}, "asked", "taken", "done"]
        assert [each.event.causation for each in seen] == [None, "taken", "order-8", None]
        assert [each.revision for each in seen] == sorted(each.revision for each in seen)
        for index, each in enumerate(seen):
            assert await told(topics, "order-8", ">", each.cursor) == expected[index + 1 :]


async def test_a_timeline_has_what_the_run_of_the_id_has_published() -> None:
    """Whatever it was started for. Ids may hold slashes: no other run whose id ends like it is taken for it."""
    sources = {
        "workflow/ships/7": ["7"], "machine/till/7": ["7"], "workflow/ships/eu/7": ["eu/7"], "machine/till/": [],
        "workflow/7": [], "workflow": [], "7": [], "/7": [], "shop/ships/7": [], "/workflow/ships/7": [],
    }  # fmt: skip
    async with open_topics("memory:") as topics:
        batch = Batch()
        for source in sources:
            append_event(batch, "sent", Record("", 1, topics.codec.untyped.encode(source), source=source, correlation="cart-3"))
        await topics.store.commit(batch)
        assert len(await told(topics, "cart-3")) == len(sources)
        for about in ("7", "eu/7", "ships/7", "ships/eu/7", "till", "workflow"):
            found = [seen.event.data async for seen in topics.timeline(about)]
            assert found == [source for source, ids in sources.items() if about in ids]


async def test_a_pattern_and_a_start_narrow_a_timeline() -> None:
    """Only the topics that match are read, from the first commit that brought an event of the time on."""
    clock = VirtualClock()
    async with open_topics("memory:", clock=clock) as topics:
        expected = await story(topics)
        assert await told(topics, "order-8", "shop.*") == [each for each in expected if each[0] != "payments"]
        assert await told(topics, "order-8", "bills") == []
        clock.advance(60)
        await (await topics.topic("payments")).publish("late", correlation="order-8")
        later = dt.datetime.fromtimestamp(clock.now() / 1e6 - 30, dt.UTC)
        assert await told(topics, "order-8", ">", later) == [("payments", 3)]
        assert await told(topics, "order-8", ">", "latest") == []


async def test_an_id_that_nobody_knows_has_an_empty_timeline_that_ends() -> None:
    """Also before there is any topic: it waits for nothing."""
    async with open_topics("memory:") as topics:
        assert await told(topics, "order-8") == []
        await story(topics)
        assert await told(topics, "order-7") == []


@pytest.mark.parametrize("bad", ["", None, 7, b"order-8"])
async def test_what_can_be_no_timeline_is_refused_at_the_call(bad: Any) -> None:
    """None is the correlation of most events, and surely not what was meant. A bad start is told with the first event."""
    async with open_topics("memory:") as topics:
        with pytest.raises(DefinitionError, match="a timeline is that of the id"):
            topics.timeline(bad)
        with pytest.raises(DefinitionError, match="can't be a pattern"):
            topics.timeline("order-8", "shop..orders")
        with pytest.raises(DefinitionError, match="events are read from"):
            await told(topics, "order-8", ">", "yesterday")


async def test_a_timeline_stops_at_a_damaged_event_and_can_pass_it(tmp_path: Path) -> None:
    """Nobody knows what its correlation was. A topic that does not match hurts nobody, and one may go on behind the damage."""
    path = tmp_path / "store.db"
    async with open_topics(f"sqlite:{path}") as topics:
        expected = await story(topics)
    hurt(path, event_key("payments", 2))  # one of another order
    async with open_topics(f"sqlite:{path}") as topics:
        timeline = topics.timeline("order-8")
        found = [await anext(timeline) for _ in range(3)]
        assert [(each.event.type, each.event.sequence) for each in found] == expected[:3]
        with pytest.raises(RowDamaged, match="the event at 2 of topic payments is damaged") as damaged:
            await anext(timeline)
        assert damaged.value.key == event_key("payments", 2)
        assert await told(topics, "order-8", "shop.*") == [expected[0], *expected[2:]]
        behind = Cursor(found[-1].revision + 1, "payments", 2)
        assert await told(topics, "order-8", ">", behind) == expected[3:]


async def test_payloads_of_others_are_not_looked_at() -> None:
    """A payload that cannot be decoded is told by the timeline to which its event belongs, and by no other."""
    async with open_topics("memory:") as topics:
        expected = await story(topics)
        batch = Batch()
        append_event(batch, "shop.orders", Record("odd", 1, b"\xc1", correlation="order-9"))
        await topics.store.commit(batch)
        assert await told(topics, "order-8") == expected
        with pytest.raises(PayloadError):
            await told(topics, "order-9")


async def test_a_timeline_says_that_events_were_deleted_while_it_was_read() -> None:
    """What retention had deleted before is no part of it; what it deletes under its hands is `Lagged`."""
    async with open_topics("memory:") as topics:
        await story(topics)
        await topics.topic("shop.orders", retention=Retention(count=1), change=True)
        await topics.sweep()
        assert (await told(topics, "order-8"))[-1] == ("shop.orders", 3)
        many = await topics.topic("shop.many")
        await many.publish_many(range(2_000))
        await many.publish("last", correlation="order-8")
        timeline = topics.timeline("order-8")
        await anext(timeline)
        await topics.topic("shop.many", retention=Retention(count=1), change=True)
        await topics.sweep()
        with pytest.raises(Lagged):
            _ = [each async for each in timeline]


class Counting:
    """Counts the rows of a reader that are looked at."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.count = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def scan(self, *args: Any, **options: Any) -> Any:
        found = self._reader.scan(*args, **options)
        self.count += len(found)
        return found

    def rows(self, *args: Any, **options: Any) -> Any:
        found = self._reader.rows(*args, **options)
        self.count += len(found)
        return found


@pytest.mark.parametrize("damaged", [False, True])
async def test_pages_of_many_topics_are_pieces_of_one_order(damaged: bool, tmp_path: Path) -> None:
    """Whatever their size, and however unevenly the topics grow; a page reads little more than it gives."""
    path, names = tmp_path / "store.db", [f"t.{index:02}" for index in range(20)]
    async with open_topics(f"sqlite:{path}") as topics:
        made = [await topics.topic(name) for name in names]
        for n in range(60):
            batch = Batch()
            for index, topic in enumerate(made):
                for _ in range(40 if index == n % 20 else (n * index) % 3):
                    append_event(batch, topic.name, topic.record(n))
            await topics.store.commit(batch)
    if damaged:
        hurt(path, *(event_key("t.03", offset) for offset in range(10, 60)), event_key("t.19", 1), event_key("t.07", 40))
    async with open_topics(f"sqlite:{path}") as topics:
        wanted = matcher("t.*")

        def look(reader: Reader, cursor: Cursor, limit: int) -> tuple[list[Found], int]:
            counted = Counting(reader)
            return found_after(counted, wanted, cursor, limit), counted.count

        whole, _ = await topics.store.read(lambda reader: look(reader, Cursor(), 1_000_000))
        assert len(whole) == sum([(await topics.stats(name)).newest for name in names])
        assert whole == sorted(whole, key=lambda found: (found.revision, found.topic, found.offset))
        for limit in (1, 7, 500):
            cursor, pieces = Cursor(), list[Found]()
            while limit > 1 or len(pieces) < 200:
                found, count = await topics.store.read(lambda reader: look(reader, cursor, limit))  # noqa: B023
                if not found:
                    break
                assert len(found) == min(limit, len(whole) - len(pieces))
                assert damaged or count <= 2 * limit + 20 * (16 + 12), "the rest of its commit, and a bisection, of each topic"
                pieces += found
                cursor = Cursor(found[-1].revision, found[-1].topic, found[-1].offset)
            assert pieces == whole[: len(pieces)]
