"""Owns that an event loop lets the threads of a store work: CPython does not see to that.
It must never stand still for long, nor at all while nothing was given to a thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

_EVERY = 0.002
_GAP = 0.0002


class Patience:
    """Stands still now and then while `waiting()`, for as long as a thread needs to wake up and take the GIL.

    A loop that always has something to do, in short turns, gives the GIL up only to look for input, and has it again before a
    thread that waits for it is awake; nor does that thread ever wait long enough without being woken to insist on it. A commit
    beside a task that spins on `asyncio.sleep(0)` took 13 s, and takes 10 ms with this.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, waiting: Callable[[], bool]):
        self._loop = loop
        self._waiting = waiting
        self._given = 0
        self._timer: asyncio.TimerHandle | None = None
        self._never = threading.Lock()
        self._never.acquire()

    def given(self) -> None:
        """A thread has got something to do."""
        self._given += 1
        if self._timer is None:
            self._timer = self._loop.call_later(_EVERY, self._look, self._given)

    def _look(self, given: int) -> None:
        self._timer = None
        if self._waiting():
            if given == self._given:
                self._never.acquire(timeout=_GAP)  # not time.sleep, which fails under libfaketime
            self._timer = self._loop.call_later(_EVERY, self._look, self._given)
