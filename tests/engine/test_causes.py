"""Correlation and causation: what an event or a run starts belongs to what began it all, over restarts and next runs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from spellwork import (
    Engine,
    Signal,
    activity,
    activity_context,
    continue_as_new,
    info,
    start_child,
    workflow,
)
from spellwork.codec import Codec
from spellwork.engine import messages as m
from spellwork.engine import rows
from spellwork.engine.ownership import partition_of
from spellwork.engine.replay import replay_journal
from spellwork.engine.triggers import Trigger
from spellwork.errors import NonDeterminismError
from spellwork.events.event import Event as Happened
from spellwork.hosted import MachineType
from spellwork.journal import ErrorRegistry, Parent, Started, pack_entry, unpack_entry
from spellwork.machine import ChartBuilder, Send
from spellwork.testing import TestEngine, check_laws, replays
from spellwork.workflow.events import publish

go = Signal[int]("go")
Told = tuple[str, str | None, str | None]
"""Of an event: its topic, correlation and causation."""


async def told(engine: Engine, about: str) -> list[Told]:
    """A timeline, as far as it says why."""
    return [(event.type, event.correlation, event.causation) async for event, _, _ in engine.topics.timeline(about)]


async def started(engine: Engine, run_id: str) -> Started:
    """The first entry of the newest run of an id."""
    number = (await (await engine.get(run_id)).status()).number
    first: Started = (await engine.store.read(lambda reader: rows.read_entries(reader, number)))[0]
    return first


async def same_on_replay(engine: Engine) -> None:
    """Every run replays against its code."""
    assert [verdict.error for verdict in await replays(engine) if not verdict.ok] == []


async def test_what_an_event_starts_belongs_to_it_from_run_to_run(tmp_path: Path) -> None:
    """An event starts a run, whose event starts another: all is one story, in which each says what led to it directly."""
    url = f"sqlite:{tmp_path / 'store.db'}"

    @workflow
    async def ships(event: Happened[int]) -> None:
        await publish("parcels.sent", event.data)
        await go.receive()
        await publish("parcels.left", event.data)

    @workflow
    async def bills(event: Happened[int]) -> None:
        await publish("bills", event.data)

    triggers = [Trigger("orders", ships, int), Trigger("parcels.sent", bills, int)]
    async with TestEngine(url, triggers=triggers) as engine:
        orders = await engine.topics.topic("orders", type=int)
        await orders.publish(8, id="order-8")
        await orders.publish(9, id="order-9", correlation="cart-3")
        await engine.settle()
    async with TestEngine(url, seed=1, triggers=triggers) as engine:  # the runs are made again from their journals
        for order in ("order-8", "order-9"):
            await (await engine.get(f"ships:{order}")).signal(go, 1)
            await (await engine.get(f"ships:{order}")).result()
        for order, whole in (("order-8", "order-8"), ("order-9", "cart-3")):
            own = [("parcels.sent", whole, order), ("parcels.left", whole, order)]
            assert await told(engine, f"ships:{order}") == own, "what it did itself, and nothing else"
            sent = (await anext(engine.topics.timeline(whole, "parcels.sent"))).event.id
            assert await told(engine, f"bills:{sent}") == [("bills", whole, sent)]
            origin = ("orders", None if whole == order else whole, None)
            assert await told(engine, whole) == [origin, own[0], ("bills", whole, sent), own[1]]
            assert await check_laws(engine, f"ships:{order}") == 1
        await same_on_replay(engine)


async def test_children_and_next_runs_belong_to_what_their_parent_was_started_for() -> None:
    """Called or started, by a run that an event has started or by one that nobody has, before and after `continue_as_new`."""

    @workflow
    async def packs(depth: int) -> None:
        await publish("packed", depth)
        if depth:
            await packs(depth - 1)

    @workflow
    async def ships(event: Happened[int]) -> None:
        await (await start_child(packs, 1, id=f"pack-{event.id}-{event.data}"))
        await publish("sent", event.data)
        if event.data:
            continue_as_new(msgspec.structs.replace(event, data=event.data - 1))

    @workflow
    async def alone() -> None:
        await packs(0)
        await publish("alone", 1)

    async with TestEngine(workflows=[packs, alone], triggers=[Trigger("orders", ships, int)]) as engine:
        await (await engine.topics.topic("orders", type=int)).publish(1, id="order-8", correlation="cart-3")
        await engine.settle()
        story: list[Told] = [("orders", "cart-3", None)]
        for n in (1, 0):
            story.append(("packed", "cart-3", "ships:order-8"))
            story.append(("packed", "cart-3", f"pack-order-8-{n}"))
            story.append(("sent", "cart-3", "order-8"))
        assert await told(engine, "cart-3") == story
        assert (await started(engine, "ships:order-8")).generation == 1
        assert await told(engine, "ships:order-8") == [each for each in story if each[0] == "sent"]
        await engine.run(alone, id="a")
        assert await told(engine, "a") == [("packed", "a", "a"), ("alone", "a", None)]
        await same_on_replay(engine)


async def test_what_machines_start_belongs_to_them(tmp_path: Path) -> None:
    """A workflow, a machine, and what that one starts in turn, also after its journal was trimmed and the engine opened again."""
    url = f"sqlite:{tmp_path / 'store.db'}"

    @workflow
    async def notes(text: str) -> None:
        await publish("noted", text)

    inner = ChartBuilder("inner").initial("on")
    tell = Send("inner.told", 1, target="#_bus")
    inner.state("on").invoke(notes, id="n", data={"text": "inner"}).on("tell", do=tell)
    outer = ChartBuilder("outer").initial("on")
    on = outer.state("on").invoke(inner.build(), id="i").invoke(notes, id="n", data={"text": "outer"})
    on.on("tell", do=[Send("outer.told", 1, target="#_bus"), Send("tell", target="#_i")])
    kind = MachineType(outer.build(), trim=2)
    for seed in range(3):
        async with TestEngine(url, seed=seed, machines=[kind], workflows=[notes]) as engine:
            machine = await engine.machine("outer", "m")
            await machine.send("tell")
            await engine.settle()
    async with TestEngine(url, seed=3, machines=[kind], workflows=[notes]) as engine:
        child = (await engine.list(workflow="machine:outer.i"))[0].id
        story = await told(engine, "m")
        assert story.count(("outer.told", "m", None)) == story.count(("inner.told", "m", "m")) == 3
        assert sorted(each for each in story if each[0] == "noted") == [("noted", "m", "m"), ("noted", "m", child)]
        assert len(story) == 8
        assert await told(engine, child) == [("inner.told", "m", "m")] * 3
        assert (await started(engine, child)).generation > 0, "its journal was trimmed"
        await same_on_replay(engine)


async def test_what_the_author_says_wins() -> None:
    """Each of the two by itself; the other is the run's."""

    @workflow
    async def ships(event: Happened[int]) -> None:
        await publish("both", 1, correlation="mine", causation="this")
        await publish("whose", 1, correlation="mine")
        await publish("why", 1, causation="this")

    async with TestEngine(triggers=[Trigger("orders", ships, int)]) as engine:
        await (await engine.topics.topic("orders", type=int)).publish(1, id="order-8")
        await engine.settle()
        assert await told(engine, "mine") == [("both", "mine", "this"), ("whose", "mine", "order-8")]
        assert await told(engine, "order-8") == [("orders", None, None), ("why", "order-8", "this")]
        assert [topic for topic, _, _ in await told(engine, "ships:order-8")] == ["both", "whose", "why"]
        await same_on_replay(engine)


