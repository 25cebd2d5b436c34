"""A hosted machine: events in, durable transitions out, the same after every restart."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
from pathlib import Path
from typing import Any

import pytest

from spellwork import Engine, activity, now, random, sync, uuid4
from spellwork.errors import (
    DefinitionError,
    EndlessStep,
    EventFailed,
    InvalidTransition,
    PayloadError,
    RunExists,
    RunFinished,
    RunNotFound,
    UnknownEvent,
    UnknownWorkflow,
    UsageError,
)
from spellwork.hosted import MachineType, Transition
from spellwork.machine import Assign, Chart, ChartBuilder, Event, Log, Send, agent_lifecycle
from spellwork.testing import TestEngine, replays


def door(**options: Any) -> Chart:
    """A door that falls shut by itself, and counts how often it was opened."""
    chart = ChartBuilder("door", context=lambda: {"opened": 0}, **options).initial("closed")
    chart.state("closed").on("open", "open", do=Assign(lambda c: {"opened": c["opened"] + 1})).on("lock", "locked")
    chart.state("open").on("close", "closed").after("5s", "closed")
    chart.state("locked").on("unlock", "closed", guard=lambda _context, event: event.data == "key")
    return chart.build()


async def test_an_event_moves_a_machine_and_is_durable_when_send_returns(tmp_path: Path) -> None:
    """Another engine on the same file finds it where it was."""
    url = f"sqlite:{tmp_path}/doors.db"
    async with Engine(url, machines=[door()]) as engine:
        front = engine.machine("door", "front")
        await front.send("open")
        state = await front.ask("close")
        assert (state.active, state.context, state.running, state.allowed) == (("closed",), {"opened": 1}, True, ("open", "lock"))
        await front.send("lock")
    async with Engine(url, machines=[door()]) as engine:
        front = engine.machine("door", "front")
        assert (await front.state()).active == ("locked",)
        assert (await front.ask("unlock", "key")).active == ("closed",)
        assert [t.event for t in await front.history()] == [None, "open", "close", "lock", "unlock"]


async def test_a_strict_machine_refuses_in_the_caller_and_writes_nothing() -> None:
    """Unknown events, events of other states, and events whose guard does not hold."""
    async with TestEngine(machines=[door()]) as engine:
        front = engine.machine("door", "front")
        await front.send("lock")
        before = len(await (await engine.get("front")).history())
        with pytest.raises(UnknownEvent, match="knows open, lock, close") as unknown:
            await front.send("paint")
        assert (unknown.value.event, unknown.value.state) == ("paint", ())
        for verb in (front.send, front.ask):
            with pytest.raises(InvalidTransition) as refused:
                await verb("open")
            assert (refused.value.state, refused.value.event, refused.value.allowed) == (("locked",), "open", ("unlock",))
            with pytest.raises(InvalidTransition):
                await verb("unlock", "hairpin")
        assert str(await front.why_not("unlock", "hairpin")).endswith("does not hold")
        assert len(await (await engine.get("front")).history()) == before
        assert (await front.state()).transitions == 2


async def test_a_lenient_machine_drops_what_it_does_not_know() -> None:
    """It is no transition, and no error."""
    async with TestEngine(machines=[door(strict=False)]) as engine:
        front = engine.machine("door", "front")
        await front.send("paint")
        assert (await front.ask("close")).active == ("closed",)
        assert (await front.state()).transitions == 1


async def test_looking_at_a_machine_never_makes_one() -> None:
    """Sending does; so does awaiting the handle."""
    async with TestEngine(machines=[door()]) as engine:
        front = engine.machine("door", "front")
        for look in (front.state(), front.history(), front.why_not("open"), front.status()):
            with pytest.raises(RunNotFound):
                await look
        with pytest.raises(UnknownEvent):
            await front.send("paint")
        with pytest.raises(PayloadError):
            await front.send("open", object())
        assert await engine.list() == []
        assert await front is front
        assert (await front.state()).active == ("closed",)
        with pytest.raises(UnknownWorkflow, match="machine 'gate' is not registered"):
            engine.machine("gate", "x")
        with pytest.raises(DefinitionError, match="takes a chart"):
            engine.machine(7, "x")  # type: ignore[arg-type]


async def test_a_context_is_given_once() -> None:
    """Whoever gives another one is told; whoever gives none takes the machine as it is."""
    async with TestEngine(machines=[door()]) as engine:
        await engine.machine("door", "front", {"opened": 7})
        await engine.machine("door", "front", {"opened": 7})
        assert (await engine.machine("door", "front").ask("open")).context == {"opened": 8}
        with pytest.raises(RunExists):
            await engine.machine("door", "front", {"opened": 1})


async def test_timers_are_durable_and_never_early(tmp_path: Path) -> None:
    """What is left of a delay goes on after a restart; at its time, not before."""
    url = f"sqlite:{tmp_path}/doors.db"
    async with TestEngine(url, machines=[door()]) as engine:
        await engine.machine("door", "front").send("open")
        began = engine.clock.now()
        await engine.advance(3)
    async with TestEngine(url, machines=[door()]) as engine:
        engine.clock.advance_to(began + 4_999_999)
        await engine.settle()
        front = engine.machine("door", "front")
        assert (await front.state()).active == ("open",)
        await engine.advance(0.000001)
        assert (await front.state()).active == ("closed",)
        last = (await front.history())[-1]
        assert last.event == "after.open.1"
        assert last.at.timestamp() * 1_000_000 == began + 5_000_000


async def test_a_timer_that_was_left_never_fires() -> None:
    """The door was closed by hand and opened anew: only the new delay counts."""
    async with TestEngine(machines=[door()]) as engine:
        front = engine.machine("door", "front")
        await front.send("open")
        await engine.advance(4)
        await front.send("close")
        await front.send("open")
        await engine.advance(4)
        assert (await front.state()).active == ("open",)
        await engine.advance(1)
        assert (await front.state()).active == ("closed",)


async def test_every_goes_on_for_ever_and_over_restarts(tmp_path: Path) -> None:
    """A tick a second, each once; idle machines leave memory between two."""
    built = ChartBuilder("clock", context=int).initial("ticking")
    built.state("ticking").every("1s", do=Assign(lambda n: n + 1))
    chart, url = built.build(), f"sqlite:{tmp_path}/clock.db"
    for life in range(1, 4):
        async with TestEngine(url, machines=[chart], cache=0) as engine:
            clock = engine.machine("clock", "c")
            await clock
            engine.clock.advance_to(1_700_000_000_000_000 + (life - 1) * 10_000_000)
            await engine.advance(10)
            assert (await clock.state()).context == 10 * life
            assert engine.loaded == 0


@dataclasses.dataclass(frozen=True)
class Paid:
    """An event with fields."""

    amount: int
    by: str = "nobody"


@dataclasses.dataclass(frozen=True)
class Till:
    """A context with a type."""

    total: int = 0
    payers: tuple[str, ...] = ()


class Switch(enum.Enum):
    """Events without data."""

    ON = 1
    OFF = 2


def till() -> Chart:
    chart = ChartBuilder("till", context=Till, events=[Paid, Switch.ON, Switch.OFF]).initial("off")
    chart.state("off").on(Switch.ON, "on")
    chart.state("on").on(Switch.OFF, "off").on(Paid, guard=lambda _till, paid: paid.amount > 0, do=Assign(_pay))
    return chart.build()


def _pay(till: Till, paid: Paid) -> Till:
    assert type(paid) is Paid
    return Till(till.total + paid.amount, (*till.payers, paid.by))


async def test_typed_events_and_contexts_come_back_as_what_they_were(tmp_path: Path) -> None:
    """By name they carry the same fields; what does not fit is refused before anything is written."""
    url, kind = f"sqlite:{tmp_path}/till.db", MachineType(till(), events=[Switch], trim=2)
    async with Engine(url, machines=[kind]) as engine:
        desk = engine.machine(kind, "desk")
        await desk.send(Switch.ON)
        await desk.send(Paid(3, "Ada"))
        assert (await desk.ask("Paid", {"amount": 4})).context == Till(7, ("Ada", "nobody"))
        with pytest.raises(InvalidTransition):
            await desk.send(Paid(-1))
        for bad in ({"amount": "much"}, {}, 7):
            with pytest.raises(PayloadError, match="Paid"):
                await desk.send("Paid", bad)
        with pytest.raises(UsageError, match="carries its own data"):
            await desk.send(Paid(1), 2)
        with pytest.raises(UsageError, match="has more"):
            await desk.send(Event("Paid", kind="platform"))
    async with Engine(url, machines=[kind]) as engine:
        desk = engine.machine(kind, "desk")
        state = await desk.state()
        assert (state.context, state.active, type(state.context)) == (Till(7, ("Ada", "nobody")), ("on",), Till)
        told = await desk.history()
        assert [t.data for t in told] == [None, Switch.ON, Paid(3, "Ada"), Paid(4)]
        assert all(isinstance(t, Transition) for t in told)


async def test_what_a_class_of_events_was_not_declared_is_refused() -> None:
    """Nothing is decoded into a class that the chart does not name."""
    chart = ChartBuilder("undeclared").initial("a")
    chart.state("a").on(Paid, "b")
    chart.state("b").on("back", "a", do=Assign(lambda _c, event: event.data))
    async with TestEngine(machines=[chart.build()]) as engine:
        machine = engine.machine("undeclared", "m")
        with pytest.raises(PayloadError, match="Paid is not declared"):
            await machine.send(Paid(1))
        await machine.send("Paid", {"amount": 1})
        with pytest.raises(PayloadError, match="back"):
            await machine.send("back", object())
        assert (await machine.ask("back", {"x": (1, 2)})).context == {"x": (1, 2)}


async def test_what_raises_changes_nothing() -> None:
    """A guard, an assignment or a plain action that raises is told to the sender; the machine stays, the journal too."""

    def boom(*_: object) -> None:
        raise ValueError("boom")

    chart = ChartBuilder("fragile", context=lambda: {"n": 0}).initial("a")
    chart.state("a").on("guard", "b", guard=boom).on("assign", "b", do=Assign(boom)).on("act", "b", do=[_more, boom]).on("ok", "b")
    chart.state("b").on("bad", do=Assign(lambda c: {**c, "x": object()}))
    async with TestEngine(machines=[chart.build()]) as engine:
        machine = engine.machine("fragile", "m")
        for event in ("guard", "assign", "act"):
            with pytest.raises(EventFailed, match="ValueError: boom") as failed:
                await machine.send(event)
            assert failed.value.event == event
            assert (await machine.state()).active == ("a",)
        assert len(await (await engine.get("m")).history()) == 1
        await machine.send("ok")
        with pytest.raises(PayloadError, match=r"new context cannot be stored: \$\['x'\]"):
            await machine.send("bad")
        assert (await machine.state()).context == {"n": 0}


async def test_a_context_that_was_changed_in_place_by_what_then_failed_comes_back() -> None:
    """Assignments are pure; one that is not does no lasting harm where its event fails."""

    def spoil(context: dict[str, int]) -> dict[str, int]:
        context["n"] += 1
        return context

    def boom() -> None:
        raise ValueError("boom")

    chart = ChartBuilder("spoilt", context=lambda: {"n": 0}).initial("a")
    chart.state("a").on("bad", "b", do=[Assign(spoil), boom]).on("good", do=Assign(spoil))
    chart.state("b")
    async with TestEngine(machines=[chart.build()]) as engine:
        machine = engine.machine("spoilt", "m")
        await machine.send("good")
        for _ in range(3):
            with pytest.raises(EventFailed):
                await machine.send("bad")
        assert (await machine.ask("good")).context == {"n": 2}
        assert (await machine.state()).context == {"n": 2}


@pytest.mark.parametrize("busy", [False, True])
async def test_whatever_fails_leaves_the_context_as_the_journal_has_it(busy: bool) -> None:
    """Also what can't be stored, and while something is under way, so that the machine must stay in memory."""

    def spoil(context: dict[str, Any], how: str) -> dict[str, Any]:
        context["n"] += 100
        if how == "raise":
            raise ValueError("boom")
        return {**context, "x": object()} if how == "other" else context | {"y": context.setdefault("x", object())}

    def spoilt(how: str) -> Assign:
        return Assign(lambda context: spoil(context, how))

    chart = ChartBuilder("spoilt", context=lambda: {"n": 0}).initial("a")
    state = chart.state("a").on("good", do=_more)
    for how in ("raise", "other", "place"):
        state.on(how, do=spoilt(how))
    if busy:
        state.on_entry(forever)
    async with TestEngine(machines=[chart.build()]) as engine:
        machine = engine.machine("spoilt", "m")
        await machine
        for count, how in enumerate(("raise", "other", "place"), start=1):
            bad, good = await asyncio.gather(machine.send(how), machine.ask("good"), return_exceptions=True)
            assert isinstance(bad, EventFailed if how == "raise" else PayloadError)
            assert not isinstance(good, BaseException)
            assert good.context == (await machine.state()).context == {"n": count}
        assert all(verdict.ok for verdict in await replays(engine))
        await machine.terminate()


