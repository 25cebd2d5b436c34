"""What an attacker found in groups, sweeping and dead letters: each test is a fault that once was there."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from pathlib import Path
from typing import Any

import apsw
import pytest

from spellwork.engine.fsck import check
from spellwork.errors import DefinitionError, Lagged, PayloadError, RowDamaged, StoreClosed, StoreCorrupt, TopicNotFound, UsageError
from spellwork.events.durable import Cursor, Retention, Topics, open_topics
from spellwork.events.durable.keys import Spaces, event_key, newest_key, row_key, rows_of, space_range
from spellwork.events.durable.lane import Entry, Lane
from spellwork.events.durable.record import Record
from spellwork.events.durable.rows import Pending, Progress
from spellwork.store import Batch
from spellwork.testing import VirtualClock


@pytest.fixture(params=["memory:", "sqlite"])
def url(request, tmp_path: Path) -> str:
    """Each kind of store."""
    return request.param if request.param == "memory:" else f"sqlite:{tmp_path / 'store.db'}"


async def take(consumer, count: int) -> list:
    return [await asyncio.wait_for(anext(consumer), 5) for _ in range(count)]


def damage(path: Path, key: bytes) -> None:
    connection = apsw.Connection(str(path))
    connection.execute("UPDATE kv SET v = x'00' WHERE k = ?", (key,))
    assert connection.changes() == 1
    connection.close()


# Groups


async def test_flush_waits_for_what_is_just_being_written(monkeypatch) -> None:
    """An acknowledgement whose batch is under way is not durable yet."""
    async with open_topics("memory:") as topics:
        topic = await topics.topic("orders", type=int)
        await topic.publish(1)
        async with topic.consume("mail", ack_within=0.001) as consumer:
            (delivery,) = await take(consumer, 1)
            commit, begun, go = topics.store.commit, asyncio.Event(), asyncio.Event()

            async def slow(batch):
                begun.set()
                await go.wait()
                return await commit(batch)

            monkeypatch.setattr(topics.store, "commit", slow)
            await delivery.ack()
            await asyncio.wait_for(begun.wait(), 5)
            flushed = asyncio.ensure_future(consumer.flush())
            await asyncio.sleep(0.01)
            assert not flushed.done()
            go.set()
            await asyncio.wait_for(flushed, 5)
            (group,) = (await topics.stats("orders")).groups
            assert group.lag == 0


async def test_a_key_that_waits_long_does_not_hold_up_the_others(url: str) -> None:
    """Though there are more events of it than the consumer may have in flight."""
    async with open_topics(url) as topics:
        topic = await topics.topic("orders", type=int)
        await topic.publish_many(range(700), key=lambda _: "hot")
        await topic.publish_many([100, 101, 102])
        async with topic.consume("mail", in_flight=10) as consumer:
            (first,) = await take(consumer, 1)
            assert first.data == 0
            await first.nack(delay=3600)
            others = await take(consumer, 3)
            assert [delivery.data for delivery in others] == [100, 101, 102]
            for delivery in others:
                await delivery.ack()


async def test_an_error_that_cannot_be_shown_still_gives_back_the_events() -> None:
    """The reason is text that can be stored, whatever the error says of itself."""

    class Odd(Exception):
        def __repr__(self) -> str:
            return "\ud800"

    class Worse(Exception):
        def __repr__(self) -> str:
            raise RuntimeError

    async with open_topics("memory:") as topics:
        topic = await topics.topic("orders", type=int)
        await topic.publish(1)
        for attempt, kind in enumerate((Odd, Worse), 1):
            with pytest.raises(kind):  # noqa: PT012 - the block is what raises
                async with topic.consume("mail", max_attempts=5) as consumer:
                    (delivery,) = await take(consumer, 1)
                    assert delivery.attempt == attempt
                    raise kind
        (group,) = (await topics.stats("orders")).groups
        assert (group.out, group.consumers) == (0, 0)
        async with topic.consume("mail") as consumer:
            assert (await take(consumer, 1))[0].attempt == 3


async def test_a_consumer_is_entered_once() -> None:
    """One that was left would end at once, and one that was not entered has nothing: both are told."""
    async with open_topics("memory:") as topics:
        topic = await topics.topic("orders", type=int)
        await topic.publish(1)
        consumer = topic.consume("mail")
        with pytest.raises(UsageError, match="async with"):
            await anext(consumer)
        with pytest.raises(UsageError, match="async with"):
            await consumer.flush()
        async with consumer:
            with pytest.raises(UsageError, match="entered once"):
                await consumer.__aenter__()
            assert (await take(consumer, 1))[0].data == 1
        with pytest.raises(UsageError, match="entered once"):
            await consumer.__aenter__()


def test_a_suspect_that_was_withdrawn_is_no_reason_to_hold_others_back() -> None:
    """What was queued twice is looked at once."""
    progress = Progress(1, [Pending(1, attempts=2, out=True, losses=1)])
    lane = Lane.restored(0, progress, lambda offset: Entry(offset, Record("id", 0, b"")))
    assert lane.suspicious
    lane.withdraw()
    entry = lane.next(0)
    assert entry is not None
    lane.finish(entry)
    assert not lane.suspicious


async def test_a_replayed_letter_among_very_many_is_delivered_once(monkeypatch) -> None:
    """Also when its lane changes hands while more letters are replayed than are read at once."""
    monkeypatch.setattr("spellwork.events.durable.groups._REVIVED_AT_ONCE", 3)
    async with open_topics("memory:") as topics:
        topic = await topics.topic("orders", type=int)
        await topic.publish_many(range(1, 7))
        async with topic.consume("mail", max_attempts=1) as consumer:
            for delivery in await take(consumer, 6):
                await delivery.nack()
        for offset in (4, 5, 6):
            await topics.replay("orders", "mail", offset)
        with pytest.raises(RuntimeError):  # noqa: PT012 - the block is what raises
            async with topic.consume("mail") as consumer:
                await take(consumer, 3)
                for offset in (1, 2, 3):
                    await topics.replay("orders", "mail", offset)
                raise RuntimeError
        seen = []
        for _ in range(2):
            async with topic.consume("mail", lease=0.05) as consumer:
                try:
                    while True:
                        delivery = await asyncio.wait_for(anext(consumer), 0.3)
                        seen.append(delivery.data)
                        await delivery.ack()
                except TimeoutError:
                    pass
        assert sorted(seen) == [1, 2, 3, 4, 5, 6]


async def test_a_group_of_machines_that_are_gone_can_be_dropped(monkeypatch) -> None:
    """Nobody here can ask for their processes; that they show no life for their lease tells it."""
    clock = VirtualClock()
    async with open_topics("memory:", clock=clock) as topics:
        topic = await topics.topic("orders", type=int)
        await topic.publish(1)
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr("spellwork.events.durable.membership.machine_identity", lambda: "another machine")
            consumer = topic.consume("mail", lease=10)
            await consumer.__aenter__()
            task = consumer._task
            assert task is not None
            task.cancel()
            await asyncio.wait([task])
        dropping = asyncio.ensure_future(topics.drop_group("orders", "mail"))
        for _ in range(30):
            await asyncio.sleep(0.005)
            clock.advance(1)
        await asyncio.wait_for(dropping, 5)
        assert (await topics.stats("orders")).groups == []


# Publishing


@pytest.mark.parametrize("bad", [{"key": "\ud800"}, {"id": "\ud800"}, {"subject": "\ud800"}, {"source": "\ud800"}])
async def test_what_is_no_text_is_refused(url: str, bad: dict) -> None:
    """A lone surrogate can be stored nowhere; the events beside it go on."""
    async with open_topics(url) as topics:
        topic = await topics.topic("orders", type=int)
        outcomes = await asyncio.gather(topic.publish(1), topic.publish(2, **bad), topic.publish(3), return_exceptions=True)
        assert (outcomes[0], outcomes[2]) == (1, 2)
        assert isinstance(outcomes[1], PayloadError), outcomes[1]
        with pytest.raises(PayloadError):
            await topic.publish(4, **bad)
        assert await topic.publish(5) == 3


async def test_publishing_many_again_costs_two_looks_not_one_for_each(monkeypatch) -> None:
    """A publisher that does not know whether its events were added asks for all of them at once."""
    async with open_topics("memory:") as topics:
        topic = await topics.topic("orders", type=int, dedup=60)
        first = await topic.publish_many(range(500), id=str)
        commits, commit = 0, topics.store.commit

        async def counted(batch):
            nonlocal commits
            commits += 1
            return await commit(batch)

        monkeypatch.setattr(topics.store, "commit", counted)
        assert await topic.publish_many(range(501), id=str) == [*first, 501]
        assert commits <= 2


# Sweeping


async def test_retention_by_bytes_deletes_no_more_than_it_must(url: str) -> None:
    """However the events lie in the pages in which they are counted, and however a group delayed it."""
    async with open_topics(url, sweep_every=None) as topics:
        topic = await topics.topic("texts", type=str, retention=Retention(bytes=20_000))
        for count in (500, 50, 450, 1000, 7):
            await topic.publish_many(["x" * 100] * count)
            await topics.sweep()
            rows = [each for each in await topics.store.scan(*space_range(Spaces.LOG)) if len(each[0]) > len(b"1texts\0")]
            kept = sum(len(key) + len(data) for key, data in rows)
            one = len(rows[-1][0]) + len(rows[-1][1])
            assert 20_000 - one < kept <= 20_000, (count, kept)


async def test_much_is_trimmed_in_steps(url: str, monkeypatch) -> None:
    """One commit that deletes a million events would make every writer wait."""
    async with open_topics(url, sweep_every=None) as topics:
        topic = await topics.topic("numbers", type=int, retention=Retention(count=10), compact=True)
        await topic.publish_many(range(12_000), key=lambda n: f"k{n % 7}")
        ranges, commit = [], topics.store.commit

        async def noted(batch):
            ranges.extend(batch.ranges)
            return await commit(batch)

        monkeypatch.setattr(topics.store, "commit", noted)
        assert (await topics.sweep()).trimmed == 11_990
        assert len(ranges) > 2
        stats = await topics.stats("numbers")
        assert (stats.trimmed, [event.data async for event in topic.read(follow=False)]) == (11_990, list(range(11_993, 12_000)))


async def test_a_topic_that_cannot_be_swept_does_not_keep_the_others_from_it(tmp_path: Path) -> None:
    """The damage is told after all the others were swept."""
    path = tmp_path / "store.db"
    async with open_topics(f"sqlite:{path}", sweep_every=None) as topics:
        for name in ("a", "b", "c"):
            await (await topics.topic(name, retention=Retention(count=1))).publish_many([1, 2, 3])
        await topics.sweep()
        await (await topics.stored("b")).publish(4)
        await (await topics.stored("c")).publish(4)
    damage(path, row_key(Spaces.SWEPT, "a"))
    async with open_topics(f"sqlite:{path}", sweep_every=None) as topics:
        with pytest.raises(StoreCorrupt):
            await topics.sweep()
        assert [(await topics.stats(name)).trimmed for name in ("b", "c")] == [3, 3]


# Damage


async def test_a_damaged_note_of_news_ends_no_reader(tmp_path: Path) -> None:
    """The row says nothing but that there is something new; the topic and the others go on."""
    path = tmp_path / "store.db"
    async with open_topics(f"sqlite:{path}") as topics:
        await (await topics.topic("a")).publish(1)
        await (await topics.topic("b")).publish(1)
    damage(path, newest_key("a"))
    async with open_topics(f"sqlite:{path}") as topics:
        b = await topics.topic("b")
        async with b.consume("mail") as consumer:
            (delivery,) = await take(consumer, 1)
            await delivery.ack()
            await b.publish(2)
            (delivery,) = await take(consumer, 1)
            assert delivery.data == 2
            await delivery.ack()
            a = await topics.topic("a")
            events = a.read("latest")
            waiting = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0.02)
            await a.publish(2)
            assert (await asyncio.wait_for(waiting, 5)).data == 2


async def test_a_damaged_note_of_news_of_a_topic_without_events_keeps_nobody_from_reading_others(tmp_path: Path) -> None:
    """It is as new as how far it was trimmed says. Nobody can publish to it, but it can be deleted, and its offsets go on."""
    path = tmp_path / "store.db"
    async with open_topics(f"sqlite:{path}", clock=(clock := VirtualClock()), sweep_every=None) as topics:
        empty = await topics.topic("empty", type=int, retention=Retention(age=1))
        await empty.publish_many(range(3))
        clock.advance(10)
        assert (await topics.sweep()).trimmed == 3
        other = await topics.topic("other", type=int)
        await other.publish(7)
        damage(path, newest_key("empty"))
        assert [each.event.data async for each in topics.read(">", follow=False)] == [7]
        assert (await topics.stats("empty")).newest == 3
        with pytest.raises(RowDamaged):
            await empty.publish(4)
        await topics.delete("empty")
        assert await (await topics.topic("empty", type=int)).publish(4) == 4


async def test_a_damaged_letter_that_is_replayed_ends_no_consumer(tmp_path: Path) -> None:
    """It is a dead letter at once, as a damaged event is; the others are delivered."""
    path = tmp_path / "store.db"
    async with open_topics(f"sqlite:{path}") as topics:
        topic = await topics.topic("orders", type=int)
        await topic.publish_many([1, 2, 3])
        async with topic.consume("mail", max_attempts=1) as consumer:
            for delivery in await take(consumer, 3):
                await delivery.nack()
        await topics.replay("orders", "mail")
    damage(path, row_key(Spaces.REVIVED, "orders", "mail", 2))
    async with open_topics(f"sqlite:{path}") as topics:
        topic = await topics.topic("orders", type=int)
        async with topic.consume("mail") as consumer:
            got = await take(consumer, 2)
            assert [delivery.data for delivery in got] == [1, 3]
            for delivery in got:
                await delivery.ack()
        (letter,) = await topics.dead_letters("orders", "mail")
        assert (letter.offset, letter.event, "damaged" in letter.reason) == (2, None, True)


async def test_a_damaged_dead_letter_is_listed_passed_over_and_dropped(tmp_path: Path) -> None:
    """It does not stand before the others."""
    path = tmp_path / "store.db"
    async with open_topics(f"sqlite:{path}") as topics:
        topic = await topics.topic("orders", type=int)
        await topic.publish_many([1, 2, 3])
        async with topic.consume("mail", max_attempts=1) as consumer:
            for delivery in await take(consumer, 3):
                await delivery.nack(reason="no")
    damage(path, row_key(Spaces.DEAD, "orders", "mail", 2))
    async with open_topics(f"sqlite:{path}") as topics:
        letters = await topics.dead_letters("orders", "mail")
        assert [(each.offset, each.reason == "no", each.event is None) for each in letters] == [
            (1, True, False),
            (2, False, True),
            (3, True, False),
        ]
        assert await topics.replay("orders", "mail") == 2
        assert [each.offset for each in await topics.dead_letters("orders", "mail")] == [2]
        assert await topics.drop("orders", "mail", 2) == 1
        assert await topics.dead_letters("orders", "mail") == []


# Patterns


async def follow(topics: Topics, cursor: Cursor) -> list:
    return [seen.event.data async for seen in topics.read("orders.*", cursor, follow=False)]


async def test_a_cursor_behind_which_retention_has_deleted_is_told(url: str) -> None:
    """A reader of a pattern is told as a reader of a topic is; one whose cursor is far enough is not."""
    async with open_topics(url, sweep_every=None) as topics:
        eu = await topics.topic("orders.eu", type=int, retention=Retention(count=1))
        us = await topics.topic("orders.us", type=int)
        await eu.publish(1)
        await us.publish(10)
        seen = [each async for each in topics.read("orders.*", follow=False)]
        assert [each.event.data for each in seen] == [1, 10]
        await eu.publish_many([2, 3, 4])
        behind = [each async for each in topics.read("orders.*", follow=False)][-1]
        await topics.sweep()
        for each in seen:
            with pytest.raises(Lagged, match=r"orders\.eu") as lagged:
                await follow(topics, each.cursor)
            assert lagged.value.missed >= 1
        assert await follow(topics, behind.cursor) == []
        assert await follow(topics, Cursor()) == [10, 4]


async def test_who_began_behind_what_is_gone_is_not_told(url: str, monkeypatch) -> None:
    """A reader from the earliest event, or from a time, has lost nothing of a topic that was trimmed before."""
    monkeypatch.setattr("spellwork.events.durable.subscription.PAGE", 2)
    async with open_topics(url, sweep_every=None) as topics:
        us = await topics.topic("orders.us", type=int)
        eu = await topics.topic("orders.eu", type=int, retention=Retention(count=1))
        for n in range(10):
            await us.publish(n)
        before = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
        for n in range(100, 110):
            await eu.publish(n)
        await topics.sweep()
        for start in ("earliest", before):
            assert [seen.event.data async for seen in topics.read("orders.*", start, follow=False)] == [*range(10), 109]
        reader = topics.read("orders.*")
        assert (await anext(reader)).event.data == 0
        await eu.publish(110)
        await topics.sweep()
        with pytest.raises(Lagged) as lagged:
            _ = [seen async for seen in reader]
        assert lagged.value.missed == 1


@pytest.mark.parametrize("_time", range(10))  # the sleeper may see that it is gone before it shows a sign of life
async def test_who_slept_while_its_group_was_begun_anew_is_no_part_of_that(tmp_path: Path, _time: int) -> None:
    """It would divide the events by the lanes that there were: those of a lane that it takes for another one's would be lost."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    async with open_topics(url, clock=(clock := VirtualClock(1))) as here, open_topics(url) as there:
        one = await here.topic("orders", type=int, partitions=3)
        sleeper = await one.consume("mail", lease=10).__aenter__()
        try:
            await there.store.commit(Batch().delete_range(*rows_of(Spaces.MEMBERS, "orders", "mail")))  # given up by another one
            await there.drop_group("orders", "mail")
            two = await there.topic("orders", type=int, partitions=2, change=True)
            async with two.consume("mail", lease=10) as consumer:
                clock.advance(5)  # the sleeper wakes
                with pytest.raises(TopicNotFound, match="was dropped"):
                    await asyncio.wait_for(anext(sleeper), 5)
                await two.publish_many(range(12))
                assert sorted(delivery.data for delivery in await take(consumer, 12)) == list(range(12))
            await there.drop_group("orders", "mail")
            for space in (Spaces.CLAIMS, Spaces.MEMBERS, Spaces.LANES):
                assert await there.store.scan(*rows_of(space, "orders")) == []
        finally:
            with contextlib.suppress(TopicNotFound):
                await sleeper.__aexit__(None, None, None)


