"""Owns the command line of the trials: which are run, for how long, and how their figures are shown.
It must never count a trial that was skipped or cut short as one that passed in full.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from spellwork.cli.exits import Exit
from spellwork.cli.output import print_json, print_table
from spellwork.cli.verb import Verb
from spellwork.clock import SystemClock
from spellwork.testing.chaos.trial import Deadline, Figure, Trial
from spellwork.testing.chaos.trials import TRIALS

_SHORT, _FULL = 10.0, 60.0
_FULL_TIMES = 6
_WORTH_IT = 1.2
_TITLES = ("trial", "result", "faults", "violations", "seconds", "seed", "law", "facts")


@click.command(
    cls=Verb,
    examples=(
        "spellwork chaos --list",
        "spellwork chaos kills zombies --seed 7",
        "spellwork chaos --full --json > figures.json",
    ),
)
@click.argument("names", nargs=-1, metavar="[TRIAL]...")
@click.option("--seed", type=click.IntRange(0), help="The same faults again.  [default: another one each time]")
@click.option("--full", is_flag=True, help="As many faults as the published figures count: up to an hour instead of ten minutes.")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), metavar="M", help="End after at most M minutes.")
@click.option("--keep", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Leave the files in this folder.")
@click.option("--list", "listing", is_flag=True, help="List the trials and their counts.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document a trial.")
def chaos(
    names: tuple[str, ...], seed: int | None, full: bool, minutes: float | None, keep: Path | None, listing: bool, as_json: bool
) -> int:
    """Break the engine on purpose, with real faults, and check that its promises hold.

    Processes are killed and frozen, system calls fail, disks fill up, clocks jump: all below a folder under TMPDIR and in
    processes that this command starts. What the machine lacks is skipped by name. The exit code is 1 when a law was broken.
    """
    chosen = _chosen(names)
    if listing:
        _list(chosen, as_json=as_json)
        return Exit.OK
    number = int.from_bytes(SystemClock().entropy(3), "big") if seed is None else seed
    until = Deadline(60 * (minutes or (_FULL if full else _SHORT)))
    figures: list[Figure] = []
    with _folder(keep, figures) as place:
        for figure in _played(chosen, place, number, until, full=full):
            figures.append(figure)
            if as_json:
                print_json(_record(figure))
        if not as_json:
            figures.sort(key=lambda figure: [trial.name for trial in chosen].index(figure.trial))
            _show(figures)
            _explain(figures, chosen, number, full=full)
    return Exit.FAILED if any(figure.broken for figure in figures) else Exit.OK


def _chosen(names: tuple[str, ...]) -> list[Trial]:
    known = {trial.name: trial for trial in TRIALS}
    for name in names:
        if name not in known:
            raise click.UsageError(f"there is no trial {name!r}; there are {', '.join(known)}")
    return [known[name] for name in names] if names else list(TRIALS)


def _list(trials: list[Trial], *, as_json: bool) -> None:
    if as_json:
        for trial in trials:
            print_json({"trial": trial.name, "law": trial.law, "gate": trial.gate, "short": trial.short, "full": trial.full})
        return
    rows = [(t.name, _number(t.gate), _number(t.short), _number(t.full), t.law) for t in trials]
    print_table(("trial", "gate", "short", "full", "faults"), rows)


def _number(count: int) -> str:
    return "all" if count >= 1_000_000 else f"{count:,}"


@contextmanager
def _folder(keep: Path | None, figures: list[Figure]) -> Iterator[Path]:
    """Where the trials work; it stays when it is wanted, or when it shows how a law was broken."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep.resolve()
        return
    place = Path(tempfile.mkdtemp(prefix="spellwork-chaos-"))
    try:
        yield place
    finally:
        if not any(figure.broken for figure in figures):
            shutil.rmtree(place, ignore_errors=True)


def _played(trials: list[Trial], place: Path, seed: int, until: Deadline, *, full: bool) -> Iterator[Figure]:
    console = Console(stderr=True)
    cut_short: list[tuple[Trial, Figure]] = []

    def play(trial: Trial, folder: str, deadline: Deadline) -> Figure:
        with console.status(f"{trial.name}: {trial.law}, at most {deadline.left:.0f} s"):
            return trial.run(place / folder, seed, trial.full if full else trial.short, deadline)

    # each gets its share of the time that is left, by what it would like to have
    wishes = [trial.seconds * (_FULL_TIMES if full else 1) for trial in trials]
    for index, trial in enumerate(trials):
        share = until.left * wishes[index] / sum(wishes[index:])
        deadline = Deadline(min(share, 1.5 * wishes[index]))
        figure = play(trial, f"{trial.name}-{seed}", deadline)
        if deadline.left or figure.broken or figure.skipped:
            yield figure
        else:
            cut_short.append((trial, figure))
    # what the others did not need: begun anew with more time, since one figure is of one run
    for index, (trial, figure) in enumerate(cut_short):
        deadline = Deadline(until.left / (len(cut_short) - index))
        if deadline.left > _WORTH_IT * figure.seconds:
            again = play(trial, f"{trial.name}-{seed}-again", deadline)
            yield again if again.broken or again.count > figure.count else figure
        else:
            yield figure


def _show(figures: list[Figure]) -> None:
    print_table(_TITLES, [_row(figure) for figure in figures])


def _row(figure: Figure) -> tuple[str, ...]:
    if figure.skipped:
        return (figure.trial, "skipped", f"0/{figure.wanted:,}", "", "", str(figure.seed), figure.law, f"missing: {figure.skipped}")
    facts = ", ".join(f"{name.replace('_', ' ')} {value:g}" if isinstance(value, float) else f"{name.replace('_', ' ')} {value}"
                      for name, value in figure.facts.items())  # fmt: skip
    held = "held" if figure.count >= figure.wanted else "held so far"
    result = "broken" if figure.broken else held if figure.ok else "nothing ran"
    faults = f"{figure.count:,}/{figure.wanted:,}"
    return (figure.trial, result, faults, str(len(figure.broken)), f"{figure.seconds:.1f}", str(figure.seed), figure.law, facts)


def _explain(figures: list[Figure], trials: list[Trial], seed: int, *, full: bool) -> None:
    for figure, trial in zip(figures, trials, strict=True):
        for broken in figure.broken:
            click.echo(f"\n{click.style(trial.name, fg='red')}: {broken}")
        if figure.broken:
            again = f"spellwork chaos {trial.name} --seed {seed}{' --full' if full else ''}"
            click.echo(f"again: {again}")
    sys.stdout.flush()


def _record(figure: Figure) -> dict[str, Any]:
    return {**dataclasses.asdict(figure), "ok": figure.ok}
