"""Events of durable topics from inside workflows: published with the journal, waited for without a gap, starting runs once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from spellwork import Engine, Signal, activity, activity_context, continue_as_new, workflow
from spellwork.engine.dispatch import planned
from spellwork.engine.ownership import partition_of
from spellwork.engine.subscribers import Subscribers, subscribers
from spellwork.engine.triggers import Trigger
from spellwork.errors import DefinitionError, PayloadError, StoreFailed, StoreUnavailable, UsageError
from spellwork.events.durable import Retention, open_topics
from spellwork.events.durable.keys import event_key, newest_key
from spellwork.events.event import Event as Happened
from spellwork.events.pattern import matches
from spellwork.hosted import MachineType
from spellwork.journal.rows import Keys, cursor_key, subscription_key, trigger_key
from spellwork.machine import ChartBuilder
from spellwork.store import Batch, Reader, open_store
from spellwork.testing import TestEngine, check_laws
from spellwork.workflow.events import Event, publish
from tests.engine.test_fsck import hurt

go = Signal[int]("go")


@dataclass
class Order:
    id: int
    total: int = 0


async def seen(engine: Engine, pattern: str = ">") -> list[Happened[object]]:
    return [each.event async for each in engine.topics.read(pattern, follow=False)]


async def test_what_a_workflow_publishes_is_there_once_with_its_correlation() -> None:
    """Each event has the run as its correlation, an id of its own, and the attributes that were given."""

    @workflow
    async def places(count: int) -> None:
        for i in range(count):
            await publish("orders.placed", Order(i, 10), type=Order, key=f"k{i % 2}", headers={"shop": "a"})

    async with TestEngine(workflows=[places]) as engine:
        run = await engine.start(places, 5, id="p")
        await run.result()
        events = await seen(engine, "orders.*")
        assert [event.data for event in events] == [{"id": i, "total": 10} for i in range(5)]
        assert {event.correlation for event in events} == {"p"}
        assert len({event.id for event in events}) == 5
        assert {event.source for event in events} == {"workflow/places/p"}
        assert [event.key for event in events] == ["k0", "k1", "k0", "k1", "k0"]
        assert events[0].headers == {"shop": "a"}
        assert await check_laws(engine, "p") == 1


async def test_a_run_waits_for_events_and_misses_none(tmp_path: Path) -> None:
    """What is published between the subscription and the wait is received, in order, filtered, also over a restart."""
    subscribed, url = asyncio.Event(), f"sqlite:{tmp_path / 'store.db'}"

    @workflow
    async def collects() -> list[int]:
        orders = Event("orders.*", Order)
        await orders.subscribe()
        subscribed.set()
        await go.receive()
        big = await orders.receive(where=lambda event: event.data.total > 100)
        return [big.data.id, (await orders.receive()).data.id, (await orders.receive()).data.id]

    async with Engine(url, workflows=[collects]) as engine:
        before = await engine.topics.topic("orders.placed", type=Order)
        await before.publish(Order(0, 500))  # before the subscription: not for this run
        await engine.start(collects, id="c")
        await subscribed.wait()
        topic = await engine.topics.topic("orders.paid", type=Order)
        for order in (Order(1, 5), Order(2, 500), Order(3, 5)):
            await topic.publish(order)
    async with Engine(url, workflows=[collects]) as engine:
        run = await engine.get("c")
        await run.signal(go, 1)
        await asyncio.sleep(0.05)
        await (await engine.topics.topic("orders.placed", type=Order)).publish(Order(4, 5))
        assert await run.result(timeout=20) == [2, 3, 4]
        assert await check_laws(engine, "c") == 1
        assert not await engine.store.scan(b"\x41", b"\x42"), "an ended run is subscribed to nothing"


async def test_one_workflow_publishes_and_another_waits() -> None:
    """Two runs talk through a topic, on virtual time, with a timeout for what never comes."""

    @workflow
    async def answers() -> str:
        question = await Event[str]("questions", str).receive()
        await publish("answers", f"{question}!")
        return question.data

    @workflow
    async def asks() -> list[str | None]:
        answers = Event[str]("answers", str)
        await answers.subscribe()
        await publish("questions", "why")
        first = await answers.receive(timeout=60)
        second = await answers.receive(timeout=60)
        return [first.data if first else None, second.data if second else None]

    async with TestEngine(workflows=[answers, asks]) as engine:
        other = await engine.start(answers)
        await engine.settle()
        run = await engine.start(asks)
        got = await run.result()
        assert got[0] is not None
        assert "why" in got[0]
        assert got[1] is None
        assert await other.result() == "why"


async def test_a_chain_of_runs_keeps_its_subscription() -> None:
    """After continue_as_new what was published in between is received by the next run."""

    @workflow
    async def counts(total: int, left: int) -> int:
        event = await Event[int]("numbers", int).receive()
        if left == 1:
            return total + event.data
        return continue_as_new(total + event.data, left - 1)

    async with TestEngine(workflows=[counts]) as engine:
        run = await engine.start(counts, 0, 4, id="c")
        await engine.settle()
        topic = await engine.topics.topic("numbers", type=int)
        await asyncio.gather(*(topic.publish(2**i) for i in range(4)))
        assert await run.result() == 15


async def test_each_event_starts_one_run(tmp_path: Path) -> None:
    """A trigger starts one run for each event, goes on where it was after a restart, and passes over what does not fit."""
    url, handled = f"sqlite:{tmp_path / 'store.db'}", []

    @workflow
    async def handles(event: Happened[Order]) -> int:
        handled.append(event.data.id)
        return event.data.id

    triggers = [Trigger("orders.*", handles, Order)]
    async with Engine(url, triggers=triggers) as engine:
        topic = await engine.topics.topic("orders.placed", type=Order)
        for i in range(3):
            await topic.publish(Order(i))
        while len(handled) < 3:
            await asyncio.sleep(0.01)
    async with Engine(url) as engine:  # nobody is there to be started
        raw = await engine.topics.topic("orders.placed")
        await raw.publish("no order")
        await raw.publish({"id": 3, "total": 0}, id="three")
    async with Engine(url, triggers=triggers) as engine:
        while len(handled) < 4:
            await asyncio.sleep(0.01)
        runs = [info.id for info in await engine.list()]
        assert len(runs) == 4
        assert "handles:three" in runs
    assert sorted(handled) == [0, 1, 2, 3]


async def test_a_timeline_tells_what_came_of_a_run(tmp_path: Path) -> None:
    """What the run published, its next runs, its activities and what its events started."""

    @activity
    async def reserves() -> None:
        stock = await engine.topics.topic("stock.reserved")
        await stock.publish(1, correlation=activity_context().correlation)

    @workflow
    async def places(left: int) -> int:
        await publish("orders.placed", Order(left), type=Order)
        await reserves()
        return left if left == 1 else continue_as_new(left - 1)

    @workflow
    async def ships(event: Happened[Order]) -> None:
        await publish("parcels.sent", event.data.id)

    triggers = [Trigger("orders.placed", ships, Order)]
    async with Engine(f"sqlite:{tmp_path / 'store.db'}", workflows=[places], triggers=triggers) as engine:
        await engine.run(places, 2, id="order-7")
        while len(await seen(engine, "parcels.>")) < 2:
            await asyncio.sleep(0.01)
        timeline = [each.event async for each in engine.topics.timeline("order-7")]
        order = [event for event in timeline if event.type != "parcels.sent"]  # whose place depends on when the runs got there
        assert [event.type for event in order] == ["orders.placed", "stock.reserved"] * 2
        placed = {event.id: event.data["id"] for event in timeline if event.type == "orders.placed"}
        sent = {event.causation: event.data for event in timeline if event.type == "parcels.sent"}
        assert sent == placed
        assert len(timeline) == 6
        for event_id in placed:
            own = [each.event.type async for each in engine.topics.timeline(f"ships:{event_id}")]
            assert own == ["parcels.sent"], "of a run that was started for something else, its own part"


async def test_bad_events_are_refused_before_anything_is_written() -> None:
    """Topics, attributes and payloads that cannot be are refused at the call; outside a workflow the verb says so."""

    @workflow
    async def bad(kind: str) -> str:
        try:
            if kind == "topic":
                await publish("no such\ntopic", 1)
            elif kind == "payload":
                await publish("topic", object())
            elif kind == "header":
                await publish("topic", 1, headers={"Not This": "x"})
            else:
                Event("a..b")
        except (DefinitionError, PayloadError):
            return "refused"
        return "taken"

    async with TestEngine(workflows=[bad]) as engine:
        for kind in ("topic", "payload", "header", "pattern"):
            assert await (await engine.start(bad, kind)).result() == "refused"
        assert await seen(engine) == []
    with pytest.raises(UsageError):
        await publish("topic", 1)


@workflow
async def three() -> list[int]:
    numbers = Event[int]("numbers", int)
    return [(await numbers.receive()).data for _ in range(3)]


async def subscribed(engine: Engine, count: int = 1) -> list[bytes]:
    """The keys of the subscriptions, once there are so many."""
    while len(found := await engine.store.scan(b"\x41", b"\x42", damaged=b"")) < count:
        await asyncio.sleep(0.01)
    return [key for key, _ in found]


async def test_a_store_error_while_events_are_brought_loses_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be brought to a run is brought to it a second later, also when the look for news has failed."""
    async with Engine(f"sqlite:{tmp_path / 'store.db'}", workflows=[three]) as engine:
        run = await engine.start(three)
        await subscribed(engine)
        dispatch = engine._data._dispatch
        assert dispatch is not None
        real, failures = dispatch._bring_in, [StoreUnavailable("not for now")]

        async def post(message: Any, partition: Any) -> Any:
            if failures:
                raise failures.pop()
            return await real(message, partition)

        monkeypatch.setattr(dispatch, "_bring_in", post)
        topic = await engine.topics.topic("numbers", type=int)
        await topic.publish(0)
        while failures:
            await asyncio.sleep(0.01)
        engine.topics.watch.close(StoreUnavailable("not for now"))
        await topic.publish(1)
        await topic.publish(2)
        assert await run.result(timeout=10) == [0, 1, 2]


