"""Owns `machine draw` and `machine trace`: a chart of a file as a picture, and what events do to it.
It must never evaluate text of a document; names in it that stand for functions are only shown.
"""

from __future__ import annotations

import asyncio
import dataclasses
import difflib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from spellwork.cli.exits import CommandError, Exit, NotFound
from spellwork.cli.options import TEXT, json_option
from spellwork.cli.output import duration, note, print_json, print_table
from spellwork.cli.source import module_of, names_a_file
from spellwork.cli.verb import Verb
from spellwork.errors import DefinitionError, UsageError
from spellwork.hosted.type import contents_of
from spellwork.machine import (
    AsyncMachine,
    Chart,
    Entry,
    Machine,
    TransitionLog,
    View,
    VirtualTime,
    dot,
    from_json,
    from_scxml,
    mermaid,
    svg,
)
from spellwork.machine.builder import delay_of
from spellwork.supervision import attempt
from spellwork.workflow import Activity

_FORMATS: dict[str, Callable[[Chart, list[str]], str]] = {"mermaid": mermaid, "svg": svg, "dot": dot}
_ENDINGS = {".svg": "svg", ".dot": "dot", ".gv": "dot", ".mmd": "mermaid"}
_EVERYTHING = 100_000  # entries; more than anybody types


@click.command(
    cls=Verb,
    examples=(
        "spellwork machine draw breaker.py --active Open",
        "spellwork machine draw agent.json --active Running -o agent.svg",
        "spellwork machine draw door.scxml --format dot | dot -Tpdf > door.pdf",
    ),
)
@click.argument("target", metavar="FILE.py[:CHART]|FILE.json|FILE.scxml", type=TEXT)
@click.option("--format", "wanted", type=click.Choice(list(_FORMATS)), help="Default: by the ending of OUT, or mermaid.")
@click.option("--active", type=TEXT, multiple=True, metavar="STATE", help="Mark a state, and those around it, as active.")
@click.option("-o", "--output", type=TEXT, metavar="OUT", help="Write to this file instead of the terminal.")
def draw(target: str, wanted: str | None, active: tuple[str, ...], output: str | None) -> None:
    """Draw the chart of a file: as Mermaid text, as Graphviz's dot, or as SVG where Graphviz is installed."""
    chart = _chart(target, _Shown())
    chosen = wanted or _ENDINGS.get(Path(output or "").suffix, "mermaid")
    drawn = _FORMATS[chosen](chart, _marked(chart, active))
    if output is None:
        click.echo(drawn, nl=False)
    else:
        try:
            Path(output).write_text(drawn, encoding="utf-8")
        except OSError as error:
            raise CommandError(f"{output} can't be written: {error.strerror}", Exit.UNAVAILABLE, "unavailable") from error


@click.command(
    cls=Verb,
    examples=(
        "spellwork machine trace breaker.py Unsuccessful +30s Successful",
        "spellwork machine trace door.json open --guard is_free=true --json",
        "spellwork machine trace counter.py 'add={\"n\": 3}'",
    ),
)
@click.argument("target", metavar="FILE.py[:CHART]|FILE.json|FILE.scxml", type=TEXT)
@click.argument("events", metavar="EVENT[=JSON]|+TIME...", type=TEXT, nargs=-1)
@click.option(
    "--guard", "guards", type=TEXT, multiple=True, metavar="NAME=true|false", help="What a guard says that is only a name."
)
@json_option
def trace(target: str, events: tuple[str, ...], guards: tuple[str, ...], as_json: bool) -> int:
    """Send events to a new machine in memory, and print each step: transitions, guards, actions, how long they took.

    +TIME (as +30s) moves its clock, which stands still otherwise. The actions of FILE.py are called, but no activities, which
    have effects: they are only named, as everything is in documents. The exit code is 1 if an event was refused or an action
    failed; the machine stayed where it was, and went on.
    """
    chart = _chart(target, _Shown(dict(map(_verdict, guards))))
    _leave_out_activities(chart)
    steps = asyncio.run(_traced(chart, [_parsed(chart, event) for event in events]))
    if as_json:
        for step in steps:
            print_json(step.record())
    else:
        print_table(("event", "state", "transitions", "actions", "took"), [step.row() for step in steps])
        for step in steps:
            if step.error is not None:
                note(f"{step.event}: {step.error}")
    return Exit.FAILED if any(step.error is not None for step in steps) else Exit.OK