@dataclasses.dataclass
class Basket:
    items: list[int] = dataclasses.field(default_factory=list)


def _frozen(basket: Basket) -> Basket:
    basket.items = tuple(basket.items)  # type: ignore[assignment]
    return basket


def _shared(context: dict[str, Any]) -> dict[str, Any]:
    context["b"] = context["a"]
    return context


def _added(context: Any) -> Any:
    (context["a"] if isinstance(context, dict) else context.items).append(1)
    return context


def _boom(_context: Any) -> Any:
    raise ValueError("boom")


@pytest.mark.parametrize(
    ("context", "odd", "wanted"),
    [(Basket, _frozen, Basket([1, 1])), (lambda: {"a": [], "b": []}, _shared, {"a": [1, 1], "b": [1]})],
    ids=["kind", "alias"],
)
async def test_nothing_lives_on_in_a_context_that_its_stored_form_does_not_show(context: Any, odd: Any, wanted: Any) -> None:
    """A tuple that is stored as a list, one list in two places: in memory and on replay it comes to the same, whatever failed."""
    chart = ChartBuilder("odd", context=context).initial("a")
    state = chart.state("a").on("odd", do=Assign(odd)).on("add", do=Assign(_added)).on("boom", do=Assign(_boom))
    state.on("look", do=lambda: None)
    async with TestEngine(machines=[chart.build()]) as engine:
        machine = engine.machine("odd", "m")
        for event in ("look", "odd", "add", "look", "odd", "boom", "add"):
            if event == "boom":
                with pytest.raises(EventFailed):
                    await machine.send(event)
            else:
                await machine.send(event)
        live = (await machine.state()).context
        assert all(verdict.ok for verdict in await replays(engine))
    assert live == wanted


