"""Runs the step workload on DBOS: SQLite, write-ahead log, synchronous=FULL on every connection.

It owns DBOS's side of the comparison and must never report a figure for a durability that it
did not read back.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dbos import DBOS
from sqlalchemy import Engine, event, text

FULL = 2


@event.listens_for(Engine, "connect")
def make_durable(connection: Any, _record: Any) -> None:
    """Sets the durability under comparison on a new connection."""
    # DBOS makes its engine itself, so the class is the one place that sees every connection.
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")


def read_back(engine: Engine) -> tuple[str, int]:
    """The journal mode and the synchronous level of all pooled connections, or exits."""
    with ExitStack() as stack:
        # Held together, so that the pool hands out a different connection each time.
        held = [stack.enter_context(engine.connect()) for _ in range(max(1, engine.pool.checkedin()))]
        modes = {
            (
                str(connection.execute(text("PRAGMA journal_mode")).scalar_one()),
                int(connection.execute(text("PRAGMA synchronous")).scalar_one()),
            )
            for connection in held
        }
    if modes != {("wal", FULL)}:
        sys.exit(f"DBOS is not at WAL + synchronous=FULL: {sorted(modes)}")
    return modes.pop()


@DBOS.step()
async def increment(number: int) -> int:
    """The step: one more."""
    return number + 1


@DBOS.workflow()
async def chain(number: int, steps: int) -> int:
    """The workflow: so many steps, one after the other."""
    for _ in range(steps):
        number = await increment(number)
    return number


async def run(workflows: int, steps: int, concurrency: int) -> int:
    """Runs the workflows, so many at a time, and returns the sum of their results."""
    gate = asyncio.Semaphore(concurrency)

    async def one(number: int) -> int:
        async with gate:
            return await chain(number, steps)

    return sum(await asyncio.gather(*(one(number) for number in range(workflows))))


async def measure(workflows: int, steps: int, concurrency: int) -> tuple[float, float]:
    """Seconds of wall time and of CPU for the run, after a warm-up that is not counted."""
    await run(concurrency, steps, concurrency)
    wall, cpu = time.perf_counter(), time.process_time()
    total = await run(workflows, steps, concurrency)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    expected = sum(range(workflows)) + workflows * steps
    if total != expected:
        sys.exit(f"DBOS returned {total} in all, expected {expected}")
    return wall, cpu


def main() -> None:
    """Launches DBOS on a new store, measures, and prints the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workflows", type=int, default=250)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--json", action="store_true", help="print JSON (the only form there is)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'dbos.sqlite'}"
        dbos = DBOS(config={"name": "peer-steps", "system_database_url": url, "log_level": "ERROR"})
        DBOS.launch()
        # DBOS has no public way to the engine it made.
        engine = dbos._sys_db.engine
        read_back(engine)
        wall, cpu = asyncio.run(measure(options.workflows, options.steps, options.concurrency))
        journal_mode, synchronous = read_back(engine)
        DBOS.destroy()
    steps = options.workflows * options.steps
    result = {
        "peer": "dbos",
        "version": version("dbos"),
        "workflows": options.workflows,
        "steps": options.steps,
        "concurrency": options.concurrency,
        "seconds": round(wall, 3),
        "steps_per_second": round(steps / wall, 1),
        "cpu_us_per_step": round(cpu / steps * 1e6, 1),
        "journal_mode": journal_mode,
        "synchronous": synchronous,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
