"""Owns EIO and ENOSPC at each write, sync and truncation of a canonical run, once and from then on. Linux only.
It must never call a swallowed error a loss: SQLite may go on after one, as long as what it acknowledged is there.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from spellwork.testing.chaos.life import Ending
from spellwork.testing.chaos.share import Share, Tally, skipped, split
from spellwork.testing.chaos.sweep import Position, finish, lived, positions
from spellwork.testing.chaos.tracer import missing
from spellwork.testing.chaos.trial import Deadline, Figure, LawBroken

LAW = "a failing disk ends a process with a typed error, loses nothing acknowledged, and the next process finishes everything"
TYPED = {"store-failed", "store-full", "store-unavailable", "store-closed"}


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """An error at a position, once or for ever."""

    position: Position
    error: str
    lasting: bool

    def __str__(self) -> str:
        return f"{self.error} {'from' if self.lasting else 'at'} {self.position}"

    @property
    def option(self) -> str:
        """How strace is told."""
        return f"--inject={self.position.call}:error={self.error}:when={self.position.n}{'+' if self.lasting else ''}"


def run(place: Path, seed: int, count: int, deadline: Deadline) -> Figure:
    """Fail at up to `count` positions, in two processes."""
    if lacking := missing():
        return skipped(__name__, LAW, seed, count, lacking)
    return split(__name__, LAW, place, seed, count, deadline)


def share(part: Share, tally: Tally) -> None:
    """Inject this share's faults."""
    every = [
        Fault(position, error, lasting)
        for position in positions(part.place)
        for error in ("EIO", "ENOSPC")
        for lasting in (False, True)
    ]
    mine = part.of_all(every)
    tally.wanted = len(mine)
    for fault in mine:
        if not tally.goes_on(part):
            break
        place = part.place / str(fault).replace(" ", "-")
        with tally.judging(f"{fault}, files in {place}"):
            ending = lived(place, fault.position.stage, fault.option)
            tally.count += 1
            typed_only(ending)
            tally.note(ending.typed.replace("-", "_") or "went_on")
            finish(place)
            shutil.rmtree(place)


def typed_only(ending: Ending) -> None:
    """A life ended with its results or with an error of the tree that speaks of the store."""
    if ending.raw or ending.signal or ending.code:
        raise LawBroken(f"no typed error, but: {ending.raw or ending}")
    if ending.typed and ending.typed not in TYPED:
        raise LawBroken(f"{ending.typed} does not speak of the store: {ending.message}")
    if ending.noise:
        raise LawBroken(f"a traceback on standard error: {ending.noise}")
