"""Owns how far a review has come, read from its journal alone.
It must never ask the process that runs it: that one may be dead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from spellwork.engine import Event


class Committed(msgspec.Struct, frozen=True):
    """One analysis that the journal holds: its file, the step's number, and the token of the attempt that counted."""

    path: str
    sha256: str
    n: int
    token: str


class Standing(msgspec.Struct, frozen=True):
    """The state of a review. `planned` is None until the files were discovered."""

    planned: list[str] | None
    committed: list[Committed]
    answered: bool
    ended: bool

    @property
    def analysed(self) -> bool:
        """Whether every file is done, so that only the approval and the report are left."""
        return self.planned is not None and len(self.committed) >= len(self.planned)


def standing(events: Sequence[Event]) -> Standing:
    """Read a journal."""
    planned: list[str] | None = None
    committed = []
    for event in events:
        if event.kind == "StepCompleted" and event.data["name"] == "discover_files":
            planned = list(event.data["result"]["paths"])
        elif event.kind == "StepCompleted" and event.data["name"] == "analyse_file":
            committed.append(_committed(event.data))
    return Standing(
        planned,
        committed,
        answered=any(event.kind == "SignalReceived" and event.data["name"] == "approval" for event in events),
        ended=bool(events) and events[-1].kind in ("Completed", "Failed", "Cancelled", "Terminated"),
    )


def _committed(data: dict[str, Any]) -> Committed:
    result = data["result"]
    return Committed(result["review"]["path"], result["review"]["sha256"], data["n"], result["token"])