@dataclasses.dataclass(frozen=True)
class _Step:
    """An entry of the log, or an event that led to none; `error` is what was raised."""

    event: str
    entry: Entry | None
    error: BaseException | None = None

    def record(self) -> dict[str, Any]:
        """As JSON: what the log holds, without what it needs itself."""
        fields = {} if self.entry is None else {each.name: getattr(self.entry, each.name) for each in dataclasses.fields(Entry)}
        fields.pop("_began", None)
        return {**fields, "event": self.event, "error": None if self.error is None else str(self.error)}

    def row(self) -> tuple[str, ...]:
        """As a line for people."""
        entry = self.entry
        if entry is None:
            return self.event, "", "", "", ""
        state = ", ".join(entry.after if entry.done else entry.before)
        told = ", ".join(entry.transitions) if entry.handled else "(not handled)"
        took = "" if entry.seconds is None else duration(entry.seconds)
        return self.event, state, told, ", ".join(entry.actions), took if entry.done else "failed"


class _Anything(Mapping[str, Callable[..., Any]]):
    """A function for every name, made by `make`."""

    def __init__(self, make: Callable[[str], Callable[..., Any]]):
        self._make = make

    def __getitem__(self, name: str) -> Callable[..., Any]:
        function = self._make(name)
        function.__name__ = name
        return function

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


class _Shown:
    """Stands for whatever a document only names. As a data model it shows expressions and evaluates none."""

    name = "shown"

    def __init__(self, verdicts: dict[str, bool] | None = None):
        self.verdicts = verdicts
        self.actions = _Anything(lambda _name: lambda context, _event: context)
        self.guards = _Anything(self._guard)

    def _guard(self, name: str) -> Callable[..., Any]:
        def guard(_context: Any, _event: Any) -> bool:
            if self.verdicts is None or name not in self.verdicts:
                raise UsageError(f"the guard {name!r} is only a name in this file: say --guard {name}=true or --guard {name}=false")
            return self.verdicts[name]

        return guard

    def value(self, text: str) -> Callable[[View], Any]:
        """Never called while a chart is only drawn."""
        return lambda _view: text

    def place(self, text: str, *, declare: bool) -> Callable[[View, Any], Any]:  # noqa: ARG002 - the protocol's
        """The same."""
        return lambda view, _value: view.context

    def script(self, text: str) -> Callable[[View], Any]:  # noqa: ARG002 - the protocol's
        """The same."""
        return lambda view: view.context

    def literal(self, text: str) -> Any:
        """Text."""
        return text


def _leave_out_activities(chart: Chart) -> None:
    """An activity is a step of a hosted machine. Here it does nothing, and what it would answer can be typed as an event."""

    def nothing(*_args: Any, **_kwargs: Any) -> None:
        return None

    for vertex in chart.root.walk():
        for content in contents_of(vertex, chart):
            named = getattr(content, "action", None)
            found = chart.table.names.actions.get(named) if isinstance(named, str) else named
            if isinstance(found, Activity):
                found.fn = nothing


def _chart(target: str, shown: _Shown) -> Chart:
    ending = Path(target).suffix
    if ending not in (".json", ".scxml", ".xml"):
        return _declared(target)
    file = Path(target)
    if not names_a_file(target):
        raise NotFound(f"{target} does not exist; give a file that holds a chart")
    if ending == ".json":
        return from_json(file.read_bytes(), actions=shown.actions, guards=shown.guards)
    # a document with a data model can be drawn, but nobody here is trusted to evaluate its text
    expressions = shown if shown.verdicts is None else None
    return from_scxml(file.read_bytes(), expressions=expressions, actions=shown.actions, guards=shown.guards)


