"""Owns where a machine stands between two events: active states, history, context, and what waits.
It must never change; a step gives a new one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from spellwork.machine.event import Event
from spellwork.machine.table import Node


@dataclass(frozen=True, slots=True)
class Configuration:
    """All there is to know of a machine between two events.

    `deferred` are events kept for later, `children` the running children as (id, state, number of the invocation there),
    `serial` counts the ids that the machine gave, `bound` are the states whose late data have their values.
    """

    node: Node
    context: Any = None
    deferred: tuple[Event, ...] = ()
    children: tuple[tuple[str, str, int], ...] = ()
    serial: int = 0
    session: str = ""
    bound: tuple[str, ...] = ()
    running: bool = True
    result: Any = field(default=None)

    @property
    def states(self) -> tuple[str, ...]:
        """The active states in document order."""
        return self.node.ids

    @property
    def leaves(self) -> tuple[str, ...]:
        """The active states that have none below them."""
        return self.node.leaves

    @property
    def history(self) -> dict[int, tuple[int, ...]]:
        """What each history state remembers, by the numbers of the table."""
        return dict(self.node.history)
