"""Durable topics without groups: declaring, publishing, reading, dedup, and events that ride in somebody else's batch."""

from __future__ import annotations

import asyncio
import datetime as dt
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest

from spellwork.errors import DefinitionError, PayloadError, RowDamaged, StoreClosed, TopicDiffers
from spellwork.events.durable import Cursor, Retention, Topics, append_event, open_topics
from spellwork.events.durable.keys import event_key, log_key, matcher, newest_key
from spellwork.events.durable.record import pack_record
from spellwork.store import Batch, open_store
from spellwork.testing import VirtualClock


class Order(msgspec.Struct):
    id: int
    text: str = ""


@pytest.fixture(params=["memory:", "sqlite"])
def url(request, tmp_path: Path) -> str:
    """Each kind of store."""
    return request.param if request.param == "memory:" else f"sqlite:{tmp_path / 'store.db'}"


async def data_of(events) -> list:
    return [event.data async for event in events]


async def test_events_come_back_as_they_were_published_in_the_order_of_their_offsets(url: str) -> None:
    """An event has its topic as type, its offset as sequence, and everything that the publisher said."""
    clock = VirtualClock()
    async with open_topics(url, clock=clock) as topics:
        orders = await topics.topic("orders.eu", type=Order)
        assert await orders.publish(Order(1), key="a", id="first", headers={"tries": 2}, correlation="c", causation="b") == 1
        assert await orders.publish_many([Order(2), Order(3)], key=lambda order: f"k{order.id}") == [2, 3]
        events = [event async for event in orders.read(follow=False)]
    first = events[0]
    assert (first.type, first.sequence, first.data, first.id, first.key) == ("orders.eu", 1, Order(1), "first", "a")
    assert (first.headers, first.correlation, first.causation, first.source) == ({"tries": 2}, "c", "b", "spellwork")
    assert first.at == clock.now()
    assert [(event.sequence, event.data.id, event.key) for event in events[1:]] == [(2, 2, "k2"), (3, 3, "k3")]
    assert len({event.id for event in events}) == 3


async def test_concurrent_publishes_share_a_sync_and_get_offsets_without_gaps(tmp_path: Path) -> None:
    """A thousand publishers at once need a handful of syncs; offsets tell the order in the log."""
    async with open_topics(f"sqlite:{tmp_path / 'store.db'}") as topics:
        topic = await topics.topic("numbers", type=int)
        before = topics.store.stats.syncs
        offsets = await asyncio.gather(*(topic.publish(n) for n in range(1000)))
        assert sorted(offsets) == list(range(1, 1001))
        assert topics.store.stats.syncs - before < 20
        assert await data_of(topic.read(follow=False)) == [n for _, n in sorted(zip(offsets, range(1000), strict=True))]


async def test_what_is_published_in_one_turn_is_one_commit_and_order_is_that_of_the_calls(url: str) -> None:
    """Also when there is more than a batch takes, and when a publisher is cancelled meanwhile."""
    async with open_topics(url) as topics:
        topic = await topics.topic("numbers", type=int)
        before = topics.store.stats.batches
        tasks = [asyncio.ensure_future(topic.publish(n)) for n in range(4500)]
        await asyncio.sleep(0)
        tasks[7].cancel()
        offsets = await asyncio.gather(*tasks, return_exceptions=True)
        assert [offset for offset in offsets if isinstance(offset, int)] == [n for n in range(1, 4501) if n != 8]
        assert topics.store.stats.batches - before == 3
        assert await data_of(topic.read(follow=False)) == list(range(4500))
        assert list(await asyncio.gather(topic.publish(1), topic.publish(2))) == [4501, 4502]


async def test_publishing_to_a_closed_store_fails_each_time(tmp_path: Path) -> None:
    """Nobody waits for ever for an offset."""
    async with open_topics(f"sqlite:{tmp_path / 'store.db'}") as topics:
        topic = await topics.topic("numbers", type=int)
    for _ in range(3):
        failed = await asyncio.wait_for(asyncio.gather(topic.publish(1), topic.publish(2), return_exceptions=True), 5)
        assert [type(error) for error in failed] == [StoreClosed, StoreClosed]


