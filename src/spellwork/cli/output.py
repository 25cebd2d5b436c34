"""Owns how values, tables and durations are written for people and for programs.
It must never decide what is written.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click
import msgspec

from spellwork.engine import RunInfo

_COLOURS = {
    "completed": "green",
    "running": "cyan",
    "failed": "red",
    "cancelled": "yellow",
    "terminated": "yellow",
    "blocked": "magenta",
    "quarantined": "magenta",
}


def to_json(value: Any) -> str:
    """`value` as one line of JSON; what JSON has no notion of becomes its nearest text."""
    try:
        return msgspec.json.encode(value, enc_hook=_lower).decode()
    except (TypeError, ValueError, OverflowError, RecursionError):
        return json.dumps(_plain(value), ensure_ascii=False, default=str, separators=(",", ":"))


def _lower(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    return dump(mode="json") if callable(dump) else str(value)


def _plain(value: Any) -> Any:
    # the second way, for what msgspec refuses: keys that are no text, integers beyond 64 bits
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    try:
        return msgspec.to_builtins(value, enc_hook=_lower, str_keys=True)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return str(value)


def print_json(value: Any) -> None:
    """One document on stdout."""
    click.echo(to_json(value))


def note(text: str) -> None:
    """A remark for people, on stderr so that it never mixes with results."""
    click.echo(text, err=True)


def print_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Aligned columns, never cut off: the last one may be as long as it likes."""
    lines = [tuple(titles), *(tuple(map(visible, row)) for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(titles))]
    for number, line in enumerate(lines):
        *padded, last = [f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)]
        cells = [colour(cell) if number else click.style(cell, dim=True) for cell in (*padded, last.rstrip())]
        click.echo("  ".join(cells))


def visible(text: str) -> str:
    """`text` with its control characters spelled out, so that no stored text can steer the terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def colour(cell: str) -> str:
    """A status in its colour; anything else as it is."""
    return click.style(cell, fg=_COLOURS[cell.strip()]) if cell.strip() in _COLOURS else cell


def duration(seconds: float) -> str:
    """A length of time in the unit that reads best."""
    if seconds < 0.001:
        return f"{seconds * 1_000_000:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def moment(at: dt.datetime) -> str:
    """A time to the second, in UTC."""
    return at.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def run_record(info: RunInfo) -> dict[str, Any]:
    """The JSON form of where a run stands."""
    return {
        "id": info.id,
        "workflow": info.workflow,
        "version": info.version,
        "status": str(info.status),
        "created": info.created.isoformat(),
        "updated": info.updated.isoformat(),
        "reason": info.reason,
        "parent_id": info.parent_id,
    }