def _declared(target: str) -> Chart:
    module, path, name = module_of(target)
    charts = {key: value for key, value in vars(module).items() if isinstance(value, Chart)}
    if name is None:
        several = {id(value): key for key, value in charts.items()}
        if len(several) != 1:
            listing = ", ".join(charts) or "none"
            raise NotFound(f"{path} must hold one chart, or name one as in {path}:NAME; it has: {listing}")
        return next(iter(charts.values()))
    found = vars(module).get(name)
    if callable(found) and not isinstance(found, type):
        found = found()  # such as a function that builds the chart
    if not isinstance(found, Chart):
        raise NotFound(f"{path} has no chart {name!r}; it has: {', '.join(charts) or 'none'}")
    return found


def _marked(chart: Chart, active: tuple[str, ...]) -> list[str]:
    marked: dict[str, None] = {}
    for id_ in active:
        vertex = chart.table.by_id.get(id_)
        if vertex is None or vertex.parent is None:
            close = difflib.get_close_matches(id_, chart.states, 1)
            hint = f"; did you mean {close[0]}?" if close else f"; it has: {', '.join(chart.states)}"
            raise click.UsageError(f"the chart {chart.name!r} has no state {id_!r}{hint}")
        marked |= dict.fromkeys(each.id for each in reversed((vertex, *vertex.above)) if each.parent is not None)
    return list(marked)


def _verdict(text: str) -> tuple[str, bool]:
    name, _, said = text.rpartition("=")
    if not name or said not in ("true", "false"):
        raise click.UsageError(f"--guard takes NAME=true or NAME=false, not {text!r}")
    return name, said == "true"


def _parsed(chart: Chart, text: str) -> tuple[str, Any, Any]:
    """What was typed, and the event with its payload; or the seconds that pass, with None."""
    if text.startswith("+"):
        try:
            return text, None, delay_of(text[1:])
        except DefinitionError as error:
            raise click.UsageError(str(error)) from None
    name, equals, payload = text.partition("=")
    try:
        data = json.loads(payload) if equals else None
    except ValueError as error:
        raise click.UsageError(f"what follows {name}= is not JSON: {error}") from None
    kind = {event: kind for kind, event in chart.kinds.items()}.get(name)
    if kind is None:
        return name, name, data
    made, failed = attempt(lambda: kind(**(data or {})))
    if failed is not None:
        raise click.UsageError(f"{name} can't be made of {payload or '{}'}: {failed}")
    return name, made, None


async def _traced(chart: Chart, events: list[tuple[str, Any, Any]]) -> list[_Step]:
    log, clock = TransitionLog(_EVERYTHING, time.perf_counter), VirtualTime()
    steps: list[_Step] = []

    def note_down(typed: str, error: BaseException | None) -> None:
        entries, last = list(log.entries), len(log.entries) - 1
        log.entries.clear()
        if error is not None and not entries:
            steps.append(_Step(typed, None, error))
        for number, entry in enumerate(entries):
            failed = error if number == last else None
            steps.append(_Step(entry.event or "(start)", entry, failed))

    machine: AsyncMachine | Machine | None = None
    if chart.awaited:
        machine = AsyncMachine(chart, clock=clock, log=log)
        error = await _outcome(machine.start())
    else:
        machine, error = attempt(lambda: Machine(chart, clock=clock, log=log))
    note_down("(start)", error)
    if error is not None or machine is None:
        return steps
    for typed, event, data in events:
        if event is None:
            _, error = attempt(clock.advance, data)
        elif isinstance(machine, AsyncMachine):
            error = await _outcome(machine.send(event, data))
        else:
            _, error = attempt(machine.send, event, data)
        if isinstance(machine, AsyncMachine):
            await machine._rest()
            error, machine.error = error or machine.error, None
        if isinstance(error, (UsageError, asyncio.CancelledError)):
            raise error
        note_down(typed, error)
    return steps


async def _outcome(work: Any) -> BaseException | None:
    task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(work)
    await asyncio.wait([task])
    return task.exception()
