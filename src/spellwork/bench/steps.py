"""Owns the benchmark `steps`: how many durable steps a second, at several numbers of workflows in flight.
It must never count what happens before the clock starts: the warm-up is as wide as what follows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence

from spellwork import Engine, activity, workflow
from spellwork.bench.conditions import Result, conditions, filesystem, scratch
from spellwork.bench.raw import RawSqlite

STEPS = 10
CONCURRENCIES = (1, 16, 100, 1000)
_WORKFLOWS = {1: 500, 16: 4_000, 100: 8_000, 1000: 15_000}


@activity
async def add_one(number: int) -> int:
    """The trivial step."""
    return number + 1


@workflow
async def ten_steps(number: int) -> int:
    """Ten steps, one after the other."""
    for _ in range(STEPS):
        number = await add_one(number)
    return number


async def drive(engine: Engine, numbers: Iterable[int], concurrency: int) -> None:
    """Run a workflow for each number, so many at a time: workers pull from one iterator."""
    source = iter(numbers)

    async def worker() -> None:
        for number in source:
            await engine.run(ten_steps, number)

    await asyncio.gather(*(worker() for _ in range(concurrency)))


async def measure_steps(url: str, concurrency: int, workflows: int) -> Result:
    """One figure, on the store at `url`."""
    async with Engine(url, workflows=[ten_steps]) as engine:
        await drive(engine, range(concurrency), concurrency)
        stats = engine.store.stats
        syncs, rows = stats.syncs, stats.rows
        cpu, began = time.process_time(), time.perf_counter()
        await drive(engine, range(workflows), concurrency)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        steps = workflows * STEPS
        return {
            "bench": "steps",
            "concurrency": concurrency,
            "workflows": workflows,
            "steps": steps,
            "seconds": seconds,
            "steps_per_second": steps / seconds,
            "cpu_us_per_step": cpu / steps * 1e6,
            "syncs_per_step": (stats.syncs - syncs) / steps,
            "rows_per_step": (stats.rows - rows) / steps,
            **conditions(engine),
        }


def run_steps(concurrencies: Sequence[int] = (), workflows: int | None = None, raw_seconds: float = 1.0) -> list[Result]:
    """The figures for each concurrency, and the raw limit of the same disk in the same run."""
    results = []
    for concurrency in concurrencies or CONCURRENCIES:
        with scratch() as folder:
            with RawSqlite(folder) as raw:
                limits = raw.limits(raw_seconds)
            number = workflows or _WORKFLOWS.get(concurrency, max(4_000, 10 * concurrency))
            result = asyncio.run(measure_steps(f"sqlite:{folder}/steps.db", concurrency, number))
            results.append({**result, **limits, "filesystem": filesystem(folder)})
    return results
