"""Owns the verbs under `machine` that reach hosted machines: send, ps, show.
It must never guess what a machine would do: its owner knows, or the file that declares its chart.
"""

from __future__ import annotations

import asyncio
from typing import Any

import click

from spellwork import Codec, Engine, RunInfo, Status
from spellwork.cli.exits import NotFound, Unavailable
from spellwork.cli.given import parse
from spellwork.cli.messages import NOBODY, SILENT, Delivery
from spellwork.cli.opening import codec_of, opened
from spellwork.cli.options import TEXT, codec_option, common, timeout_option
from spellwork.cli.output import colour, moment, note, print_json, print_table, run_record, to_json, visible
from spellwork.cli.owner import answer, find_open_run, find_run, owner_of, post
from spellwork.cli.source import load_all
from spellwork.cli.verb import Verb
from spellwork.clock import SystemClock, new_id
from spellwork.engine import messages as m
from spellwork.errors import RunNotFound, SpellworkError, UsageError

_STEM = "machine:"


def _name_of(workflow: str) -> str:
    if not workflow.startswith(_STEM):
        raise UsageError(f"this is a run of workflow {workflow}, not a machine; `spellwork show` tells of it")
    return workflow.removeprefix(_STEM)


@click.command(
    cls=Verb,
    examples=("spellwork machine send front-door open", "spellwork machine send till-3 Paid --data '{\"amount\": 4}'"),
)
@click.argument("run_id", metavar="ID", type=TEXT)
@click.argument("event", type=TEXT)
@click.option("--data", type=TEXT, metavar="JSON", help="What the event carries; for an event with a class, its fields.")
@click.option("--event-id", type=TEXT, metavar="ID", help="An event whose id the machine has had already is ignored.")
@codec_option
@timeout_option(5)
@common
def send(
    run_id: str, event: str, data: str | None, event_id: str | None, codec: str | None, timeout: float, store: str, as_json: bool
) -> None:
    """Send EVENT to machine ID, and print where it led.

    It is durable when this returns. If nobody runs the store, it waits until somebody does.
    """
    rules = codec_of(codec)
    payload = rules.untyped.encode(None if data is None else parse(data, "--data"))
    key = event_id or new_id(SystemClock())
    delivery, state = asyncio.run(_send(store, m.AskSignal(run_id, event, payload, key, answer=True), timeout, rules))
    if as_json:
        print_json({"id": run_id, "event": event, "sent": delivery, "state": state})
    elif state is None:
        note(f"event {event} for machine {run_id} {delivery.remark}")
    else:
        click.echo(", ".join(map(visible, state["active"])))


async def _send(store: str, message: m.AskSignal, timeout: float, codec: Codec) -> tuple[Delivery, dict[str, Any] | None]:
    from spellwork.hosted.questions import plain
    from spellwork.hosted.standing import unpack_standing

    async with opened(store, client=True, create=False, codec=codec) as engine:
        try:
            row = await find_open_run(engine, message.run_id)
        except RunNotFound as error:
            raise NotFound(
                f"there is no machine {message.run_id!r} in {engine.url}; a program begins it with its first event: "
                f"`engine.machine(chart, {message.run_id!r}).send(...)`. `spellwork machine ps` lists those there are"
            ) from error
        _name_of(row.workflow)
        silent = m.AskSignal(message.run_id, message.name, message.payload, message.id)
        if await owner_of(engine.store, row.partition) is None:
            await post(engine.store, row.partition, silent)
            return Delivery.QUEUED, None
        try:
            told = await answer(engine._router.ask(message), timeout, SILENT)
        except Unavailable:
            # nobody knows whether the first is durable; the second means the same, and is
            await post(engine.store, row.partition, silent)
            return Delivery.UNANSWERED, None
        return Delivery.DELIVERED, plain(unpack_standing(None, engine.codec, told or b""))