async def until_damage(topics: Topics, behind: Cursor) -> tuple[list[int], bytes | None]:
    """What there is behind a cursor, up to the first damaged event, and the key of that."""
    found = []
    try:
        async for seen in topics.read("orders.*", behind, follow=False):
            found.append(seen.event.data)
    except RowDamaged as error:
        return found, error.key
    return found, None


async def test_a_damaged_event_right_behind_a_cursor_is_told(tmp_path: Path) -> None:
    """Not passed over: a reader that waits is always right behind the newest event. And it is told once, in its place."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    async with open_topics(url) as topics:
        us, eu = [await topics.topic(name, type=int) for name in ("orders.us", "orders.eu")]
        for n in range(1, 5):
            await us.publish(n)
            await eu.publish(-n)
        cursors = [seen.cursor async for seen in topics.read("orders.*", follow=False)]
    damage(tmp_path / "store.db", event_key("orders.us", 3))
    damage(tmp_path / "store.db", event_key("orders.eu", 4))
    async with open_topics(url) as topics:
        for behind, expected in ((Cursor(), [1, -1, 2, -2, -3]), (cursors[2], [-2, -3]), (cursors[3], [-3])):
            assert await until_damage(topics, behind) == (expected, event_key("orders.us", 3))
        passed = Cursor(cursors[4].revision, "orders.us", 3)
        assert await until_damage(topics, passed) == ([-3, 4], event_key("orders.eu", 4))


async def test_a_damaged_head_keeps_no_event_with_an_id_out(tmp_path: Path) -> None:
    """The log tells what it said, also where ids are remembered."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    async with open_topics(url) as topics:
        topic = await topics.topic("orders", type=int, dedup=60)
        assert [await topic.publish(n, id=f"o-{n}") for n in (1, 2)] == [1, 2]
    damage(tmp_path / "store.db", newest_key("orders"))
    async with open_topics(url) as topics:
        topic = await topics.topic("orders", type=int)
        assert [await topic.publish(n, id=f"o-{n}") for n in (3, 2, 3, 4)] == [3, 2, 3, 4]