async def test_a_topic_is_declared_once_and_changed_only_on_purpose(url: str) -> None:
    """Other options are refused by name, what is not given stays, and `change` changes."""
    async with open_topics(url) as topics:
        declared = await topics.topic("orders", partitions=4, retention=Retention(count=10), dedup=60)
        assert (await topics.topic("orders")).options == declared.options
        with pytest.raises(TopicDiffers, match=r"declared with partitions=4, .*not with partitions=5") as refused:
            await topics.topic("orders", partitions=5)
        assert refused.value.topic == "orders"
        changed = await topics.topic("orders", retention=Retention(age=dt.timedelta(days=1)), change=True)
        assert changed.options.retention == Retention(age=86400.0)
        assert (changed.options.partitions, changed.options.dedup) == (4, 60_000_000)


@pytest.mark.parametrize(
    "options",
    [{"partitions": 0}, {"partitions": True}, {"partitions": 2000}, {"dedup": -1}, {"dedup": float("nan")}, {"dedup": 1e30}],
)
async def test_options_that_mean_nothing_are_refused(options) -> None:
    """Numbers out of range never reach the store."""
    async with open_topics("memory:") as topics:
        with pytest.raises(DefinitionError):
            await topics.topic("orders", **options)
        assert await topics.names() == []


@pytest.mark.parametrize("name", ["", "a..b", "a.*", ">", "a b", "x" * 201, "\0", "a\nb", 7, "\ud800"])
async def test_names_that_cannot_be_topics_are_refused(name) -> None:
    """Patterns, empty tokens, white space, control characters, and what is too long for a key."""
    async with open_topics("memory:") as topics:
        with pytest.raises(DefinitionError):
            await topics.topic(name)


@pytest.mark.parametrize("limits", [{"count": 0}, {"bytes": -1}, {"age": -1.0}, {"count": True}])
def test_retention_needs_positive_limits(limits) -> None:
    """A limit of nothing would delete everything."""
    with pytest.raises(DefinitionError):
        Retention(**limits)


async def test_bad_attributes_and_payloads_write_nothing(url: str) -> None:
    """What cannot be stored is refused where it is published."""
    async with open_topics(url) as topics:
        topic = await topics.topic("orders", type=int)
        for bad in ({"key": ""}, {"id": 7}, {"headers": {"Bad": 1}}, {"priority": 1 << 40}):
            with pytest.raises(PayloadError):
                await topic.publish(1, **bad)
        with pytest.raises(PayloadError):
            await topic.publish(object())
        with pytest.raises(TypeError):
            await topic.publish(1, colour="red")
        assert await data_of(topic.read(follow=False)) == []


async def test_a_log_of_an_earlier_build_goes_on(tmp_path: Path) -> None:
    """Its newest offset lay in front of the log, and only a note told of news; damaged or not, no offset is given twice."""
    for damaged in (False, True):
        path = tmp_path / f"{damaged}.db"
        async with open_topics(f"sqlite:{path}") as topics:
            batch = Batch()
            for name in ("plain", "once", "deleted"):
                topic = await topics.topic(name, type=int, dedup=60 if name == "once" else 0)
                for number in (1, 2):
                    batch.append(log_key(name), pack_record(topic.record(number)))
                batch.put(newest_key(name), b"")
            await topics.store.commit(batch)
        if damaged:
            connection = apsw.Connection(str(path))
            connection.execute("UPDATE kv SET v = x'00' WHERE k = ?", (log_key("plain"),))
            connection.close()
        async with open_topics(f"sqlite:{path}") as topics:
            once, plain = await topics.topic("once", type=int), await topics.topic("plain", type=int)
            assert (await topics.stats("plain")).newest == 2
            assert [await once.publish(n, id=f"o-{n}") for n in (3, 3, 4)] == [3, 3, 4]
            assert await plain.publish(3) == 3
            assert await plain.publish_many([4, 5]) == [4, 5]
            assert [(each.sequence, each.data) async for each in plain.read(follow=False)] == [(n, n) for n in range(1, 6)]
            assert await topics.delete("deleted") == 2
            assert await (await topics.topic("deleted", type=int)).publish(3) == 3