async def test_closing_loses_no_event_of_a_trigger(tmp_path: Path) -> None:
    """An engine that is closed in the middle of a backlog leaves the rest of it to the next one."""
    url, handled = f"sqlite:{tmp_path / 'store.db'}", set()

    @activity
    async def slow() -> None:
        await asyncio.sleep(60)

    @workflow
    async def handles(event: Happened[int]) -> None:
        handled.add(event.data)

    @workflow
    async def works() -> None:
        await slow()

    triggers = [Trigger("numbers", handles, int)]
    async with Engine(url, triggers=triggers):
        pass
    async with Engine(url) as engine:
        topic = await engine.topics.topic("numbers", type=int)
        for i in range(60):
            await topic.publish(i)
    async with Engine(url, triggers=triggers, workflows=[works], activities=[slow], grace=0.2) as engine:
        await engine.start(works)
        while not handled:
            await asyncio.sleep(0.001)
    async with Engine(url, triggers=triggers, workflows=[works], activities=[slow]) as engine:
        async with asyncio.timeout(20):
            while len(handled) < 60:
                await asyncio.sleep(0.01)
        assert len(await engine.list(workflow="handles")) == 60


async def test_a_damaged_subscription_stops_nobody_else(tmp_path: Path) -> None:
    """The events go to every run but the one whose subscription cannot be read."""
    path = tmp_path / "store.db"

    @workflow
    async def waits() -> int:
        return (await Event[int]("numbers", int).receive()).data

    async with Engine(f"sqlite:{path}", workflows=[waits], partitions=2) as engine:
        runs = {f"w{i}": await engine.start(waits, id=f"w{i}") for i in range(6)}
        key = (await subscribed(engine, 6))[0]
        hurt(path, key)
        del runs[key.rpartition(b"\0")[2].decode()]
        await (await engine.topics.topic("numbers", type=int)).publish(7)
        assert [await run.result(timeout=10) for run in runs.values()] == [7] * 5