@pytest.mark.parametrize(
    "limit", [{"count": 1e6}, {"bytes": 1e9}, {"count": 2.5}, {"count": 1 << 63}, {"count": "5"}, {"bytes": True}]
)
async def test_retention_takes_whole_numbers_alone(limit) -> None:
    """1e9 would be stored as what no reader takes for a number, and the topic would be damaged from then on."""
    with pytest.raises(DefinitionError, match="whole number"):
        Retention(**limit)


async def test_a_group_that_is_dropped_leaves_no_note(url: str) -> None:
    """Each look for news reads all notes: one for each group that ever was would make it slower for ever."""
    async with open_topics(url) as topics:
        topic = await topics.topic("orders", type=int)
        await topic.publish(1)
        for number in range(3):
            async with topic.consume(f"session-{number}"):
                pass
            await topics.drop_group("orders", f"session-{number}")
        assert [key for key, _ in await topics.store.scan(*space_range(Spaces.TOUCHED))] == [newest_key("orders")]


async def test_of_two_who_drop_a_group_one_has_done_it(url: str) -> None:
    """The other one hears that it is gone, and drops none that was begun meanwhile."""
    async with open_topics(url) as topics:
        topic = await topics.topic("orders", type=int)
        async with topic.consume("mail"):
            pass
        outcomes = await asyncio.gather(*(topics.drop_group("orders", "mail") for _ in range(3)), return_exceptions=True)
        assert [type(each) for each in outcomes].count(TopicNotFound) == 2
        assert outcomes.count(None) == 1


