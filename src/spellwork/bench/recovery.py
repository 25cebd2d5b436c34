"""Owns the benchmark `recovery`: how soon runs that were in flight at a kill -9 are finished after a restart.
It must never let the killed process end in any other way.
"""

from __future__ import annotations

import asyncio
import sys
import time

from spellwork import Engine, activity, workflow
from spellwork.bench.child import Child, say
from spellwork.bench.conditions import Result, conditions, filesystem, scratch

RUNS = 1_000
_BEFORE, _AFTER = 5, 5


class _Gate:
    """Where the runs of the first process stay until it is killed."""

    def __init__(self) -> None:
        self.closed = False
        self.arrived = 0
        self.full = asyncio.Event()
        self.wanted = 0

    async def passage(self) -> None:
        """Wait for ever if the gate is closed."""
        if self.closed:
            self.arrived += 1
            if self.arrived >= self.wanted:
                self.full.set()
            await asyncio.Event().wait()


_gate = _Gate()


@activity
async def step(number: int) -> int:
    """The trivial step."""
    return number + 1


@activity
async def gate() -> None:
    """The step in flight when the process is killed."""
    await _gate.passage()


@workflow
async def interrupted(number: int) -> int:
    """Five steps, the one in flight, five steps."""
    for _ in range(_BEFORE):
        number = await step(number)
    await gate()
    for _ in range(_AFTER):
        number = await step(number)
    return number


async def _hold(url: str, runs: int) -> None:
    _gate.closed, _gate.wanted = True, runs
    async with Engine(url, workflows=[interrupted]) as engine:
        await asyncio.gather(*(engine.start(interrupted, number, id=f"run-{number}") for number in range(runs)))
        await _gate.full.wait()
        say({"in_flight": _gate.arrived})
        await asyncio.Event().wait()


async def _finish(url: str, runs: int) -> None:
    began = time.perf_counter()
    async with Engine(url, workflows=[interrupted]) as engine:
        ready = time.perf_counter() - began

        async def result(number: int) -> bool:
            run = await engine.get(f"run-{number}")
            return bool(await run.result() == number + _BEFORE + _AFTER)

        right = await asyncio.gather(*(result(number) for number in range(runs)))
        finished = time.perf_counter() - began
        say({"ready_seconds": ready, "finished_seconds": finished, "right": sum(right), **conditions(engine)})


def run_recovery(runs: int = RUNS) -> list[Result]:
    """The figure of so many runs in flight."""
    with scratch() as folder:
        url = f"sqlite:{folder}/recovery.db"
        with Child(__name__, "hold", url, str(runs)) as victim:
            in_flight = victim.answer()["in_flight"]
            victim.kill()
        with Child(__name__, "finish", url, str(runs)) as heir:
            answer = heir.answer()
            heir.end()
        return [
            {
                "bench": "recovery",
                "concurrency": runs,
                "workflows": runs,
                "steps": runs * (_BEFORE + 1 + _AFTER),
                "in_flight": in_flight,
                **answer,
                "filesystem": filesystem(folder),
            }
        ]


if __name__ == "__main__":
    asyncio.run({"hold": _hold, "finish": _finish}[sys.argv[1]](sys.argv[2], int(sys.argv[3])))