async def test_whoever_subscribes_second_is_subscribed_too() -> None:
    """`subscribe` returns when the subscription is durable, also when another task had begun it, and was cancelled."""

    @workflow
    async def works() -> list[int]:
        first = asyncio.create_task(Event("numbers", int).subscribe())
        await asyncio.sleep(0)
        first.cancel()
        numbers = Event[int]("numbers", int)
        await numbers.subscribe()
        await publish("numbers", 1)
        found = await numbers.receive(timeout=60)
        return [] if found is None else [found.data]

    async with TestEngine(workflows=[works]) as engine:
        run = await engine.start(works)
        assert await run.result() == [1]
        assert await check_laws(engine, run.id) == 1


async def test_virtual_time_waits_for_events_on_their_way(tmp_path: Path) -> None:
    """No timeout of a second is reached while what is waited for has been published already."""

    @workflow
    async def answers(count: int) -> None:
        questions = Event[int]("questions", int)
        for _ in range(count):
            await publish("answers", (await questions.receive()).data)

    @workflow
    async def asks(count: int) -> int:
        answered, answers = 0, Event[int]("answers", int)
        await answers.subscribe()
        for i in range(count):
            await publish("questions", i)
            answered += await answers.receive(timeout=1) is not None
        return answered

    async with TestEngine(f"sqlite:{tmp_path / 'store.db'}", workflows=[answers, asks]) as engine:
        await engine.start(answers, 50)
        await engine.settle()
        assert await (await engine.start(asks, 50)).result() == 50


