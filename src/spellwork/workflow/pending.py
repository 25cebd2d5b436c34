"""Owns what is known of a command that waits for its entry, and the words in which mismatches are told.
It must never outlive its execution.
"""

from __future__ import annotations

from typing import Any

import msgspec

from spellwork.journal import entries as e


class Pending(msgspec.Struct, gc=False):
    """An issued command. `due` (timers), `issued` and `retry_at` (steps) are microseconds UTC.

    `value` holds the result when it was decoded already, while it was checked. Nothing that it refers to refers back to it.
    """

    kind: str
    name: str
    digest: bytes
    future: Any
    shape: Any
    handle: Any = None
    value: tuple[Any] | None = None
    due: int = 0
    issued: int = 0
    attempt: int = 0
    retry_at: int = 0
    heartbeat: bytes | None = None
    child_id: str = ""
    parent_close: str = ""

    def __str__(self) -> str:
        if self.kind == "timer":
            return f"a timer of {int.from_bytes(self.digest, 'big') / 1_000_000:g} s"
        return self.name if self.kind == "effect" else f"{self.kind} {self.name}"


def describe(entry: Any) -> str:  # noqa: PLR0911 - one answer a kind of entry
    """An entry in the words of `Pending`."""
    match entry:
        case e.TimerFired(n=n, digest=digest):
            return f"a timer of {int.from_bytes(digest, 'big') / 1_000_000:g} s (command {n})"
        case e.StepCompleted(n=n, name=name) | e.StepFailed(n=n, name=name) | e.AttemptFailed(n=n, name=name):
            return f"step {name} (command {n})"
        case e.ChildStarted(n=n, name=name):
            return f"start of child {name} (command {n})"
        case e.ChildEnded(n=n, name=name):
            return f"child {name} (command {n})"
        case e.SignalSent(n=n, name=name):
            return f"signal to {name} (command {n})"
        case e.Performed(n=n, name=name):
            return f"{name} (command {n})"
        case e.Patched(id=patch):
            return f"patched({patch!r})"
        case e.UpdateAccepted(name=name):
            return f"update {name}"
        case _:
            return type(entry).__name__.lower()
