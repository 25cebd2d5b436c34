"""Owns the benchmark `machine`: what an event costs a state machine in memory, beside a hand-written dict and what is installed.
It must never let one library do less than another: the same states, the same actions, the same guard, in one process.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import importlib.metadata
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from spellwork.bench import peers
from spellwork.bench.conditions import Result, load, machine
from spellwork.machine import ActorSystem, Assign, Chart, ChartBuilder, Machine

EVENTS = 100_000
INSTANCES = 100_000
_PEERS = ("statemachine", "transitions")


def act() -> None:
    """The action of the benchmark."""


def flat() -> Chart:
    """Two states and one event."""
    chart = ChartBuilder("flat").initial("a")
    chart.state("a").on("go", "b")
    chart.state("b").on("go", "a")
    return chart.build()


def deep() -> Chart:
    """Two branches of three levels; each event leaves three states and enters three, with an action each."""
    chart = ChartBuilder("deep").initial("a1")
    for here, there in (("a", "b"), ("b", "a")):
        top = chart.state(f"{here}1").initial(f"{here}2").on_entry(act).on_exit(act)
        middle = top.state(f"{here}2").initial(f"{here}3").on_entry(act).on_exit(act)
        middle.state(f"{here}3").on_entry(act).on_exit(act).on("go", f"{there}3")
    return chart.build()


def guarded() -> Chart:
    """Two states, a guard and a count in the context."""
    chart = ChartBuilder("guarded", context=lambda: {"n": 0}).initial("a")
    for here, there in (("a", "b"), ("b", "a")):
        chart.state(here).on("go", there, guard=_small, do=Assign(_more))
    return chart.build()


def _small(context: dict[str, int], _event: object) -> bool:
    return context["n"] >= 0


def _more(context: dict[str, int], _event: object) -> dict[str, int]:
    return {"n": context["n"] + 1}


@dataclass(frozen=True)
class Go:
    """The event of the benchmark as an object."""

    step: int


def typed() -> Chart:
    """As `guarded`, with an event that is an object."""
    chart = ChartBuilder("typed", context=lambda: {"n": 0}).initial("a")
    for here, there in (("a", "b"), ("b", "a")):
        chart.state(here).on(Go, there, guard=_small, do=Assign(lambda context, event: {"n": context["n"] + event.step}))
    return chart.build()


def rate(send: Callable[[Any], Any], events: int, event: Any = "go") -> float:
    """Events a second, the best of three."""
    for _ in range(min(events // 10 + 1, 1000)):
        send(event)
    best = 0.0
    for _ in range(3):
        began = time.perf_counter()
        for _ in range(events):
            send(event)
        best = max(best, events / (time.perf_counter() - began))
    return best


def size_of(make: Callable[[], Any], count: int = 1000) -> float:
    """Bytes that an instance takes, after it has taken an event."""
    make()
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    kept = [make() for _ in range(count)]
    used = (tracemalloc.get_traced_memory()[0] - before) / count
    tracemalloc.stop()
    del kept
    return used


async def actors(count: int) -> tuple[float, float]:
    """Bytes that an idle actor with a machine takes, and how many a second are woken by a message each."""
    chart = flat()
    async with ActorSystem() as system:
        await system.spawn(chart).ask("go")
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        made = [system.spawn(chart) for _ in range(count)]
        await system.idle()
        used = (tracemalloc.get_traced_memory()[0] - before) / count
        tracemalloc.stop()
        began = time.perf_counter()
        for actor in made:
            actor.send("go")
        await system.idle()
        return used, count / (time.perf_counter() - began)


def _moved(make: Callable[[], Any]) -> Callable[[], Any]:
    def moved() -> Any:
        instance = make()
        instance.send("go")
        return instance

    return moved


def _ours() -> dict[str, Callable[[], Any]]:
    charts = {"flat": flat(), "deep": deep(), "guarded": guarded()}
    return {name: functools.partial(Machine, chart) for name, chart in charts.items()}


def run_machine(events: int | None = None, instances: int = INSTANCES) -> list[Result]:
    """One result for Spellwork, with the others' figures and the ratios beside it."""
    count = EVENTS if events is None else events
    result: Result = {"bench": "machine", "events": count, **machine()}
    makers = _ours()
    for shape, make in makers.items():
        result[f"{shape}_events_per_second"] = rate(make().send, count)
        result[f"{shape}_dict_events_per_second"] = rate(peers.by_hand(shape, act), count)
    for name in _PEERS:
        found = peers.peer(name, act)
        result[f"{name}_version"] = importlib.metadata.version(peers.PACKAGES[name]) if found else "not installed"
        for shape, make in (found or {}).items():
            theirs = rate(make().send, max(count // 50, 1))
            result[f"{shape}_{name}_events_per_second"] = theirs
            result[f"{shape}_ratio_to_{name}"] = result[f"{shape}_events_per_second"] / theirs
        if found:
            result[f"bytes_per_{name}_instance"] = size_of(_moved(found["flat"]), 100)
    result["typed_events_per_second"] = rate(Machine(typed()).send, count, Go(1))
    result["bytes_per_actor"], result["woken_actors_per_second"] = asyncio.run(actors(max(instances // 10, 1)))
    result["actors"] = max(instances // 10, 1)
    result["bytes_per_instance"] = size_of(_moved(makers["flat"]))
    began = time.perf_counter()
    kept = [makers["flat"]() for _ in range(instances)]
    result[f"seconds_for_{len(kept)}_instances"] = time.perf_counter() - began
    return [{**result, "load": load()}]
