"""Owns the timeline of a run: what its journal says, one line an event.
It must never read a store.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from pathlib import PurePath
from typing import Any

from spellwork.cli.output import duration, to_json
from spellwork.engine import Event

_NOTE_LIMIT = 100


@dataclasses.dataclass(frozen=True, slots=True)
class Moment:
    """One line: seconds since the start of the run, seconds it took (None where nobody knows), and what happened."""

    position: int
    since: float
    took: float | None
    what: str
    name: str = ""
    attempt: int = 0
    note: str = ""

    def record(self) -> dict[str, Any]:
        """The JSON form."""
        return dataclasses.asdict(self)


def timeline(events: list[Event]) -> list[Moment]:
    """The lines of a journal."""
    return [_moment(event, events[0].at) for event in events]


def _moment(event: Event, start: dt.datetime) -> Moment:
    data = event.data
    since = (event.at - start).total_seconds()
    what, note = _words(event)
    began = data.get("began")
    took = max(0.0, event.at.timestamp() - began / 1_000_000) if began else None
    name = str(data.get("name") or data.get("workflow") or "")
    return Moment(event.position, since, took, what, name, int(data.get("attempt", 0)), _short(note))


def _words(event: Event) -> tuple[str, str]:
    data = event.data
    failure = failure_text(data.get("failure"))
    result = f"= {to_json(data.get('result'))}"
    reason = str(data.get("reason", ""))
    words = {
        "Started": ("started", _start(data)),
        "StepCompleted": ("step", result),
        "StepFailed": ("step failed", failure),
        "AttemptFailed": ("attempt failed", f"{failure}; next {_next(event)}"),
        "TimerFired": ("timer", ""),
        "SignalReceived": ("signal", to_json(data.get("payload"))),
        "UpdateAccepted": ("update", _call(data)),
        "UpdateCompleted": ("update failed", failure) if failure else ("answered", result),
        "ChildStarted": ("child started", failure or str(data.get("child_id", ""))),
        "ChildEnded": ("child failed", failure) if failure else ("child", result),
        "SignalSent": ("signal refused", failure) if failure else ("signal sent", ""),
        "Performed": ("refused", failure) if failure else ("did", "" if data.get("result") is None else result),
        "Patched": ("patched", str(data.get("id", ""))),
        "CancelRequested": ("cancel asked", reason),
        "Completed": ("completed", result),
        "Failed": ("failed", failure),
        "Cancelled": ("cancelled", reason),
        "Terminated": ("terminated", reason),
        "Continued": ("continued", f"as a new run {_call(data)}".rstrip()),
    }
    return words.get(event.kind, (event.kind, failure))


def _next(event: Event) -> str:
    wait = event.data.get("retry_at", 0) / 1_000_000 - event.at.timestamp()
    return f"after {duration(max(0.0, wait))}"


def _start(data: dict[str, Any]) -> str:
    whole, cause = data.get("correlation"), data.get("causation")
    said = [f"for {whole}" if whole and whole != cause else "", f"because of {cause}" if cause else "", _call(data)]
    return ", ".join(filter(None, said))


def _call(data: dict[str, Any]) -> str:
    args = data.get("args") or {}
    shown = [to_json(value) if name.isdigit() else f"{name}={to_json(value)}" for name, value in args.items()]
    return f"with {', '.join(shown)}" if shown else ""


def failure_text(failure: Any) -> str:
    """A stored failure in one line; "" for none."""
    if isinstance(failure, dict):
        where = str(failure.get("where", ""))
        text = f"{failure.get('type', '')}: {failure.get('message', '')}"
        return f"{text} ({PurePath(where.partition(', by way of ')[0]).name})" if where else text
    if isinstance(failure, (list, tuple)) and len(failure) > 2:  # its stored form: type, code, message
        return f"{failure[0]}: {failure[2]}"
    return ""


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _NOTE_LIMIT else f"{line[: _NOTE_LIMIT - 1]}…"
