"""How hosted machines live through new versions of their charts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from spellwork import Engine, activity, workflow
from spellwork.engine.machine import HostedMachine
from spellwork.errors import DefinitionError, InvalidTransition, RunBlocked, RunNotFound, SpellworkError
from spellwork.hosted import MachineType
from spellwork.machine import Assign, Chart, ChartBuilder
from spellwork.testing import TestEngine, replays


def old() -> Chart:
    chart = ChartBuilder("order", context=lambda: {"items": 0}).initial("open")
    chart.state("open").on("add", do=Assign(lambda c: {"items": c["items"] + 1})).after("1h", "stale")
    chart.state("stale").on("wake", "open")
    return chart.build()


def new() -> Chart:
    """`open` has become `cart`, items are a list, and there is a way out."""
    chart = ChartBuilder("order", context=lambda: {"items": []}).initial("cart")
    chart.state("cart").on("add", do=Assign(lambda c: {"items": [*c["items"], "new"]})).on("pay", "paid").after("1h", "stale")
    chart.state("stale").on("wake", "cart")
    chart.state("paid")
    return chart.build()


def forward(snapshot: dict[str, Any]) -> dict[str, Any]:
    """From version 1 to 2."""
    names = {"open": "cart", "stale": "stale"}
    assert snapshot["chart"] == "order"
    pending = [
        [{**event, "name": event["name"].replace("open", "cart"), "sendid": (id or "").replace("open", "cart")}, delay, target,
         (id or "").replace("open", "cart")]
        for event, delay, target, id in snapshot.get("pending", ())
    ]  # fmt: skip
    return {
        **snapshot,
        "states": [names[state] for state in snapshot["states"]],
        "context": {"items": ["old"] * snapshot["context"]["items"]},
        "pending": pending,
    }


async def caught_up(order: HostedMachine, transitions: int) -> None:
    """Wait until the events that waited for it have reached it."""
    async with asyncio.timeout(10):
        while (await order.state()).transitions < transitions:
            await asyncio.sleep(0.01)


V1 = MachineType(old(), version="1")
V2 = MachineType(new(), version="2", migrate={"1": forward})


async def test_a_machine_moves_to_the_new_version_at_its_next_event(tmp_path: Path) -> None:
    """The event is the new version's first; the old history stays, and both journals replay."""
    url = f"sqlite:{tmp_path}/orders.db"
    async with Engine(url, machines=[V1]) as engine:
        order = engine.machine("order", "o")
        await order.send("add")
        await order.send("add")
        with pytest.raises(InvalidTransition):
            await order.send("pay")
    async with Engine(url, machines=[V1, V2]) as engine:
        order = engine.machine("order", "o")
        assert (await order.state()).version == "1"
        with pytest.raises(InvalidTransition):
            await order.send("wake")
        assert (await order.state()).version == "1"
        state = await order.ask("pay", id="p")
        assert (state.version, state.active, state.context) == ("2", ("paid",), {"items": ["old", "old"]})
        assert await order.ask("pay", id="p") == state
        history = await order.history()
        assert [(t.version, t.event) for t in history] == [("1", None), ("1", "add"), ("1", "add"), ("2", "pay")]
        assert [t.position for t in history] == [0, 1, 2, 3]
        verdicts = await replays(engine)
        assert len(verdicts) == 2
        assert all(verdict.ok for verdict in verdicts), verdicts
        assert (await engine.machine("order", "fresh").ask("add")).version == "2"
    async with Engine(url, machines=[V2]) as engine:  # nobody needs the old chart now, but for the history
        order = engine.machine("order", "o")
        assert (await order.state()).active == ("paid",)
        assert [t.event for t in await order.history(limit=1)] == ["pay"]
        with pytest.raises(SpellworkError, match="version '1' of machine 'order' is not registered"):
            await order.history()


