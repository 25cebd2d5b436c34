"""Owns how what a stream is made from is opened, read and closed.
It must never read ahead, and must never leave open what it has begun to read.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import TypeAlias, TypeVar

T = TypeVar("T")

Many: TypeAlias = AsyncIterable[T] | Iterable[T]
Source: TypeAlias = Many[T] | Callable[[], Many[T]]
Maybe: TypeAlias = Awaitable[T] | T


@asynccontextmanager
async def closing(iterator: AsyncIterator[T]) -> AsyncGenerator[AsyncIterator[T], None]:
    """The iterator, closed at the end if it is one that can be closed."""
    try:
        yield iterator
    finally:
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await close()


async def read(source: Source[T]) -> AsyncGenerator[T, None]:
    """The items of whatever may be a source."""
    opened = source() if callable(source) else source
    if isinstance(opened, AsyncIterable):
        async with closing(aiter(opened)) as items:
            async for item in items:
                yield item
        return
    iterator = iter(opened)
    try:
        for item in iterator:
            yield item
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            close()


def opens_again(source: object) -> bool:
    """Whether a second reading begins anew. What is its own iterator can be read only once."""
    return callable(source) or not isinstance(source, AsyncIterator | Iterator)


async def settled(value: Maybe[T]) -> T:
    """What a function gave, awaited if it has to be."""
    if isinstance(value, Awaitable):
        awaited: T = await value
        return awaited
    return value  # pyright: ignore[reportReturnType] - it does not narrow a bare T by what it is not
