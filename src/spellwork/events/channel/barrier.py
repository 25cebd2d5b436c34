"""Owns `Barrier`: a place where a number of tasks and threads wait for each other, again and again.
It must never let one through before all are there, or keep one that came when they were.
"""

from __future__ import annotations

from threading import Lock

from spellwork.clock import Duration, seconds
from spellwork.errors import ChannelTimeout
from spellwork.events.limits import not_negative, whole
from spellwork.events.waiter import TaskWaiter, ThreadWaiter, Waiter


class Barrier:
    """`await barrier.wait()` returns when `parties` have called it: to each the number in which it came, from 0.

    Whoever is cancelled while it waits has not come; the others wait on.
    """

    def __init__(self, parties: int) -> None:
        self._parties = whole("parties", parties, 1)
        self._lock = Lock()
        self._here: list[Waiter] = []

    async def wait(self) -> int:
        """Wait for the others."""
        waiter = TaskWaiter()
        group = self._arrive(waiter)
        try:
            await waiter.sleep()
        except BaseException:
            self._leave(waiter)
            raise
        return group.index(waiter)

    def wait_sync(self, timeout: Duration | None = None) -> int:
        """The same for a thread, which it blocks; after `timeout` real seconds raises `ChannelTimeout`."""
        limit = None if timeout is None else not_negative("timeout", timeout)
        waiter = ThreadWaiter()
        group = self._arrive(waiter)
        try:
            woken = waiter.sleep(limit)
        except BaseException:
            self._leave(waiter)
            raise
        if not woken and self._leave(waiter):
            raise ChannelTimeout(f"the others did not come within {timeout} s", seconds=seconds(timeout or 0))
        return group.index(waiter)

    @property
    def waiting(self) -> int:
        """How many are waiting now."""
        return len(self._here)

    def _arrive(self, waiter: Waiter) -> list[Waiter]:
        with self._lock:
            group = self._here
            group.append(waiter)
            if len(group) == self._parties:
                self._here = []
                for each in group:
                    each.wake()
            return group

    def _leave(self, waiter: Waiter) -> bool:
        with self._lock:
            if waiter not in self._here:
                return False  # all have come meanwhile
            self._here.remove(waiter)
            return True


def barrier(parties: int) -> Barrier:
    """A place to wait for each other."""
    return Barrier(parties)
