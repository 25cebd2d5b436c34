"""Owns the command line of the benchmarks: which are run, and how their figures are shown.
It must never change a figure on the way to the screen, except by rounding.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from spellwork.bench.conditions import Result, load, machine
from spellwork.bench.durable_events import durable
from spellwork.bench.events import run_events
from spellwork.bench.hosted import run_hosted
from spellwork.bench.imports import run_import
from spellwork.bench.latency import run_latency
from spellwork.bench.machine import run_machine
from spellwork.bench.memory import run_memory
from spellwork.bench.parked import BIG, RUNS, run_parked
from spellwork.bench.recovery import run_recovery
from spellwork.bench.steps import run_steps
from spellwork.bench.store import run_store

NAMES = ("import", "memory", "latency", "steps", "recovery", "parked", "machine", "events", "store")
_CONDITIONS = (
    "durability",
    "journal_mode",
    "synchronous",
    "wal_autocheckpoint",
    "python",
    "sqlite",
    "version",
    "cpus",
    "platform",
    "filesystem",
)


@click.command()
@click.argument("name", type=click.Choice([*NAMES, "all"]))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; progress goes to standard error.")
@click.option("--big", is_flag=True, help="parked, store: 1,000,000 runs or keys instead of 100,000.")
@click.option("--hosted", is_flag=True, help="machine: durable ones, hosted by an engine, instead of those in memory.")
@click.option("--concurrency", type=click.IntRange(1, 100_000), multiple=True, help="steps: only this many at a time.")
@click.option(
    "--workflows", type=click.IntRange(1), help="How many runs (latency: steps, machine: events, events: deliveries) are measured."
)
def bench(name: str, *, as_json: bool, big: bool, hosted: bool, concurrency: tuple[int, ...], workflows: int | None) -> None:
    """Measure Spellwork on this machine: real SQLite at full durability, in a folder under TMPDIR.

    Every figure comes with its conditions; where a raw limit is given, it was measured in the same run.

    \b
    Examples:
      spellwork bench all
      spellwork bench machine --hosted
      spellwork bench steps --concurrency 16 --workflows 5000 --json
      TMPDIR=/mnt/ssd spellwork bench parked --big
    """  # noqa: D301 - click wants the character, not the escape
    chosen = NAMES if name == "all" else (name,)
    console = Console(stderr=as_json)
    results: list[Result] = []
    for each in chosen:
        with console.status(f"measuring {each}"):
            found = _runs(big=big, hosted=hosted, concurrency=concurrency, workflows=workflows)[each]()
        results += found
        if not as_json:
            for title, group in itertools.groupby(found, key=lambda result: str(result.get("bench", each))):
                _show(console, title, list(group))
    if as_json:
        click.echo(json.dumps({"results": results, **machine(), "load": load()}, indent=2))


def _runs(*, big: bool, hosted: bool, concurrency: Sequence[int], workflows: int | None) -> dict[str, Callable[[], list[Result]]]:
    size: dict[str, Any] = {} if workflows is None else {"runs": workflows}
    return {
        "import": run_import,
        "memory": lambda: run_memory(**size),
        "latency": lambda: run_latency(*([] if workflows is None else [workflows])),
        "steps": lambda: run_steps(concurrency, workflows),
        "recovery": lambda: run_recovery(**size),
        "parked": lambda: run_parked(workflows or (BIG if big else RUNS)),
        "machine": lambda: run_hosted(workflows) if hosted else run_machine(workflows),
        "store": lambda: run_store(big=big),
        "events": lambda: [*run_events(workflows), *durable(workflows and workflows // 10)],
    }


def _show(console: Console, name: str, results: Sequence[Result]) -> None:
    """A column for each result, a row for each figure: most benchmarks have one result and many figures."""
    table = Table(title=name, title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    for _ in results:
        table.add_column(justify="right")
    for key in results[0]:
        if key not in ("bench", "load", *_CONDITIONS):
            table.add_row(key.replace("_", " "), *(_figure(result.get(key)) for result in results))
    table.add_row("load", *(" ".join(map(_figure, result["load"][:1])) for result in results))
    console.print(table)
    for line in dict.fromkeys(_stated(result) for result in results):
        console.print(line, style="dim", highlight=False, soft_wrap=True)


def _stated(result: Result) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {result[key]}" for key in _CONDITIONS if result.get(key) is not None)


def _figure(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return "\n".join(", ".join(map(_figure, item.values())) if isinstance(item, dict) else _figure(item) for item in value)
    return str(value)
