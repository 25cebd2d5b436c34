"""Groups: each event to one consumer until it is acknowledged, in the order of its key, whatever happens to consumers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from spellwork.errors import DefinitionError, DeliveryLost
from spellwork.events.durable import Topics, open_topics
from spellwork.events.durable.groups import read_group, read_progress
from spellwork.testing import VirtualClock


@pytest.fixture(params=["memory:", "sqlite"])
def url(request, tmp_path: Path) -> str:
    """Each kind of store."""
    return request.param if request.param == "memory:" else f"sqlite:{tmp_path / 'store.db'}"


async def take(consumer, count: int) -> list:
    return [await asyncio.wait_for(anext(consumer), 5) for _ in range(count)]


async def nothing_more(consumer, seconds: float = 0.05) -> None:
    waiting = asyncio.ensure_future(anext(consumer))
    done, _ = await asyncio.wait([waiting], timeout=seconds)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert not done, waiting.result()


async def floors(topics: Topics, topic: str, group: str) -> list[int]:
    def look(reader):
        row = read_group(reader, topic, group)
        return [lane.floor for lane in read_progress(reader, topic, group, row)] if row else []

    return await topics.store.read(look)


async def test_each_group_gets_every_event_and_goes_on_where_it_was(url: str) -> None:
    """What was acknowledged stays so, what was not comes again, and groups know nothing of each other."""
    async with open_topics(url) as topics:
        topic = await topics.topic("orders", type=int, partitions=2)
        await topic.publish_many(range(1, 11))
        async with topic.consume("mail") as consumer:
            first = await take(consumer, 6)
            for delivery in first:
                await delivery.ack()
        async with topic.consume("mail") as consumer:
            second = await take(consumer, 4)
            await asyncio.gather(*(delivery.ack() for delivery in second))
            await nothing_more(consumer)
        assert sorted(delivery.data for delivery in first + second) == list(range(1, 11))
        assert {delivery.attempt for delivery in first + second} == {1}
        async with topic.consume("bill") as consumer:
            assert sorted(delivery.data for delivery in await take(consumer, 10)) == list(range(1, 11))
        async with topic.consume("late", start="latest") as consumer:
            await topic.publish(11)
            assert [delivery.data for delivery in await take(consumer, 1)] == [11]
        assert await floors(topics, "orders", "mail") == [10, 10]


async def test_a_new_event_wakes_a_waiting_consumer(url: str) -> None:
    """No polling: a publish is handed out at once."""
    async with open_topics(url) as topics:
        topic = await topics.topic("orders", type=int)
        async with topic.consume("mail") as consumer:
            await nothing_more(consumer)
            for n in range(5):
                await topic.publish(n)
                (delivery,) = await take(consumer, 1)
                assert delivery.data == n
                await delivery.ack()


async def test_a_key_waits_for_its_event_and_others_do_not(url: str) -> None:
    """The next event of a key is handed out when the one before it is acknowledged, also when that failed before."""
    async with open_topics(url) as topics:
        topic = await topics.topic("orders", type=str)
        for text in ("a1", "a2", "b1", "a3", "b2"):
            await topic.publish(text, key=text[0])
        async with topic.consume("mail") as consumer:
            a1, b1 = await take(consumer, 2)
            assert (a1.data, b1.data) == ("a1", "b1")
            await nothing_more(consumer)
            await b1.ack()
            (b2,) = await take(consumer, 1)
            await a1.nack()
            (again,) = await take(consumer, 1)
            assert (b2.data, again.data, again.attempt, again.event.id) == ("b2", "a1", 2, a1.event.id)
            await again.ack()
            (a2,) = await take(consumer, 1)
            await a2.ack()
            assert [delivery.data for delivery in await take(consumer, 1)] == ["a3"]


async def test_what_is_not_acknowledged_in_time_comes_again_and_the_late_ack_is_refused() -> None:
    """The visibility timeout, on virtual time."""
    clock = VirtualClock()
    async with open_topics("memory:", clock=clock) as topics:
        topic = await topics.topic("orders", type=int)
        await topic.publish(7)
        async with topic.consume("mail", visibility=30, lease=1000) as consumer:
            (first,) = await take(consumer, 1)
            await asyncio.sleep(0.01)
            clock.advance(29)
            await nothing_more(consumer)
            clock.advance(2)
            (second,) = await take(consumer, 1)
            assert (second.data, second.attempt) == (7, 2)
            with pytest.raises(DeliveryLost, match="event at 1 of topic orders is no longer this consumer's") as lost:
                await first.ack()
            assert (lost.value.topic, lost.value.offset) == ("orders", 1)
            await second.ack()
            with pytest.raises(DeliveryLost):
                await second.ack()
            clock.advance(1000)
            await nothing_more(consumer)


async def test_a_delayed_event_waits_for_its_time_also_with_another_consumer(tmp_path: Path) -> None:
    """nack(delay=) is durable."""
    clock = VirtualClock()
    async with open_topics(f"sqlite:{tmp_path / 'store.db'}", clock=clock) as topics:
        topic = await topics.topic("orders", type=int)
        await topic.publish(7)
        async with topic.consume("mail", lease=10_000) as consumer:
            (first,) = await take(consumer, 1)
            await first.nack(delay=60)
        async with topic.consume("mail", lease=10_000) as consumer:
            clock.advance(59)
            await nothing_more(consumer)
            clock.advance(2)
            (second,) = await take(consumer, 1)
            assert second.attempt == 2


async def test_in_flight_is_bounded(url: str) -> None:
    """No more than so many events are fetched and not acknowledged; half of them free lets more come."""
    async with open_topics(url) as topics:
        topic = await topics.topic("orders", type=int, partitions=3)
        await topic.publish_many(range(100))
        async with topic.consume("mail", in_flight=10) as consumer:
            deliveries = await take(consumer, 10)
            await nothing_more(consumer)
            await asyncio.gather(*(delivery.ack() for delivery in deliveries[:5]))
            await take(consumer, 5)
            await nothing_more(consumer)


async def test_an_acknowledgement_is_durable_when_it_returns(tmp_path: Path) -> None:
    """The store has it at once, for each of them."""
    async with open_topics(f"sqlite:{tmp_path / 'store.db'}") as topics:
        topic = await topics.topic("orders", type=int)
        await topic.publish_many(range(20))
        async with topic.consume("mail") as consumer:
            for offset in range(1, 21):
                (delivery,) = await take(consumer, 1)
                await delivery.ack()
                assert await floors(topics, "orders", "mail") == [offset]


async def test_acks_side_by_side_share_a_commit(tmp_path: Path) -> None:
    """A hundred acknowledgements need a few syncs, and with `ack_within` one after the other as well."""
    async with open_topics(f"sqlite:{tmp_path / 'store.db'}") as topics:
        topic = await topics.topic("orders", type=int)
        await topic.publish_many(range(200))
        async with topic.consume("mail") as consumer:
            deliveries = await take(consumer, 100)
            before = topics.store.stats.syncs
            await asyncio.gather(*(delivery.ack() for delivery in deliveries))
            assert topics.store.stats.syncs - before <= 5
        async with topic.consume("mail", ack_within=5) as consumer:
            deliveries = await take(consumer, 100)
            before = topics.store.stats.syncs
            for delivery in deliveries[:40]:
                await delivery.ack()
            assert topics.store.stats.syncs - before <= 3
            assert (await floors(topics, "orders", "mail"))[0] < 200
            await consumer.flush()
            for delivery in deliveries[40:]:
                await delivery.ack()
        assert await floors(topics, "orders", "mail") == [200]


async def test_consumers_share_lanes_and_take_over_what_another_gives_back(tmp_path: Path) -> None:
    """A second consumer gets half of the lanes; each key stays in order; nothing is delivered to both."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    async with open_topics(url) as here, open_topics(url) as there:
        one, two = [await topics.topic("orders", type=int, partitions=4) for topics in (here, there)]
        got: dict[int, list[str]] = {}

        async def work(name: str, topic, count: int) -> None:
            async with topic.consume("mail", in_flight=5, lease=1) as consumer:
                async for delivery in consumer:
                    got.setdefault(delivery.data, []).append(name)
                    await delivery.ack()
                    if len(got) >= count:
                        return

        first = asyncio.ensure_future(work("one", one, 400))
        await one.publish_many(range(100), key=lambda n: f"k{n % 10}")
        second = asyncio.ensure_future(work("two", two, 400))
        for start in range(100, 400, 100):
            await asyncio.sleep(0.2)
            await one.publish_many(range(start, start + 100), key=lambda n: f"k{n % 10}")
        done, _ = await asyncio.wait([first, second], timeout=20, return_when=asyncio.FIRST_COMPLETED)
        assert done, (len(got), await floors(here, "orders", "mail"))
        for task in (first, second):
            task.cancel()
        await asyncio.wait([first, second])
        assert sorted(got) == list(range(400))
        workers = [names[0] for names in got.values()]
        assert {names[0] for n, names in got.items() if n >= 200} == {"one", "two"}, workers


