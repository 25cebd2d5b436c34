"""What a hosted machine starts and whom it talks to: workflows, other machines, its parent and its children."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from spellwork import Engine, Signal, workflow
from spellwork.engine.machine import HostedMachine
from spellwork.errors import EventFailed, UnknownWorkflow, UsageError
from spellwork.hosted import MachineType
from spellwork.hosted.effects import Effects
from spellwork.machine import Assign, Chart, ChartBuilder, Send
from spellwork.testing import TestEngine, replays

go = Signal[int]("go")
stopped: list[str] = []


@workflow
async def double(number: int) -> int:
    """A child that returns, fails or waits."""
    if number < 0:
        raise ValueError("negative")
    if number == 0:
        try:
            return await go.receive()
        finally:
            stopped.append("left")
    return 2 * number


def calling(number: int) -> Chart:
    chart = ChartBuilder(f"calling{number}", context=lambda: {}).initial("idle")
    chart.state("idle").on("call", "busy")
    busy = chart.state("busy").invoke(double, id="d", data={"number": number}).on("give_up", "idle")
    busy.on("done.invoke.d", "done", do=Assign(lambda c, e: {"result": e.data}))
    busy.on("error.invoke.d", "failed", do=Assign(lambda c, e: {"why": e.data}))
    busy.on("poke", do=Send("go", data=7, target="#_d"))
    chart.state("done")
    chart.state("failed")
    return chart.build()


async def reached(machine: HostedMachine, *states: str) -> None:
    """Wait until it is in these states."""
    async with asyncio.timeout(20):
        async for each in machine.watch(-1):
            if each.after == states:
                return


async def test_a_workflow_is_a_child_whose_end_is_an_event(tmp_path: Path) -> None:
    """Its result, or its error by type and message."""
    async with Engine(f"sqlite:{tmp_path}/a.db", machines=[calling(4), calling(-1)], workflows=[double]) as engine:
        good, bad = engine.machine("calling4", "good"), engine.machine("calling-1", "bad")
        await asyncio.gather(good.send("call"), bad.send("call"))
        await reached(good, "done")
        await reached(bad, "failed")
        assert (await good.state()).context == {"result": 8}
        assert (await bad.state()).context["why"] == {"type": "ValueError", "message": "negative"}
        assert all(verdict.ok for verdict in await replays(engine))


async def test_leaving_the_state_cancels_the_child_and_nothing_comes_of_it(tmp_path: Path) -> None:
    """Also if it had not begun when the state was left."""
    stopped.clear()
    async with Engine(f"sqlite:{tmp_path}/a.db", machines=[calling(0)], workflows=[double]) as engine:
        machine = engine.machine("calling0", "m")
        await asyncio.gather(machine.send("call"), machine.send("give_up"))
        await machine.send("call")
        await asyncio.sleep(0.05)
        await machine.send("give_up")
        async with asyncio.timeout(10):
            while any(info.status == "running" for info in await engine.list(workflow="double")):
                await asyncio.sleep(0.01)
        assert {str(info.status) for info in await engine.list(workflow="double")} == {"cancelled"}
        assert len(stopped) in (1, 2)
        assert (await machine.state()).active == ("idle",)
        assert (await machine.state()).transitions == 5


async def test_an_event_for_a_child_waits_until_the_child_exists(tmp_path: Path) -> None:
    """Sent in the same breath as the start."""
    async with Engine(f"sqlite:{tmp_path}/a.db", machines=[calling(0)], workflows=[double]) as engine:
        machine = engine.machine("calling0", "m")
        await asyncio.gather(machine.send("call"), machine.send("poke"))
        await reached(machine, "done")
        assert (await machine.state()).context == {"result": 7}


def worker() -> Chart:
    """A child machine: it reports to its parent and ends with a result."""
    chart = ChartBuilder("worker", context=lambda: {"n": 0}).initial("working")
    working = chart.state("working").on_entry(Send("hello", data=lambda c: c["n"], target="#_parent"))
    working.on("add", do=Assign(lambda c, e: {"n": c["n"] + e.data})).on("finish", "done")
    chart.final("done", lambda c: c["n"])
    return chart.build()


def boss(child: Any) -> Chart:
    chart = ChartBuilder("boss", context=lambda: {"heard": []}).initial("leading")
    leading = chart.state("leading").invoke(child, id="w")
    leading.on("hello", do=Assign(lambda c, e: {"heard": [*c["heard"], e.data]}))
    leading.on("work", do=Send("add", data=lambda c, e: e.data, target="#_w")).on("close", do=Send("finish", target="#_w"))
    leading.on("done.invoke.w", "over", do=Assign(lambda c, e: {"result": e.data})).on("quit", "over")
    chart.state("over")
    return chart.build()


@pytest.mark.parametrize("again", [False, True])
async def test_what_a_child_sent_when_its_state_was_left_is_not_taken(again: bool) -> None:
    """It is under way in the moment in which the parent goes elsewhere, or begins the same child anew."""
    child = ChartBuilder("ticker", context=int).initial("on")
    child.state("on").every("1s", do=[Assign(lambda n: n + 1), Send("tick", data=lambda n: n, target="#_parent")])
    chart = ChartBuilder("parent", context=list).initial("with")
    hear = Assign(lambda heard, event: [*heard, event.data])
    state = chart.state("with").invoke(child.build(), id="t").on("tick", do=hear).on("leave", "without")
    state.after("3s", "with" if again else "without")
    chart.state("without").on("tick", do=hear)
    async with TestEngine(machines=[chart.build()]) as engine:
        machine = engine.machine("parent", "m")
        await machine
        for _ in range(50):
            await engine.settle()
            await engine.advance(0.1)
        assert (await machine.state()).context == ([1, 2, 1, 2] if again else [1, 2])
        assert all(verdict.ok for verdict in await replays(engine))


async def test_what_a_journal_has_of_a_left_child_is_taken_on_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was taken by the version that wrote it, and what was told of the machine then stays true."""
    child = ChartBuilder("late", context=int).initial("on")
    child.state("on").every("1s", do=[Assign(lambda n: n + 1), Send("tick", data=lambda n: n, target="#_parent")])
    chart = ChartBuilder("parent", context=list).initial("with")
    hear = Assign(lambda heard, event: [*heard, event.data])
    chart.state("with").invoke(child.build(), id="t").on("tick", do=hear).after("3s", "without")
    chart.state("without").on("tick", do=hear)
    async with TestEngine(machines=[chart.build()]) as engine:
        machine = engine.machine("parent", "m")
        with monkeypatch.context() as before:
            before.setattr(Effects, "is_stale", lambda _effects, _event: False)
            await machine
            for _ in range(50):
                await engine.settle()
                await engine.advance(0.1)
        assert (await machine.state()).context == [1, 2, 3]
        assert all(verdict.ok for verdict in await replays(engine))