async def test_a_timer_is_an_event_and_keeps_its_time(tmp_path: Path) -> None:
    """What was due under the old chart comes to the new one, at its time."""
    url = f"sqlite:{tmp_path}/orders.db"
    async with TestEngine(url, machines=[V1]) as engine:
        await engine.machine("order", "o").send("add")
        began = engine.clock.now()
    async with TestEngine(url, machines=[V1, V2]) as engine:
        order = engine.machine("order", "o")
        engine.clock.advance_to(began + 3_599_000_000)
        await engine.settle()
        assert (await order.state()).version == "1"
        await engine.advance(1)
        state = await order.state()
        assert (state.version, state.active) == ("2", ("stale",))
        told = await order.history()
        assert (told[-1].event, told[-1].version) == ("after.cart.1", "2")
        assert all(verdict.ok for verdict in await replays(engine))


def raising(_snapshot: dict[str, Any]) -> dict[str, Any]:
    """A migration with a bug."""
    raise ZeroDivisionError


def nowhere(snapshot: dict[str, Any]) -> dict[str, Any]:
    """A migration into a state that is not there."""
    return {**snapshot, "context": {"items": []}}


@pytest.mark.parametrize(
    ("migrate", "match"),
    [
        ({}, "register MachineType(chart, version='2', migrate={'1': function})"),
        ({"1": raising}, "its migration failed: ZeroDivisionError"),
        ({"1": nowhere}, "names open, which this version has not"),
    ],
)
async def test_without_a_way_it_is_parked_with_what_to_register(migrate: Any, match: str, tmp_path: Path) -> None:
    """Nothing is lost: the events wait, and reach the machine after the fix."""
    url = f"sqlite:{tmp_path}/orders.db"
    async with Engine(url, machines=[V1]) as engine:
        await engine.machine("order", "o").send("add")
    async with Engine(url, machines=[V1, MachineType(new(), version="2", migrate=migrate)]) as engine:
        order = engine.machine("order", "o")
        await order.send("add")
        info = await order.status()
        assert info.status == "blocked"
        assert match in info.reason
        with pytest.raises(RunBlocked):
            await order.ask("add")
        assert (await order.state()).context == {"items": 1}
    async with Engine(url, machines=[V1, V2]) as engine:
        order = engine.machine("order", "o")
        await caught_up(order, 3)
        assert (await order.ask("pay")).context == {"items": ["old", "new"]}
        assert (await order.status()).status == "running"


async def test_without_the_old_chart_it_is_parked_too(tmp_path: Path) -> None:
    """What it did can only be replayed by the chart that it ran by."""
    url = f"sqlite:{tmp_path}/orders.db"
    async with Engine(url, machines=[V1]) as engine:
        await engine.machine("order", "o").send("add")
    async with Engine(url, machines=[V2]) as engine:
        order = engine.machine("order", "o")
        await order.send("add")
        info = await order.status()
        assert info.status == "blocked"
        assert "version '1' of machine 'order' is not registered; pass its chart in Engine(machines=[MachineType" in info.reason
    async with Engine(url, machines=[V1, V2]) as engine:
        order = engine.machine("order", "o")
        await caught_up(order, 3)
        assert (await order.ask("pay")).context == {"items": ["old", "new"]}


async def test_a_chart_that_changed_without_a_version_is_noticed(tmp_path: Path) -> None:
    """The machine would be somewhere else than it was; so it is parked, and goes on when the old chart is back."""
    url = f"sqlite:{tmp_path}/orders.db"
    async with Engine(url, machines=[V1]) as engine:
        await engine.machine("order", "o").send("add")
    async with Engine(url, machines=[new()]) as engine:
        order = engine.machine("order", "o")
        await order.send("add")
        info = await order.status()
        assert info.status == "blocked"
        assert "beside the old one" in info.reason
    async with Engine(url, machines=[V1]) as engine:
        order = engine.machine("order", "o")
        await caught_up(order, 3)
        assert (await order.ask("add")).context == {"items": 3}


