"""Runs the step workload on LangGraph's graph API: durability="sync", SQLite at WAL and FULL.

It owns LangGraph's side of the comparison and must never report a figure for a durability that it
did not read back.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypedDict

import aiosqlite
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph

FULL = 2


class Number(TypedDict):
    """The state of the graph."""

    value: int


async def increment(state: Number) -> Number:
    """The step: one more."""
    return {"value": state["value"] + 1}


def build(steps: int, saver: AsyncSqliteSaver) -> Any:
    """A graph of so many nodes in sequence, each adding one."""
    names = [f"step-{index}" for index in range(steps)]
    graph = StateGraph(Number)
    for name in names:
        graph.add_node(name, increment)
    for before, after in zip([START, *names], [*names, END], strict=True):
        graph.add_edge(before, after)
    return graph.compile(checkpointer=saver)


async def read_back(connection: aiosqlite.Connection) -> tuple[str, int]:
    """The journal mode and the synchronous level of the saver's one connection, or exits."""
    values = []
    for pragma in ("journal_mode", "synchronous"):
        async with connection.execute(f"PRAGMA {pragma}") as cursor:
            row = await cursor.fetchone()
            values.append(row[0] if row else None)
    if values != ["wal", FULL]:
        sys.exit(f"LangGraph is not at WAL + synchronous=FULL: {values}")
    return str(values[0]), int(values[1])


async def run(graph: Any, label: str, workflows: int, steps: int, concurrency: int) -> int:
    """Runs the workflows, so many at a time, a thread id each, and returns the sum of results."""
    gate = asyncio.Semaphore(concurrency)

    async def one(number: int) -> int:
        config = {
            "configurable": {"thread_id": f"{label}-{number}"},
            "recursion_limit": steps + 5,
        }
        async with gate:
            state = await graph.ainvoke({"value": number}, config, durability="sync")
            return int(state["value"])

    return sum(await asyncio.gather(*(one(number) for number in range(workflows))))


async def measure(graph: Any, workflows: int, steps: int, concurrency: int) -> tuple[float, float]:
    """Seconds of wall time and of CPU for the run, after a warm-up that is not counted."""
    await run(graph, "warm", concurrency, steps, concurrency)
    wall, cpu = time.perf_counter(), time.process_time()
    total = await run(graph, "run", workflows, steps, concurrency)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    expected = sum(range(workflows)) + workflows * steps
    if total != expected:
        sys.exit(f"LangGraph returned {total} in all, expected {expected}")
    return wall, cpu


async def bench(path: Path, workflows: int, steps: int, concurrency: int) -> dict[str, Any]:
    """Opens the store, measures, and returns the report."""
    async with aiosqlite.connect(path) as connection:
        await connection.execute("PRAGMA journal_mode=WAL")
        await connection.execute("PRAGMA synchronous=FULL")
        graph = build(steps, AsyncSqliteSaver(connection))
        wall, cpu = await measure(graph, workflows, steps, concurrency)
        journal_mode, synchronous = await read_back(connection)
    return {
        "peer": "langgraph",
        "version": version("langgraph"),
        "workflows": workflows,
        "steps": steps,
        "concurrency": concurrency,
        "seconds": round(wall, 3),
        "steps_per_second": round(workflows * steps / wall, 1),
        "cpu_us_per_step": round(cpu / (workflows * steps) * 1e6, 1),
        "journal_mode": journal_mode,
        "synchronous": synchronous,
    }


def main() -> None:
    """Measures on a new store and prints the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workflows", type=int, default=250)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--json", action="store_true", help="print JSON (the only form there is)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "langgraph.sqlite"
        print(json.dumps(asyncio.run(bench(path, options.workflows, options.steps, options.concurrency))))


if __name__ == "__main__":
    main()