@activity
async def forever() -> None:
    """Under way until the machine ends."""
    await asyncio.Event().wait()


async def test_a_context_that_is_changed_in_place_must_be_storable_too() -> None:
    """It is the same object, and not the same value."""

    def spoil(context: dict[str, Any]) -> dict[str, Any]:
        context["x"] = object()
        return context

    chart = ChartBuilder("spoilt", context=lambda: {"n": 0}).initial("a")
    chart.state("a").on("bad", do=Assign(spoil)).on("good", do=_more)
    async with TestEngine(machines=[chart.build()]) as engine:
        machine = engine.machine("spoilt", "m")
        await machine
        with pytest.raises(PayloadError, match=r"new context cannot be stored: \$\['x'\]"):
            await machine.send("bad")
        assert (await machine.ask("good")).context == {"n": 1}


_more = Assign(lambda context: {"n": context["n"] + 1})


async def test_time_and_chance_are_the_journals(tmp_path: Path) -> None:
    """`now()` and `random()` in assignments give the same on replay, and a refused event draws nothing."""
    chart = ChartBuilder("dice", context=list).initial("on")
    chart.state("on").on("roll", do=Assign(lambda c: [*c, random(), now().timestamp()])).on(
        "never", guard=lambda: random() > 2, do=Assign(lambda c: [*c, "never"])
    )
    kind, url = MachineType(chart.build(), trim=5), f"sqlite:{tmp_path}/dice.db"
    async with Engine(url, machines=[kind]) as engine:
        dice = engine.machine(kind, "d")
        for _ in range(12):
            with pytest.raises(InvalidTransition):
                await dice.send("never")
            await dice.send("roll")
        seen = (await dice.ask("roll")).context
        assert len(set(seen)) == len(seen) == 26
        assert all(verdict.ok for verdict in await replays(engine))
    async with Engine(url, machines=[kind]) as engine:
        assert (await engine.machine(kind, "d").state()).context == seen