async def asleep() -> None:
    """What a stopped process does about its lanes."""


async def test_a_consumer_that_slept_beyond_its_lease_can_acknowledge_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The zombie is fenced: its lanes are another's, and that one decides."""
    url, clock, other = f"sqlite:{tmp_path / 'store.db'}", VirtualClock(1), VirtualClock(2)
    async with open_topics(url, clock=clock) as here, open_topics(url, clock=other) as there:
        one, two = [await topics.topic("orders", type=int) for topics in (here, there)]
        await one.publish(7)
        async with one.consume("mail", lease=10, visibility=10_000) as sleeper:
            (first,) = await take(sleeper, 1)
            monkeypatch.setattr(sleeper, "_organise", asleep)
            async with two.consume("mail", lease=10) as consumer:
                await nothing_more(consumer)
                for _ in range(6):  # its clock goes, the sleeper's stands still
                    other.advance(4)
                    await asyncio.sleep(0.03)
                (second,) = await take(consumer, 1)
                assert second.data == 7
                with pytest.raises(DeliveryLost):
                    await first.ack()
                await second.ack()
                monkeypatch.undo()
                clock.advance(5)  # the sleeper wakes: it joins anew
                await nothing_more(sleeper)
        assert await floors(there, "orders", "mail") == [1]


