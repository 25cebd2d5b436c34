"""A process that owns a store, for tests with two of them: `python -m tests.engine.owner URL LEASE MAX_PARTITIONS MODE`.

Prints one line for each thing that happens, and obeys lines on stdin.
"""

from __future__ import annotations

import asyncio
import sys

from spellwork import Engine, Signal, activity, workflow
from spellwork.errors import SpellworkError
from spellwork.testing import Ledger

go = Signal[int]("go")


def tell(line: str) -> None:
    """Say something to the test."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@activity
async def note(ledger: str, line: str) -> str:
    Ledger(ledger).write(line)
    return line


@workflow
async def patient(ledger: str) -> str:
    await note(ledger, "first")
    value = await go.receive()
    return await note(ledger, f"got {value}")


@workflow
async def busy(ledger: str, n: int, milliseconds: int = 10) -> int:
    for i in range(n):
        await note(ledger, f"busy {i}")
        await asyncio.sleep(milliseconds / 1000)
    return n


async def main(url: str, lease: float, limit: int, mode: str) -> None:
    """Open, report, obey."""
    engine = Engine(url, workflows=[patient, busy], lease=lease, max_partitions=limit or None, standby=mode == "standby")
    loop = asyncio.get_running_loop()
    try:
        async with engine:
            tell(f"owns {engine.owned}")
            while line := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
                verb, *rest = line.split()
                try:
                    if verb == "start":
                        run = await engine.start(rest[0], *map(_typed, rest[2:]), id=rest[1])
                        tell(f"started {run.id}")
                    elif verb == "result":
                        tell(f"result {await (await engine.get(rest[0])).result(20)}")
                    elif verb == "signal":
                        await (await engine.get(rest[0])).signal(go, int(rest[1]))
                        tell("signalled")
                    elif verb == "owns":
                        tell(f"owns {engine.owned}")
                except SpellworkError as error:
                    tell(f"error {error.code}")
    except SpellworkError as error:
        tell(f"refused {error.code}: {error}")


def _typed(word: str) -> int | str:
    return int(word) if word.isdigit() else word


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
