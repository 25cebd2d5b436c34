"""Owns the events that wait for a machine, by priority and then by age, and time that moves when it is told to.
It must never lose an event silently: a full queue refuses.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Protocol

from spellwork.errors import QueueFull
from spellwork.machine.event import Event

PLATFORM = 1 << 30


class Cancellable(Protocol):
    """A pending call."""

    def cancel(self) -> None:
        """Forget it."""
        ...


class Timers(Protocol):
    """The part of `spellwork.clock.Clock` that machines use."""

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Cancellable:
        """Call back after so many seconds."""
        ...


class EventQueue:
    """Events in the order in which they are taken: higher priority first, then first come, first served."""

    __slots__ = ("_heap", "_next", "limit")

    def __init__(self, limit: int | None = None):
        self.limit = limit
        self._heap: list[tuple[int, int, Event]] = []
        self._next = itertools.count()

    def __len__(self) -> int:
        return len(self._heap)

    def put(self, event: Event, priority: int = 0) -> None:
        """Add an event.

        Raises:
            QueueFull: as many as the limit wait already.
        """
        if self.limit is not None and len(self._heap) >= self.limit and priority < PLATFORM:
            raise QueueFull(f"{self.limit} events wait already; {event.name!r} was not taken", limit=self.limit)
        heapq.heappush(self._heap, (-priority, next(self._next), event))

    def get(self) -> Event:
        """The next event."""
        return heapq.heappop(self._heap)[2]

    def mark(self) -> int:
        """A moment to which `forget_since` can go back."""
        return next(self._next)

    def forget_since(self, mark: int) -> None:
        """Take out what came after the mark."""
        self._heap = [entry for entry in self._heap if entry[1] < mark]
        heapq.heapify(self._heap)


class _Timer:
    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]):
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Forget it."""
        self.callback = None


class VirtualTime:
    """Time that moves only by `advance`; what is due runs in order of its due time, then of when it was set."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, _Timer]] = []
        self._next = itertools.count()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Cancellable:
        """Call back when time has moved so many seconds."""
        timer = _Timer(callback)
        heapq.heappush(self._heap, (self.now + seconds, next(self._next), timer))
        return timer

    def advance(self, seconds: float) -> None:
        """Move time; timers that are set meanwhile run too if they become due."""
        end = self.now + seconds
        while self._heap and self._heap[0][0] <= end:
            due, _, timer = heapq.heappop(self._heap)
            self.now = max(self.now, due)
            if timer.callback is not None:
                timer.callback()
        self.now = end

    @property
    def next_due(self) -> float | None:
        """Seconds until the next timer; None if there is none."""
        while self._heap and self._heap[0][2].callback is None:
            heapq.heappop(self._heap)
        return self._heap[0][0] - self.now if self._heap else None