async def test_workflows_and_activities_can_ask_what_they_belong_to() -> None:
    """So that they can pass it on by other ways than `publish`."""

    @activity
    async def asks() -> str:
        return activity_context().correlation

    @workflow
    async def ships(event: Happened[int] | None = None) -> list[str | None]:
        return [info().correlation, info().causation, await asks()]

    async with TestEngine(workflows=[ships], triggers=[Trigger("orders", ships, int)]) as engine:
        await (await engine.topics.topic("orders", type=int)).publish(1, id="order-8", correlation="cart-3")
        await engine.settle()
        assert await (await engine.get("ships:order-8")).result() == ["cart-3", "order-8", "cart-3"]
        assert await engine.run(ships, id="s") == ["s", None, "s"]


async def test_a_run_that_another_owner_starts_has_its_cause_too(tmp_path: Path) -> None:
    """The letter in the inbox says it."""
    url = f"sqlite:{tmp_path / 'store.db'}"

    @workflow
    async def ships(event: Happened[int]) -> None:
        await publish("sent", event.data)

    event_id = next(name for n in range(100) if partition_of("ships:" + (name := f"order-{n}"), 2) == 1)
    triggers = [Trigger("orders", ships, int)]
    async with Engine(url, partitions=2, max_partitions=1, triggers=triggers) as first:
        await (await first.topics.topic("orders", type=int)).publish(1, id=event_id)
        async with Engine(url, partitions=2, max_partitions=1, workflows=[ships]) as second, asyncio.timeout(20):
            while not await second.list(workflow="ships", status="completed"):
                await asyncio.sleep(0.01)
            assert await told(second, event_id) == [("orders", None, None), ("sent", event_id, event_id)]