async def test_an_id_comes_in_once_within_its_window(url: str) -> None:
    """A duplicate gets the first one's offset, also among its own batch, and is new again when the window is over."""
    clock = VirtualClock()
    async with open_topics(url, clock=clock) as topics:
        topic = await topics.topic("orders", type=str, dedup=60)
        assert await topic.publish("one", id="a") == 1
        assert await asyncio.gather(*(topic.publish("again", id="a") for _ in range(3))) == [1, 1, 1]
        assert await topic.publish_many(["b", "a", "b", "c"], id=str) == [2, 1, 2, 3]
        long = "x" * 500
        assert [await topic.publish(long, id=long), await topic.publish(long, id=long)] == [4, 4]
        clock.advance(59)
        assert await topic.publish("still", id="a") == 1
        clock.advance(2)
        assert await topic.publish("new", id="a") == 5
        assert await data_of(topic.read(follow=False)) == ["one", "b", "c", long, "new"]


async def test_concurrent_publishers_of_one_id_bring_in_one_event(tmp_path: Path) -> None:
    """What is a duplicate is decided in the committer, so no race lets two in, in one process or in two."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    async with open_topics(url) as one, open_topics(url) as two:
        first, second = [await topics.topic("orders", type=int, dedup=60) for topics in (one, two)]
        offsets = await asyncio.gather(*(topic.publish(n, id=f"id-{n % 10}") for n in range(50) for topic in (first, second)))
        assert sorted(set(offsets)) == list(range(1, 11))
        assert len(await data_of(second.read(follow=False))) == 10


async def test_reading_starts_where_it_is_told(url: str) -> None:
    """At the earliest, behind the latest, at an offset, or at a time."""
    clock = VirtualClock()
    async with open_topics(url, clock=clock) as topics:
        topic = await topics.topic("numbers", type=int)
        began = clock.now()
        for n in range(1, 11):
            await topic.publish(n)
            clock.advance(10)
        at = dt.datetime.fromtimestamp(began / 1e6 + 35, dt.UTC)
        assert await data_of(topic.read("earliest", follow=False)) == list(range(1, 11))
        assert await data_of(topic.read(8, follow=False)) == [8, 9, 10]
        assert await data_of(topic.read(at, follow=False)) == [5, 6, 7, 8, 9, 10]
        assert await data_of(topic.read(at.replace(tzinfo=None), follow=False)) == [5, 6, 7, 8, 9, 10]
        assert await data_of(topic.read("latest", follow=False)) == []
        assert await data_of(topic.read(11, follow=False)) == []
        wrong: tuple[Any, ...] = (0, -1, True, "newest", None)
        for bad in wrong:
            with pytest.raises(DefinitionError):
                await data_of(topic.read(bad, follow=False))


async def test_a_reader_that_follows_gets_what_another_store_of_the_file_commits(tmp_path: Path) -> None:
    """A publish wakes a reader elsewhere in less than 100 ms."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    async with open_topics(url) as here, open_topics(url) as there:
        reading, writing = [await topics.topic("numbers", type=float) for topics in (here, there)]
        loop = asyncio.get_running_loop()
        events = reading.read("latest")
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0.02)
        delays = []
        for _ in range(5):
            await writing.publish(loop.time())
            delays.append(loop.time() - (await asyncio.wait_for(waiting, 5)).data)
            waiting = asyncio.ensure_future(anext(events))
        waiting.cancel()
        await asyncio.wait([waiting])
        assert min(delays) < 0.1


async def test_events_ride_in_a_batch_of_somebody_else_without_a_declaration(url: str) -> None:
    """`append_event` needs the name alone; the event is there if and only if the rest of the batch is."""
    store = open_store(url)
    topics = Topics(store)
    source = await topics.topic("known", type=int)
    batch = Batch().put(b"\x41mine", b"1").require_absent(b"\x41mine")
    append_event(batch, "never.declared", source.record(1))
    append_event(batch, "known", source.record(2))
    append_event(batch, "never.declared", source.record(3))
    await store.commit(batch)
    assert batch.sequences == [1, 1, 2]
    assert await topics.names() == ["known", "never.declared"]
    again = Batch().require_absent(b"\x41mine")
    append_event(again, "known", source.record(4))
    with pytest.raises(Exception, match="exists already"):
        await store.commit(again)
    undeclared = await topics.topic("never.declared", type=int, partitions=3)
    assert undeclared.options.partitions == 3
    assert await data_of(undeclared.read(follow=False)) == [1, 3]
    assert await data_of(source.read(follow=False)) == [2]
    await store.close()


