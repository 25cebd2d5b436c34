"""A process with one run that kills it and some that do not: `python -m tests.engine.killer_run URL LEDGER`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from spellwork import Engine, RunInfo, Signal, activity, workflow
from spellwork.testing import Ledger

go = Signal[int]("go")


@activity
async def deadly(ledger: str) -> None:
    Ledger(ledger).write("deadly")
    await asyncio.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)


@activity
async def slow(ledger: str, name: str) -> str:
    await asyncio.sleep(0.3)
    Ledger(ledger).write(name)
    return name


@workflow
async def guilty(ledger: str) -> None:
    await deadly(ledger)


@workflow
async def innocent(ledger: str, name: str) -> str:
    return await slow(ledger, name)


@workflow
async def patient() -> int:
    return await go.receive()


async def main(url: str, ledger: str) -> None:
    """Start everything once, then wait for what can end."""
    async with Engine(url, workflows=[guilty, innocent, patient], max_recoveries=3) as engine:
        waiting = await engine.start(patient, id="patient")
        bad = await engine.start(guilty, ledger, id="guilty")
        others = [await engine.start(innocent, ledger, f"n{i}", id=f"n{i}") for i in range(5)]
        for run in others:
            await run.result(30)
        info: RunInfo = await bad.status()
        while info.status == "running":
            await asyncio.sleep(0.02)
            info = await bad.status()
        await waiting.signal(go, 5)
        sys.stdout.write(f"{info.status} {await waiting.result(10)} {info.reason}\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
