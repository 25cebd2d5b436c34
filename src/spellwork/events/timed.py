"""Owns the operators that wait.
They must never read time other than through the stream's clock.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import TypeVar

from spellwork.clock import Clock
from spellwork.errors import StreamTimeout
from spellwork.events.buffer import Nothing, pause
from spellwork.events.feed import Feed
from spellwork.events.source import closing

T = TypeVar("T")


async def batched(clock: Clock, source: AsyncIterator[T], size: int, within: float | None) -> AsyncGenerator[list[T], None]:
    """Lists of up to `size` items, none held back longer than `within` seconds."""
    async with Feed(clock, source) as feed:
        while not isinstance(item := await feed.next(), Nothing):
            batch, until = [item], None if within is None else clock.monotonic() + within
            while len(batch) < size and _in_time(clock, until) and not isinstance(more := await feed.next(until), Nothing):
                batch.append(more)
            yield batch


async def time_windows(clock: Clock, source: AsyncIterator[T], seconds: float, limit: int) -> AsyncGenerator[list[T], None]:
    """What came in each span of `seconds`, counted from the beginning."""
    async with Feed(clock, source) as feed:
        ticks = Ticks(clock, seconds)
        window: list[T] = []
        until = ticks.next()
        while (item := await feed.next(until)) is not Nothing.END:
            over = isinstance(item, Nothing) or not _in_time(clock, until)
            if over and window:
                yield window
                window = []
            if over:
                until = ticks.next()
            if not isinstance(item, Nothing):
                window.append(item)
                if len(window) == limit:
                    yield window
                    window = []
                    if not _in_time(clock, until):
                        until = ticks.next()
        if window:
            yield window


def _in_time(clock: Clock, until: float | None) -> bool:
    # A source that never waits always has an item, so that its reader is never told that the time is up.
    return until is None or clock.monotonic() <= until


class Ticks:
    """Moments that lie `seconds` apart, counted from now; those that pass unseen are left out."""

    def __init__(self, clock: Clock, seconds: float):
        self._clock, self._seconds, self._start, self._count = clock, seconds, clock.monotonic(), 0

    def next(self) -> float:
        """The next moment to come; never the same one again, though a timer may fire a rounding error before its moment."""
        passed = math.floor((self._clock.monotonic() - self._start) / self._seconds + 1e-9)
        self._count = max(self._count, passed) + 1
        return self._start + self._count * self._seconds


async def throttled(clock: Clock, source: AsyncIterator[T], seconds: float) -> AsyncGenerator[T, None]:
    """The items, at least `seconds` apart."""
    due = clock.monotonic()
    async with closing(source):
        async for item in source:
            wait = due - clock.monotonic()
            if wait > 0:
                await pause(clock, wait)
            due = clock.monotonic() + seconds
            yield item


async def _stamped(clock: Clock, source: AsyncIterator[T]) -> AsyncGenerator[tuple[float, T], None]:
    async with closing(source):
        async for item in source:
            yield clock.monotonic(), item


async def debounced(clock: Clock, source: AsyncIterator[T], seconds: float) -> AsyncGenerator[T, None]:
    """Items that `seconds` of silence follow."""
    async with Feed(clock, _stamped(clock, source), newest=True) as feed:
        newest = await feed.next()
        while not isinstance(newest, Nothing):
            came, item = newest
            following = await feed.next(came + seconds)
            if isinstance(following, Nothing):
                yield item
                following = following if following is Nothing.END else await feed.next()
            newest = following


async def sampled(clock: Clock, source: AsyncIterator[T], seconds: float) -> AsyncGenerator[T, None]:
    """The newest item at each tick."""
    async with Feed(clock, source, newest=True) as feed:
        ticks = Ticks(clock, seconds)
        held: T | Nothing = Nothing.LATE
        until = ticks.next()
        while (item := await feed.next(until)) is not Nothing.END:
            over = isinstance(item, Nothing) or not _in_time(clock, until)
            if not isinstance(item, Nothing):
                held = item
            if over and not isinstance(held, Nothing):
                yield held
                held = Nothing.LATE
            if over:
                until = ticks.next()
        if not isinstance(held, Nothing):
            yield held


async def timed_out(clock: Clock, source: AsyncIterator[T], seconds: float) -> AsyncGenerator[T, None]:
    """The items, as long as each comes in time."""
    async with Feed(clock, source) as feed:
        while (item := await feed.next(clock.monotonic() + seconds)) is not Nothing.END:
            if isinstance(item, Nothing):
                raise StreamTimeout(
                    f"the stream gave no item within {seconds:g} s; wait longer, or open the source again with `retry`",
                    seconds=seconds,
                )
            yield item


async def retried(
    clock: Clock,
    opened: Callable[[], AsyncIterator[T]],
    times: int,
    delay: float,
    on: type[Exception] | tuple[type[Exception], ...],
) -> AsyncGenerator[T, None]:
    """The items of the source, opened again after an error."""
    left = times
    while True:
        try:
            async with closing(opened()) as source:
                async for item in source:
                    yield item
        except on:
            if not left:
                raise
        else:
            return
        left -= 1
        if delay:
            await pause(clock, delay)
