"""Owns when to look: one scheduled call for the earliest of the timers in memory and those of parked runs in the store.
It must never hold anything for a run that is not in memory.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from spellwork.clock import MICROSECONDS, Cancellable, Clock


class Timers:
    """Calls `fire(number, n, due)` for timers in memory, and `sweep()` when a parked run's timer in the store is due."""

    def __init__(
        self,
        clock: Clock,
        fire: Callable[[int, int, int], None],
        sweep: Callable[[], None],
        is_wanted: Callable[[int, int, int], bool],
    ):
        self._clock = clock
        self._fire = fire
        self._sweep = sweep
        self._is_wanted = is_wanted
        self._heap: list[tuple[int, int, int]] = []
        self._dead = 0
        self._stored: int | None = None
        self._armed_for: int | None = None
        self._handle: Cancellable | None = None

    def add(self, due: int, number: int, n: int) -> None:
        """A timer of a run in memory."""
        heapq.heappush(self._heap, (due, number, n))
        if self._armed_for is None or due < self._armed_for:
            self._arm()

    def discard(self, count: int = 1) -> None:
        """Timers in memory were cancelled or dropped; they are swept out when they are the majority."""
        self._dead += count
        if self._dead > 1000 and self._dead * 2 > len(self._heap):
            self._heap = [item for item in self._heap if self._is_wanted(item[1], item[2], item[0])]
            heapq.heapify(self._heap)
            self._dead = 0

    def stored(self, due: int | None) -> None:
        """The earliest due time in the store is now known to be at most `due` (None: there is none)."""
        if due is not None and (self._stored is None or due < self._stored):
            self._stored = due
            if self._armed_for is None or due < self._armed_for:
                self._arm()

    def _arm(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        dues = [due for due in (self._heap[0][0] if self._heap else None, self._stored) if due is not None]
        self._armed_for = min(dues, default=None)
        if self._armed_for is None:
            self._handle = None
            return
        delay = max(0.0, (self._armed_for - self._clock.now()) / MICROSECONDS)
        self._handle = self._clock.call_later(min(delay, self._clock.longest_wait), self._ring)

    def _ring(self) -> None:
        self._handle, self._armed_for = None, None
        now = self._clock.now()
        while self._heap and self._heap[0][0] <= now:
            due, number, n = heapq.heappop(self._heap)
            self._fire(number, n, due)
        if self._stored is not None and self._stored <= now:
            self._stored = None
            self._sweep()
        self._arm()

    def close(self) -> None:
        """Stop."""
        if self._handle is not None:
            self._handle.cancel()
        self._heap.clear()
        self._stored = None
