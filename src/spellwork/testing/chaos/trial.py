"""Owns what a trial is: one kind of real fault, injected a number of times, and the figure that comes out.
It must never let a trial that could not run look like one that passed.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spellwork.testing.laws import LawBroken

__all__ = ["Deadline", "Figure", "LawBroken", "Trial"]


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    """What a trial found.

    - `count`: faults that were really injected; `wanted`: how many were asked for (fewer were injected when time was up).
    - `broken`: violations of the law, each with what reproduces it.
    - `facts`: further figures, such as how many processes died.
    - `skipped`: what the machine lacks; nothing was run then.
    """

    trial: str
    law: str
    seed: int
    wanted: int
    count: int = 0
    broken: tuple[str, ...] = ()
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    skipped: str = ""

    @property
    def ok(self) -> bool:
        """Whether the law held under at least one fault."""
        return not self.skipped and not self.broken and self.count > 0


class Deadline:
    """When a trial must come to its end; it finishes the fault under way and reports what it has."""

    def __init__(self, seconds: float):
        self.began = time.monotonic()
        self._until = self.began + seconds

    @property
    def left(self) -> float:
        """Seconds left, 0 when it is over."""
        return max(0.0, self._until - time.monotonic())

    @property
    def spent(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.began


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """A named kind of fault.

    `run(place, seed, count, deadline)` injects up to `count` faults below the folder `place`. `gate`, `short` and `full` are the
    counts for `make test`, for `spellwork chaos` and for `spellwork chaos --full`.
    """

    name: str
    law: str
    run: Callable[[Path, int, int, Deadline], Figure]
    gate: int
    short: int
    full: int
    seconds: float = 60.0
    """The most that the short run may take; `--full` gives six times that."""