def test_a_trigger_starts_no_machine() -> None:
    """A machine takes no argument: it would be blocked at once, for each event anew."""
    chart = ChartBuilder("lamp").initial("off")
    chart.state("off")
    with pytest.raises(DefinitionError, match="takes a @workflow"):
        Trigger("a.*", MachineType(chart.build()))


def test_two_triggers_that_are_one_are_refused() -> None:
    """They would share their place, and one of them would never start anything."""

    @workflow
    async def handles(event: Happened[int]) -> None: ...

    with pytest.raises(DefinitionError, match="two triggers"):
        Engine(triggers=[Trigger("a.*", handles, int), Trigger("a.*", handles)])


@pytest.mark.parametrize("events_too", [False, True])
async def test_a_damaged_counter_of_a_topic_stops_nobody(tmp_path: Path, events_too: bool) -> None:
    """The rows that count a topic's events are worked out anew from its log: workflows publish there, others receive."""

    @workflow
    async def places(number: int) -> None:
        await publish("orders.placed", number)

    @workflow
    async def receives(count: int) -> list[int]:
        event = Event("orders.*", int)
        await event.subscribe()
        return [(await event.receive()).data for _ in range(count)]

    path = tmp_path / "store.db"
    async with Engine(f"sqlite:{path}", workflows=[places, receives]) as engine:
        for number in range(3):
            await engine.run(places, number)
    hurt(path, newest_key("orders.placed"), *([event_key("orders.placed", 3)] if events_too else ()))
    async with Engine(f"sqlite:{path}", workflows=[places, receives]) as engine:
        topic = await engine.topics.stored("orders.placed", type=int)
        waits = await engine.start(receives, 2)
        await subscribed(engine, 1)
        assert (await engine.topics.stats("orders.placed")).newest == 3
        await engine.run(places, 3)
        assert await topic.publish(4) == 5
        assert [event.sequence async for event in topic.read(4, follow=False)] == [4, 5]
        assert await waits.result(timeout=20) == [3, 4]