# What was written before runs had causes

PLAIN = Started(5, "r", "w", "1", b"a", b"s")
PLAIN_BYTES = bytes.fromhex("9b0105a172a177a131c40161c40173c0009000")
KEY = b"key"


def test_a_run_that_nothing_led_to_is_written_as_ever() -> None:
    """To the byte, and it is read from there without a cause; what has one has two fields more."""
    assert pack_entry(KEY, PLAIN)[:-4] == PLAIN_BYTES
    assert unpack_entry(KEY, pack_entry(KEY, PLAIN)) == PLAIN
    child = msgspec.structs.replace(PLAIN, parent=Parent("p", 1, 0, 2), generation=3, seen=("x",), carried=2)
    for correlation, causation in ((None, None), ("a", "b"), (None, "b"), ("a", None)):
        each = msgspec.structs.replace(child, correlation=correlation, causation=causation)
        assert unpack_entry(KEY, pack_entry(KEY, each)) == each
    assert PLAIN.origin == "r"


def test_a_letter_that_was_written_before_starts_a_run_without_a_cause() -> None:
    """It lay in an inbox while Spellwork was replaced."""
    letter = m.Envelope(m.AskStart("r", "w", "1", b"a", b"d"))
    before = msgspec.msgpack.encode([[1, "r", "w", "1", b"a", b"d", None], b""])
    assert m.unpack_envelope(before) == m.unpack_envelope(m.encode(letter)) == letter


async def test_a_child_of_before_goes_on_with_its_own_id() -> None:
    """Its journal says nothing of a cause: what it has published, and publishes from now on, has the correlation that it had."""

    @workflow
    async def notes() -> None:
        await publish("noted", 1)

    async with TestEngine(workflows=[notes]) as engine:
        await engine.run(notes, id="n")
        number = (await (await engine.get("n")).status()).number
        first, *rest = await engine.store.read(lambda reader: rows.read_entries(reader, number))
        of_before = msgspec.structs.replace(first, parent=Parent("p", 1, 0, 2))
        replay_journal(number, notes, [of_before, *rest], Codec(), ErrorRegistry())
        of_today = msgspec.structs.replace(of_before, correlation="p", causation="p")
        with pytest.raises(NonDeterminismError):
            replay_journal(number, notes, [of_today, *rest], Codec(), ErrorRegistry())
