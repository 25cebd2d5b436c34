"""Owns `run` and `resume`: running one run in this process until it ends, and saying how it goes on when it does not.
It must never leave a run in a state from which the printed command cannot take it up again.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import shlex
from typing import Any

import click

from spellwork import Engine, Run, Status, Workflow
from spellwork.cli.exits import CommandError, Exit, Interrupted, Unavailable
from spellwork.cli.given import NO_ARGUMENTS, Call, call_of
from spellwork.cli.messages import NOBODY, Delivery, deliver
from spellwork.cli.opening import opened
from spellwork.cli.options import DEFAULT_STORE, STORE_VARIABLE, TEXT, common, input_option
from spellwork.cli.output import note, print_json
from spellwork.cli.owner import find_run, owner_of
from spellwork.cli.progress import progress
from spellwork.cli.source import Source, load
from spellwork.cli.verb import Verb
from spellwork.clock import SystemClock, new_id
from spellwork.engine import messages as m
from spellwork.engine.rows import read_row
from spellwork.errors import RunBlocked, RunCancelled, RunError, RunFailed, RunFinished, RunTerminated, StoreOwned

_PARKED = (Status.BLOCKED, Status.QUARANTINED)


@dataclasses.dataclass
class Job:
    """One run to be seen through. `workflow` is None to take up one that exists; `durable`: it surely does."""

    source: Source
    run_id: str
    store: str
    as_json: bool
    workflow: Workflow[Any, Any] | None = None
    call: Call = NO_ARGUMENTS
    durable: bool = False

    def command(self, *words: str) -> str:
        """A command about this run, as it is typed."""
        elsewhere = self.store != DEFAULT_STORE or STORE_VARIABLE in os.environ
        store = ("--store", self.store) if elsewhere else ()
        run_id = ("--", self.run_id) if self.run_id.startswith("-") else (self.run_id,)
        return shlex.join(("spellwork", *words, *store, *run_id))


@click.command(
    cls=Verb,
    examples=(
        "spellwork run hello.py --input '[\"Ada\"]'",
        "spellwork run shop.py:order --input '{\"customer\": 7}' --id order-7",
    ),
)
@click.argument("target", metavar="FILE.py[:WORKFLOW]", type=TEXT)
@input_option
@click.option("--id", "run_id", type=TEXT, metavar="ID", help="The run's id; the same command again goes on with it.")
@common
def run(target: str, given: str | None, run_id: str | None, store: str, as_json: bool) -> None:
    """Run a workflow of FILE.py here, and print its result as JSON.

    Ctrl-C (or kill -9) leaves it resumable. The same command with the same --id goes on where it stopped, or prints the
    stored result.
    """
    source, name = load(target)
    workflow = source.choose(name)
    job = Job(source, new_id(SystemClock()) if run_id is None else run_id, store, as_json, workflow, call_of(given, workflow))
    _see_through(job)


@click.command(
    cls=Verb,
    examples=(
        "spellwork resume shop.py order-7",
        "spellwork resume order-7",
    ),
)
@click.argument("target", metavar="[FILE.py] ID", type=TEXT, nargs=-1, required=True)
@common
def resume(target: tuple[str, ...], store: str, as_json: bool) -> None:
    """Go on with run ID: with FILE.py in this process, until it ends; without, in the process that runs the store.

    A blocked or quarantined run is tried again.
    """
    if len(target) > 2:
        raise click.UsageError("resume takes a file and an id, or only an id")
    if len(target) == 2:
        _see_through(Job(load(target[0])[0], target[1], store, as_json))
        return
    run_id = target[0]
    state = asyncio.run(_resume_elsewhere(store, run_id))
    if as_json:
        print_json({"id": run_id, "sent": "resume", "state": state})
    else:
        note(state.remark or f"run {run_id} goes on")


async def _resume_elsewhere(store: str, run_id: str) -> Delivery:
    async with opened(store, client=True, create=False) as engine:
        row = await find_run(engine, run_id)
        if row.status.ended:
            raise RunFinished(f"run {run_id} is {row.status}; there is nothing to resume", run_id=run_id)
        if row.status is Status.RUNNING and await owner_of(engine.store, row.partition) is None:
            raise Unavailable(
                f"{NOBODY}: run {run_id} goes on with `spellwork resume FILE.py {run_id}` or `spellwork worker FILE.py`"
            )
    return await deliver(store, m.AskResume(run_id), lambda handle: handle.resume(), 5.0)


def _see_through(job: Job) -> None:
    if not job.as_json:
        # such as a signal that was skipped; the engine's own lines would double the error at the end
        logging.getLogger("spellwork.workflow").addHandler(logging.StreamHandler())
    try:
        value = asyncio.run(_finish(job))
    except KeyboardInterrupt:
        raise Interrupted(_farewell(job)) from None
    except RunError as error:
        if not job.as_json and isinstance(error, RunFailed | RunCancelled | RunTerminated | RunBlocked):
            note(f"see `{job.command('show')}` for its steps")
        raise error from error.__cause__
    print_json({"id": job.run_id, "status": "completed", "result": value} if job.as_json else value)


def _farewell(job: Job) -> str:
    if job.store.startswith("memory:"):
        return f"run {job.run_id} was interrupted, and a memory: store keeps nothing"
    if not job.durable:
        same = f"the same command with --id {shlex.quote(job.run_id)}"
        return f"interrupted; whether run {job.run_id} has begun is not known: {same} begins it, or goes on with it"
    command = job.command("resume", job.source.path)
    return f"run {job.run_id} was interrupted; nothing is lost, it goes on with\n    {command}"


async def _finish(job: Job) -> Any:
    try:
        async with opened(job.store, create=job.workflow is not None, **job.source.engine_options()) as engine:
            return await _result(engine, job)
    except StoreOwned as error:
        return await _attach(job, error)


async def _attach(job: Job, error: StoreOwned) -> Any:
    """Wait for a run that another process runs already, ready to take over should that process stop."""
    async with opened(job.store, create=False, standby=True, **job.source.engine_options()) as engine:
        row = await engine.store.read(lambda reader: read_row(reader, job.run_id))
        if row is None and job.workflow is not None:
            raise CommandError(
                f"{job.store} is run by {error.owner}; hand it the run with `spellwork start`, or use another --store",
                Exit.UNAVAILABLE,
                error.code,
            )
        if not job.as_json:
            note(f"run {job.run_id} is in the hands of {error.owner}; waiting for its result")
        return await _result(engine, job)


async def _result(engine: Engine, job: Job) -> Any:
    handle: Run[Any]
    if job.workflow is None:
        handle = await engine.get(job.run_id)
    else:
        handle = await engine.start(job.workflow, *job.call.args, id=job.run_id, **job.call.kwargs)
    job.durable = True
    status = (await handle.status()).status
    # who runs the same command again expects a blocked run to be tried again; a quarantined one may kill this process
    if status is Status.BLOCKED or (status in _PARKED and job.workflow is None):
        await handle.resume()
    async with progress(engine, job.run_id, quiet=job.as_json):
        return await handle.result()
