"""Owns virtual time: a clock that stands still while there is work, and jumps to the next timer when there is none.
It must never wait for real.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections.abc import Callable

from spellwork.clock import MICROSECONDS

_START = 1_700_000_000 * MICROSECONDS
_QUIET_TURNS = 10


class VirtualTimer:
    """A scheduled call on a virtual clock."""

    def __init__(self, callback: Callable[[], None]):
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Forget the call."""
        self.callback = None


class VirtualClock:
    """Implements `spellwork.clock.Clock`. `may_jump` says when nothing but time is waited for; `seed` fixes its randomness."""

    longest_wait = float("inf")

    def __init__(self, seed: int = 0):
        self._now = _START
        self._random = random.Random(seed)  # noqa: S311 - replayable on purpose
        self._timers: list[tuple[int, int, VirtualTimer]] = []
        self._sequence = itertools.count()
        self._watching = False
        self.may_jump: Callable[[], bool] = lambda: False

    def now(self) -> int:
        """Microseconds since 1970, virtual."""
        return self._now

    def monotonic(self) -> float:
        """Seconds, virtual."""
        return self._now / MICROSECONDS

    def entropy(self, size: int) -> bytes:
        """Seeded bytes."""
        return self._random.randbytes(size)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> VirtualTimer:
        """Call back when virtual time has come so far."""
        timer = VirtualTimer(callback)
        due = self._now + round(max(seconds, 0.0) * MICROSECONDS)
        heapq.heappush(self._timers, (due, next(self._sequence), timer))
        self._watch()
        return timer

    def advance(self, seconds: float) -> None:
        """Move time forward, firing what becomes due on the way."""
        self.advance_to(self._now + round(seconds * MICROSECONDS))

    def advance_to(self, target: int) -> None:
        """Move time forward to `target` (microseconds), firing what becomes due on the way."""
        while self._timers and self._timers[0][0] <= target:
            self._fire_next()
        self._now = max(self._now, target)

    def next_due(self) -> int | None:
        """When the next timer is due, in microseconds."""
        self._drop_cancelled()
        return self._timers[0][0] if self._timers else None

    def _drop_cancelled(self) -> None:
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)

    def _fire_next(self) -> None:
        due, _, timer = heapq.heappop(self._timers)
        self._now = max(self._now, due)
        callback, timer.callback = timer.callback, None
        if callback is not None:
            callback()

    def _watch(self) -> None:
        if not self._watching:
            self._watching = True
            asyncio.get_running_loop().call_soon(self._look, 0)

    def _look(self, quiet: int) -> None:
        loop = asyncio.get_running_loop()
        self._drop_cancelled()
        if not self._timers:
            self._watching = False
        elif not self.may_jump():
            loop.call_later(0.001, self._look, 0)  # real work (a thread, a real sleep) is under way
        elif quiet < _QUIET_TURNS:
            loop.call_soon(self._look, quiet + 1)
        else:
            self._fire_next()
            loop.call_soon(self._look, 0)