async def test_retention_waits_for_runs_that_wait_and_for_triggers(tmp_path: Path) -> None:
    """What comes while no engine runs is swept only when the runs and triggers have had it; unless the topic says otherwise."""
    url = f"sqlite:{tmp_path / 'store.db'}"

    @workflow
    async def collects(pattern: str, count: int) -> list[int]:
        event = Event(pattern, int)
        return [(await event.receive()).data for _ in range(count)]

    @workflow
    async def handles(event: Happened[int]) -> int:
        return event.data

    def engine() -> Engine:
        return Engine(url, workflows=[collects, handles], triggers=[Trigger("handled.*", handles, int)])

    names = ("waited.for", "handled.here", "lossy.one", "nobody.waits")
    async with engine() as first:
        for name in names:
            topic = await first.topics.topic(name, retention=Retention(count=1, beyond_groups=name == "lossy.one"))
            await topic.publish(0)
        await first.start(collects, "waited.*", 3, id="w")
        await first.start(collects, "lossy.*", 1, id="l")
        await subscribed(first, 2)
    async with open_topics(url, sweep_every=None) as topics:
        for name in names:
            await (await topics.stored(name)).publish_many([1, 2, 3])
        await topics.sweep()
        kept = {name: [event.data async for event in (await topics.stored(name)).read(follow=False)] for name in names}
        assert kept == {"waited.for": [1, 2, 3], "handled.here": [1, 2, 3], "lossy.one": [3], "nobody.waits": [3]}
    async with engine() as second:
        assert await (await second.get("w")).result(timeout=20) == [1, 2, 3]
        assert await (await second.get("l")).result(timeout=20) == [3]
        while len(runs := await second.list(workflow="handles", status="completed")) < 4:
            await asyncio.sleep(0.01)
        assert len(runs) == 4
        await second.topics.sweep()
        assert [event.data async for event in (await second.topics.stored("waited.for")).read(follow=False)] == [3]
        assert [event.data async for event in (await second.topics.stored("handled.here")).read(follow=False)] == [3]


async def test_a_run_whose_partition_nobody_owns_holds_up_no_other(tmp_path: Path) -> None:
    """What one trigger starts waits for an owner; other triggers and the runs that wait get their events meanwhile."""

    @workflow
    async def handles(event: Happened[int]) -> int:
        return event.data

    @workflow
    async def tends(event: Happened[int]) -> int:
        return event.data

    @workflow
    async def waits() -> int:
        return (await Event("b.*", int).receive()).data

    def placed(prefix: str, partition: int) -> str:
        return next(name for n in range(100) if partition_of(prefix + (name := f"e{n}"), 2) == partition)

    async with Engine(
        f"sqlite:{tmp_path / 'store.db'}", workflows=[handles, tends, waits], partitions=2, max_partitions=1,
        triggers=[Trigger("a.*", handles, int), Trigger("b.*", tends, int)],
    ) as engine:  # fmt: skip
        (mine,) = engine._host.partitions
        assert mine == 0  # the owner of the first partition pulls the triggers
        await engine.start(waits, id=placed("", 0))
        await subscribed(engine)
        await (await engine.topics.topic("a.x", type=int)).publish(1, id=placed("handles:", 1))
        await asyncio.sleep(0.2)
        event_id = placed("tends:", 0)
        await (await engine.topics.topic("b.x", type=int)).publish(2, id=event_id)
        assert await (await engine.get(placed("", 0))).result(timeout=20) == 2
        while not await engine.list(workflow="tends", status="completed"):
            await asyncio.sleep(0.01)
        assert not await engine.list(workflow="handles")


async def test_a_damaged_cursor_brings_events_once_more_but_to_each_run_once(tmp_path: Path) -> None:
    """Where the runs of a partition are cannot be read: they are brought all since their subscription."""
    path = tmp_path / "store.db"

    @workflow
    async def collects() -> list[int]:
        event = Event("numbers.*", int)
        return [(await event.receive()).data for _ in range(4)]

    async with Engine(f"sqlite:{path}", workflows=[collects], partitions=1) as engine:
        await engine.start(collects, id="c")
        await subscribed(engine)
        numbers = await engine.topics.topic("numbers.one", type=int)
        for number in (1, 2):
            await numbers.publish(number)
        while await engine.store.get(cursor_key(0)) is None:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
    hurt(path, cursor_key(0))
    async with Engine(f"sqlite:{path}", workflows=[collects], partitions=1) as engine:
        numbers = await engine.topics.stored("numbers.one", type=int)
        for number in (3, 4):
            await numbers.publish(number)
        assert await (await engine.get("c")).result(timeout=20) == [1, 2, 3, 4]
        assert await check_laws(engine, "c") == 1


