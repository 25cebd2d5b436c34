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

    __slots__ = ("_heap", "_next", "_own", "limit")

    def __init__(self, limit: int | None = None):
        self.limit = limit
        self._heap: list[tuple[int, int, Event]] = []
        self._next = itertools.count()
        self._own: set[int] = set()

    def __len__(self) -> int:
        return len(self._heap)

    def put(self, event: Event, priority: int = 0, *, own: bool = False) -> None:
        """Add an event. `own` says that the step under way sent it, so that it goes if the step fails.

        Raises:
            QueueFull: as many as the limit wait already.
        """
        if self.limit is not None and len(self._heap) >= self.limit and priority < PLATFORM:
            raise QueueFull(f"{self.limit} events wait already; {event.name!r} was not taken", limit=self.limit)
        number = next(self._next)
        if own:
            self._own.add(number)
        heapq.heappush(self._heap, (-priority, number, event))

    def get(self) -> Event:
        """The next event."""
        return heapq.heappop(self._heap)[2]

    @property
    def entries(self) -> tuple[tuple[Event, int], ...]:
        """What waits, with its priority, in the order in which it is taken."""
        return tuple((event, -negative) for negative, _, event in sorted(self._heap, key=lambda entry: entry[:2]))

    def keep_own(self) -> None:
        """A step begins, or has succeeded: what is in the queue stays there."""
        self._own.clear()

    def forget_own(self) -> None:
        """The step failed: take out what it sent itself, but not what timers and neighbours sent meanwhile."""
        self._heap = [entry for entry in self._heap if entry[1] not in self._own]
        heapq.heapify(self._heap)
        self._own.clear()

    def remove(self, event: Event) -> bool:
        """Take out this very event; whether it still waited."""
        before = len(self._heap)
        self._heap = [entry for entry in self._heap if entry[2] is not event]
        heapq.heapify(self._heap)
        return len(self._heap) < before


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