async def test_what_was_out_with_two_consumers_that_died_goes_alone(tmp_path: Path) -> None:
    """An event that kills its consumer is counted, its neighbours are not; in the end it is a dead letter."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    done: list[int] = []
    lives = 0
    for lives in range(1, 10):
        async with open_topics(url) as topics:
            topic = await topics.topic("orders", type=int)
            if lives == 1:
                await topic.publish_many(range(1, 11))
            consumer = topic.consume("mail", max_attempts=3)
            await consumer.__aenter__()
            while len(done) < 9:
                delivery = await asyncio.wait_for(anext(consumer), 5)
                if delivery.data == 5:
                    break
                done.append(delivery.data)
                await delivery.ack()
            # as kill -9 would: no goodbye
            assert consumer._task is not None
            consumer._task.cancel()
            await asyncio.wait([consumer._task])
            consumer._membership.close()
        if len(done) == 9:
            break
    assert sorted(done) == [1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert lives == 6  # two that tell nothing, three attempts, and one that gives it up
    async with open_topics(url) as topics:
        (letter,) = await topics.dead_letters("orders", "mail")
        assert letter.event is not None
        assert (letter.event.data, letter.attempts) == (5, 3)
        assert "ended 3 times while it had the event" in letter.reason


async def test_leaving_counts_as_a_failure_only_when_an_error_leaves(url: str) -> None:
    """A shutdown costs no attempt; an error does, of the events that were being handled, and the last one gives them up."""
    async with open_topics(url) as topics:
        topic = await topics.topic("orders", type=int)
        await topic.publish_many([1, 2, 3])
        for _ in range(3):
            async with topic.consume("mail", max_attempts=2) as consumer:
                assert [delivery.attempt for delivery in await take(consumer, 2)] == [1, 1]

        async def breaks(attempt: int) -> None:
            async with topic.consume("mail", max_attempts=2) as consumer:
                (delivery,) = await take(consumer, 1)
                assert (delivery.data, delivery.attempt) == (1, attempt)
                raise ValueError("no stamps")

        for attempt in (1, 2):
            with pytest.raises(ValueError, match="stamps"):
                await breaks(attempt)
        (letter,) = await topics.dead_letters("orders", "mail")
        assert (letter.offset, letter.attempts, letter.reason) == (1, 2, "its consumer ended with ValueError('no stamps')")
        async with topic.consume("mail", max_attempts=2) as consumer:
            assert [(delivery.data, delivery.attempt) for delivery in await take(consumer, 2)] == [(2, 1), (3, 1)]


@pytest.mark.parametrize(
    "options", [{"in_flight": 0}, {"max_attempts": 0}, {"visibility": 0}, {"lease": -1}, {"start": 3}, {"ack_within": float("nan")}]
)
async def test_options_that_mean_nothing_are_refused(options) -> None:
    """Where the consumer is made, before anything is written."""
    async with open_topics("memory:") as topics:
        topic = await topics.topic("orders")
        with pytest.raises(DefinitionError):
            topic.consume("mail", **options)
        with pytest.raises(DefinitionError):
            topic.consume("a group")
