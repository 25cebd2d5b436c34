"""Owns `Stream`: the operators as methods, what they refuse, and how they are chained.
It must never read a source before the first item is asked for.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable
from typing import Any, Generic, TypeAlias, TypeVar, overload

from spellwork.clock import Clock, Duration, SystemClock
from spellwork.errors import UsageError
from spellwork.events import timed, untimed
from spellwork.events.limits import not_negative, positive, whole
from spellwork.events.share import Shared
from spellwork.events.source import Many, Source, opens_again, read

T = TypeVar("T")
U = TypeVar("U")
V = TypeVar("V")

__all__ = ["Operator", "Source", "Stream"]


class Stream(Generic[T]):
    """The items of a source, read one at a time as the consumer asks for them.

    `source` is an async or plain iterable, or a function that returns one and is called anew for each reading. Functions given
    to operators may be plain or `async`. What the source or a function raises reaches the consumer as it is, after what came
    before it (Python itself turns StopIteration and StopAsyncIteration into RuntimeError). When the consumer leaves `open`, or
    is cancelled while it waits for an item, everything upstream is closed, from the source down, and no task is left. No operator
    holds an unbounded number of items. Durations (seconds or timedelta) pass on `clock`. Arguments without a meaning raise
    `UsageError` at the call.
    """

    def __init__(self, source: Source[T], *, clock: Clock | None = None):
        self._clock: Clock = clock or SystemClock()
        self._open: Callable[[], AsyncGenerator[T, None]] = lambda: read(source)
        self._again: bool = source._again if isinstance(source, Stream) else opens_again(source)

    def __aiter__(self) -> AsyncGenerator[T, None]:
        """Begin a reading. If the loop's body ends it, it is closed when the event loop gets to it; `open` closes it at once."""
        return self._open()

    def __or__(self, operator: Callable[[Stream[T]], Stream[U]]) -> Stream[U]:
        """`stream | ops.take(3)`: apply an operator."""
        return operator(self)

    def open(self) -> contextlib.aclosing[AsyncGenerator[T, None]]:
        """`async with stream.open() as items:` begins a reading that is closed, with all upstream, when the block is left."""
        return contextlib.aclosing(self._open())

    async def to_list(self) -> list[T]:
        """All items. A source without an end needs `take` before."""
        return [item async for item in self._open()]

    # mypy cannot solve `Awaitable[U] | U` for an async function wherever the type of the result is expected
    @overload
    def map(self, function: Callable[[T], Awaitable[U]]) -> Stream[U]: ...
    @overload
    def map(self, function: Callable[[T], U]) -> Stream[U]: ...
    def map(self, function: Callable[[T], Any]) -> Stream[Any]:
        """What `function` gives for each item, in order, one call at a time."""
        return self._then(lambda: untimed.mapped(self._open(), function))

    def filter(self, keep: Callable[[T], Awaitable[object] | object]) -> Stream[T]:
        """The items for which `keep` gives something true."""
        return self._then(lambda: untimed.filtered(self._open(), keep))

    def flat_map(self, function: Callable[[T], Awaitable[Many[U]] | Many[U]]) -> Stream[U]:
        """The items of what `function` gives for each item: one inner stream at a time, each to its end."""
        return self._then(lambda: untimed.flat_mapped(self._open(), function))

    def scan(self, function: Callable[[U, T], Awaitable[U] | U], initial: U) -> Stream[U]:
        """Each value of a fold: `value = function(value, item)`, beginning from `initial`, which is not given itself."""
        return self._then(lambda: untimed.scanned(self._open(), function, initial))

    def take(self, count: int) -> Stream[T]:
        """The first `count` items; no more are read."""
        whole("count", count, 0)
        return self._then(lambda: untimed.taken(self._open(), count))

    def skip(self, count: int) -> Stream[T]:
        """All but the first `count` items."""
        whole("count", count, 0)
        return self._then(lambda: untimed.skipped(self._open(), count))

    def distinct(self, key: Callable[[T], Awaitable[Hashable] | Hashable] | None = None, *, remember: int = 1024) -> Stream[T]:
        """The items whose key (by default, the item) is not among the last `remember` different ones.

        `remember=1` leaves out repetitions in a row. Keys must be hashable.
        """
        whole("remember", remember, 1)
        return self._then(lambda: untimed.distinct(self._open(), key, remember))

    def merge(self, *others: Source[U]) -> Stream[T | U]:
        """The items of all, each as it comes, read side by side and one ahead. The first error ends it; else the last end."""
        streams: list[Stream[Any]] = [self, *self._streams(others)]
        return self._then(lambda: untimed.merged(self._clock, *(stream._open() for stream in streams)), streams)

    @overload
    def zip(self, first: Source[U], /) -> Stream[tuple[T, U]]: ...
    @overload
    def zip(self, first: Source[U], second: Source[V], /) -> Stream[tuple[T, U, V]]: ...
    @overload
    def zip(self, first: Source[Any], second: Source[Any], /, *others: Source[Any]) -> Stream[tuple[Any, ...]]: ...
    def zip(self, *others: Source[Any]) -> Stream[Any]:
        """Tuples of one item of each, read side by side and one ahead. The first to end ends it."""
        streams: list[Stream[Any]] = [self, *self._streams(others)]
        return self._then(lambda: untimed.zipped(self._clock, *(stream._open() for stream in streams)), streams)

    def window(
        self, count: int | None = None, *, every: int | None = None, seconds: Duration | None = None, limit: int = 1024
    ) -> Stream[list[T]]:
        """Windows by number or by time, as lists.

        With `count`, a window of so many items, one `every` items (at most `count`; by default `count`, so that none overlap).
        At the end, items that no window has held come in a last, shorter one. With `seconds`, what came in each span of that
        length, counted from the first question; empty spans give nothing, and a window of `limit` items closes early.
        """
        if (count is None) == (seconds is None):
            raise UsageError("window takes either a count or seconds: window(10) or window(seconds=1.0)")
        if seconds is not None:
            if every is not None:
                raise UsageError("window takes `every` only with a count: window(10, every=5)")
            span, most = positive("seconds", seconds), whole("limit", limit, 1)
            return self._then(lambda: timed.time_windows(self._clock, self._open(), span, most))
        size = whole("count", count or 0, 1)
        step = size if every is None else whole("every", every, 1)
        if step > size:
            raise UsageError(f"every is {step}, but must be at most count, which is {size}: else items would be lost")
        return self._then(lambda: untimed.windows(self._clock, self._open(), size, step))

    def batch(self, size: int, within: Duration | None = None) -> Stream[list[T]]:
        """Lists of `size` items; shorter ones `within` so many seconds after their first item, at the end, and before an error."""
        whole("size", size, 1)
        wait = None if within is None else positive("within", within)
        return self._then(lambda: timed.batched(self._clock, self._open(), size, wait))

    def throttle(self, seconds: Duration) -> Stream[T]:
        """All items, given at least `seconds` apart; the source waits meanwhile."""
        span = not_negative("seconds", seconds)
        return self._then(lambda: timed.throttled(self._clock, self._open(), span))

    def debounce(self, seconds: Duration) -> Stream[T]:
        """Each item that no other follows for `seconds`, and the last one. A slow consumer gets only the newest of them."""
        span = not_negative("seconds", seconds)
        return self._then(lambda: timed.debounced(self._clock, self._open(), span))

    def sample(self, seconds: Duration) -> Stream[T]:
        """Every `seconds`, the newest item since the last one given, if there is any; at the end, the last one."""
        span = positive("seconds", seconds)
        return self._then(lambda: timed.sampled(self._clock, self._open(), span))

    def timeout(self, seconds: Duration) -> Stream[T]:
        """The items, read one ahead; `StreamTimeout` when the consumer has waited `seconds` for one."""
        span = positive("seconds", seconds)
        return self._then(lambda: timed.timed_out(self._clock, self._open(), span))

    def retry(
        self, times: int, *, delay: Duration = 0.0, on: type[Exception] | tuple[type[Exception], ...] = Exception
    ) -> Stream[T]:
        """After an error of the class `on`, open the source again, up to `times` times in all, `delay` seconds later.

        It begins anew, so items may come twice; the error after the last time is raised. A source that can be read only once
        (an iterator, a generator) raises `UsageError`: give `Stream` the function that makes it.
        """
        whole("times", times, 0)
        wait = not_negative("delay", delay)
        if not self._again:
            raise UsageError(
                "retry opens the source again, and this one can be read only once; give Stream the function that makes it"
            )
        return self._then(lambda: timed.retried(self._clock, self._open, times, wait, on))

    def buffer(self, size: int) -> Stream[T]:
        """The items, read ahead in a task by up to `size`; then the source waits."""
        whole("size", size, 1)
        return self._then(lambda: untimed.buffered(self._clock, self._open(), size))

    def share(self, buffer: int = 1) -> Stream[T]:
        """A stream whose consumers share one reading.

        A consumer gets what comes after it has first asked for an item. The first one opens the source, the last one to leave
        closes it, an error reaches all. The source waits for the slowest, which may be `buffer` items behind.
        """
        whole("buffer", buffer, 1)
        shared = Shared(self._clock, self._open, buffer)
        return self._then(shared.consume)

    def _streams(self, sources: tuple[Source[U], ...]) -> list[Stream[U]]:
        return [source if isinstance(source, Stream) else Stream(source, clock=self._clock) for source in sources]

    def _then(self, opened: Callable[[], AsyncGenerator[U, None]], parts: list[Stream[Any]] | None = None) -> Stream[U]:
        stream: Stream[U] = Stream(opened, clock=self._clock)
        stream._open = opened
        stream._again = all(part._again for part in parts or [self])
        return stream


Operator: TypeAlias = Callable[[Stream[T]], Stream[U]]
