"""Owns what is known of a command that waits for its entry, and the words in which mismatches are told.
It must never outlive its execution.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from spellwork.journal import entries as e
from spellwork.journal.failure import Failure

if TYPE_CHECKING:
    from spellwork.codec import Shape
    from spellwork.workflow.loop import TimerHandle


class Pending:
    """An issued command. `due` (timers), `issued` and `retry_at` (steps) are microseconds UTC."""

    __slots__ = (
        "attempt",
        "child_id",
        "digest",
        "due",
        "failure",
        "future",
        "handle",
        "heartbeat",
        "issued",
        "kind",
        "name",
        "parent_close",
        "retry_at",
        "shape",
    )

    def __init__(self, kind: str, name: str, digest: bytes, future: asyncio.Future[Any] | None, shape: Shape | None):
        self.kind = kind
        self.name = name
        self.digest = digest
        self.future: Any = future
        self.shape = shape
        self.handle: TimerHandle | None = None
        self.due = 0
        self.issued = 0
        self.attempt = 0
        self.retry_at = 0
        self.heartbeat: bytes | None = None
        self.failure: Failure | None = None
        self.child_id = ""
        self.parent_close = ""

    def __str__(self) -> str:
        if self.kind == "timer":
            return f"a timer of {int.from_bytes(self.digest, 'big') / 1_000_000:g} s"
        return f"{self.kind} {self.name}"


def describe(entry: Any) -> str:
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
        case e.Patched(id=patch):
            return f"patched({patch!r})"
        case e.UpdateAccepted(name=name):
            return f"update {name}"
        case _:
            return type(entry).__name__.lower()