@pytest.mark.parametrize("verb", ["wait", "step", "file"])
async def test_pure_code_is_held_to_it(verb: str, tmp_path: Path) -> None:
    """A plain action that waits, starts a step or opens a file is refused with what to do instead."""

    def act() -> None:
        if verb == "wait":
            asyncio.get_running_loop().call_later(1, print)
        elif verb == "step":
            _ = note("x")
        else:
            (tmp_path / "file").write_text("no")

    chart = ChartBuilder("impure").initial("a")
    chart.state("a").on("go", "b", do=act)
    chart.state("b")
    async with TestEngine(machines=[chart.build()]) as engine:
        with pytest.raises(UsageError, match="inside a workflow would not replay" if verb == "file" else "make it an @activity"):
            await engine.machine("impure", "m").send("go")
        assert not (tmp_path / "file").exists()


@activity
async def note(text: str) -> str:
    """Something with an effect."""
    return text.upper()


@activity
def charge(context: dict[str, Any], event: Event) -> int:
    """An effect that sees what an action sees, in a thread."""
    if event.data == "broke":
        raise LookupError("no money")
    return int(context["price"]) * 2


async def test_activities_are_steps_and_their_results_events(tmp_path: Path) -> None:
    """`done.activity.NAME` with the result, `error.activity.NAME` with the failure."""
    chart = ChartBuilder("shop", context=lambda: {"price": 21}).initial("idle")
    chart.state("idle").on("buy", "buying", do=charge)
    chart.state("buying").on("done.activity.charge", "paid", do=Assign(lambda c, e: {"paid": e.data})).on(
        "error.activity", "failed", do=Assign(lambda c, e: {"why": e.data})
    )
    chart.state("paid")
    chart.state("failed")
    url = f"sqlite:{tmp_path}/shop.db"
    kind = MachineType(chart.build())
    async with Engine(url, machines=[kind]) as engine:
        await engine.machine(kind, "a").send("buy")
        broke = engine.machine(kind, "b")
        charge.retry, kept = type(charge.retry)(max_attempts=1), charge.retry
        await broke.send("buy", "broke")
        async for each in broke.watch(-1):
            if each.after == ("failed",):
                break
        charge.retry = kept
        assert (await broke.state()).context["why"] == {"type": "LookupError", "message": "no money"}
        async for each in engine.machine(kind, "a").watch(-1):
            if each.after == ("paid",):
                break
        assert (await engine.machine(kind, "a").state()).context["paid"] == 42
        steps = [event for event in await (await engine.get("a")).history() if event.kind == "StepCompleted"]
        assert [event.data["name"] for event in steps] == ["charge"]


