"""What holds for every operator: errors, closing, cancellation, back-pressure and refusals."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from spellwork.errors import UsageError
from spellwork.events import Stream
from spellwork.events.buffer import pause
from tests.events.timeline import Timeline, nothing_is_left, seen, virtual

OPERATORS: dict[str, Callable[[Stream[Any]], Stream[Any]]] = {
    "map": lambda stream: stream.map(lambda item: item),
    "filter": lambda stream: stream.filter(lambda item: True),
    "flat_map": lambda stream: stream.flat_map(lambda item: [item]),
    "scan": lambda stream: stream.scan(lambda last, item: item, None),
    "take": lambda stream: stream.take(1000),
    "skip": lambda stream: stream.skip(0),
    "distinct": lambda stream: stream.distinct(),
    "merge": lambda stream: stream.merge([]),
    "zip": lambda stream: stream.zip(lambda: iter(range(1000))),
    "window": lambda stream: stream.window(2),
    "window of time": lambda stream: stream.window(seconds=1.5),
    "batch": lambda stream: stream.batch(2),
    "batch in time": lambda stream: stream.batch(2, within=0.5),
    "throttle": lambda stream: stream.throttle(0.5),
    "debounce": lambda stream: stream.debounce(0.5),
    "sample": lambda stream: stream.sample(0.5),
    "timeout": lambda stream: stream.timeout(5),
    "retry": lambda stream: stream.retry(0),
    "buffer": lambda stream: stream.buffer(2),
    "share": lambda stream: stream.share(),
}
each = pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)


@each
async def test_an_error_comes_after_what_came_before(operator: Callable[[Stream[Any]], Stream[Any]]) -> None:
    """The consumer gets the items, then the very error the source raised, and nothing is left running."""
    source = Timeline(virtual(), (1, 1), (2, 2), (3, 3), (3, error := ValueError("broken")))
    out: list[Any] = []
    with pytest.raises(ValueError, match="broken") as caught:
        await seen(source.clock, operator(source.stream()), out=out)
    assert caught.value is error
    last = out[-1][1][-1] if isinstance(out[-1][1], list) else out[-1][1]
    assert last in (3, (3, 2))
    assert source.log == ["source opened", "source closed"]
    assert nothing_is_left()


async def test_an_error_waits_for_what_is_held() -> None:
    """A slow consumer gets what was read ahead before it gets the error that came meanwhile."""
    source = Timeline(virtual(), (0, 1), (0, 2), (0, 3), (0, ValueError("broken")))
    out: list[tuple[float, Any]] = []
    with pytest.raises(ValueError, match="broken"):
        await seen(source.clock, source.stream().buffer(3), busy=5, out=out)
    assert [item for _, item in out] == [1, 2, 3]
    assert nothing_is_left()


@each
async def test_leaving_closes_everything_upstream(operator: Callable[[Stream[Any]], Stream[Any]]) -> None:
    """When `open` is left after an item, the source has been closed and no task is left."""
    clock = virtual()
    source = Timeline(clock, *((moment, moment) for moment in range(1, 100)))
    async with operator(source.stream()).open() as items:
        await anext(items)
    assert source.log == ["source opened", "source closed"]
    assert nothing_is_left()


@each
async def test_cancelling_closes_everything_upstream(operator: Callable[[Stream[Any]], Stream[Any]]) -> None:
    """A consumer that is cancelled while it waits is over only when the source is closed, and no task is left."""
    clock = virtual()
    source = Timeline(clock, (0, 1), (1000, 2))
    consumer = asyncio.create_task(operator(source.stream().map(lambda item: item)).to_list())
    await pause(clock, 3)
    consumer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consumer
    assert source.log == ["source opened", "source closed"]
    assert nothing_is_left()


@each
async def test_nothing_is_read_before_it_is_asked_for(operator: Callable[[Stream[Any]], Stream[Any]]) -> None:
    """A stream that nobody reads does not open its source."""
    source = Timeline(virtual(), (0, 1))
    operator(source.stream())
    async with operator(source.stream()).open():
        pass
    assert source.log == []


@pytest.mark.parametrize("name", sorted(set(OPERATORS) - {"sample", "debounce"}))
async def test_a_slow_consumer_holds_the_source_back(name: str) -> None:
    """While the consumer is busy, no more than a few items are read, however many there are."""
    clock = virtual()
    source = Timeline(clock, (0, 0), (0, 1), *((2, item) for item in range(2, 500)))
    async with OPERATORS[name](source.stream()).open() as items:
        await anext(items)
        before = source.given
        await pause(clock, 100)
        assert source.given - before <= 4


@pytest.mark.parametrize("name", ["sample", "debounce"])
async def test_a_source_without_a_pause_does_not_stop_the_loop(name: str) -> None:
    """Operators that drop items read on without end, but let others run."""

    def endless():
        while True:
            yield 1

    consumer = asyncio.create_task(OPERATORS[name](Stream(endless, clock=virtual())).to_list())
    for _ in range(100):
        await asyncio.sleep(0)
    consumer.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await consumer
    assert nothing_is_left()


async def test_closing_goes_from_the_source_down() -> None:
    """Each stage is closed before the one that reads it, through tasks as well."""
    clock, log = virtual(), list[str]()

    async def stage(upstream: Stream[Any], name: str):
        try:
            async with upstream.open() as items:
                async for item in items:
                    yield item
        finally:
            log.append(f"{name} closed")

    source = Timeline(clock, *((moment, moment) for moment in range(100)), log=log)
    first = Stream(stage(source.stream().buffer(2), "first"), clock=clock)
    second = Stream(stage(first.timeout(5), "second"), clock=clock)
    assert await second.take(2).to_list() == [0, 1]
    assert log == ["source opened", "source closed", "first closed", "second closed"]
    assert nothing_is_left()


async def test_the_first_error_of_a_merge_closes_the_others() -> None:
    """What came before it comes first; the other sources are closed."""
    clock, log = virtual(), list[str]()
    bad = Timeline(clock, (1, 1), (2, ValueError("broken")), log=log, name="bad")
    good = Timeline(clock, (0.5, 0), (1000, 2), log=log, name="good")
    out: list[tuple[float, Any]] = []
    with pytest.raises(ValueError, match="broken"):
        await seen(clock, good.stream().merge(bad), out=out)
    assert out == [(0.5, 0), (1, 1)]
    assert log == ["good opened", "bad opened", "bad closed", "good closed"]
    assert nothing_is_left()


@pytest.mark.parametrize("name", ["map", "filter", "flat_map", "distinct"])
@pytest.mark.parametrize("asynchronous", [False, True])
async def test_an_error_of_a_function_comes_through(name: str, asynchronous: bool) -> None:
    """It is the very error, and the source is closed before the consumer gets it."""
    source, error = Timeline(virtual(), (0, 1), (0, 2)), KeyError("mine")

    def fails(item: int):
        raise error

    async def fails_later(item: int):
        raise error

    with pytest.raises(KeyError) as caught:
        await getattr(source.stream().buffer(1), name)(fails_later if asynchronous else fails).to_list()
    assert caught.value is error
    assert source.log == ["source opened", "source closed"]
    assert nothing_is_left()


async def test_an_error_while_closing_is_not_lost() -> None:
    """What a source raises in its `finally` reaches whoever closes the stream."""

    async def source():
        try:
            yield 1
            yield 2
            yield 3
        finally:
            raise OSError("cannot close")

    with pytest.raises(OSError, match="cannot close"):
        async with Stream(source).buffer(1).open() as items:
            await anext(items)
    assert nothing_is_left()


async def test_a_source_that_swallows_cancellation_is_closed_all_the_same() -> None:
    """It gets no second item out."""
    clock, log = virtual(), list[str]()

    async def stubborn():
        yield 1
        try:
            await pause(clock, 1000)
        except asyncio.CancelledError:
            log.append("swallowed")
        yield 2
        log.append("went on")

    async with Stream(stubborn, clock=clock).buffer(5).open() as items:
        await anext(items)
        await pause(clock, 1)
    assert log == ["swallowed"]
    assert nothing_is_left()


async def test_plain_generators_are_closed_too() -> None:
    """The `finally` of a plain generator runs when the consumer leaves."""
    log: list[str] = []

    def source():
        try:
            yield from range(10)
        finally:
            log.append("closed")

    assert await Stream(source).take(2).to_list() == [0, 1]
    assert log == ["closed"]


@pytest.mark.parametrize(
    "call",
    [
        lambda stream: stream.take(-1),
        lambda stream: stream.skip(-1),
        lambda stream: stream.skip(1.5),
        lambda stream: stream.distinct(remember=0),
        lambda stream: stream.window(),
        lambda stream: stream.window(2, seconds=1),
        lambda stream: stream.window(0),
        lambda stream: stream.window(2, every=0),
        lambda stream: stream.window(2, every=3),
        lambda stream: stream.window(seconds=0),
        lambda stream: stream.window(seconds=1, every=1),
        lambda stream: stream.window(seconds=1, limit=0),
        lambda stream: stream.batch(0),
        lambda stream: stream.batch(True),
        lambda stream: stream.batch(1, within=-1),
        lambda stream: stream.throttle(-1),
        lambda stream: stream.debounce(float("nan")),
        lambda stream: stream.sample(0),
        lambda stream: stream.timeout(float("inf")),
        lambda stream: stream.timeout("1"),
        lambda stream: stream.throttle(dt.timedelta(seconds=-1)),
        lambda stream: stream.retry(-1),
        lambda stream: stream.retry(1, delay=-1),
        lambda stream: stream.buffer(0),
        lambda stream: stream.share(0),
        lambda stream: Stream(iter([1])).retry(1),
        lambda stream: stream.merge(iter([1])).map(str).retry(1),
    ],
)
def test_bad_arguments_are_refused_at_the_call(call: Callable[[Stream[Any]], Stream[Any]]) -> None:
    """Sizes below one, negative seconds, and a second reading of what can be read only once."""
    with pytest.raises(UsageError):
        call(Stream([1, 2]))


async def test_the_same_times_come_out_each_time() -> None:
    """On virtual time a chain of operators is deterministic."""

    async def run() -> list[tuple[float, Any]]:
        clock = virtual()
        one = Timeline(clock, *((moment * 0.7, moment) for moment in range(40)))
        two = Timeline(clock, *((moment * 0.4, -moment) for moment in range(40)))
        return await seen(clock, one.stream().merge(two).throttle(0.3).batch(4, within=1).buffer(2), busy=0.9)

    first = await run()
    assert sum(len(batch) for _, batch in first) == 80
    assert await run() == first


def test_importing_spellwork_does_not_import_events() -> None:
    """Who uses workflows alone does not pay for streams."""
    code = "import spellwork, sys; sys.exit('spellwork.events' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


@pytest.mark.parametrize("seed", range(150))
async def test_any_chain_cancelled_at_any_time_leaves_nothing(seed: int) -> None:
    """Whatever operators stand in a row and whenever the consumer is cancelled, an opened source is closed and no task is left."""
    draw, clock = random.Random(seed), virtual()
    source = Timeline(clock, *((number * draw.choice([0.0, 0.3, 1.0]), number) for number in range(30)))
    stream = source.stream()
    for name in draw.choices(
        sorted(set(OPERATORS) - {"window", "batch", "window of time", "batch in time", "zip"}), k=draw.randint(1, 4)
    ):
        stream = OPERATORS[name](stream)
    consumer = asyncio.create_task(seen(clock, stream, busy=draw.choice([0.0, 0.4])))
    if draw.random() < 0.5:
        await pause(clock, draw.uniform(0, 12))
    else:
        for _ in range(draw.randint(0, 60)):
            await asyncio.sleep(0)
    consumer.cancel()
    await asyncio.wait([consumer])
    assert source.log in ([], ["source opened", "source closed"])
    assert nothing_is_left()