async def test_each_run_is_brought_the_events_of_its_own_pattern_among_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event is looked up among the patterns as the bus does it: none is tried against each topic."""
    monkeypatch.setattr("spellwork.events.durable.keys.matches", None)
    async with open_topics("memory:", sweep_every=None) as topics:
        batch = Batch()
        for number in range(400):
            batch.put(subscription_key(0, f"area{number}.*", f"run{number}"), b"")
        await topics.store.commit(batch)
        for number in range(100):
            await (await topics.stored(f"area{number}.state")).publish(number)
        plan = await topics.store.read(lambda reader: planned(reader, 0, None))
        assert plan is not None
        assert {run: [found.topic for _, found in each.events] for run, each in plan.runs.items()} == {
            f"run{number}": [f"area{number}.state"] for number in range(100)
        }


async def test_what_a_trigger_starts_elsewhere_waits_in_the_inbox_there(tmp_path: Path) -> None:
    """The later events of the same trigger are not held up, and whoever comes to own the partition starts the run, once."""
    url, handled = f"sqlite:{tmp_path / 'store.db'}", []

    @workflow
    async def handles(event: Happened[int]) -> int:
        handled.append(event.data)
        return event.data

    @workflow
    async def idles() -> None: ...

    def placed(partition: int, start: int) -> str:
        return next(name for n in range(start, 100) if partition_of("handles:" + (name := f"e{n}"), 2) == partition)

    triggers = [Trigger("a.*", handles, int)]
    async with Engine(url, workflows=[handles], partitions=2, max_partitions=1, triggers=triggers) as first:
        topic = await first.topics.topic("a.x", type=int)
        await topic.publish(1, id=placed(1, 0))
        await topic.publish(2, id=placed(0, 0))
        while not await first.list(workflow="handles", status="completed"):
            await asyncio.sleep(0.01)
        async with Engine(url, workflows=[idles], partitions=2, max_partitions=1) as without:
            assert list(without._host.partitions) == [1]
            await asyncio.sleep(0.1)  # it does not know the workflow: the letter waits for one that does
        await topic.publish(3, id=placed(1, 50))
        async with Engine(url, workflows=[handles], partitions=2, max_partitions=1) as second:
            assert list(second._host.partitions) == [1]
            async with asyncio.timeout(20):
                while len(await first.list(workflow="handles", status="completed")) < 3:
                    await asyncio.sleep(0.01)
    assert sorted(handled) == [1, 2, 3]


async def test_a_run_that_cannot_be_brought_its_events_holds_up_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others have theirs, whatever the store says of that one; then it gets its own, in order, once."""

    @workflow
    async def collects(name: str) -> list[int]:
        event = Event(f"{name}.*", int)
        return [(await event.receive()).data for _ in range(3)]

    async with Engine(f"sqlite:{tmp_path / 'store.db'}", workflows=[collects]) as engine:
        runs = [await engine.start(collects, name, id=name) for name in ("a", "b")]
        await subscribed(engine, 2)
        dispatch = engine._data._dispatch
        assert dispatch is not None
        real, hurting = dispatch._bring_in, True

        async def bring(message: Any, partition: Any) -> Any:
            if message.run_id == "a" and hurting:
                raise StoreUnavailable("not for now")
            await asyncio.sleep(0.01)
            return await real(message, partition)

        monkeypatch.setattr(dispatch, "_bring_in", bring)
        for number in range(3):
            for name in ("a", "b"):
                await (await engine.topics.topic(f"{name}.x", type=int)).publish(number)
        assert await runs[1].result(timeout=5) == [0, 1, 2]
        hurting = False
        assert await runs[0].result(timeout=5) == [0, 1, 2]