@click.command(
    cls=Verb,
    examples=("spellwork machine ps --machine door --status running",),
)
@click.option("--machine", "name", type=TEXT, metavar="NAME", help="Only machines of this chart.")
@click.option("--status", type=click.Choice([str(status) for status in Status]), help="Only those that stand there.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="At most so many.")
@click.option("--after", type=TEXT, metavar="ID", help="Only machines older than this one: the last of the page before.")
@timeout_option(2)
@common
def ps(name: str | None, status: str | None, limit: int, after: str | None, timeout: float, store: str, as_json: bool) -> None:
    """List hosted machines, newest first, with their states if somebody runs the store."""

    async def work() -> list[tuple[RunInfo, dict[str, Any] | None]]:
        async with opened(store, client=True, create=False) as engine:
            found = await engine.list(status=status, workflow=_STEM + (name or "*"), limit=limit, after=after)
            states = await asyncio.gather(*(_state(engine, info, timeout) for info in found))
            return list(zip(found, states, strict=True))

    rows = asyncio.run(work())
    if as_json:
        for info, state in rows:
            print_json({**run_record(info), "machine": _name_of(info.workflow), "state": state})
        return
    if not rows:
        note("no such machines" if name or status or after else "no machines yet")
        return
    table = [
        (
            info.id,
            _name_of(info.workflow),
            info.version,
            str(info.status),
            ", ".join(state["active"]) if state else "?",
            info.reason,
        )
        for info, state in rows
    ]
    print_table(("ID", "MACHINE", "VERSION", "STATUS", "STATE", "REASON"), table)
    if any(state is None and not info.status.ended for info, state in rows):
        note(f"?: {NOBODY}, or it did not answer; `spellwork machine show ID --file FILE.py` works it out from the chart")
    if len(rows) == limit:
        note(f"there may be more: --after {rows[-1][0].id}")


async def _state(engine: Engine, info: RunInfo, timeout: float) -> dict[str, Any] | None:
    """What the owner says of a machine; None if there is none, or the machine is not well."""
    try:
        told: dict[str, Any] = await _question(engine, info.id, "state", timeout)
    except SpellworkError:
        return None
    except Unavailable:
        return None
    return told


async def _question(engine: Engine, run_id: str, name: str, timeout: float, *args: Any) -> Any:
    row = await find_run(engine, run_id)
    if await owner_of(engine.store, row.partition) is None:
        raise Unavailable(
            f"{NOBODY}, so machine {run_id} cannot say where it stands; give the file that declares its chart: --file FILE.py"
        )
    return await answer((await engine.get(run_id)).query(name, *args), timeout, SILENT)


@click.command(
    cls=Verb,
    examples=("spellwork machine show front-door", "spellwork machine show front-door --file doors.py --last 100"),
)
@click.argument("run_id", metavar="ID", type=TEXT)
@click.option("--file", "files", type=TEXT, multiple=True, metavar="FILE.py", help="Work it out here, from the chart in this file.")
@click.option("--last", type=click.IntRange(0), default=10, show_default=True, metavar="N", help="So many transitions.")
@timeout_option(5)
@common
def show(run_id: str, files: tuple[str, ...], last: int, timeout: float, store: str, as_json: bool) -> None:
    """Show where machine ID stands, which events it takes there, and its last transitions.

    The process that runs the store is asked, which looks at the journal since it was last trimmed. With --file its whole life is
    read, whether or not somebody runs the store.
    """
    options = load_all(files).engine_options() if files else {}

    async def work() -> tuple[RunInfo, dict[str, Any], list[dict[str, Any]]]:
        async with opened(store, client=True, create=False, **options) as engine:
            row = await find_run(engine, run_id)
            name = _name_of(row.workflow)
            if files:
                from spellwork.hosted.questions import plain

                found = engine.machine(name, run_id)
                return await found.status(), plain(await found.state()), [plain(each) for each in await found.history(last)]
            told = await _question(engine, run_id, "transitions", timeout, last) if last else []
            return RunInfo.of(row), await _question(engine, run_id, "state", timeout), told

    info, state, transitions = asyncio.run(work())
    if as_json:
        print_json({**run_record(info), "machine": _name_of(info.workflow), "state": state, "last": transitions})
        return
    fields = {
        "machine": f"{info.id} ({_name_of(info.workflow)}, version {info.version})",
        "status": str(info.status),
        "reason": info.reason,
        "state": ", ".join(state["active"]),
        "takes": ", ".join(state["allowed"]) or "nothing",
        "context": "" if state["context"] is None else to_json(state["context"]),
        "result": "" if state["result"] is None else to_json(state["result"]),
        "since": moment(info.created),
    }
    for name, value in fields.items():
        if value:
            click.echo(f"{click.style(f'{name:<9}', dim=True)} {colour(value) if name == 'status' else visible(value)}")
    if transitions:
        click.echo()
        print_table(("NR", "AT", "EVENT", "DATA", "FROM", "TO", "ACTIONS"), map(_line, transitions))


def _line(told: dict[str, Any]) -> tuple[str, ...]:
    data = "" if told["data"] is None else to_json(told["data"])
    at = str(told["at"]).replace("T", " ").partition("+")[0].removesuffix("Z")
    return (
        str(told["position"]), at, told["event"] or "(begins)", data,
        ", ".join(told["before"]), ", ".join(told["after"]), ", ".join(told["actions"]),
    )  # fmt: skip
