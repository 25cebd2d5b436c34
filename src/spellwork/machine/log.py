"""Owns the record of what a machine did: event, transitions with their guards, states left and entered, actions, duration.
It must never influence the machine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from spellwork.machine import action
from spellwork.machine.event import Event
from spellwork.machine.step import Outcome
from spellwork.machine.view import named

if TYPE_CHECKING:
    from spellwork.machine.host import Member


@dataclass(slots=True)
class Entry:
    """One step. `transitions` are texts like "Closed -> Open [is_full]"; `seconds` is None unless the log has a clock."""

    event: str | None
    before: tuple[str, ...]
    after: tuple[str, ...]
    transitions: tuple[str, ...]
    exited: tuple[str, ...]
    entered: tuple[str, ...]
    actions: tuple[str, ...]
    handled: bool
    done: bool = False
    seconds: float | None = None
    _began: float = field(default=0.0, repr=False)


class TransitionLog:
    """The newest `size` steps of a machine. `monotonic` (seconds, like `Clock.monotonic`) gives their durations."""

    def __init__(self, size: int = 1000, monotonic: Callable[[], float] | None = None):
        self.entries: deque[Entry] = deque(maxlen=size)
        self._monotonic = monotonic

    def __len__(self) -> int:
        return len(self.entries)

    def begin(self, machine: Member, event: Event | None, outcome: Outcome) -> Entry:
        """Record a step whose actions are about to run; if one fails, the entry stays without `done`."""
        entry = Entry(
            event.name if event else None,
            machine.configuration.leaves,
            outcome.configuration.leaves,
            tuple(told(arrow) for taken in outcome.taken for arrow in taken.arrows if arrow is not arrow.source.initial),
            tuple(vertex.id for taken in outcome.taken for vertex in taken.exited),
            tuple(vertex.id for taken in outcome.taken for vertex in taken.entered),
            tuple(wanted.name for wanted in outcome.actions if isinstance(wanted, action.Call)),
            outcome.handled,
        )
        if self._monotonic is not None:
            entry._began = self._monotonic()
        self.entries.append(entry)
        return entry

    def end(self, entry: Entry | None) -> None:
        """All actions of the step have succeeded."""
        if entry is not None:
            entry.done = True
            if self._monotonic is not None:
                entry.seconds = self._monotonic() - entry._began


def told(arrow: Any) -> str:
    """A transition as text, such as "Closed -> Open [is_full]"."""
    guard = f" [{named(arrow.transition.guard)}]" if arrow.transition.guard is not None else ""
    return f"{arrow.source.id} -> {', '.join(arrow.transition.targets) or '(stays)'}{guard}"