async def test_an_action_that_must_be_an_activity_is_refused_when_it_is_registered() -> None:
    """Async actions, and activities as guards or assignments."""

    async def later() -> None: ...

    for content, match in (
        ({"do": later}, "async; make it an @activity"),
        ({"do": Assign(charge)}, "can't change the context"),
        ({"guard": charge}, "is no guard"),
    ):
        chart = ChartBuilder("refused").initial("a")
        chart.state("a").on("go", **content)
        with pytest.raises(DefinitionError, match=match):
            Engine(machines=[chart.build()])


async def test_what_a_machine_publishes_is_there_once_with_its_transition(tmp_path: Path) -> None:
    """A send to the bus becomes an event of a durable topic, also on the way to the end; what is no topic is an error event."""
    chart = ChartBuilder("shop", context=lambda: {"n": 0}).initial("open")
    state = chart.state("open")
    state.on("sell", do=[Assign(lambda context, _event: {"n": context["n"] + 1}), Send("shop.sold", 7, target="#_bus")])
    state.on("bad", do=Send("no topic\n", target=lambda: "#_bus"))
    state.on("error.execution", "odd")
    chart.state("odd").on("close", "closed", do=Send("shop.closed", target="#_bus"))
    chart.final("closed", lambda context: context["n"])
    url, found = f"sqlite:{tmp_path / 'store.db'}", []
    for sales in range(2):
        async with Engine(url, machines=[chart.build()]) as engine:
            await engine.machine("shop", "m").send("sell")
            if sales:
                await engine.machine("shop", "m").send("bad")
                await engine.machine("shop", "m").send("close")
                assert await (await engine.get("m")).result(timeout=20) == 2
            found = [each.event async for each in engine.topics.read("shop.*", follow=False)]
            assert [each.event async for each in engine.topics.timeline("m")] == found
    assert [(event.type, event.data) for event in found] == [("shop.sold", 7), ("shop.sold", 7), ("shop.closed", None)]
    assert {event.correlation for event in found} == {"m"}
    assert {event.source for event in found} == {"machine/shop/m"}


async def test_a_machine_that_publishes_errors_about_its_publishing_comes_to_an_end() -> None:
    """A send that can't be published is an error event, and who answers it with such a send goes round in a circle."""
    chart = ChartBuilder("loop").initial("a")
    state = chart.state("a").on("go", do=Send("no topic\n", target="#_bus"))
    state.on("error.execution", do=Send("no topic\n", target="#_bus"))
    async with asyncio.timeout(20), TestEngine(machines=[chart.build()]) as engine:
        machine = engine.machine("loop", "m")
        with pytest.raises(EndlessStep):
            await machine.send("go")
        assert (await machine.state()).transitions == 1


async def test_errors_of_publishing_come_where_older_journals_have_them() -> None:
    """Behind what the machine sent itself, and when it is due: timers that came before it keep their numbers."""
    chart = ChartBuilder("errs", context=list).initial("a")
    state = chart.state("a").on("order", do=[Send("own"), Send("no topic\n", target="#_bus"), Send("after")])
    state.on("late", do=[Send("no topic\n", target="#_bus", delay="2s"), Send("timer", delay="1s")])
    for name in ("own", "after", "timer", "error.execution"):
        state.on(name, do=Assign(lambda told, event: [*told, event.name]))
    async with TestEngine(machines=[chart.build()]) as engine:
        machine = engine.machine("errs", "m")
        assert (await machine.ask("order")).context == ["own", "after", "error.execution"]
        assert (await machine.ask("late")).context == ["own", "after", "error.execution"]
        await engine.advance(3)
        assert (await machine.state()).context == ["own", "after", "error.execution", "timer", "error.execution"]
        assert all(verdict.ok for verdict in await replays(engine))