async def test_a_machine_that_waits_for_a_child_moves_when_it_is_over() -> None:
    """A step that is under way belongs to the old journal; until it is done, the old chart decides."""

    @activity
    async def slow() -> None: ...

    def kind(version: str, target: str) -> Chart:
        chart = ChartBuilder("c").initial("a")
        chart.state("a").on("go", "b", do=slow)
        chart.state("b").on("look", target).on("done.activity.slow", "done")
        chart.state("done").on("look", target)
        chart.state(f"v{version}")
        return chart.build()

    one = MachineType(kind("1", "v1"), version="1")
    two = MachineType(kind("2", "v2"), version="2", migrate={"1": lambda snapshot: snapshot})
    async with TestEngine(machines=[one, two]) as engine:
        machine = engine.machine("c", "m")
        await machine.send("go")
        assert (await machine.state()).version == "2"
        await engine.settle()
        assert (await machine.ask("look")).active == ("v2",)


async def test_journals_are_trimmed_and_timers_keep_their_time(tmp_path: Path) -> None:
    """Each run of the chain is short, the whole life is told, and replay gives the stored snapshots."""
    chart = ChartBuilder("t", context=int).initial("a")
    chart.state("a").after("100s", "b").on("n", do=Assign(lambda n: n + 1)).defer("later")
    chart.state("b").on("later", "c")
    chart.state("c")
    kind, url = MachineType(chart.build(), trim=8), f"sqlite:{tmp_path}/t.db"
    async with TestEngine(url, machines=[kind]) as engine:
        machine = engine.machine(kind, "m")
        await machine.send("later", {"kept": 1})
        began = engine.clock.now()
        for _ in range(50):
            await engine.advance(1)
            await machine.send("n")
        continued = await engine.list(status="continued", workflow="machine:t")
        assert len(continued) == 6
        assert len(await (await engine.get("m")).history()) <= 9
        engine.clock.advance_to(began + 99_999_999)
        await engine.settle()
        assert (await machine.state()).active == ("a",)
        await engine.advance(0.000001)
        assert (await machine.state()).active == ("c",)
        told = await machine.history()
        assert [t.position for t in told] == list(range(len(told)))
        assert [t.event for t in told][-2:] == ["after.a.1", "later"] or told[-1].event == "after.a.1"
        verdicts = await replays(engine)
        assert len(verdicts) == 7
        assert all(verdict.ok for verdict in verdicts), verdicts


async def test_a_child_that_stands_in_the_chart_moves_with_it(tmp_path: Path) -> None:
    """Its chart is the same in both versions; it goes on where it was."""

    def family(version: str) -> MachineType:
        child = ChartBuilder("child", context=int).initial("on")
        child.state("on").on("add", do=Assign(lambda n: n + 1)).on("stop", "off")
        child.final("off", lambda n: n)
        chart = ChartBuilder("family").initial("a")
        chart.state("a").invoke(child.build(), id="c", forward=True).on("done.invoke.c", f"v{version}").on("noop", "a2")
        chart.state("a2")
        chart.state(f"v{version}")
        return MachineType(chart.build(), version=version, migrate={"1": lambda snapshot: snapshot} if version == "2" else None)

    url = f"sqlite:{tmp_path}/family.db"
    async with Engine(url, machines=[family("1")]) as engine:
        machine = engine.machine("family", "f")
        await machine.send("add")
        await reached(engine, "f.1", 2)
    async with Engine(url, machines=[family("1"), family("2")]) as engine:
        machine = engine.machine("family", "f")
        await machine.send("add")  # the parent waits for its child, and stays with the old chart
        await reached(engine, "f.1", 3)
        assert (await engine.machine("family.c", "f.1").state()).version == "2"
        await machine.send("stop")
        async with asyncio.timeout(10):
            while (await machine.state()).active != ("v1",):
                await asyncio.sleep(0.01)


async def reached(engine: Engine, id: str, transitions: int) -> None:
    """Wait until the child machine has taken so many."""
    async with asyncio.timeout(10):
        while True:
            try:
                if (await engine.machine("family.c", id).state()).transitions >= transitions:
                    return
            except RunNotFound:
                pass
            await asyncio.sleep(0.01)


