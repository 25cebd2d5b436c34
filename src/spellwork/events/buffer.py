"""Owns the bounded hand-over between a task that reads a source and the consumer.
It must never hold more than its size, and must never let an error overtake what came before it.
"""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from typing import Generic, TypeVar

from spellwork.clock import Clock

T = TypeVar("T")


class Nothing(enum.Enum):
    """Why there is no item: the sources have ended, or the time was up."""

    END = "end"
    LATE = "late"


class _Finished:
    # Stands among the items, so that the end or the error of a source keeps its place in the order.
    def __init__(self, task: asyncio.Task[None]):
        self.task = task


class Buffer(Generic[T]):
    """Up to `size` items from `writers` tasks to one reader.

    With `newest` it never blocks a writer, but keeps only the newest item.
    """

    def __init__(self, clock: Clock, size: int, *, writers: int = 1, newest: bool = False):
        self._clock = clock
        self._room = asyncio.Semaphore(size)
        self._entries: deque[T | _Finished] = deque()
        self._writers = writers
        self._newest = newest
        self._failed: asyncio.Task[None] | None = None
        self._reader: asyncio.Future[None] | None = None

    async def put(self, item: T) -> None:
        """Wait for room, in turn, and add the item."""
        if self._newest:
            self._entries.clear()
            self._entries.append(item)
            self._wake()
            await asyncio.sleep(0)  # a source that never waits must not keep the loop from everybody else
            return
        await self._room.acquire()
        self._entries.append(item)
        self._wake()

    def finish(self, task: asyncio.Task[None]) -> None:
        """Note that a writer is done. An error ends it for the reader, who hands out what it holds and then calls `check`."""
        self._entries.append(_Finished(task))
        self._wake()

    def leave(self) -> None:
        """Let a writer that waits for room go on: nobody reads any more."""
        self._room.release()

    async def next(self, until: float | None = None) -> T | Nothing:
        """The next item, or why there is none. `until` is a moment of the clock's `monotonic`, in seconds."""
        while self._writers and self._failed is None:
            if not self._entries and not await self._arrival(until):
                return Nothing.LATE
            entry = self._entries.popleft()
            if not isinstance(entry, _Finished):
                if not self._newest:
                    self._room.release()
                return entry
            self._writers -= 1
            if entry.task.cancelled() or entry.task.exception() is not None:
                self._failed = entry.task
        return Nothing.END

    def check(self) -> None:
        """Raise the error that the end was, if it was one."""
        if self._failed is not None:
            self._failed.result()

    async def _arrival(self, until: float | None) -> bool:
        self._reader = asyncio.get_running_loop().create_future()
        timer = None
        if until is not None:
            timer = self._clock.call_later(max(until - self._clock.monotonic(), 0.0), self._wake)
        try:
            await self._reader
        finally:
            self._reader = None
            if timer is not None:
                timer.cancel()
        return bool(self._entries)

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


async def pause(clock: Clock, seconds: float) -> None:
    """Let `seconds` pass on the clock."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake() -> None:
        if not done.done():
            done.set_result(None)

    timer = clock.call_later(seconds, wake)
    try:
        await done
    finally:
        timer.cancel()
