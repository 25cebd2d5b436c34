"""Owns how a task or a thread sleeps until somebody wakes it, from wherever that is.
It must never count as woken twice: who gets True from `wake` has woken it, everybody else goes on to the next one.
"""

from __future__ import annotations

import asyncio
import threading
from threading import get_ident
from typing import Protocol


class Waiter(Protocol):
    """Somebody who sleeps."""

    @property
    def asleep(self) -> bool:
        """Whether nobody has woken it yet."""
        ...

    def claim(self) -> bool:
        """Become the one who ends the sleep; whether nobody else was. Then `notify` must follow."""
        ...

    def notify(self) -> bool:
        """End the sleep; False if nobody is there any more."""
        ...

    def wake(self) -> bool:
        """Both, from any thread; False if it has been woken already, or nobody is there any more."""
        ...


class TaskWaiter:
    """The running task, which sleeps in `await waiter.sleep()`."""

    __slots__ = ("_asleep", "_future", "_loop", "_thread", "crossed")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] = self._loop.create_future()
        self._thread = get_ident()
        self.crossed = False  # whether another thread has woken it
        # One pop succeeds, whoever comes from however many threads.
        self._asleep = [True]

    @property
    def asleep(self) -> bool:
        """See `Waiter`."""
        return bool(self._asleep)

    def claim(self) -> bool:
        """See `Waiter`."""
        try:
            self._asleep.pop()
        except IndexError:
            return False
        return True

    def notify(self) -> bool:
        """See `Waiter`. From the loop's own thread this costs no call to the system."""
        try:
            if get_ident() == self._thread:
                if self._future.done():
                    return False
                self._future.set_result(None)
                return True
            self.crossed = True
            self._loop.call_soon_threadsafe(self._finish)
        except RuntimeError:  # the loop is closed: nobody will ever come back
            return False
        return True

    def wake(self) -> bool:
        """See `Waiter`."""
        try:
            self._asleep.pop()
        except IndexError:
            return False
        return self.notify()

    def _finish(self) -> None:
        if not self._future.done():  # the task may have been cancelled
            self._future.set_result(None)

    def sleep(self) -> asyncio.Future[None]:
        """To be awaited: until woken or cancelled."""
        return self._future


class ThreadWaiter:
    """The running thread, which sleeps in `waiter.sleep(seconds)`."""

    __slots__ = ("_asleep", "_gate")

    def __init__(self) -> None:
        self._gate = threading.Lock()
        self._gate.acquire()
        self._asleep = [True]

    @property
    def asleep(self) -> bool:
        """See `Waiter`."""
        return bool(self._asleep)

    def claim(self) -> bool:
        """See `Waiter`."""
        try:
            self._asleep.pop()
        except IndexError:
            return False
        return True

    def notify(self) -> bool:
        """See `Waiter`."""
        try:
            self._gate.release()
        except RuntimeError:  # it was told already
            return False
        return True

    def wake(self) -> bool:
        """See `Waiter`."""
        return self.claim() and self.notify()

    def sleep(self, seconds: float | None = None) -> bool:
        """Until woken, or so many real seconds; whether it was woken."""
        return self._gate.acquire(timeout=-1 if seconds is None else min(max(seconds, 0.0), threading.TIMEOUT_MAX))
