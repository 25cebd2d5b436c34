"""Laws of hosted machines: equal to machines in memory, replay from any prefix, and a crash between any two events."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from spellwork import Engine
from spellwork.codec import Codec
from spellwork.errors import EndlessStep, InvalidTransition, NonDeterminismError
from spellwork.hosted import MachineExecution, MachineType
from spellwork.hosted.begin import Begin
from spellwork.journal import Continued, ErrorRegistry, SignalReceived, Started, TimerFired
from spellwork.machine import Assign, Chart, ChartBuilder, Machine, Send, VirtualTime
from spellwork.testing import replays
from spellwork.workflow import commands as c
from tests.machine.test_laws import EVENTS, charts, drawn

CODEC, ERRORS = Codec(), ErrorRegistry()


class Alone:
    """A host for one machine: it writes journals into lists, and knows no store and no clock but its own."""

    def __init__(self, kind: MachineType):
        self.kind, self.now, self.generation = kind, 1_000_000, 0
        self.journals: list[list[Any]] = []
        self.timers: dict[int, int] = {}
        self.ended = False
        self.admitted: Callable[[], None] = lambda: None
        self._begin(kind.parameters.encode(CODEC, (Begin(kind.version, kind.structure),), {}))

    def _begin(self, args: bytes) -> None:
        self.journals.append([])
        self.timers = {}
        self.execution = self.kind.execution(len(self.journals), CODEC, ERRORS)
        self.standings: list[bytes | None] = []
        self._deliver(Started(self.now, "alone", self.kind.name, "1", args, b"seed", generation=len(self.journals) - 1))

    def _deliver(self, entry: Any) -> None:
        self.journals[-1].append(entry)
        self.execution.deliver(entry)
        self.standings.append(self.execution.standing())
        self._prefix()
        outbox, self.execution.outbox = self.execution.outbox, []
        for command in outbox:
            match command:
                case c.StartTimer():
                    self.timers[command.n] = command.due
                case c.CancelTimer():
                    self.timers.pop(command.n)
                case c.Finish(continue_args=bytes() as args):
                    self.journals[-1].append(Continued(self.now, args, 0))
                    self._begin(args)
                    return
                case c.Finish():
                    self.ended = True

    def _prefix(self) -> None:
        """Replay of every prefix gives what was there: by the short cut and by the full step."""
        journal = self.journals[-1]
        for whole in (False, True):
            fresh = self.kind.execution(len(self.journals), CODEC, ERRORS)
            if whole:
                fresh.keep_record()
            fresh.replay(journal)
            assert fresh.standing() == self.standings[-1]
            assert fresh.next_due == self.execution.next_due
            assert [x for x in fresh.outbox if not isinstance(x, c.Finish)] == [
                c.StartTimer(n, p.due) for n, p in self.execution.pending.items() if p.kind == "timer"
            ]

    def send(self, event: Any, data: Any = None) -> None:
        """What the handle and the desk do."""
        given = self.kind.events.given(event, data)
        entry = SignalReceived(self.now, given.name, self.kind.events.payload(CODEC, given), None)
        self.execution.admit(entry)
        self.admitted()
        self._deliver(entry)

    def advance(self, seconds: float) -> None:
        """Let time pass; what is due fires, earliest first."""
        end = self.now + round(seconds * 1_000_000)
        while not self.ended and (due := min(((d, n) for n, d in self.timers.items()), default=None)) and due[0] <= end:
            self.now = max(self.now, due[0])
            n = due[1]
            del self.timers[n]
            self._deliver(TimerFired(self.now, n, self.execution.pending[n].digest))
        self.now = end


@settings(max_examples=100, deadline=None)
@given(charts(), st.lists(st.sampled_from(EVENTS), max_size=14), st.integers(1, 5))
def test_a_hosted_machine_is_the_machine_in_memory(built: Any, events: list[str], trim: int) -> None:
    """The same states, context and actions at each event, however often the journal is trimmed."""
    told: list[str] = []
    chart = drawn(built, told)
    assume(chart is not None)
    machine = Machine(chart)
    hosted = Alone(MachineType(chart, trim=trim))
    for event in events:
        told.clear()
        try:
            machine.send(event)
        except EndlessStep:
            with pytest.raises(EndlessStep):
                hosted.send(event)
            return
        if hosted.ended:
            return
        names = told[:]
        admitted: list[list[str]] = []
        told.clear()
        hosted.admitted = partial(_copy, told, admitted)
        hosted.send(event)
        assert admitted == [names]
        configuration = hosted.execution.configuration
        assert (configuration.leaves, configuration.context, configuration.history) == (
            machine.state, machine.context, machine.configuration.history,
        )  # fmt: skip
        assert [event.name for event in configuration.deferred] == [event.name for event in machine.configuration.deferred]


def _copy(told: list[str], into: list[list[str]]) -> None:
    into.append(told[:])


def timed() -> Chart:
    """Timers of several lengths that are set, left and set again, beside a count."""
    chart = ChartBuilder("timed", context=list, strict=False).initial("p")
    both = chart.parallel("p").on("again", "p")
    left = both.state("left").initial("a")
    left.state("a").after("3s", "b", do=_note("a")).on("x", "b")
    left.state("b").after("5s", "a", do=_note("b")).on("y", "a").on("z.a", do=Send("ping", delay="2s", id="ping"))
    right = both.state("right").initial("t")
    right.state("t").every("4s", do=_note("t")).on("ping", do=_note("ping"))
    return chart.build()


def _note(text: str) -> Assign:
    return Assign(lambda context: [*context, text])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.sampled_from([*EVENTS, "again"]), st.integers(0, 90)), max_size=20), st.integers(1, 6))
def test_timers_are_those_of_the_machine_in_memory(steps: list[str | int], trim: int) -> None:
    """None early, none lost, none twice, in the same order; trims do not stretch them."""
    clock = VirtualTime()
    machine, hosted = Machine(timed(), clock=clock), Alone(MachineType(timed(), trim=trim))
    for step in steps:
        if isinstance(step, int):
            clock.advance(step / 8)  # exact in both kinds of time
            hosted.advance(step / 8)
        else:
            machine.send(step)
            hosted.send(step)
        assert hosted.execution.configuration.leaves == machine.state
        assert hosted.execution.configuration.context == machine.context


@dataclasses.dataclass(frozen=True)
class Added:
    """An event that is an object."""

    amount: int


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(st.integers(-3, 3), st.integers(-3, 3).map(Added)), max_size=15), st.integers(1, 5))
def test_events_that_carry_something_are_taken_alike(amounts: list[Any], trim: int) -> None:
    """By the short cut or by the full step, as names with data or as objects."""
    chart = ChartBuilder("sum", context=int, events=["add", Added], strict=False).initial("low")
    for here, there, high in (("low", "high", True), ("high", "low", False)):
        state = chart.state(here)
        state.on("add", guard=lambda n, e, high=high: (n + e.data > 3) is high, to=there, do=Assign(lambda n, e: n + e.data))
        state.on("add", do=Assign(lambda n, e: n + e.data))
        state.on(Added, guard=lambda _n, e: e.amount > 0, do=Assign(lambda n, e: n + e.amount))
    built = chart.build()
    machine, hosted = Machine(built), Alone(MachineType(built, trim=trim))
    for amount in amounts:
        given = (amount,) if isinstance(amount, Added) else ("add", amount)
        machine.send(*given)
        hosted.send(*given)
        configuration = hosted.execution.configuration
        assert (configuration.leaves, configuration.context) == (machine.state, machine.context)


def test_a_snapshot_that_does_not_follow_from_the_journal_is_noticed() -> None:
    """Replay of a run that went on compares its snapshot with the one that is stored."""
    hosted = Alone(MachineType(timed(), trim=3))
    for event in ("x", "y", "x", "y"):
        hosted.send(event)
    journal = hosted.journals[0]
    fresh = hosted.kind.execution(9, CODEC, ERRORS)
    fresh.replay(journal)
    begin = fresh._begin_of(journal[-1].args)
    forged = hosted.kind.parameters.encode(CODEC, (msgspec.structs.replace(begin, count=begin.count + 1),), {})
    again = hosted.kind.execution(9, CODEC, ERRORS)
    with pytest.raises(NonDeterminismError, match="a snapshot that differs"):
        again.replay([*journal[:-1], msgspec.structs.replace(journal[-1], args=forged)])


def test_following_a_journal_is_replaying_it() -> None:
    """Entry by entry, as a watcher sees them, or all at once: the same record."""
    hosted = Alone(MachineType(timed(), trim=50))
    for event in ("x", "y", "x", "z.a", "again"):
        hosted.send(event)
        hosted.advance(1.5)
    (journal,) = hosted.journals
    whole = hosted.kind.execution(1, CODEC, ERRORS)
    whole.keep_record()
    whole.replay(journal)
    bit = hosted.kind.execution(1, CODEC, ERRORS)
    bit.keep_record()
    for entry in journal:
        bit.follow([entry])
    assert isinstance(bit, MachineExecution)
    assert isinstance(whole, MachineExecution)
    assert bit.record == whole.record
    assert [each.position for each in bit.record] == list(range(len(bit.record)))


def crossing() -> Chart:
    chart = ChartBuilder("crossing", context=lambda: {"n": 0}).initial("red")
    more = Assign(lambda context: {"n": context["n"] + 1})
    chart.state("red").on("next", "green", do=more)
    chart.state("green").on("next", "amber", do=more)
    chart.state("amber").on("next", "red", do=more).on("break", "dark")
    chart.state("dark").on("mend", "red")
    return chart.build()


EVENTS_OF_A_DAY = ["next", "next", "next", "next", "next", "break", "mend", "next", "next", "break", "mend", "next"]


async def test_a_crash_between_any_two_events_loses_nothing(tmp_path: Path) -> None:
    """What lies on the disk when `send` has returned is a machine behind that event; it goes on to the same end."""
    kind = MachineType(crossing(), trim=4)
    whole = tmp_path / "whole"
    whole.mkdir()
    states = []
    async with Engine(f"sqlite:{whole}/m.db", machines=[kind]) as engine:
        machine = await engine.machine(kind, "m")
        for number, event in enumerate(EVENTS_OF_A_DAY):
            await machine.send(event, id=f"e{number}")
            states.append((await machine.state()).active)
            shutil.copytree(whole, tmp_path / f"crash-{number}")  # a process that is killed here leaves this

    async def again(number: int) -> None:
        async with Engine(f"sqlite:{tmp_path}/crash-{number}/m.db", machines=[kind], lease=0.2, standby=True) as engine:
            machine = engine.machine(kind, "m")
            assert (await machine.state()).active == states[number]
            for later, event in enumerate(EVENTS_OF_A_DAY[max(0, number - 2) :], max(0, number - 2)):
                await machine.send(event, id=f"e{later}")  # some of them again: their sender did not hear the answer
            state = await machine.state()
            assert (state.active, state.context, state.transitions) == (states[-1], {"n": 8}, 13)
            with pytest.raises(InvalidTransition):
                await machine.send("mend")
            assert all(verdict.ok for verdict in await replays(engine))

    await asyncio.gather(*(again(number) for number in range(len(EVENTS_OF_A_DAY))))
