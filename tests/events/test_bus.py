"""Topics, patterns, typed payloads, CloudEvents and processors of the bus in memory."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import functools
import json
import random
import re
import threading
from typing import Annotated, Any, Literal, NamedTuple, NewType, TypedDict

import msgspec
import pytest

from spellwork.errors import ChannelClosed, ChannelFull, DefinitionError, Lagged, PayloadError
from spellwork.events import Attributes, Bus, Event, Failure, Overflow, Stream, Topic, matches, processors
from spellwork.events.pattern import PatternIndex
from spellwork.testing.clock import VirtualClock
from tests.events.timeline import nothing_is_left, virtual


@dataclasses.dataclass(frozen=True)
class Started:
    agent: str
    tools: list[str] = dataclasses.field(default_factory=list)


async def read(events: Any) -> list[Any]:
    """The data of all events that are there."""
    return [event.data for event in await events.recv_many(1000)] if events.pending else []


# --- patterns


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("a.b", ["a.b"], ["a", "a.b.c", "a.c"]),
        ("a.*", ["a.b", "a.c"], ["a", "a.b.c", "b.a"]),
        ("*.b", ["a.b", "x.b"], ["b", "a.b.c"]),
        ("a.*.c", ["a.b.c", "a.x.c"], ["a.c", "a.b.c.d", "a.b.d"]),
        ("*.*", ["a.b"], ["a", "a.b.c"]),
        (">", ["a", "a.b.c"], []),
        ("a.>", ["a.b", "a.b.c.d"], ["a", "b.a"]),
        ("*.b.>", ["a.b.c", "x.b.c.d"], ["a.b", "b.b"]),
    ],
)
async def test_a_pattern_covers_its_topics(pattern: str, yes: list[str], no: list[str]) -> None:
    """`*` is one token anywhere, `>` one or more at the end; a subscriber gets what its pattern covers, and nothing else."""
    bus = Bus()
    async with bus.subscribe(pattern) as events:
        for topic in yes + no:
            assert matches(pattern, topic) == (topic in yes)
            await bus.publish(topic, topic)
        assert await read(events) == yes


@pytest.mark.parametrize("pattern", ["", "a..b", ".a", "a.", "a.>.b", ">.a", "a.b*", "a.>>", "a b", "a.\n", "x" * 600, None, 5])
def test_patterns_without_a_meaning_are_refused(pattern: Any) -> None:
    """When they are subscribed to, with what is wrong."""
    with pytest.raises(DefinitionError, match="pattern"):
        Bus().subscribe(pattern)


@pytest.mark.parametrize("topic", ["", "a.*", "a.>", "a..b", "a b", None, 5, ["a"]])
def test_topics_that_are_patterns_are_refused(topic: Any) -> None:
    """Publishing there publishes nothing."""
    with pytest.raises(DefinitionError, match="topic"):
        Bus().publish_nowait(topic, 1)


@pytest.mark.parametrize("seed", range(20))
def test_the_index_finds_what_a_search_would(seed: int) -> None:
    """Over random patterns, added and taken away at random, the trie and its cache agree with matching one by one."""
    draw = random.Random(seed)
    index: PatternIndex[int] = PatternIndex()
    there: list[tuple[str, int]] = []
    topics = [".".join(draw.choices("abc", k=draw.randint(1, 4))) for _ in range(30)]
    for number in range(120):
        if there and draw.random() < 0.4:
            index.discard(*there.pop(draw.randrange(len(there))))
        else:
            tokens = draw.choices(["a", "b", "c", "*"], k=draw.randint(1, 4))
            entry = (".".join([*tokens[:-1], ">"] if draw.random() < 0.3 else tokens), number)
            index.add(*entry)
            there.append(entry)
        for topic in draw.choices(topics, k=5):
            assert sorted(index.match(topic)) == sorted(value for pattern, value in there if matches(pattern, topic))
    for entry in there:
        index.discard(*entry)
    assert index._root.empty()


def test_the_cache_of_an_index_is_bounded() -> None:
    """Names drawn without end need no memory without end."""
    index: PatternIndex[str] = PatternIndex()
    index.add(">", "all")
    for number in range(10_000):
        assert index.match(f"topic.{number}") == ("all",)
    assert len(index.cached) <= 4096
    bus = Bus()
    for number in range(10_000):
        bus.publish_nowait(f"topic.{number}", None)
    assert 0 < len(bus._ways) <= 4096
    assert "topic.9999" in bus._ways, "also the latest are remembered"


# --- publishing


async def test_an_event_tells_where_it_came_from() -> None:
    """Ids, times and numbers are the bus's and its clock's; what the publisher says travels along; `publish` returns it."""
    clock = VirtualClock(seed=3)
    bus = Bus(source="urn:test", clock=clock)
    async with bus.subscribe(">") as events:
        first = await bus.publish("order.paid", {"total": 5}, key="o-1", priority=3, subject="o-1", headers={"region": "eu"})
        clock.advance(2)
        second = await bus.publish("order.sent", None, correlation=first.id, causation=first.id, source="urn:other")
        assert await events.recv_many(5) == [first, second]
    assert (first.source, first.type, first.sequence, first.key, first.priority) == ("urn:test", "order.paid", 1, "o-1", 3)
    assert (first.subject, first.headers, first.data) == ("o-1", {"region": "eu"}, {"total": 5})
    assert (second.correlation, second.causation, second.source, second.sequence) == (first.id, first.id, "urn:other", 2)
    assert first.id != second.id
    assert second.time - first.time == dt.timedelta(seconds=2)
    assert Bus(clock=VirtualClock(seed=3)).publish_nowait("a", 1).id == first.id
    assert bus.publish_nowait("a", 1, id="mine").id == "mine"
    assert bus.publish_nowait("a", 1, id=None).id.endswith("-4")
    with pytest.raises(AttributeError):
        first.data = {}  # type: ignore[misc]


@pytest.mark.parametrize(
    "attributes",
    [
        {"key": ""},
        {"id": ""},
        {"key": 5},
        {"source": None},
        {"subject": ""},
        {"priority": 1.5},
        {"priority": True},
        {"priority": 2**31},
        {"headers": {"Upper": "x"}},
        {"headers": {"with-dash": "x"}},
        {"headers": {"id": "x"}},
        {"headers": {"x": 1.5}},
        {"headers": ["x"]},
    ],
)
def test_attributes_that_cannot_be_carried_are_refused(attributes: dict[str, Any]) -> None:
    """What CloudEvents has no form for is no attribute here either."""
    with pytest.raises(PayloadError):
        Bus().publish_nowait("a", 1, **attributes)


def test_options_that_mean_nothing_here_are_no_options() -> None:
    """The bus in memory takes no word for what it does not do."""
    with pytest.raises(TypeError):
        Bus().publish_nowait("a", 1, durable=True)  # type: ignore[call-overload]


async def test_an_event_comes_once_however_many_patterns_cover_it() -> None:
    """A subscription to several patterns is one; subscribers of the same patterns share a ring."""
    bus = Bus()
    async with bus.subscribe("a.*", "*.b", "a.b") as one, bus.subscribe("*.b", "a.b", "a.*") as same, bus.subscribe(">") as other:
        assert len(bus._shared) == 2
        await bus.publish("a.b", 1)
        await bus.publish("c", 2)
        assert (await read(one), await read(same), await read(other)) == ([1], [1], [1, 2])
    assert bus._shared == {}
    assert bus._index._root.empty()


async def test_a_publisher_waits_for_all_or_publishes_to_none() -> None:
    """With one of two groups full, nobody gets the event until everybody can; `publish_nowait` publishes nothing."""
    bus = Bus()
    async with bus.subscribe("a.*", overflow="block", buffer=1) as full, bus.subscribe(">", buffer=10) as other:
        await bus.publish("a.b", 1)
        with pytest.raises(ChannelFull):
            bus.publish_nowait("a.b", 2)
        waits = asyncio.create_task(bus.publish("a.c", 3))
        for _ in range(5):
            await asyncio.sleep(0)
        await bus.publish("b", 4)
        assert await read(other) == [1, 4]
        assert await read(full) == [1]
        assert (await waits).data == 3
        assert (await read(full), await read(other)) == ([3], [3])


@pytest.mark.parametrize("overflow", ["block", "drop_oldest", "drop_newest", "sample", "error"])
async def test_one_group_gets_what_each_of_many_gets(overflow: Overflow) -> None:
    """An event for the subscribers of one pattern goes a shorter way, with the same attributes, room, losses and end."""

    async def told(*patterns: str) -> list[object]:
        bus, seen = Bus(clock=VirtualClock(seed=5)), list[object]()
        groups = [bus.subscribe(pattern, overflow=overflow, buffer=3) for pattern in patterns]
        for group in groups:
            await group.__aenter__()
        bus.publish_nowait("a.b", None)  # from now on it is known whose the topic is
        for group in groups:
            await group.recv()
        sleeper = asyncio.create_task(groups[0].recv())
        await asyncio.sleep(0)
        for number in range(12):  # more than a window holds
            attributes: Attributes = {"key": "k", "priority": number} if number % 2 else {}
            try:
                seen.append(bus.publish_nowait("a.b", number, **attributes))
            except ChannelFull as error:
                seen.append(str(error))
            if not number:
                seen.append(await sleeper)
                for group in groups[1:]:
                    await group.recv()
        bus.close()
        with pytest.raises(ChannelClosed, match="the bus is closed"):
            bus.publish_nowait("a.b", 99)
        while True:
            try:
                seen.append(await groups[0].recv())
            except Lagged as error:
                seen.append(error.missed)
            except ChannelClosed:
                return [*seen, groups[0].dropped]

    async with asyncio.timeout(10):
        assert await told("a.b") == await told("a.b", "a.*")


async def test_who_comes_while_a_publisher_waits_gets_the_event() -> None:
    """An event is published when there is room for it, to whoever is there then; not to who has left and come again too late."""
    bus = Bus()
    async with bus.subscribe("a", overflow="block", buffer=1) as full, bus.subscribe("*", buffer=10) as gone:
        await bus.publish("a", 1)
        waits = asyncio.create_task(bus.publish("a", 2))
        thread = asyncio.create_task(asyncio.to_thread(bus.publish_sync, "a", 3, timeout=30))
        while len(bus._shared["a",].waiting) < 2:
            await asyncio.sleep(0)
        gone.close()
        async with bus.subscribe(">", buffer=10) as late:
            assert [(await full.recv()).data for _ in range(3)] == [1, 2, 3]
            await asyncio.gather(waits, thread)
            assert await read(late) == [2, 3]


async def test_a_closed_bus_lets_readers_finish() -> None:
    """They drain and end; publishing and subscribing raise `ChannelClosed`; what a batch has gathered goes out."""
    bus, batches = Bus(), list[list[int]]()
    bus.process(processors.batch(10, lambda events: batches.append([event.data for event in events])))
    async with bus.subscribe("a") as events:
        await bus.publish("a", 1)
        bus.close()
        assert [event.data async for event in events] == [1]
        with pytest.raises(ChannelClosed):
            await bus.publish("a", 2)
        with pytest.raises(ChannelClosed):
            bus.publish_nowait("b", 2)
    assert batches == [[1]]
    with pytest.raises(ChannelClosed):
        await bus.subscribe("a").__aenter__()


async def test_threads_publish_and_subscribe() -> None:
    """A thread that reads and threads that publish get on with the tasks of a loop."""
    bus, got = Bus(), list[int]()
    entered = threading.Event()

    def read_all() -> None:
        with bus.subscribe_sync("n.*", overflow="block", buffer=4) as events:
            entered.set()
            got.extend(event.data for event in events)

    reader = threading.Thread(target=read_all)
    reader.start()
    await asyncio.to_thread(entered.wait)
    async with bus.subscribe("n.*", overflow="block", buffer=4) as events:
        writer = threading.Thread(target=lambda: [bus.publish_sync("n.x", number, timeout=30) for number in range(100)])
        writer.start()
        assert [(await events.recv()).data for _ in range(100)] == list(range(100))
        await asyncio.to_thread(writer.join)
    bus.close()
    await asyncio.to_thread(reader.join)
    assert got == list(range(100))


# --- typed topics

Amount = NewType("Amount", int)


class Point(NamedTuple):
    x: int
    y: int


class Options(TypedDict, total=False):
    depth: int


class Node(msgspec.Struct):
    name: str
    below: list[Node] = []


class Plain:
    pass


PLAIN = Plain()
WRONG: Any = 5


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        (int, [1, 2**70], [True, 1.0, "1", None]),
        (float, [1.5, 2], [True, "1"]),
        (str, ["x"], [b"x", 1]),
        (type(None), [None], [0]),
        (Amount, [5], ["5"]),
        (int | None, [None, 3], ["x"]),
        (Literal["a", 1], ["a", 1], ["b", True]),
        (list[int], [[], [1]], [["x"], (1,), {1}]),
        (tuple[int, str], [(1, "a")], [(1,), [1, "a"], ("a", 1)]),
        (tuple[int, ...], [(), (1, 2)], [(1, "a")]),
        (dict[str, list[int]], [{"a": [1]}], [{"a": ["b"]}, {1: [1]}, []]),
        (Annotated[int, msgspec.Meta(ge=0)], [0], [-1, "0"]),
        (Started, [Started("a")], [{"agent": "a"}, Started(WRONG), Started("a", [WRONG]), "a"]),
        (list[Started | None], [[Started("a"), None]], [[{"agent": "a"}]]),
        (Node, [Node("a", [Node("b")])], [Node("a", [Node(WRONG)])]),
        (Options, [{}, {"depth": 1}], [{"depth": "x"}, {"other": 1}, 5]),
        (Plain, [PLAIN], [{}]),
        (Point, [Point(1, 2)], [(1, 2)]),
        (Any, [PLAIN, None], []),
    ],
)
def test_a_wrong_payload_is_refused(annotation: Any, good: list[Any], bad: list[Any]) -> None:
    """At publish, as it stands, down to fields and items, with the path; what fits arrives as the very object."""
    bus, topic = Bus(), Topic[Any]("t", annotation)
    with bus.subscribe_sync("t") as events:
        for payload in good:
            bus.publish_nowait(topic, payload)
            assert events.recv().data is payload
        for payload in bad:
            with pytest.raises(PayloadError, match="nothing was published on 't': \\$"):
                bus.publish_nowait(topic, payload)
        assert not events.pending


async def test_a_topic_is_typed_by_its_parameter() -> None:
    """`Topic[T](name)` checks, and a subscription to it is one of `Event[T]`; a path leads to what is wrong."""
    bus, started = Bus(), Topic[Started]("agent.started")
    assert started.type is Started
    async with bus.subscribe(started) as events:
        await bus.publish(started, Started("a", ["shell"]))
        event = await events.recv()
        assert event.data.tools == ["shell"]
        with pytest.raises(PayloadError) as caught:
            await bus.publish(started, Started("a", [b"x"]))  # type: ignore[list-item]
        assert caught.value.path == "$.tools[0]"
        assert "expected str, got bytes" in str(caught.value)
    assert Topic("untyped").type is Any


# --- CloudEvents


@pytest.mark.parametrize("data", [{"a": [1, None, "x"]}, [], "text", 5, None, b"\x00\xff", True])
def test_an_event_survives_the_way_through_json(data: Any) -> None:
    """Everything an event carries is in its CloudEvent, and comes back equal."""
    bus = Bus(source="urn:test", clock=VirtualClock())
    plain = bus.publish_nowait("a.b", data)
    full = bus.publish_nowait(
        "a.b", data, key="k", priority=-5, correlation="c", causation="d", subject="s",
        headers={"n": 1, "flag": True, "traceparent": "00-x", "dataschema": "urn:s"},
    )  # fmt: skip
    for event in (plain, full):
        assert Event.from_cloudevent(event.to_cloudevent()) == event
    fields = json.loads(full.to_cloudevent())
    assert fields["specversion"] == "1.0"
    assert all(re.fullmatch("[a-z0-9]+", name) for name in fields.keys() - {"data_base64"})
    assert fields["time"].endswith("Z")
    assert {
        "partitionkey": "k",
        "correlationid": "c",
        "causationid": "d",
        "sequence": "2",
        "priority": -5,
    }.items() <= fields.items()


def test_typed_data_comes_back_as_its_type() -> None:
    """A dataclass is JSON in the CloudEvent, and the annotation makes it one again."""
    event = Bus().publish_nowait("a", Started("x", ["y"]))
    assert Event.from_cloudevent(event.to_cloudevent(), Started).data == Started("x", ["y"])
    with pytest.raises(PayloadError, match=r"\$\.data"):
        Event.from_cloudevent(event.to_cloudevent(), int)
    with pytest.raises(PayloadError, match="no JSON form"):
        Bus().publish_nowait("a", PLAIN).to_cloudevent()


async def test_an_event_of_others_is_read_and_forwarded() -> None:
    """The example of the CloudEvents specification: unknown attributes become headers and go out again as they came."""
    text = """{"specversion": "1.0", "type": "com.github.pull_request.opened", "source": "https://github.com/cloudevents/spec/pull",
        "subject": "123", "id": "A234-1234-1234", "time": "2018-04-05T17:31:00Z", "comexampleextension1": "value",
        "comexampleothervalue": 5, "priority": "high", "sequence": "007", "datacontenttype": "text/xml", "data": "<much/>"}"""
    event = Event.from_cloudevent(text)
    assert event.time == dt.datetime(2018, 4, 5, 17, 31, tzinfo=dt.UTC)
    assert (event.priority, event.sequence, event.data) == (None, None, "<much/>")
    again = json.loads(event.to_cloudevent())
    assert again == json.loads(text) | {"time": "2018-04-05T17:31:00.000000Z"}
    bus = Bus()
    async with bus.subscribe("com.github.>") as events:
        forwarded = await bus.forward(event)
        assert await events.recv() == forwarded
        assert (forwarded.id, forwarded.source, forwarded.at, forwarded.sequence) == (event.id, event.source, event.at, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"specversion": "0.3"},
        {"specversion": None},
        {"id": ""},
        {"id": None},
        {"source": 5},
        {"time": None},
        {"time": "yesterday"},
        {"time": "2020-01-01T00:00:00"},
        {"data_base64": "eA=="},
        {"data": None, "data_base64": "!"},
        {"Upper": 1},
        {"x": 1.5},
        {"x": {"y": 1}},
        {"partitionkey": ""},
    ],
)
def test_what_is_no_cloudevent_is_refused(change: dict[str, Any]) -> None:
    """With the path of what is wrong."""
    fields = json.loads(Bus().publish_nowait("a", 1).to_cloudevent()) | change
    if "data_base64" in change and change.get("data", 1) is None:
        del fields["data"]
    with pytest.raises(PayloadError, match=r"\$"):
        Event.from_cloudevent(json.dumps(fields))
    for text in ("", "[]", "{", "5"):
        with pytest.raises(PayloadError):
            Event.from_cloudevent(text)


def test_an_event_without_a_time_needs_one() -> None:
    """CloudEvents may leave it out; then the reader says when it was."""
    text = '{"specversion": "1.0", "id": "1", "source": "s", "type": "t"}'
    with pytest.raises(PayloadError, match="at="):
        Event.from_cloudevent(text)
    assert Event.from_cloudevent(text, at=5).at == 5


# --- processors


async def test_processors_see_an_event_in_their_order() -> None:
    """By `order`, then by when they came; each sees what the one before has made of it; a removed one sees no more."""
    bus, seen = Bus(), list[str]()

    def note(name: str, event: Event[Any]) -> Event[Any]:
        seen.append(f"{name} {event.data}")
        return msgspec.structs.replace(event, data=f"{event.data}{name}")

    stages = {
        name: bus.process(functools.partial(note, name), pattern, order=order, name=name)
        for name, pattern, order in (("b", ">", 0), ("c", "x.*", 0), ("a", "x.>", -1), ("other", "y", 0))
    }
    async with bus.subscribe(">") as events:
        await bus.publish("x.y", "")
        assert seen == ["a ", "b a", "c ab"]
        stages["b"].remove()
        stages["b"].remove()
        await bus.publish("x.y", "")
        assert await read(events) == ["abc", "ac"]


async def test_a_failing_processor_hurts_only_itself() -> None:
    """The event goes on as if it were not there, unless it is added with "drop"; it is counted, and told on the topic `error`."""
    bus = Bus()

    def fails(event: Event[Any]) -> Event[Any]:
        raise ValueError(f"no {event.data}")

    open_, closed = bus.process(fails, "open"), bus.process(fails, "closed", on_error="drop", name="strict")
    wrong = bus.process(lambda event: "nothing", "wrong")  # type: ignore[arg-type, return-value]
    async with bus.subscribe("open", "closed", "wrong") as events, bus.subscribe("error") as errors:
        for topic in ("open", "closed", "wrong"):
            await bus.publish(topic, topic)
        assert await read(events) == ["open", "wrong"]
        first, second, third = [event.data for event in await errors.recv_many(9)]
    assert first == Failure("fails", "open", first.id, "ValueError", "no open")
    assert (second.where, second.topic, third.type) == ("strict", "closed", "EventError")
    assert (open_.failed, closed.failed, wrong.failed, closed.dropped) == (1, 1, 1, 0)
    assert isinstance(open_.error, ValueError)


async def test_errors_have_no_errors() -> None:
    """Events of `error` are not processed; without a subscriber a failure is logged; without room it is counted."""
    bus = Bus()
    bus.process(lambda event: 1 / 0)  # type: ignore[arg-type, return-value]
    await bus.publish("a", 1)
    async with bus.subscribe("error", overflow="block", buffer=1) as errors:
        await bus.publish("a", 1)
        await bus.publish("a", 2)
        assert (errors.pending, bus.unreported) == (1, 1)


def test_an_interrupt_is_no_failure() -> None:
    """What ends the program goes through."""
    bus = Bus()

    def leave(event: Event[Any]) -> None:
        raise SystemExit(3)

    bus.process(leave)
    with pytest.raises(SystemExit):
        bus.publish_nowait("a", 1)


async def test_filter_and_enrich() -> None:
    """What does not pass goes no further and is counted; fields are replaced, headers added, and nothing else can be changed."""
    bus = Bus()
    stage = bus.process(processors.filter(lambda event: event.data > 1))
    bus.process(processors.enrich(lambda event: {"headers": {"host": "h"}, "subject": f"n-{event.data}"}))
    bad = bus.process(processors.enrich(lambda event: {"id": "x"}), "bad")
    async with bus.subscribe("a", "bad") as events:
        for number in (1, 2, 3):
            await bus.publish("a", number, headers={"x": 1})
        await bus.publish("bad", 9)
        got = await events.recv_many(9)
    assert [(event.data, event.subject, event.headers) for event in got] == [
        (2, "n-2", {"x": 1, "host": "h"}),
        (3, "n-3", {"x": 1, "host": "h"}),
        (9, "n-9", {"host": "h"}),
    ]
    assert (stage.dropped, bad.failed) == (1, 1)


async def test_redact_masks_a_copy() -> None:
    """Dicts, lists, tuples, dataclasses and structs; the publisher's own object stays; what it can't do goes no further."""
    bus = Bus()
    stage = bus.process(processors.redact("password", "users.*.card", "name", "agent"))
    secret = {"password": "p", "users": [{"card": 1, "x": 2}, {"x": 3}], "n": 1}
    async with bus.subscribe("a", "bad") as events:
        for data in (secret, {"users": {"a": {"card": 5}}}, Started("me"), Node("me"), "text", ({"password": 1},)):
            await bus.publish("a", data)
        assert await read(events) == [
            {"password": "***", "users": [{"card": "***", "x": 2}, {"x": 3}], "n": 1},
            {"users": {"a": {"card": "***"}}},
            Started("***"),
            Node("***"),
            "text",
            ({"password": 1},),
        ]
        assert secret["password"] == "p"
        stage.processor = lambda event: 1 / 0  # type: ignore[assignment, return-value]
        await bus.publish("a", secret)
        assert not events.pending
    for paths in ((), ("",), ("a..b",)):
        with pytest.raises(DefinitionError):
            processors.redact(*paths)


async def test_persist_comes_before_delivery() -> None:
    """The sink has the event first; with "drop", what it refuses is not delivered."""
    bus, kept = Bus(), list[int]()

    def sink(event: Event[Any]) -> None:
        if event.data == 2:
            raise OSError("disk full")
        kept.append(event.data)

    stage = bus.process(processors.persist(sink), on_error="drop")
    async with bus.subscribe("a", "bad") as events:
        for number in (1, 2, 3):
            await bus.publish("a", number)
        assert await read(events) == kept == [1, 3]
    assert stage.failed == 1


async def test_batches_are_full_or_in_time() -> None:
    """Events go on at once; the sink gets lists by number, by time on the clock, and the rest when it is removed."""
    clock = virtual()
    bus, batches = Bus(clock=clock), list[list[int]]()
    stage = bus.process(
        processors.batch(3, lambda events: batches.append([event.data for event in events]), within=10, clock=clock)
    )
    async with bus.subscribe(">") as events:
        for number in range(4):
            await bus.publish("a", number)
        assert await read(events) == [0, 1, 2, 3]
        assert batches == [[0, 1, 2]]
        await Stream([1], clock=clock).throttle(1).to_list()
        for _ in range(60):
            await asyncio.sleep(0)
        assert batches == [[0, 1, 2], [3]]
        await asyncio.to_thread(bus.publish_nowait, "a", 4)
        stage.remove()
        assert batches[-1] == [4]
        stage.process(await bus.publish("b", 5))  # it was on its way in another thread
        assert batches[-1] == [5]
    assert nothing_is_left()


async def test_a_batch_that_time_sends_out_may_fail_too() -> None:
    """That is counted and told like any other failure."""
    clock = virtual()
    bus = Bus(clock=clock)

    def sink(events: list[Event[Any]]) -> None:
        raise OSError("gone")

    stage = bus.process(processors.batch(3, sink, within=1, clock=clock))
    async with bus.subscribe("error") as errors:
        await bus.publish("a", 1)
        assert (await errors.recv()).data.type == "OSError"
    assert stage.failed == 1


async def test_metrics_count() -> None:
    """By topic, from all threads."""
    bus, metrics = Bus(), processors.metrics()
    bus.process(metrics, "a.*")
    await asyncio.gather(
        *(asyncio.to_thread(lambda: [bus.publish_nowait("a.b", number) for number in range(500)]) for _ in range(4))
    )
    bus.publish_nowait("a.c", 1)
    bus.publish_nowait("c", 1)
    assert (metrics.counts, metrics.total) == ({"a.b": 2000, "a.c": 1}, 2001)


def test_processors_that_cannot_work_are_refused() -> None:
    """What is no function, what would have to be awaited, an unknown word for errors, a timer without a loop."""

    async def later(event: Any) -> None:
        raise AssertionError

    for make in (
        lambda: processors.persist(later),
        lambda: processors.filter(later),
        lambda: processors.batch(3, later),
        lambda: processors.enrich(5),  # type: ignore[arg-type]
        lambda: Bus().process(5),  # type: ignore[arg-type]
        lambda: Bus().process(processors.metrics(), on_error="retry"),  # type: ignore[arg-type]
        lambda: Bus().process(processors.metrics(), "a..b"),
    ):
        with pytest.raises(DefinitionError):
            make()
    with pytest.raises(Exception, match="running event loop"):
        processors.batch(3, print, within=1)
