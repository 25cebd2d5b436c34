"""Owns the operators that know nothing of time.
They must never read an item that was not asked for, except where their sources are read side by side.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Hashable
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from spellwork.clock import Clock
from spellwork.events.buffer import Nothing
from spellwork.events.feed import Feed
from spellwork.events.source import Many, Maybe, closing, read, settled

T = TypeVar("T")
U = TypeVar("U")


async def mapped(source: AsyncIterator[T], function: Callable[[T], Maybe[U]]) -> AsyncGenerator[U, None]:
    """The function's value for each item."""
    async with closing(source):
        async for item in source:
            yield await settled(function(item))


async def filtered(source: AsyncIterator[T], keep: Callable[[T], Maybe[object]]) -> AsyncGenerator[T, None]:
    """The items for which `keep` is true."""
    async with closing(source):
        async for item in source:
            if await settled(keep(item)):
                yield item


async def flat_mapped(source: AsyncIterator[T], function: Callable[[T], Maybe[Many[U]]]) -> AsyncGenerator[U, None]:
    """What the function gives for each item, one after the other."""
    async with closing(source):
        async for item in source:
            inner: Many[U] = await settled(function(item))
            async with closing(read(inner)) as parts:
                async for part in parts:
                    yield part


async def scanned(source: AsyncIterator[T], function: Callable[[U, T], Maybe[U]], value: U) -> AsyncGenerator[U, None]:
    """Each value of a running fold."""
    async with closing(source):
        async for item in source:
            value = await settled(function(value, item))
            yield value


async def taken(source: AsyncIterator[T], count: int) -> AsyncGenerator[T, None]:
    """The first items."""
    async with closing(source):
        left = count
        while left:
            left -= 1
            try:
                item = await anext(source)
            except StopAsyncIteration:
                return
            yield item


async def skipped(source: AsyncIterator[T], count: int) -> AsyncGenerator[T, None]:
    """What follows the first items."""
    async with closing(source):
        left = count
        async for item in source:
            if left:
                left -= 1
            else:
                yield item


async def distinct(source: AsyncIterator[T], key: Callable[[T], Maybe[Hashable]] | None, remember: int) -> AsyncGenerator[T, None]:
    """Items whose key is not among the last ones seen."""
    seen: OrderedDict[Hashable, None] = OrderedDict()
    async with closing(source):
        async for item in source:
            name: Any = item if key is None else await settled(key(item))
            fresh = name not in seen
            seen[name] = None
            seen.move_to_end(name)
            if len(seen) > remember:
                seen.popitem(last=False)
            if fresh:
                yield item


async def windows(clock: Clock, source: AsyncIterator[T], count: int, every: int) -> AsyncGenerator[list[T], None]:
    """Windows of `count` items, one each `every` items."""
    window: deque[T] = deque(maxlen=count)
    due, fresh = count, 0  # items until the next window; items that no window has held
    async with Feed(clock, source) as feed:
        while not isinstance(item := await feed.next(), Nothing):
            window.append(item)
            due, fresh = due - 1, fresh + 1
            if not due:
                yield list(window)
                due, fresh = every, 0
        if fresh:
            yield list(window)[-(count - every + fresh) :]


async def buffered(clock: Clock, source: AsyncIterator[T], size: int) -> AsyncGenerator[T, None]:
    """The items, read ahead."""
    async with Feed(clock, source, size=size) as feed:
        while not isinstance(item := await feed.next(), Nothing):
            yield item


async def merged(clock: Clock, *sources: AsyncIterator[T]) -> AsyncGenerator[T, None]:
    """The items of all sources as they come."""
    async with Feed(clock, *sources) as feed:
        while not isinstance(item := await feed.next(), Nothing):
            yield item


async def zipped(clock: Clock, *sources: AsyncIterator[Any]) -> AsyncGenerator[tuple[Any, ...], None]:
    """Tuples of one item of each source."""
    async with AsyncExitStack() as stack:
        feeds = [await stack.enter_async_context(Feed(clock, source)) for source in sources]
        while True:
            row: list[Any] = []
            for feed in feeds:
                item = await feed.next()
                if isinstance(item, Nothing):
                    return
                row.append(item)
            yield tuple(row)
