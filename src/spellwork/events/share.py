"""Owns one reading of a source for several consumers.
It must never read on while one of them has no room, and must never go on when the last has left.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Generic, TypeVar

from spellwork.clock import Clock
from spellwork.events.buffer import Buffer, Nothing
from spellwork.events.feed import end
from spellwork.events.source import closing

T = TypeVar("T")


class Shared(Generic[T]):
    """Hands each item to all consumers there are. The first one opens the source, the last one to leave closes it."""

    def __init__(self, clock: Clock, opened: Callable[[], AsyncIterator[T]], size: int):
        self._clock, self._opened, self._size = clock, opened, size
        self._reading: _Reading[T] | None = None

    async def consume(self) -> AsyncGenerator[T, None]:
        """The items from now on."""
        if self._reading is None or self._reading.over:
            self._reading = _Reading(self._opened())
        reading, buffer = self._reading, Buffer[T](self._clock, self._size)
        reading.buffers.append(buffer)
        try:
            while not isinstance(item := await buffer.next(), Nothing):
                yield item
            buffer.check()
        finally:
            await reading.leave(buffer)


class _Reading(Generic[T]):
    def __init__(self, source: AsyncIterator[T]):
        self.buffers: list[Buffer[T]] = []
        self.over = False
        self._task = asyncio.create_task(self._read(source))
        self._task.add_done_callback(self._finish)

    async def _read(self, source: AsyncIterator[T]) -> None:
        async with closing(source):
            async for item in source:
                if self.over:  # the source has swallowed the cancellation
                    return
                for buffer in list(self.buffers):
                    if buffer in self.buffers:  # it may have left while another had no room
                        await buffer.put(item)

    def _finish(self, task: asyncio.Task[None]) -> None:
        self.over = True
        for buffer in self.buffers:
            buffer.finish(task)

    async def leave(self, buffer: Buffer[T]) -> None:
        self.buffers.remove(buffer)
        buffer.leave()
        if not self.buffers:
            self.over = True
            await end([self._task])