async def test_patterns_give_the_events_of_all_topics_in_the_order_of_their_commits(url: str) -> None:
    """From any event's cursor exactly the later ones follow, though several topics share a commit."""
    async with open_topics(url) as topics:
        names = ["a.x", "a.y", "a.z.deep", "b.x"]
        made = {name: await topics.topic(name, type=int) for name in names}
        expected = []
        for n in range(40):
            batch = Batch()
            for name in sorted({names[n % 3], names[(n * 7) % 4], names[n % 2]}):
                append_event(batch, name, made[name].record(n))
                if n % 5 == 0:
                    append_event(batch, name, made[name].record(-n))
                expected += [(name, n), (name, -n)] if n % 5 == 0 else [(name, n)]
            await topics.store.commit(batch)
        seen = [each async for each in topics.read("*.>", follow=False)]
        assert [(each.event.type, each.event.data) for each in seen] == expected
        assert [each.revision for each in seen] == sorted(each.revision for each in seen)
        for index, each in enumerate(seen):
            cursor = Cursor.of(bytes(each.cursor))
            later = [other async for other in topics.read("*.>", cursor, follow=False)]
            assert later == seen[index + 1 :]
        assert [e.event.type async for e in topics.read("a.*", follow=False)] == [n for n, _ in expected if n in ("a.x", "a.y")]


async def test_a_pattern_follows_topics_that_appear_later(tmp_path: Path) -> None:
    """At the latest it begins behind everything, and new topics of another process are included."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    async with open_topics(url) as here, open_topics(url) as there:
        await (await there.topic("a.old")).publish("old")
        events = here.read("a.>", "latest")
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0.02)
        await (await there.topic("b.other")).publish("other")
        await (await there.topic("a.new.one")).publish("new")
        seen = await asyncio.wait_for(waiting, 5)
        assert (seen.event.type, seen.event.data) == ("a.new.one", "new")


@pytest.mark.parametrize(
    ("pattern", "name", "wanted"),
    [
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        (">", "a.b", True),
        ("a.>", "a", False),
        ("*.b", "a.b", True),
        ("a", "a", True),
    ],
)
def test_patterns_are_the_buses(pattern: str, name: str, wanted: bool) -> None:
    """`*` is one token, `>` the rest."""
    assert matcher(pattern)(name) is wanted


async def test_a_damaged_event_is_named_and_can_be_passed(tmp_path: Path) -> None:
    """The reader is told which one, and may go on behind it."""
    import apsw

    path = tmp_path / "store.db"
    async with open_topics(f"sqlite:{path}") as topics:
        topic = await topics.topic("numbers", type=int)
        await topic.publish_many(range(1, 6))
    connection = apsw.Connection(str(path))
    connection.execute("UPDATE kv SET v = x'00' WHERE k = ?", (event_key("numbers", 3),))
    connection.close()
    async with open_topics(f"sqlite:{path}") as topics:
        topic = await topics.topic("numbers", type=int)
        with pytest.raises(RowDamaged, match=r"event at 3 of topic numbers is damaged.*read on from 4"):
            await data_of(topic.read(follow=False))
        assert await data_of(topic.read(4, follow=False)) == [4, 5]


async def test_readers_learn_that_the_store_was_closed() -> None:
    """Nobody waits for ever for events that cannot come."""
    async with open_topics("memory:") as topics:
        topic = await topics.topic("numbers", type=int)
        waiting = asyncio.ensure_future(anext(topic.read()))
        await asyncio.sleep(0)
    with pytest.raises(StoreClosed):
        await asyncio.wait_for(waiting, 5)