def teller() -> Chart:
    """A child that tells its parent something after a second."""
    chart = ChartBuilder("teller", context=int).initial("on")
    chart.state("on").after("1s", "told")
    chart.state("told").on_entry(Send("tick", data=7, target="#_parent"))
    return chart.build()


async def test_the_event_of_a_child_is_forwarded_to_another_and_kept_for_later() -> None:
    """It still has the name that its sender has there, which nobody has here; so has one that the machine sends itself."""
    hearer = ChartBuilder("hearer", context=list).initial("on")
    hearer.state("on").on("tick", do=Assign(lambda heard, event: [*heard, event.data]))
    chart = ChartBuilder("front", context=list).initial("with")
    state = chart.state("with").invoke(teller(), id="t").invoke(hearer.build(), id="h", forward=True)
    state.on("tick", do=Send(lambda _context, event: event, delay="5s")).on("leave", "without")
    chart.state("without").on("tick", do=Assign(lambda heard, event: [*heard, event.data]))
    async with TestEngine(machines=[chart.build()]) as engine:
        machine = engine.machine("front", "m")
        await machine
        await engine.advance(2)
        [below] = await engine.list(workflow="machine:front.h")
        assert (await (await engine.get(below.id)).query("state"))["context"] == [7]
        await machine.send("leave")
        await engine.advance(10)
        assert (await machine.state()).context == [7]
        assert all(verdict.ok for verdict in await replays(engine))


async def test_what_finalize_makes_of_an_event_that_nothing_handles_is_kept() -> None:
    """Also if the next event fails, and it must be storable."""

    def fail(_context: Any) -> Any:
        raise ValueError("boom")

    def front(change: Any) -> Chart:
        chart = ChartBuilder("front", context=lambda: {"n": 0}).initial("with")
        state = chart.state("with").invoke(teller(), id="t").on("bad", do=Assign(fail))
        state.on("good", do=Assign(lambda context: {**context, "good": True}))
        state._invokes[-1] = dataclasses.replace(state._invokes[-1], finalize=(Assign(change),))
        return chart.build()

    for change, count in ((lambda context: {"n": context["n"] + 1}, 1), (lambda context: {**context, "x": object()}, 0)):
        async with TestEngine(machines=[front(change)]) as engine:
            machine = engine.machine("front", "m")
            await machine
            await engine.advance(2)
            with pytest.raises(EventFailed):
                await machine.send("bad")
            assert (await machine.ask("good")).context == (await machine.state()).context == {"n": count, "good": True}
            assert all(verdict.ok for verdict in await replays(engine))