async def test_another_chart_of_the_name_is_no_handle() -> None:
    """A handle for a chart that is not registered would send events that another one takes."""
    async with TestEngine(machines=[V1]) as engine:
        engine.machine(old(), "o")  # the same, built again
        with pytest.raises(DefinitionError, match="another chart is registered"):
            engine.machine(new(), "o")
    with pytest.raises(DefinitionError, match="with version 1; rename one"):
        Engine(machines=[V1, new()])


async def test_pure_code_that_breaks_parks_the_machine_and_its_events_wait(tmp_path: Path) -> None:
    """An assignment that worked when it was journaled and raises on replay is a fault to mend, not the sender's."""
    fine = True

    def more(n: int) -> int:
        if not fine:
            raise ValueError("broken")
        return n + 1

    chart = ChartBuilder("n", context=int).initial("on")
    chart.state("on").on("add", do=Assign(more))
    kind, url = MachineType(chart.build()), f"sqlite:{tmp_path}/n.db"
    async with Engine(url, machines=[kind]) as engine:
        await engine.machine("n", "x").send("add")
    fine = False
    async with Engine(url, machines=[kind]) as engine:
        machine = engine.machine("n", "x")
        await machine.send("add")
        info = await machine.status()
        assert (info.status, "ValueError: broken" in info.reason) == ("blocked", True)
    fine = True
    async with Engine(url, machines=[kind]) as engine:
        await caught_up(engine.machine("n", "x"), 3)
        assert (await engine.machine("n", "x").state()).context == 2


async def test_a_migration_may_change_the_context_alone(tmp_path: Path) -> None:
    """The chart looks the same; the replay of the old journal is not compared with the new snapshot."""

    def kind(version: str) -> MachineType:
        chart = ChartBuilder("c", context=set).initial("on")
        chart.state("on").on("add", do=Assign(lambda c, event: {*c, f"{version}{event.data}"}))
        return MachineType(chart.build(), version=version, migrate={"1": lambda old: {**old, "context": {"moved"}}}, trim=3)

    url = f"sqlite:{tmp_path}/c.db"
    async with Engine(url, machines=[kind("1")]) as engine:
        for number in range(8):
            await engine.machine("c", "m").send("add", number)
    async with Engine(url, machines=[kind("1"), kind("2")]) as engine:
        assert (await engine.machine("c", "m").ask("add", 8)).context == {"moved", "28"}
        verdicts = await replays(engine)
        assert len(verdicts) == 4
        assert all(verdict.ok for verdict in verdicts), verdicts


@workflow
async def at_once() -> None:
    """A child that is over before anybody looks."""


@pytest.mark.parametrize("there", ["on", "off"])
async def test_a_child_that_is_over_needs_no_invocation_in_the_next_version(there: str, tmp_path: Path) -> None:
    """Its state has none any more, or the machine is no longer in that state."""
    url, charts = f"sqlite:{tmp_path}/m.db", []
    for version in (1, 2):
        built = ChartBuilder("m", strict=False).initial("on")
        state = built.state("on").on("x").on("go", "off")
        if version == 1:
            state.invoke(at_once, id="kid")
        built.state("off").on("x").on("go", "on")
        charts.append(built.build())
    async with Engine(url, machines=[charts[0]], workflows=[at_once]) as engine:
        machine = engine.machine("m", "m")
        await machine.send("x")
        while [run.status for run in await engine.list(workflow="at_once")] != ["completed"]:
            await asyncio.sleep(0.01)
        await machine.send("x")
    kinds = [MachineType(charts[0]), MachineType(charts[1], version="2", migrate={"1": lambda old: {**old, "states": [there]}})]
    async with Engine(url, machines=kinds, workflows=[at_once]) as engine:
        machine = engine.machine("m", "m")
        standing = await machine.ask("x")
        assert (standing.active, standing.version) == ((there,), "2")
        assert (await machine.ask("go")).active != (there,)