async def test_no_lane_speaks_of_a_letter_that_a_broken_drop_has_deleted(url: str, monkeypatch) -> None:
    """A group of many letters is dropped in steps; what is killed in between is a group with fewer letters."""
    monkeypatch.setattr("spellwork.events.durable.deletion._AT_ONCE", 3)
    async with open_topics(url) as topics:
        topic = await topics.topic("orders", type=int)
        await topic.publish_many(range(8))
        async with topic.consume("mail", max_attempts=1) as consumer:
            for delivery in await take(consumer, 8):
                await delivery.nack()
        await topics.replay("orders", "mail")
        async with topic.consume("mail") as consumer:
            await take(consumer, 8)
        commit, left = topics.store.commit, [1]

        async def dies(batch):
            if not left:
                raise StoreClosed("killed")
            left.pop()
            return await commit(batch)

        monkeypatch.setattr(topics.store, "commit", dies)
        with pytest.raises(StoreClosed):
            await topics.drop_group("orders", "mail")
        monkeypatch.setattr(topics.store, "commit", commit)
        assert (await topics.store.examine(check)).findings == []
        async with topic.consume("mail") as consumer:
            assert sorted(delivery.data for delivery in await take(consumer, 5)) == [3, 4, 5, 6, 7]


async def test_offsets_that_there_cannot_be_are_refused(url: str) -> None:
    """Not by an error of what packs them."""
    async with open_topics(url) as topics:
        topic = await topics.topic("orders", type=int)
        async with topic.consume("mail"):
            pass
        wrong: list[Any] = [-1, 1 << 64, "1"]
        for offset in wrong:
            for refused in (topics.replay("orders", "mail", offset), topics.dead_letters("orders", "mail", after=offset)):
                with pytest.raises(DefinitionError):
                    await refused
            for reader in (topic.read(offset, follow=False), topics.read(">", Cursor(1, "orders", offset), follow=False)):
                with pytest.raises(DefinitionError):
                    await anext(reader)
