"""Owns the tasks that read sources for an operator that has to wait for more than the next item.
It must never outlive its `async with`: at the end each task is over and each source closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Generic, TypeVar

from spellwork.clock import Clock
from spellwork.events.buffer import Buffer, Nothing
from spellwork.events.source import closing

T = TypeVar("T")


class Feed(Generic[T]):
    """Reads each of `sources` in a task, ahead by up to `size` items; with `newest`, without a stop, keeping the newest item.

    An error of a source is an end, too; leaving the `async with` raises it, so that what is still held can go out first.
    """

    def __init__(self, clock: Clock, *sources: AsyncIterator[T], size: int = 1, newest: bool = False):
        self._sources = sources
        self._buffer = Buffer[T](clock, size, writers=len(sources), newest=newest)
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False

    async def next(self, until: float | None = None) -> T | Nothing:
        """The next item of any source, or why there is none."""
        return await self._buffer.next(until)

    async def __aenter__(self) -> Feed[T]:
        for source in self._sources:
            task = asyncio.create_task(self._read(source))
            task.add_done_callback(self._buffer.finish)
            self._tasks.append(task)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closing = True
        await end(self._tasks)
        if error is None:
            self._buffer.check()

    async def _read(self, source: AsyncIterator[T]) -> None:
        async with closing(source):
            async for item in source:
                if self._closing:  # the source has swallowed the cancellation
                    return
                await self._buffer.put(item)


async def end(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel tasks, wait for each, and raise what the first one raised while it closed."""
    running = [task for task in tasks if not task.done()]
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running)
    # asking for the errors of all keeps asyncio from reporting them as forgotten
    failed = {task for task in tasks if not task.cancelled() and task.exception() is not None}
    for task in running:
        if task in failed:
            task.result()
