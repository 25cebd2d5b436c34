"""Owns `replay`: holding stored runs against the code of today.
It must never write to the store, nor run an activity.
"""

from __future__ import annotations

import asyncio

import click
import msgspec

from spellwork import Codec
from spellwork.cli.exits import Exit
from spellwork.cli.opening import opened
from spellwork.cli.options import TEXT, common
from spellwork.cli.output import note, print_json
from spellwork.cli.source import Source, load
from spellwork.cli.verb import Verb
from spellwork.engine.registry import Registry
from spellwork.engine.replay import Verdict, check_runs


@click.command(
    cls=Verb,
    examples=(
        "spellwork replay shop.py order-7",
        "spellwork replay shop.py --all --json",
    ),
)
@click.argument("target", metavar="FILE.py", type=TEXT)
@click.argument("run_ids", metavar="[ID...]", type=TEXT, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every run of the file's workflows.")
@common
def replay(target: str, run_ids: tuple[str, ...], everything: bool, store: str, as_json: bool) -> int:
    """Replay runs against today's code in FILE.py, without writing anything.

    A difference is what would block the run if it were taken up with this code; then the exit code is 1.
    """
    if everything == bool(run_ids):
        raise click.UsageError("give the ids of runs, or --all")
    source, _ = load(target)
    verdicts = asyncio.run(_check(source, store, None if everything else list(run_ids)))
    if everything:
        known = {workflow.name for workflow in (*source.workflows, *source.machine_types)}
        others = sum(verdict.workflow not in known for verdict in verdicts)
        verdicts = [verdict for verdict in verdicts if verdict.workflow in known]
        if others and not as_json:
            note(f"{others} runs of workflows that {source.path} does not declare were left out")
    _print(verdicts, as_json)
    return Exit.OK if all(verdict.ok for verdict in verdicts) else Exit.FAILED


async def _check(source: Source, store: str, run_ids: list[str] | None) -> list[Verdict]:
    registry = Registry((*source.workflows, *source.machine_types), source.activities)
    async with opened(store, client=True, create=False) as engine:
        return await check_runs(engine.store, registry, source.codec or Codec(), run_ids)


def _print(verdicts: list[Verdict], as_json: bool) -> None:
    for verdict in verdicts:
        if as_json:
            print_json(msgspec.structs.asdict(verdict))
        else:
            mark = click.style("same", fg="green") if verdict.ok else click.style("DIFFERS", fg="red")
            click.echo(f"{verdict.run_id}  {verdict.workflow}  {mark}{f'  {verdict.error}' if verdict.error else ''}")
    if not as_json:
        different = sum(not verdict.ok for verdict in verdicts)
        note(f"{len(verdicts)} replayed, {different or 'none'} differ{'s' if different == 1 else ''}")