@pytest.mark.parametrize("inline", [True, False])
async def test_machines_are_children_of_machines(inline: bool, tmp_path: Path) -> None:
    """A chart that stands in the chart, or one that is registered, by its name; over a restart in the middle."""
    url, child = f"sqlite:{tmp_path}/a.db", worker()
    kinds = [boss(child)] if inline else [boss("worker"), child]
    async with Engine(url, machines=kinds) as engine:
        machine = engine.machine("boss", "m")
        await machine.send("work", 3)
        await machine.send("work", 4)
    async with Engine(url, machines=kinds) as engine:
        machine = engine.machine("boss", "m")
        await machine.send("work", 5)
        await machine.send("close")
        await reached(machine, "over")
        assert (await machine.state()).context == {"heard": [0], "result": 12}
        name = "machine:boss.w" if inline else "machine:worker"
        assert [info.status for info in await engine.list(workflow=name)] == ["completed"]
        assert all(verdict.ok for verdict in await replays(engine))


async def test_a_child_machine_is_ended_with_its_state(tmp_path: Path) -> None:
    """Its exit actions run, and its parent hears nothing."""
    async with Engine(f"sqlite:{tmp_path}/a.db", machines=[boss(worker())]) as engine:
        machine = engine.machine("boss", "m")
        await machine.send("work", 3)
        await machine.send("quit")
        async with asyncio.timeout(10):
            while (await engine.list(workflow="machine:boss.w"))[0].status != "cancelled":
                await asyncio.sleep(0.01)
        assert (await machine.state()).active == ("over",)
        assert "result" not in (await machine.state()).context


async def test_machines_send_to_each_other_by_id_and_hear_of_failures(tmp_path: Path) -> None:
    """Ping and pong; an event to nobody comes back as error.communication."""

    def player(name: str, other: str) -> Chart:
        chart = ChartBuilder(name, context=int).initial("playing")
        back = Send("ball", target=f"#_scxml_{other}")
        playing = chart.state("playing").on("ball", guard=lambda n: n < 5, do=[Assign(lambda n: n + 1), back]).on("ball", "tired")
        playing.on("error.communication", "alone").on("unknown", do=Send("x", target="#_nobody"))
        chart.state("tired")
        chart.state("alone")
        return chart.build()

    async with Engine(
        f"sqlite:{tmp_path}/a.db", machines=[player("ping", "b"), player("pong", "a"), player("lost", "z")]
    ) as engine:
        ping, pong = await engine.machine("ping", "a"), await engine.machine("pong", "b")
        await ping.send("ball")
        await reached(ping, "tired")
        assert ((await ping.state()).context, (await pong.state()).context) == (5, 5)
        lost = engine.machine("lost", "l")
        await lost.send("ball")
        await reached(lost, "alone")
        other = engine.machine("lost", "m")
        await other.send("unknown")
        await reached(other, "alone")


async def test_forwarded_events_reach_the_child(tmp_path: Path) -> None:
    """`forward=True` hands every external event on."""
    chart = ChartBuilder("front").initial("on")
    chart.state("on").invoke(worker(), id="w", forward=True).on(
        "done.invoke.w", "off", do=Assign(lambda _context, event: {"result": event.data})
    )
    chart.state("off")
    async with Engine(f"sqlite:{tmp_path}/a.db", machines=[chart.build()]) as engine:
        machine = engine.machine("front", "m")
        await machine.send("add", 2)
        await machine.send("finish")
        await reached(machine, "off")
        assert (await machine.state()).context == {"result": 2}


async def test_what_can_not_be_invoked_is_refused_to_the_sender() -> None:
    """A name that nobody registered, and a type that an engine has not."""
    for src, kind, error in (("nothing", None, UnknownWorkflow), ("x", "http", UsageError)):
        chart = ChartBuilder("c").initial("a")
        chart.state("a").on("go", "b")
        busy = chart.state("b")
        busy.invoke(src)
        if kind:
            busy._invokes[-1] = type(busy._invokes[-1])(src, kind)
        async with TestEngine(machines=[chart.build()]) as engine:
            with pytest.raises(error):
                await engine.machine("c", "m").send("go")
            assert (await engine.machine("c", "m").state()).active == ("a",)


async def test_a_workflow_can_signal_a_machine() -> None:
    """A signal is an event by name, whoever sends it."""
    chart = ChartBuilder("c", context=int).initial("a")
    chart.state("a").on("add", do=Assign(lambda n, e: n + e.data))
    async with TestEngine(machines=[MachineType(chart.build())]) as engine:
        machine = await engine.machine("c", "m")
        run = await engine.get("m")
        await run.signal("add", 4)
        await run.signal("add", 5, id="x")
        await run.signal("add", 5, id="x")
        assert (await machine.state()).context == 9
        assert (await run.query("state"))["context"] == 9
        assert [t["event"] for t in await run.query("transitions")] == [None, "add", "add"]
