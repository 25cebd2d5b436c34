"""Owns the command line of the demonstrations: options, what is printed at the end, and exit codes.
It must never run a review itself: that is the pipeline's.
"""

from __future__ import annotations

import asyncio
import secrets
import shlex
import sys
import time
from pathlib import Path
from typing import NoReturn

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import spellwork
from spellwork.demo.pipeline.attended import Attendance, Finished
from spellwork.demo.pipeline.session import Session
from spellwork.demo.pipeline.show import Show
from spellwork.demo.review import discover

# The meanings of the command line: `spellwork --help` lists them.
NOT_PROVEN, UNUSABLE, NOTHING_TO_REVIEW, REJECTED, INTERRUPTED = 1, 2, 3, 5, 130


@click.group()
def demo() -> None:
    """Demonstrations that need nothing but this package."""


@demo.command()
@click.argument("path", type=click.Path(path_type=Path), required=False)
@click.option("--store", metavar="URL", help="Where the run lives.  [default: sqlite:OUT/review.db]")
@click.option("--chaos", is_flag=True, help="Kill the reviewing process with SIGKILL as it goes, and restart it.")
@click.option("--kills", type=click.IntRange(1, 100), default=3, show_default=True, help="How often, with --chaos.")
@click.option("--seed", type=int, help="Choose the moments of the kills again as in an earlier run.")
@click.option("--approve/--no-approve", default=False, show_default=True, help="Approve the report without asking.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("spellwork-review"),
    show_default=True,
    help="The folder of report, findings and ledger.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; progress goes to standard error.")
def review(  # noqa: PLR0913 - as many parameters as options
    *,
    path: Path | None,
    store: str | None,
    chaos: bool,
    kills: int,
    seed: int | None,
    approve: bool,
    out: Path,
    as_json: bool,
) -> None:
    """Review the Python files under PATH (default: Spellwork's own sources) by a durable workflow.

    Interrupt it, kill it, pull the plug: the same command goes on where it stopped. Ends with 0 when the report was
    written and ledger and journal agree, 1 if something was done twice, 3 if PATH does not exist or holds no Python
    files, 5 if the report was rejected, 130 after Ctrl-C.

    \b
    Examples:
      spellwork demo review src --approve
      spellwork demo review src --chaos --kills 5 --approve
    """  # noqa: D301 - click wants the character, not the escape
    root = path or Path(spellwork.__file__).parent
    session = _session(root, out, store)
    show = Show(Console(stderr=as_json))
    seed = secrets.randbelow(1 << 32) if seed is None else seed
    attendance = Attendance(session, show, approve=approve)
    began = time.monotonic()
    try:
        with show:
            if chaos:
                show.say(f"{kills} kills, --seed {seed}")
            finished = asyncio.run(attendance.killed(kills, seed) if chaos else attendance.undisturbed())
    except KeyboardInterrupt:
        _stop(_how_to_resume(show), INTERRUPTED)
    _report(finished, time.monotonic() - began, show, as_json=as_json)


def _session(root: Path, out: Path, store: str | None) -> Session:
    try:
        if not discover(root):
            _stop(f"nothing to review: {str(root)!r} holds no Python files", NOTHING_TO_REVIEW)
        out.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:
        _stop(str(error), NOTHING_TO_REVIEW)
    except OSError as error:
        _stop(f"{out} cannot be used: {error.strerror}; name another folder by --out", UNUSABLE)
    return Session.of(root, out, store)


def _stop(message: str, code: int) -> NoReturn:
    click.echo(message, err=True)
    raise click.exceptions.Exit(code)


def _how_to_resume(show: Show) -> str:
    again = shlex.join(["spellwork", *sys.argv[1:]] if "demo" in sys.argv else ["spellwork", "demo", *sys.argv[1:]])
    if not show.run_id:
        return f"interrupted before anything began; start it by\n  {again}"
    state = show.state
    done = f"{len(state.committed)} of {len(state.planned)} files are done" if state and state.planned else "it has begun"
    return f"interrupted; {done} and stay so. The same command resumes run {show.run_id}:\n  {again}"


def _report(finished: Finished, seconds: float, show: Show, *, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(_summary(finished, seconds)), indent=2).decode())
    else:
        _tell(finished, seconds, show.console)
    for problem in finished.proof.problems:
        click.echo(f"not proven: {problem}", err=True)
    if finished.proof.problems:
        raise click.exceptions.Exit(NOT_PROVEN)
    if finished.outcome.status == "rejected":
        raise click.exceptions.Exit(REJECTED)


def _summary(finished: Finished, seconds: float) -> dict[str, object]:
    return {
        "run": finished.run_id,
        **msgspec.to_builtins(finished.outcome),
        "kills": msgspec.to_builtins(finished.kills),
        "proof": {"holds": finished.proof.holds, **msgspec.to_builtins(finished.proof)},
        "seconds": round(seconds, 3),
    }


def _tell(finished: Finished, seconds: float, console: Console) -> None:
    outcome, proof = finished.outcome, finished.proof
    counts = ", ".join(f"{count} {severity}" for severity, count in outcome.by_severity.items())
    console.print(f"{outcome.files} files, {outcome.lines} lines in {seconds:.1f} s; findings: {counts}", highlight=False)
    if outcome.worst:
        table = Table("worst files", "high", "medium", "low", box=None)
        for file in outcome.worst[:5]:
            table.add_row(escape(file.path), str(file.high), str(file.medium), str(file.low))
        console.print(table)
    if proof.holds:
        console.print(
            f"[green]proven[/] by ledger and journal: {proof.committed} of {proof.planned} files committed once each, "
            f"none analysed again after its commit; processes: {proof.processes}, killed: {len(finished.kills)}, "
            f"repeated in flight: {proof.repeated_in_flight} (at most {proof.in_flight_bound} could be)",
            highlight=False,
            soft_wrap=True,
        )
    if outcome.report is not None:
        console.print(f"report: [bold]{escape(outcome.report)}[/]", highlight=False, soft_wrap=True)
        console.print(f"findings: {escape(outcome.findings or '')}", highlight=False, soft_wrap=True)
    else:
        console.print("the report was rejected and not written")
