"""Owns the benchmark `memory`: what a short run costs when no disk is in the way.
It must never use a store that is durable.
"""

from __future__ import annotations

import asyncio
import time

from spellwork import Engine, activity, workflow
from spellwork.bench.conditions import Result, conditions

RUNS = 3_000
STEPS = 3


@activity
async def echo(number: int) -> int:
    """The trivial step."""
    return number


@workflow
async def three_steps(number: int) -> int:
    """Three steps, one after the other."""
    for _ in range(STEPS):
        number = await echo(number)
    return number


async def _measure(runs: int) -> Result:
    async with Engine("memory:", workflows=[three_steps]) as engine:
        for number in range(max(runs // 10, 1)):
            await engine.run(three_steps, number)
        cpu, began = time.process_time(), time.perf_counter()
        for number in range(runs):
            await engine.run(three_steps, number)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        return {
            "bench": "memory",
            "concurrency": 1,
            "workflows": runs,
            "steps": runs * STEPS,
            "us_per_run": seconds / runs * 1e6,
            "steps_per_second": runs * STEPS / seconds,
            "cpu_us_per_step": cpu / (runs * STEPS) * 1e6,
            **conditions(engine),
        }


def run_memory(runs: int = RUNS) -> list[Result]:
    """The figure of so many runs, one after the other."""
    return [asyncio.run(_measure(runs))]
