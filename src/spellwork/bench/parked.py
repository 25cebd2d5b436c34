"""Owns the benchmark `parked`: what runs that sleep cost in memory, on disk and at a restart, and how soon one wakes.
It must never measure memory or restarts in the process that made the runs.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import sys
import time
from pathlib import Path

from spellwork import Engine, Signal, workflow
from spellwork.bench.child import Child, say
from spellwork.bench.conditions import Result, conditions, filesystem, resident, scratch

RUNS, BIG = 100_000, 1_000_000
IDLE_SECONDS = 5.0
_STARTERS = 1_000
_SIGNALS = 11
_MODULE = __name__

wake = Signal[int]("wake")


@workflow
async def parked(number: int) -> int:
    """Sleep for 30 days, unless a signal comes before."""
    return number + await wake.receive(timeout=dt.timedelta(days=30), default=0)


async def make(url: str, runs: int) -> Result:
    """Start so many runs and close the store once all of them sleep."""
    source = iter(range(runs))
    began = time.perf_counter()
    async with Engine(url, workflows=[parked]) as engine:

        async def starter() -> None:
            for number in source:
                await engine.start(parked, number, id=f"parked-{number:08}")

        await asyncio.gather(*(starter() for _ in range(min(_STARTERS, runs))))
        await settle(engine)
        return {"starts_per_second": runs / (time.perf_counter() - began), **conditions(engine)}


async def settle(engine: Engine) -> None:
    """Return once nothing is under way but waiting."""
    while not engine.idle:  # noqa: ASYNC110 - the engine offers a look, not an event
        await asyncio.sleep(0.002)


async def _probe(url: str, runs: int, idle_seconds: float) -> None:
    """In a fresh process: open the store, wait, wake some runs, then stay for the signals of the other process."""
    before = resident()
    began = time.perf_counter()
    async with Engine(url, workflows=[parked]) as engine:
        ready = time.perf_counter() - began
        await settle(engine)
        settled = time.perf_counter() - began
        grown = resident() - before
        cpu, began = time.process_time(), time.perf_counter()
        await asyncio.sleep(idle_seconds)
        busy = (time.process_time() - cpu) / (time.perf_counter() - began)
        answers = await signalled(engine, range(0, min(_SIGNALS, runs // 2)))
        say(
            {
                "ready_seconds": ready,
                "settled_seconds": settled,
                "grown_bytes": grown,
                "loaded_runs": engine.loaded,
                "idle_cpu_percent": busy * 100,
                "signal_to_result_ms": answers,
            }
        )
        await asyncio.to_thread(sys.stdin.readline)


async def signalled(engine: Engine, numbers: range) -> list[float]:
    """The milliseconds from a signal to the result, for each of the runs."""
    answers = []
    for number in numbers:
        run = await engine.get(f"parked-{number:08}")
        began = time.perf_counter()
        await run.signal(wake, 1)
        await run.result()
        answers.append((time.perf_counter() - began) * 1e3)
    return answers


async def _from_outside(url: str, runs: int) -> list[float]:
    async with Engine(url, workflows=[parked], client=True, create=False) as engine:
        return await signalled(engine, range(runs // 2, runs // 2 + min(_SIGNALS, runs // 2)))


def _probed(url: str, runs: int, idle_seconds: float) -> Result:
    with Child(_MODULE, url, str(runs), str(idle_seconds)) as child:
        answer = child.answer()
        outside = asyncio.run(_from_outside(url, runs))
        child.tell()
        child.end()
    inside = answer.pop("signal_to_result_ms")
    return answer | _spread("signal_to_result_ms", inside) | _spread("signal_to_result_other_process_ms", outside)


def _spread(name: str, values: list[float]) -> Result:
    ordered = sorted(values)
    return {name: ordered[len(ordered) // 2], f"{name}_max": ordered[-1]} if ordered else {}


def run_parked(runs: int = RUNS, idle_seconds: float = IDLE_SECONDS) -> list[Result]:
    """The figure of so many sleeping runs, against a store with none."""
    with scratch() as folder:
        full, empty = (f"sqlite:{folder}/{name}.db" for name in ("parked", "empty"))
        asyncio.run(make(empty, 0))
        baseline = _probed(empty, 0, 0.0)["grown_bytes"]
        made = asyncio.run(make(full, runs))
        disk = sum(file.stat().st_size for file in Path(folder).glob("parked.db*"))
        probed = _probed(full, runs, idle_seconds)
        return [
            {
                "bench": "parked",
                "concurrency": min(_STARTERS, runs),
                "workflows": runs,
                "steps": 0,
                **probed,
                "memory_bytes_per_run": (probed["grown_bytes"] - baseline) / runs,
                "empty_store_bytes": baseline,
                "disk_bytes_per_run": disk / runs,
                **made,
                "filesystem": filesystem(folder),
            }
        ]


if __name__ == "__main__":
    asyncio.run(_probe(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