@pytest.mark.parametrize("trim", [1, 100])
async def test_what_fails_leaves_deferred_events_as_the_journal_has_them(trim: int) -> None:
    """It may have changed the data of one in place."""

    def hear(context: dict[str, Any], event: Any) -> dict[str, Any]:
        event.data["n"] += 100
        if not context["ready"]:
            raise ValueError("boom")
        return {**context, "heard": event.data["n"]}

    chart = ChartBuilder("defers", context=lambda: {"ready": False}).initial("a")
    chart.state("a").defer("job").on("go", "b").on("ok", "b", do=Assign(lambda context: {**context, "ready": True}))
    chart.state("b").on("job", do=Assign(hear))
    async with TestEngine(machines=[MachineType(chart.build(), trim=trim)]) as engine:
        machine = engine.machine("defers", "m")
        await machine.send("job", {"n": 1})
        with pytest.raises(EventFailed):
            await machine.send("go")
        assert (await machine.ask("ok")).context == (await machine.state()).context == {"ready": True, "heard": 101}
        assert all(verdict.ok for verdict in await replays(engine))


async def test_what_waits_is_compressed_in_the_snapshot() -> None:
    """A machine with many timers writes all of them each time that its journal is trimmed."""
    chart = ChartBuilder("waits").initial("a")
    chart.state("a").on("go", do=Send("late", data="hello world " * 20, delay="1h")).on("late")
    async with TestEngine(machines=[MachineType(chart.build(), trim=50)]) as engine:
        machine = engine.machine("waits", "m")
        for _ in range(60):
            await machine.send("go")
        sizes = await engine.store.read(lambda reader: [len(value) for _, value in reader.scan(b"", b"\xff")])
        assert max(sizes) < 5000
        assert (await machine.state()).transitions == 61
        assert all(verdict.ok for verdict in await replays(engine))


async def test_an_end_waits_for_its_activities_and_gives_a_result() -> None:
    """What the exit asks for is done; then the run is over, and refuses events."""
    done: list[str] = []

    @activity
    async def farewell() -> None:
        done.append("bye")

    chart = ChartBuilder("life", context=lambda: {"n": 3}).initial("on")
    chart.state("on").on("off", "gone").on_exit(farewell)
    chart.final("gone", lambda context: context["n"])
    async with TestEngine(machines=[chart.build()]) as engine:
        life = engine.machine("life", "l")
        await life.send("off")
        assert await life.result() == 3
        assert done == ["bye"]
        state = await life.state()
        assert (state.running, state.result, state.active, state.allowed) == (False, 3, ("gone",), ())
        with pytest.raises(RunFinished):
            await life.send("off")
        assert not (await life.why_not("off")).accepted


async def test_cancelling_runs_the_exit_actions() -> None:
    """An end from outside is an end in order."""
    chart = ChartBuilder("c").initial("on")
    chart.state("on").on("x", "on").on_exit(note_bye)
    async with TestEngine(machines=[chart.build()]) as engine:
        machine = await engine.machine("c", "m")
        await machine.cancel("enough")
        with pytest.raises(Exception, match="enough"):
            await machine.result()
        assert [e.kind for e in await (await engine.get("m")).history()][-2:] == ["StepCompleted", "Cancelled"]


@activity
async def note_bye() -> str:
    """An exit action."""
    return "bye"


async def test_an_id_is_taken_once_and_answered_twice(tmp_path: Path) -> None:
    """Also over trims, over restarts, and by another process's way."""
    url, kind = f"sqlite:{tmp_path}/doors.db", MachineType(_counter(), trim=3)
    async with Engine(url, machines=[kind]) as engine:
        counter = engine.machine(kind, "c")
        first = await counter.ask("add", 5, id="first")
        await asyncio.gather(*(counter.send("add", 1, id=f"n{i % 10}") for i in range(40)))
        assert (await counter.state()).context == 15
        again = await counter.ask("add", 5, id="first")
        assert again == first
        assert again.context == 5
    async with Engine(url, machines=[kind]) as engine, Engine(url, machines=[kind], client=True) as client:
        counter = client.machine(kind, "c")
        assert (await counter.ask("add", 5, id="first")).context == 5
        assert (await counter.ask("add", 1, id="n3")).context <= 15
        assert (await counter.ask("add", 1)).context == 16
        with pytest.raises(InvalidTransition) as refused:
            await counter.send("add", -1)
        assert refused.value.allowed == ("add", "note")
        assert (await engine.machine(kind, "c").state()).context == 16


def _counter() -> Chart:
    chart = ChartBuilder("counter", context=int).initial("on")
    chart.state("on").on("add", guard=lambda _n, e: e.data > 0, do=Assign(lambda n, e: n + e.data)).on("note", do=Log("saw", 7))
    return chart.build()


async def test_a_thousand_concurrent_events_equal_some_serial_order() -> None:
    """Each is applied once; the order of the history explains every answer."""
    async with TestEngine(machines=[_counter()]) as engine:
        counter = await engine.machine("counter", "c")
        answers = await asyncio.gather(*(counter.ask("add", i + 1, id=f"e{i}") for i in range(1000)))
        history = (await counter.history())[1:]
        assert sorted(t.data for t in history) == list(range(1, 1001))
        total, by_amount = 0, {}
        for each in history:
            total += each.data
            by_amount[each.data] = total
        assert [answer.context for answer in answers] == [by_amount[i + 1] for i in range(1000)]
        assert (await counter.state()).context == total == 500_500


