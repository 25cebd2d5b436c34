"""Owns the operators as functions, for the pipe style: `Stream(source) | ops.map(f) | ops.batch(10, within=1.0)`.
They must never do anything but call the method of the same name.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar, overload

from spellwork.clock import Duration
from spellwork.events.source import Many, Source
from spellwork.events.stream import Operator, Stream

T = TypeVar("T")
U = TypeVar("U")


@overload
def map(function: Callable[[T], Awaitable[U]]) -> Operator[T, U]: ...
@overload
def map(function: Callable[[T], U]) -> Operator[T, U]: ...
def map(function: Callable[[T], Any]) -> Operator[T, Any]:
    """See `Stream.map`."""
    return lambda stream: stream.map(function)


def filter(keep: Callable[[T], Awaitable[object] | object]) -> Operator[T, T]:
    """See `Stream.filter`."""
    return lambda stream: stream.filter(keep)


def flat_map(function: Callable[[T], Awaitable[Many[U]] | Many[U]]) -> Operator[T, U]:
    """See `Stream.flat_map`."""
    return lambda stream: stream.flat_map(function)


def scan(function: Callable[[U, T], Awaitable[U] | U], initial: U) -> Operator[T, U]:
    """See `Stream.scan`."""
    return lambda stream: stream.scan(function, initial)


def take(count: int) -> Callable[[Stream[T]], Stream[T]]:
    """See `Stream.take`."""
    return lambda stream: stream.take(count)


def skip(count: int) -> Callable[[Stream[T]], Stream[T]]:
    """See `Stream.skip`."""
    return lambda stream: stream.skip(count)


def distinct(key: Callable[[T], Awaitable[Hashable] | Hashable] | None = None, *, remember: int = 1024) -> Operator[T, T]:
    """See `Stream.distinct`."""
    return lambda stream: stream.distinct(key, remember=remember)


def merge(*others: Source[T]) -> Callable[[Stream[T]], Stream[T]]:
    """See `Stream.merge`; here all sources have items of one type."""
    return lambda stream: stream.merge(*others)


def zip(first: Source[U]) -> Callable[[Stream[T]], Stream[tuple[T, U]]]:
    """See `Stream.zip`; this one takes a single other source."""
    return lambda stream: stream.zip(first)


def window(
    count: int | None = None, *, every: int | None = None, seconds: Duration | None = None, limit: int = 1024
) -> Callable[[Stream[T]], Stream[list[T]]]:
    """See `Stream.window`."""
    return lambda stream: stream.window(count, every=every, seconds=seconds, limit=limit)


def batch(size: int, within: Duration | None = None) -> Callable[[Stream[T]], Stream[list[T]]]:
    """See `Stream.batch`."""
    return lambda stream: stream.batch(size, within)


def throttle(seconds: Duration) -> Callable[[Stream[T]], Stream[T]]:
    """See `Stream.throttle`."""
    return lambda stream: stream.throttle(seconds)


def debounce(seconds: Duration) -> Callable[[Stream[T]], Stream[T]]:
    """See `Stream.debounce`."""
    return lambda stream: stream.debounce(seconds)


def sample(seconds: Duration) -> Callable[[Stream[T]], Stream[T]]:
    """See `Stream.sample`."""
    return lambda stream: stream.sample(seconds)


def timeout(seconds: Duration) -> Callable[[Stream[T]], Stream[T]]:
    """See `Stream.timeout`."""
    return lambda stream: stream.timeout(seconds)


def retry(
    times: int, *, delay: Duration = 0.0, on: type[Exception] | tuple[type[Exception], ...] = Exception
) -> Callable[[Stream[T]], Stream[T]]:
    """See `Stream.retry`."""
    return lambda stream: stream.retry(times, delay=delay, on=on)


def buffer(size: int) -> Callable[[Stream[T]], Stream[T]]:
    """See `Stream.buffer`."""
    return lambda stream: stream.buffer(size)


def share(buffer: int = 1) -> Callable[[Stream[T]], Stream[T]]:
    """See `Stream.share`."""
    return lambda stream: stream.share(buffer)
