"""Owns the benchmark `latency`: what one durable step takes when nothing else runs, beside one raw SQLite commit.
It must never measure the two at different times: they alternate within one workflow.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

from spellwork import Engine, activity, workflow
from spellwork.bench.conditions import Result, conditions, filesystem, scratch
from spellwork.bench.raw import RawSqlite
from spellwork.errors import UsageError

STEPS = 2_000
_EVERY = 25


class _Stopwatch:
    """Takes the time from the end of one activity to the begin of the next; now and then lets raw commits in."""

    def __init__(self, engine: Engine, raw: RawSqlite):
        self._engine = engine
        self._raw = raw
        self._left: float | None = None
        self._calls = 0
        self.steps: list[float] = []
        self.commits: list[float] = []
        self.first_sync = 0
        self.last_sync = 0

    def tick(self) -> None:
        """Called in each step."""
        now = time.perf_counter()
        self.last_sync = self._engine.store.stats.syncs
        if self._left is None:
            self.first_sync = self.last_sync
        else:
            self.steps.append(now - self._left)
        self._calls += 1
        if self._calls % _EVERY == 0:
            self.commits += [self._raw.timed() for _ in range(_EVERY)]
        self._left = time.perf_counter()

    @property
    def syncs_per_step(self) -> float:
        """From the first step to the last, so that starting and ending the run do not count."""
        return (self.last_sync - self.first_sync) / len(self.steps)


_watch: list[_Stopwatch] = []


@activity
async def tick() -> None:
    """A step that does nothing but look at the clock."""
    _watch[-1].tick()


@workflow
async def sequence(steps: int) -> int:
    """So many steps, one after the other."""
    for _ in range(steps):
        await tick()
    return steps


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of them lie, in microseconds."""
    return sorted(values)[min(int(len(values) * share), len(values) - 1)] * 1e6


async def _measure(folder: str, steps: int) -> Result:
    async with Engine(f"sqlite:{folder}/latency.db", workflows=[sequence]) as engine:
        with RawSqlite(folder) as raw:
            for number in (min(steps, 200), steps):  # the first is the warm-up
                _watch[:] = [_Stopwatch(engine, raw)]
                await engine.run(sequence, number)
        watch = _watch.pop()
        p50, raw_p50 = percentile(watch.steps, 0.5), percentile(watch.commits, 0.5)
        return {
            "bench": "latency",
            "concurrency": 1,
            "workflows": 1,
            "steps": steps,
            "p50_us": p50,
            "p99_us": percentile(watch.steps, 0.99),
            "mean_us": statistics.fmean(watch.steps) * 1e6,
            "raw_commit_p50_us": raw_p50,
            "raw_commit_p99_us": percentile(watch.commits, 0.99),
            "ratio_to_raw_commit": p50 / raw_p50,
            "syncs_per_step": watch.syncs_per_step,
            **conditions(engine),
        }


def run_latency(steps: int = STEPS) -> list[Result]:
    """The figure of one workflow of so many steps."""
    if steps < 2 * _EVERY:
        raise UsageError(f"latency needs at least {2 * _EVERY} steps, not {steps}")
    with scratch() as folder:
        result: dict[str, Any] = asyncio.run(_measure(folder, steps))
        return [{**result, "filesystem": filesystem(folder)}]