async def test_a_watch_tells_each_transition_once_and_resumes(tmp_path: Path) -> None:
    """Over trims, from any position, from another engine, until the machine ends."""
    chart = ChartBuilder("walk", context=int).initial("on")
    chart.state("on").on("step", do=[Assign(lambda n: n + 1), Log("at", lambda n: n)]).on("stop", "off")
    chart.final("off")
    kind, url = MachineType(chart.build(), trim=4), f"sqlite:{tmp_path}/walk.db"
    async with Engine(url, machines=[kind]) as engine, Engine(url, machines=[kind], client=True) as client:
        walk = await engine.machine(kind, "w")

        async def watch(after: int | None) -> list[int]:
            return [each.position async for each in client.machine(kind, "w").watch(after)]

        watchers = [asyncio.ensure_future(watch(after)) for after in (None, -1, 3)]
        await asyncio.sleep(0.05)
        for _ in range(20):
            await walk.send("step")
        await walk.send("stop")
        found = await asyncio.gather(*watchers)
        assert found == [list(range(1, 22)), list(range(22)), list(range(4, 22))]
        assert await watch(20) == [21]
        told = await walk.history()
        assert [t.position for t in told] == list(range(22))
        assert told[5].notes == (("at", 5),)
        assert [t.position for t in await walk.history(limit=6)] == list(range(16, 22))


async def test_idle_machines_take_no_memory() -> None:
    """They are parked and evicted like any run, and come back for an event."""
    async with TestEngine(machines=[door()], cache=3) as engine:
        doors = [engine.machine("door", f"d{i}") for i in range(50)]
        await asyncio.gather(*(each.send("lock") for each in doors))
        await engine.settle()
        assert engine.loaded <= 3
        states = await asyncio.gather(*(each.ask("unlock", "key") for each in doors))
        assert {state.active for state in states} == {("closed",)}


LEGAL = {
    ("Uninitialized", "initialize"): "Initializing", ("Uninitialized", "terminate"): "Terminated",
    ("Initializing", "initialized"): "Ready", ("Initializing", "fail"): "Failed", ("Initializing", "terminate"): "Terminating",
    ("Ready", "run"): "Running", ("Running", "finish"): "Ready", ("Running", "pause"): "Paused",
    ("Paused", "resume"): "Running", ("Paused", "cancel"): "Ready",
    **{(state, "fail"): "Failed" for state in ("Ready", "Running", "Paused", "Recovering")},
    **{(state, "terminate"): "Terminating" for state in ("Ready", "Running", "Paused", "Failed", "Recovering")},
    ("Failed", "recover"): "Recovering", ("Recovering", "recovered"): "Paused",
    ("Terminating", "terminated"): "Terminated",
}  # fmt: skip
WAYS = {
    "Uninitialized": (), "Initializing": ("initialize",), "Ready": ("initialize", "initialized"),
    "Running": ("initialize", "initialized", "run"), "Paused": ("initialize", "initialized", "run", "pause"),
    "Failed": ("initialize", "initialized", "run", "pause", "fail"),
    "Recovering": ("initialize", "initialized", "run", "pause", "fail", "recover"),
    "Terminating": ("initialize", "terminate"),
}  # fmt: skip


async def test_the_lifecycle_of_an_agent_is_legal_and_illegal_alike_after_a_restart(tmp_path: Path) -> None:
    """Every event in every state: what is legal leads where the chart says, the rest is refused; before and after a restart."""
    url, chart = f"sqlite:{tmp_path}/agents.db", agent_lifecycle()
    events = sorted({event for _, event in LEGAL})
    async with Engine(url, machines=[chart]) as engine:
        for state, way in WAYS.items():
            for event in events:
                agent = await engine.machine("agent", f"{state} {event}")
                for each in way:
                    await agent.send(each)
    async with Engine(url, machines=[chart], cache=7) as engine:
        for state in WAYS:
            for event in events:
                agent = engine.machine("agent", f"{state} {event}")
                assert (await agent.state()).active == (state,)
                wanted = LEGAL.get((state, event))
                if wanted is None:
                    with pytest.raises(InvalidTransition) as refused:
                        await agent.send(event)
                    assert refused.value.state == (state,)
                else:
                    await agent.send(event)
        for (state, event), wanted in LEGAL.items():
            assert (await engine.machine("agent", f"{state} {event}").state()).active == (wanted,)


