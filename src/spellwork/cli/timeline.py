"""Owns the timeline of a run: what its journal says, one line an event.
It must never read a store.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import Any

from spellwork import Event
from spellwork.cli.output import duration, to_json

_NOTE_LIMIT = 100


@dataclasses.dataclass(frozen=True, slots=True)
class Moment:
    """One line: seconds since the start of the run, seconds it took (None where that is not known), and what happened."""

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
    match event.kind:
        case "Started":
            return "started", f"with {_call(data.get('args', {}))}" if data.get("args") else ""
        case "StepCompleted":
            return "step", f"= {to_json(data.get('result'))}"
        case "StepFailed":
            return "step failed", failure_text(data.get("failure"))
        case "AttemptFailed":
            wait = max(0.0, data.get("retry_at", 0) / 1_000_000 - event.at.timestamp())
            return "attempt failed", f"{failure_text(data.get('failure'))}; next after {duration(wait)}"
        case "TimerFired":
            return "timer", ""
        case "SignalReceived":
            return "signal", to_json(data.get("payload"))
        case "UpdateAccepted":
            return "update", f"with {_call(data.get('args', {}))}"
        case "UpdateCompleted" | "Completed" if not data.get("failure"):
            return ("answered" if event.kind.startswith("Update") else "completed"), f"= {to_json(data.get('result'))}"
        case "ChildStarted" | "ChildEnded":
            ended = event.kind == "ChildEnded"
            return ("child ended" if ended else "child started"), failure_text(data.get("failure")) or str(data.get("child_id", ""))
        case "CancelRequested" | "Cancelled" | "Terminated":
            return ("cancel asked" if event.kind == "CancelRequested" else event.kind.lower()), str(data.get("reason", ""))
        case _:
            return event.kind.lower(), failure_text(data.get("failure")) or str(data.get("id", ""))


def _call(args: dict[str, Any]) -> str:
    return ", ".join(to_json(value) if name.isdigit() else f"{name}={to_json(value)}" for name, value in args.items())


def failure_text(failure: Any) -> str:
    """A stored failure in one line; "" for none."""
    if isinstance(failure, dict):
        return f"{failure.get('type', '')}: {failure.get('message', '')}"
    if isinstance(failure, (list, tuple)) and len(failure) > 2:  # its stored form: type, code, message
        return f"{failure[0]}: {failure[2]}"
    return ""


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _NOTE_LIMIT else f"{line[: _NOTE_LIMIT - 1]}…"