@pytest.mark.parametrize("patterns", [100, 2_000])
async def test_a_look_for_subscribers_reads_those_of_the_topic_alone(patterns: int) -> None:
    """However many other patterns are subscribed to, and whatever they look like; what is found is what matches."""
    store = open_store("memory:")
    try:
        forms = ("a{0}.b{1}.c", "a{0}.*.c", "*.b{1}.c", "a{0}.>", "*.*.*", ">", "a{0}.b{1}", "a{0}x.b{1}.c", "*.b{1}.>", "a{0}")
        batch, every = Batch(), set()
        for number in range(patterns):
            pattern = forms[number % 10].format(number // 10 % 50, number // 10)
            every.add((pattern, f"run{number}"))
            batch.put(subscription_key(3, pattern, f"run{number}"), b"")
        await store.commit(batch)
        for topic in ("a1.b1.c", "a1.b1", "a1", "a1.b1.c.d", "x.y.z"):

            def look(reader: Reader, topic: str = topic) -> tuple[Subscribers, int]:
                counted = Counting(reader)
                return subscribers(counted, 3, topic), counted.rows_read  # type: ignore[arg-type]

            found, read = await store.read(look)
            there = {(pattern, run) for pattern, each in found.items() for _, run, _ in each}
            assert there == {(pattern, run) for pattern, run in every if matches(pattern, topic)}
            assert read <= len(there) + 10, (topic, read)
    finally:
        await store.close()


class Counting:
    """Counts the rows that a reader gives out."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.rows_read = 0

    def scan(self, *args: Any, **options: Any) -> Any:
        found = self._reader.scan(*args, **options)
        self.rows_read += len(found)
        return found

    def rows(self, *args: Any, **options: Any) -> Any:
        found = self._reader.rows(*args, **options)
        self.rows_read += len(found)
        return found


@pytest.mark.parametrize("space", [Keys.JOURNAL, Keys.RUNS, Keys.IDS])
async def test_a_run_whose_rows_are_damaged_holds_up_no_other(tmp_path: Path, space: int) -> None:
    """Whatever of it cannot be read, the others have their events."""
    path = tmp_path / "store.db"
    async with Engine(f"sqlite:{path}", workflows=[three]) as engine:
        await engine.start(three, id="a")
        number = (await engine._router._desk._finder.address("a")).number
        await engine.start(three, id="b")
        await subscribed(engine, 2)
        rows = await engine.store.scan(bytes((space,)), bytes((space + 1,)))
    part = b"a" if space == Keys.IDS else number.to_bytes(8, "big")
    hurt(path, next(key for key, _ in rows if key[1:].startswith(part)))
    async with Engine(f"sqlite:{path}", workflows=[three]) as engine:
        topic = await engine.topics.topic("numbers", type=int)
        for event in range(3):
            await topic.publish(event)
        assert await (await engine.get("b")).result(timeout=5) == [0, 1, 2]


@pytest.mark.parametrize("place", [b"\xc1", None], ids=["unreadable", "deleted"])
async def test_a_trigger_without_a_place_stands_still_and_nothing_else_does(
    tmp_path: Path, place: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    """It starts no run for what it may have had already; other triggers go on, and so does the engine."""
    url, handled, tended = f"sqlite:{tmp_path / 'store.db'}", [], []

    @workflow
    async def handles(event: Happened[int]) -> None:
        handled.append(event.data)

    @workflow
    async def tends(event: Happened[int]) -> None:
        tended.append(event.data)

    triggers = [Trigger("a.*", handles, int), Trigger("*.x", tends, int)]
    async with Engine(url, workflows=[handles, tends], triggers=triggers) as engine:
        topic = await engine.topics.topic("a.x", type=int)
        await topic.publish(1)
        async with asyncio.timeout(10):
            while not (handled and tended and engine.idle):
                await asyncio.sleep(0.01)
        key = trigger_key(triggers[0].name)
        await engine.store.commit(Batch().put(key, place) if place else Batch().delete(key))
        await topic.publish(2)
        async with asyncio.timeout(10):
            while len(tended) < 2:
                await asyncio.sleep(0.01)
            while not engine.idle:
                await asyncio.sleep(0.01)
        await engine.run(tends, Happened("e", "s", "a.x", 0, 3), id="by hand")
    assert (handled, tended) == ([1], [1, 2, 3])
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["trigger a.* handles starts no more runs"]


async def test_an_engine_does_not_open_without_a_place_for_its_trigger(tmp_path: Path) -> None:
    """Where the store fails just then, events would be passed over that come before the next opening. Found by the simulation."""
    url, failures = f"sqlite:{tmp_path / 'store.db'}", [OSError("the disk is gone for a moment")]

    @workflow
    async def handles(event: Happened[int]) -> None: ...

    def once(point: str) -> None:
        if point == "commit.sync" and failures:
            raise failures.pop()

    with pytest.raises(StoreFailed, match="gone for a moment"):
        async with Engine(url, triggers=[Trigger("a.*", handles, int)], probe=once):
            pass
    assert not failures
    async with Engine(url, triggers=[Trigger("a.*", handles, int)]) as engine:
        assert await engine.store.get(trigger_key("a.* handles"))