def test_the_synchronous_face_has_machines() -> None:
    """Each verb, awaited elsewhere."""
    with sync.Engine(machines=[door()]) as engine:
        front = engine.machine("door", "front")
        front.send("open")
        assert front.ask("close").active == ("closed",)
        assert front.state().context == {"opened": 1}
        assert [t.event for t in front.history(limit=2)] == ["open", "close"]
        assert not front.why_not("close").accepted
        assert front.status().workflow == "machine:door"
        seen = []
        for each in front.watch(after=-1):
            seen.append(each.position)
            if each.position == 2:
                break
        assert seen == [0, 1, 2]


async def test_a_delay_beyond_every_calendar_is_one_that_never_comes() -> None:
    """No number of seconds blocks a machine whose event was acknowledged; what is no number is refused."""
    built = ChartBuilder("late").initial("on")
    built.state("on").on("in", do=Send("now", delay=lambda _context, event: event.data)).on("now", "off").on("look")
    built.state("off")
    async with TestEngine(machines=[built.build()]) as engine:
        late = engine.machine("late", "l")
        for delay in (1e13, 18446744073000.0, 1e15, 1e300, "1e20d"):
            await late.send("in", delay)
        for delay in (float("nan"), float("inf"), float("-inf")):
            with pytest.raises(EventFailed, match="is no delay"):
                await late.send("in", delay)
        assert (await late.ask("look")).active == ("on",)


@pytest.mark.parametrize(("result", "given"), [(Any, object()), (int, "text")])
async def test_a_result_that_cannot_be_stored_is_refused_with_its_event(result: Any, given: Any) -> None:
    """The machine stays where it was, and may end otherwise."""
    built = ChartBuilder("m").initial("on")
    built.state("on").on("end", "off").on("stop", "out")
    built.final("off", lambda: given)
    built.final("out", 7)
    async with TestEngine(machines=[MachineType(built.build(), result=result)]) as engine:
        machine = engine.machine("m", "m")
        for verb in (machine.send, machine.ask):
            with pytest.raises(PayloadError, match="what its final state gives cannot be stored"):
                await verb("end")
        assert (await machine.state()).active == ("on",)
        await machine.send("stop")
        assert await machine.result() == 7


async def test_each_turn_of_an_entry_draws_for_itself() -> None:
    """What the machine hears of its own turn is another one: it does not get the same id again."""
    add = Assign(lambda ids: [*ids, str(uuid4())])
    kid = ChartBuilder("kid").initial("k")
    kid.state("k")
    built = ChartBuilder("m", context=list).initial("on")
    built.state("on").invoke(kid.build(), id="kid").on("leave", "off", do=[add, Send("x", target="#_kid")])
    built.state("off").on("error.communication", do=add)
    async with TestEngine(machines=[built.build()]) as engine:
        machine = engine.machine("m", "m")
        state = await machine.ask("leave")
        assert len(state.context) == len(set(state.context)) == 2
        assert (await machine.state()).context == state.context


async def test_what_refuses_an_event_runs_once() -> None:
    """For whoever sends and for whoever asks, with nothing under way and with much."""
    looked: list[str] = []
    built = ChartBuilder("m", strict=True).initial("on")
    built.state("on").on("fine").on("guarded", guard=lambda _c, event: looked.append(event.name)).on(
        "bad", do=lambda _c, e: fail(e)
    )

    def fail(event: Event) -> None:
        looked.append(event.name)
        raise ValueError("no")

    async with TestEngine(machines=[built.build()]) as engine:
        machine = engine.machine("m", "m")
        await machine.send("fine")
        for verb in (machine.send, machine.ask):
            for name, error in (("guarded", InvalidTransition), ("bad", EventFailed)):
                looked.clear()
                with pytest.raises(error):
                    await verb(name)
                told = await asyncio.gather(machine.send("fine"), verb(name), machine.send("fine"), return_exceptions=True)
                assert [type(each) for each in told] == [type(None), error, type(None)]
                assert looked == [name, name]


@pytest.mark.parametrize("there", [8, "x", (1,), {1}, [[1]], {"b": 2}, None])
async def test_what_an_action_changes_in_place_is_stored_and_undone(there: Any) -> None:
    """However deep it lies; what can't be stored is refused, and nothing of it is left."""
    built = ChartBuilder("m", context=lambda: {"a": [{"b": 7}]}).initial("on")
    state = built.state("on").on("look", do=lambda _c: None).on("put", do=lambda c: c["a"][0].update(b=there))
    state.on("spoil", do=lambda c: c["a"].append(object()))
    async with TestEngine(machines=[MachineType(built.build(), trim=4)]) as engine:
        machine = engine.machine("m", "m")
        for _ in range(3):
            for event in ("look", "put", "look"):
                await machine.send(event)
            assert (await machine.state()).context == {"a": [{"b": there}]}
            with pytest.raises(PayloadError):
                await machine.send("spoil")
            assert (await machine.ask("look")).context == {"a": [{"b": there}]}
