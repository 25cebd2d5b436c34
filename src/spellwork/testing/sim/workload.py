"""Owns what a simulation works on: workflows, and the errands of those who start and drive them.
It must never depend on which process drives an errand, nor on how often it is tried.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from spellwork.engine import Engine
from spellwork.engine.machine import HostedMachine
from spellwork.engine.triggers import Trigger
from spellwork.errors import RunExists, RunFinished
from spellwork.hosted import MachineType
from spellwork.machine import Assign, Chart, ChartBuilder, Send
from spellwork.testing import shapes
from spellwork.testing.chaos import corpus
from spellwork.testing.linear import History
from spellwork.testing.sim import data
from spellwork.workflow import Workflow, workflow

Drive = Callable[[Engine], Awaitable[Any]]


@dataclasses.dataclass(slots=True)
class Errand:
    """Somebody's wish: `drive(engine)` starts a run (with an id, so that trying again is harmless) and returns what is expected.

    It is tried by the processes in `homes` until one of them has the answer.
    """

    id: str
    drive: Drive
    expected: Any
    homes: tuple[int, ...] = ()
    answers: list[tuple[str, Any]] = dataclasses.field(default_factory=list)

    @property
    def done(self) -> bool:
        """Whether somebody has the answer."""
        return bool(self.answers)

    def finish(self, process: str, answer: Any) -> None:
        """A process has the answer."""
        self.answers.append((process, answer))


@dataclasses.dataclass(frozen=True, slots=True)
class Workload:
    """The workflows and triggers that every process registers, and the errands of one simulation."""

    workflows: Sequence[Workflow[Any, Any]]
    errands: Sequence[Errand]
    history: History = dataclasses.field(default_factory=History)
    """Operations on runs by their ids, which must be linearizable."""
    triggers: Sequence[Trigger] = ()


def mixed(seed: int) -> Workload:
    """Some shapes of the hand-written corpus, and some generated programs."""
    rng = random.Random(f"spellwork workload {seed}")
    errands = [_shape(name) for name in rng.sample(list(corpus.SHAPES), rng.randint(0, 4))]
    errands += [_program(f"program-{i}", shapes.generate(rng, size=rng.randint(2, 12))) for i in range(rng.randint(1, 3))]
    history = History()
    if rng.random() < 0.6:
        errands += [_contest(history, f"contested-{rng.randint(0, 1)}", rng.randint(0, 1), i) for i in range(rng.randint(2, 5))]
    if rng.random() < 0.5:
        errands += [_machine(f"machine-{i}", rng.randint(0, 4)) for i in range(rng.randint(1, 3))]
    if rng.random() < 0.4:
        errands += [counting(f"counts-{i}", rng.randint(1, 3)) for i in range(rng.randint(1, 3))]
    if rng.random() < 0.3:
        errands += [hearing(f"hears-{i}", rng.randint(0, 4)) for i in range(rng.randint(1, 2))]
    if rng.random() < 0.3:
        errands += [calling(f"calls-{i}", rng.randint(0, 3)) for i in range(rng.randint(1, 2))]
    workflows = [*corpus.WORKFLOWS, *shapes.WORKFLOWS, *data.WORKFLOWS, contested, *MACHINE.family]
    return Workload(workflows, errands, history, data.TRIGGERS)


@workflow(name="sim.contested")
async def contested(number: int) -> int:
    """What several clients start under one id."""
    await asyncio.sleep(0.05)
    return number


def _chart() -> Chart:
    """A machine that ends when it was hit as often as it was told, and has ticked three times; a child machine does the ticking."""
    child = ChartBuilder("ticker", context=int).initial("ticking")
    ticking = child.state("ticking").every(0.02, do=Assign(lambda n: n + 1))
    ticking.always("done", guard=lambda n: n >= _TICKS, do=Send("ticked", data=lambda n: n, target="#_parent"))
    child.final("done", lambda n: n)
    chart = ChartBuilder("sim", context=lambda: {"hits": [], "wanted": None, "ticks": 0}, strict=False).initial("on")
    on = chart.state("on").invoke(child.build(), id="ticker")
    on.on("hit", do=Assign(lambda context, event: {"hits": [*context["hits"], event.data]}))
    on.on("wanted", do=Assign(lambda _, event: {"wanted": event.data}))
    on.on("ticked", do=Assign(lambda context, event: {"ticks": context["ticks"] + event.data}))
    on.on("done.invoke.ticker", "waiting")
    waiting = chart.state("waiting").always("done", guard=lambda context: context["wanted"] == len(context["hits"]))
    waiting.on("hit", do=Assign(lambda context, event: {"hits": [*context["hits"], event.data]}))
    waiting.on("wanted", do=Assign(lambda _, event: {"wanted": event.data}))
    chart.final("done", lambda context: [sorted(context["hits"]), context["ticks"]])
    return chart.build()


_TICKS = 3
MACHINE = MachineType(_chart(), trim=4)


def _machine(name: str, hits: int) -> Errand:
    async def errand(engine: Engine) -> Any:
        machine = engine.machine(MACHINE, name)
        for number in range(hits):
            await _told(machine, "hit", number, f"{name}.{number}")
        await _told(machine, "wanted", hits, f"{name}.wanted")
        return await machine.result()

    return Errand(name, errand, [list(range(hits)), _TICKS])


async def _told(machine: HostedMachine, event: str, number: int, id: str) -> None:
    with contextlib.suppress(RunFinished):  # another process has told it all, and it has ended
        await machine.send(event, number, id=id)


def counting(name: str, times: int) -> Errand:
    """A run that writes state and events in each way there is, so many times."""
    return Errand(name, lambda engine: data.count(engine, name, times), times)


def hearing(name: str, times: int) -> Errand:
    """A run that has another one publish so many events, and hears each of them, once and in order."""
    return Errand(name, lambda engine: data.hear(engine, name, times), list(range(times)))


def calling(name: str, times: int) -> Errand:
    """A run that publishes so many events, each of which starts a run that answers it, once."""
    return Errand(name, lambda engine: data.call(engine, name, times), list(range(times)))


def _contest(history: History, run_id: str, number: int, client: int) -> Errand:
    async def errand(engine: Engine) -> None:
        with history.call(f"client {client}", "start", run_id, "contested", number) as answer:
            try:
                run = await engine.start(contested, number, id=run_id)
                answer.append((await run.status()).number)
            except RunExists:
                answer.append("exists")
                return
        with history.call(f"client {client}", "result", run_id) as answer:
            if await run.result() != number:
                raise AssertionError(f"client {client} started {run_id} with {number} and got another run's result")
            answer.append("completed")

    return Errand(f"{run_id} by client {client}", errand, None)


def _program(run_id: str, program: shapes.Program) -> Errand:
    async def errand(engine: Engine) -> Any:
        run = await engine.start(shapes.perform, program, id=run_id)
        return await shapes.drive(run, program)

    return Errand(run_id, errand, shapes.expected(program))


def _shape(name: str) -> Errand:
    definition, args, drive, expected = corpus.SHAPES[name]

    async def errand(engine: Engine) -> Any:
        run = await engine.start(definition, *args, id=name)
        return await drive(run)

    return Errand(name, errand, expected)
