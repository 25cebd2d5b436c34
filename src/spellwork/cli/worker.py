"""Owns `worker`: a process that runs workflows until it is told to stop.
It must never stop without giving its store back, short of being killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal

import click

from spellwork.cli.exits import CommandError, Exit, NotFound
from spellwork.cli.opening import opened
from spellwork.cli.options import TEXT, common
from spellwork.cli.output import note, print_json
from spellwork.cli.source import Source, load_all
from spellwork.cli.verb import Verb
from spellwork.errors import StoreOwned

_LOOK_EVERY = 1.0


@click.command(
    cls=Verb,
    examples=("spellwork worker shop.py mail.py --store sqlite:/var/lib/shop.db",),
)
@click.argument("files", metavar="FILE.py...", type=TEXT, nargs=-1, required=True)
@click.option("--standby", is_flag=True, help="If another process runs the store, wait and take over when it stops.")
@click.option(
    "--grace", type=click.FloatRange(min=0), default=5.0, show_default=True, metavar="SECONDS",
    help="How long stopping waits for activities under way.",
)  # fmt: skip
@common
def worker(files: tuple[str, ...], standby: bool, grace: float, store: str, as_json: bool) -> None:
    """Run the workflows of FILE.py... until Ctrl-C or SIGTERM.

    It takes up what was interrupted, what was started with `spellwork start`, and every signal that waits.
    """
    source = load_all(files)
    if not source.workflows and not source.machines:
        raise NotFound(f"{source.path}: no workflow declared; write an `async def` function under @workflow, or a chart")
    if not as_json:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logging.getLogger("spellwork").addHandler(handler)
    # Ctrl-C before the handlers stand, or where there are none, reaches asyncio.run as usual
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_work(source, store, standby, grace, as_json))


async def _work(source: Source, store: str, standby: bool, grace: float, as_json: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, stop.set)
    names = ", ".join(sorted({workflow.name for workflow in (*source.workflows, *source.machine_types)}))
    try:
        async with opened(store, standby=standby, grace=grace, **source.engine_options()) as engine:
            _tell("ready", f"running {names} on {store}; Ctrl-C stops", as_json)
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), _LOOK_EVERY)
                engine.store  # noqa: B018 - raises what made the engine give up
            _tell("stopping", "stopping; what is unfinished goes on with the next worker", as_json)
    except StoreOwned as error:
        raise CommandError(
            f"{store} is run by {error.owner}; stop that first, or wait in line with --standby",
            Exit.UNAVAILABLE,
            error.code,
        ) from error


def _tell(event: str, text: str, as_json: bool) -> None:
    if as_json:
        print_json({"event": event})
    else:
        note(text)
