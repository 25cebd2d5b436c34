"""Owns the verbs that look at runs: ps, show, history.
It must never write, nor make a store that is not there.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import click

from spellwork import RunInfo, Status
from spellwork.cli.opening import opened
from spellwork.cli.options import TEXT, common
from spellwork.cli.output import colour, duration, moment, note, print_json, print_table, run_record, to_json, visible
from spellwork.cli.owner import find_run, owner_of
from spellwork.cli.timeline import Moment, timeline
from spellwork.cli.verb import Verb
from spellwork.engine import Event
from spellwork.errors import RunNotFound


@click.command(
    cls=Verb,
    examples=("spellwork ps --status blocked --limit 10",),
)
@click.option("--status", type=click.Choice([str(status) for status in Status]), help="Only runs that stand there.")
@click.option("--workflow", type=TEXT, metavar="NAME", help="Only runs of this workflow.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="At most so many.")
@click.option("--after", type=TEXT, metavar="ID", help="Only runs older than this one: the last of the page before.")
@common
def ps(status: str | None, workflow: str | None, limit: int, after: str | None, store: str, as_json: bool) -> None:
    """List runs, newest first."""

    async def work() -> list[RunInfo]:
        async with opened(store, client=True, create=False) as engine:
            return await engine.list(status=status, workflow=workflow, limit=limit, after=after)

    found = asyncio.run(work())
    if as_json:
        for info in found:
            print_json(run_record(info))
        return
    if not found:
        note("no such runs" if status or workflow or after else "no runs yet")
        return
    now = dt.datetime.now(dt.UTC)
    rows = [
        (info.id, info.workflow, str(info.status), _ago(now, info.created), _ago(now, info.updated), info.reason) for info in found
    ]
    print_table(("ID", "WORKFLOW", "STATUS", "STARTED", "CHANGED", "REASON"), rows)
    if len(found) == limit:
        note(f"there may be more: --after {found[-1].id}")


def _ago(now: dt.datetime, at: dt.datetime) -> str:
    return f"{duration(max(0.0, (now - at).total_seconds()))} ago"


@click.command(
    cls=Verb,
    examples=("spellwork show order-7",),
)
@click.argument("run_id", metavar="ID", type=TEXT)
@common
def show(run_id: str, store: str, as_json: bool) -> None:
    """Show where run ID stands, and the timeline of its steps with attempts, durations and failures."""

    async def work() -> tuple[RunInfo, list[Event], str]:
        async with opened(store, client=True, create=False) as engine:
            row = await find_run(engine, run_id)
            run = await engine.get(run_id)
            owner = None if row.status.ended else await owner_of(engine.store, row.partition)
            return await run.status(), await run.history(), str(owner) if owner else ""

    info, events, owner = asyncio.run(work())
    moments = timeline(events)
    if as_json:
        print_json({**run_record(info), "owner": owner or None, "timeline": [moment.record() for moment in moments]})
        return
    _print_header(info, events, owner)
    click.echo()
    print_table(("AT", "TOOK", "WHAT", "NAME", "ATTEMPT", "NOTE"), [_line(entry) for entry in moments])


def _print_header(info: RunInfo, events: list[Event], owner: str) -> None:
    steps = sum(event.kind == "StepCompleted" for event in events)
    last = info.updated if info.status.ended else dt.datetime.now(dt.UTC)
    fields = {
        "run": info.id,
        "workflow": f"{info.workflow} (version {info.version})",
        "status": str(info.status),
        "reason": info.reason,
        "started": moment(info.created),
        "took" if info.status.ended else "since": duration((last - info.created).total_seconds()),
        "steps": f"{steps} completed",
        "parent": info.parent_id or "",
        "run by": "" if info.status.ended else owner or "nobody now; `spellwork worker FILE.py` would",
    }
    for name, value in fields.items():
        if value:
            shown = colour(value) if name == "status" else visible(value)
            click.echo(f"{click.style(f'{name:<9}', dim=True)} {shown}")


def _line(entry: Moment) -> tuple[str, ...]:
    took = duration(entry.took) if entry.took is not None else ""
    attempt = str(entry.attempt) if entry.attempt else ""
    return (f"+{duration(entry.since)}", took, entry.what, entry.name, attempt, entry.note)


@click.command(
    cls=Verb,
    examples=("spellwork history order-7 --json | jq .kind",),
)
@click.argument("run_id", metavar="ID", type=TEXT)
@common
def history(run_id: str, store: str, as_json: bool) -> None:
    """Print the journal of run ID: every durable fact, in order."""

    async def work() -> list[Event]:
        async with opened(store, client=True, create=False) as engine:
            await find_run(engine, run_id)
            return await (await engine.get(run_id)).history()

    events = asyncio.run(work())
    if not events:
        raise RunNotFound(f"run {run_id!r} has no journal", run_id=run_id)
    for event in events:
        if as_json:
            print_json({"position": event.position, "at": event.at.isoformat(), "kind": event.kind, "data": event.data})
        else:
            click.echo(f"{event.position:>5}  {event.at:%H:%M:%S.%f}  {event.kind:<16} {_fields(event.data)}".rstrip())


def _fields(data: dict[str, Any]) -> str:
    return "  ".join(f"{name}={to_json(value)}" for name, value in data.items())
