"""Owns the benchmark `machine --hosted`: durable transitions a second, over many machines in one store.
It must never count an event before its sender was told that it is durable.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from spellwork import Engine
from spellwork.bench.conditions import Result, conditions, filesystem, scratch
from spellwork.bench.machine import flat, guarded
from spellwork.bench.raw import RawSqlite
from spellwork.engine.machine import HostedMachine
from spellwork.machine import Chart

MACHINES = 1_000
EVENTS = 100_000
_WARM_UP = 5


async def drive(machines: Iterable[HostedMachine], events: int) -> None:
    """Send so many events to each machine; each has one sender, which waits until its event is durable."""

    async def sender(machine: HostedMachine) -> None:
        for _ in range(events):
            await machine.send("go")

    await asyncio.gather(*map(sender, machines))


async def measure_hosted(url: str, chart: Chart, machines: int, events: int) -> Result:
    """One figure, on the store at `url`. Every machine stays in memory: `cache` says how many may."""
    async with Engine(url, machines=[chart], cache=machines) as engine:
        handles = [engine.machine(chart, f"machine-{number}") for number in range(machines)]
        await drive(handles, _WARM_UP)
        stats, each = engine.store.stats, max(1, events // machines)
        syncs, rows = stats.syncs, stats.rows
        cpu, began = time.process_time(), time.perf_counter()
        await drive(handles, each)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        sent = each * machines
        return {
            "bench": "machine",
            "chart": chart.name,
            "machines": machines,
            "events": sent,
            "seconds": seconds,
            "durable_transitions_per_second": sent / seconds,
            "cpu_us_per_transition": cpu / sent * 1e6,
            "syncs_per_transition": (stats.syncs - syncs) / sent,
            "rows_per_transition": (stats.rows - rows) / sent,
            **conditions(engine),
        }


def run_hosted(events: int | None = None, machines: int = MACHINES, raw_seconds: float = 1.0) -> list[Result]:
    """The figures of a flat chart and of one with a guard and a context, with the raw limit of the same disk."""
    results = []
    for chart in (flat(), guarded()):
        with scratch() as folder:
            with RawSqlite(folder) as raw:
                limits = raw.limits(raw_seconds)
            figures = asyncio.run(measure_hosted(f"sqlite:{folder}/machines.db", chart, machines, events or EVENTS))
            results.append({**figures, **limits, "filesystem": filesystem(folder)})
    return results
