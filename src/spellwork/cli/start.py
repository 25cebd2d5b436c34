"""Owns `start`: a run that another process is to run, now or later.
It must never run anything itself.
"""

from __future__ import annotations

import asyncio
from typing import Any

import click

from spellwork import Workflow
from spellwork.cli.exits import Unavailable
from spellwork.cli.given import Call, call_of
from spellwork.cli.messages import NOBODY, SILENT, Delivery
from spellwork.cli.opening import opened
from spellwork.cli.options import TEXT, common, input_option, timeout_option
from spellwork.cli.output import note, print_json
from spellwork.cli.owner import PARTITIONS, answer, owner_of, post
from spellwork.cli.source import is_file, load
from spellwork.cli.verb import Verb
from spellwork.clock import SystemClock, new_id
from spellwork.codec.text import check_name
from spellwork.engine.ownership import Ownership
from spellwork.engine.rows import read_row

_MACHINE = "machine:"
_EXISTING = "existing"


@click.command(
    cls=Verb,
    examples=(
        "spellwork start shop.py:order --input '{\"customer\": 7}' --id order-7",
        "spellwork start order --input '[7]'",
    ),
)
@click.argument("target", metavar="FILE.py[:WORKFLOW]|NAME", type=TEXT)
@input_option
@click.option("--id", "run_id", type=TEXT, metavar="ID", help="The run's id; starting it twice starts it once.")
@timeout_option(5)
@common
def start(target: str, given: str | None, run_id: str | None, timeout: float, store: str, as_json: bool) -> None:
    """Start a run and print its id, without waiting for it.

    The process that runs the store takes it up; if nobody does now, the next `spellwork worker` will. With FILE.py the
    input is checked against the workflow's parameters first; with a workflow's NAME an object is always by keyword.
    """
    if store.startswith("memory:"):
        raise click.UsageError("a memory: store lives in one process only; use `spellwork run`, or a file")
    if target.startswith(_MACHINE):
        machine = target.removeprefix(_MACHINE)
        raise click.UsageError(f"a program begins a machine, with its first event: `engine.machine({machine!r}, ID).send(...)`")
    workflow: Workflow[Any, Any] | None = None
    options: dict[str, Any] = {}
    if is_file(target):
        source, name = load(target)
        workflow = source.choose(name)
        options = source.engine_options()
    call = call_of(given, workflow)
    run_id = new_id(SystemClock()) if run_id is None else run_id
    state = asyncio.run(_start(store, workflow or target, call, run_id, timeout, options))
    if as_json:
        print_json({"id": run_id, "workflow": workflow.name if workflow else target, "state": state})
        return
    click.echo(run_id)
    if state == _EXISTING:
        note("this run exists already")
    elif state in (Delivery.QUEUED, Delivery.UNANSWERED):
        note(f"queued: {NOBODY if state == Delivery.QUEUED else SILENT}; it starts when `spellwork worker FILE.py` does")


async def _start(
    store: str, workflow: Workflow[Any, Any] | str, call: Call, run_id: str, timeout: float, options: dict[str, Any]
) -> str:
    async with opened(store, client=True, create=not isinstance(workflow, str), **options) as engine:
        row = await engine.store.read(lambda reader: read_row(reader, run_id))
        if row is not None:
            await engine.start(workflow, *call.args, id=run_id, **call.kwargs)  # raises RunExists for another run
            return _EXISTING
        # a new store gets its number of partitions here, so that the inbox chosen now is one that its owner will drain
        await Ownership(engine.store, SystemClock(), 1.0).partition_count(PARTITIONS)
        partition = engine._partition_of(run_id)
        message = engine._start_message(workflow, check_name(run_id, "id"), call.args, call.kwargs)
        if await owner_of(engine.store, partition) is None:
            await post(engine.store, partition, message)
            return Delivery.QUEUED
        try:
            await answer(engine.start(workflow, *call.args, id=run_id, **call.kwargs), timeout, SILENT)
        except Unavailable:
            return Delivery.UNANSWERED
        return "started"
