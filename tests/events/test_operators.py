"""What each operator does, on virtual time."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import pytest

from spellwork.errors import StreamTimeout
from spellwork.events import Stream, ops
from spellwork.events.buffer import pause
from tests.events.timeline import Timeline, nothing_is_left, seen, virtual


async def double(item: int) -> int:
    await asyncio.sleep(0)
    return item * 2


async def add(total: int, item: int) -> int:
    return total + item


async def is_odd(item: int) -> bool:
    return item % 2 == 1


async def twice(item: int):
    return [item, item]


async def upto(count: int):
    for item in range(count):
        yield item


@pytest.mark.parametrize(
    ("stream", "wanted"),
    [
        (Stream([1, 2]).map(lambda item: item + 1), [2, 3]),
        (Stream([1, 2]).map(double), [2, 4]),
        (Stream([1, 2, 3]).filter(lambda item: item != 2), [1, 3]),
        (Stream([1, 2, 3]).filter(is_odd), [1, 3]),
        (Stream([1, 2]).flat_map(lambda item: [item] * item), [1, 2, 2]),
        (Stream([1, 2]).flat_map(twice), [1, 1, 2, 2]),
        (Stream([1, 3]).flat_map(upto), [0, 0, 1, 2]),
        (Stream([1, 2, 3]).scan(lambda total, item: total + item, 10), [11, 13, 16]),
        (Stream([1, 2, 3]).scan(add, 0), [1, 3, 6]),
        (Stream([1, 2, 3]).take(2), [1, 2]),
        (Stream([1, 2, 3]).take(0), []),
        (Stream([1]).take(5), [1]),
        (Stream([1, 2, 3]).skip(1), [2, 3]),
        (Stream([1]).skip(5), []),
        (Stream([1, 1, 2, 1]).distinct(), [1, 2]),
        (Stream([1, 1, 2, 1]).distinct(remember=1), [1, 2, 1]),
        (Stream(["a", "A", "b"]).distinct(str.lower), ["a", "b"]),
        (Stream([1, 2, 1, 3, 1, 2]).distinct(remember=2), [1, 2, 3, 2]),
        (Stream(range(3)).zip("ab"), [(0, "a"), (1, "b")]),
        (Stream("ab").zip(range(9), range(5, 9)), [("a", 0, 5), ("b", 1, 6)]),
        (Stream(range(5)).window(2), [[0, 1], [2, 3], [4]]),
        (Stream(range(4)).window(3, every=1), [[0, 1, 2], [1, 2, 3]]),
        (Stream(range(6)).window(3, every=2), [[0, 1, 2], [2, 3, 4], [4, 5]]),
        (Stream(range(2)).window(3, every=2), [[0, 1]]),
        (Stream(range(5)).batch(2), [[0, 1], [2, 3], [4]]),
        (Stream(range(5)).buffer(2), [0, 1, 2, 3, 4]),
        (Stream(range(3)).share(), [0, 1, 2]),
        (Stream(upto(3)), [0, 1, 2]),
        (Stream(lambda: upto(3)), [0, 1, 2]),
        (Stream[int]([]).batch(2), []),
    ],
)
async def test_items_go_through_an_operator(stream: Stream[Any], wanted: list[Any]) -> None:
    """Each operator that knows no time gives exactly what its definition says, and leaves no task."""
    assert await stream.to_list() == wanted
    assert nothing_is_left()


@pytest.mark.parametrize("name", [name for name in vars(ops) if callable(getattr(Stream, name, None)) and name[0] != "_"])
async def test_pipe_and_method_are_the_same(name: str) -> None:
    """`stream | ops.NAME(...)` gives what `stream.NAME(...)` gives."""
    arguments: dict[str, tuple[Any, ...]] = {
        "map": (double,), "filter": (is_odd,), "flat_map": (twice,), "scan": (add, 0), "merge": ([7],), "zip": ([7, 8],),
        "distinct": (), "window": (2,), "batch": (2,), "share": (),
    }  # fmt: skip
    given = arguments.get(name, (1,))
    clock = virtual()
    piped = Stream([1, 2, 3], clock=clock) | getattr(ops, name)(*given)
    assert await piped.to_list() == await getattr(Stream([1, 2, 3], clock=clock), name)(*given).to_list()


def test_every_operator_has_both_styles() -> None:
    """No method lacks its function."""
    methods = {name for name in vars(Stream) if name[0] != "_"} - {"open", "to_list"}
    assert methods == {name for name in vars(ops) if name in methods}
    assert len(methods) == 18


async def test_merge_gives_items_as_they_come() -> None:
    """Items of all sources come at their times, until the last source ends."""
    clock = virtual()
    one, two = Timeline(clock, (1, "a"), (4, "b")), Timeline(clock, (2, "x"), (3, "y"), (6, "z"))
    assert await seen(clock, one.stream().merge(two)) == [(1, "a"), (2, "x"), (3, "y"), (4, "b"), (6, "z")]


async def test_merge_starves_nobody() -> None:
    """Sources that always have an item take turns."""
    merged = Stream(["a"] * 50).merge(["b"] * 50)
    assert set(await merged.take(4).to_list()) == {"a", "b"}
    assert sorted(await merged.to_list()) == ["a"] * 50 + ["b"] * 50


async def test_zip_reads_its_sources_side_by_side() -> None:
    """Two sources that need a second each give a pair a second."""
    clock = virtual()
    one, two = Timeline(clock, (1, 1), (2, 2)), Timeline(clock, (1, "a"), (2, "b"))
    assert await seen(clock, one.stream().zip(two)) == [(1, (1, "a")), (2, (2, "b"))]


async def test_batch_is_held_back_no_longer_than_within() -> None:
    """A list goes out when it is full, or so long after its first item, or at the end."""
    clock = virtual()
    source = Timeline(clock, (1, "a"), (1.2, "b"), (1.4, "c"), (5, "d"), (5.9, "e"), (6.5, "f"))
    assert await seen(clock, source.stream().batch(3, within=1)) == [(1.4, ["a", "b", "c"]), (6, ["d", "e"]), (6.5, ["f"])]


async def test_time_windows_count_from_the_beginning() -> None:
    """Each span gives what came in it; empty spans give nothing, and a full window closes early."""
    clock = virtual()
    source = Timeline(clock, (0.5, 1), (0.9, 2), (3.5, 3), (4.1, 4), (4.2, 5), (4.3, 6), (4.4, 7))
    wanted = [(1, [1, 2]), (4, [3]), (4.3, [4, 5, 6]), (4.4, [7])]
    assert await seen(clock, source.stream().window(seconds=1, limit=3)) == wanted


async def test_throttle_loses_nothing_and_keeps_the_distance() -> None:
    """Items come at least so far apart, and all of them."""
    clock = virtual()
    source = Timeline(clock, (0, 1), (0, 2), (0.5, 3), (7, 4))
    assert await seen(clock, source.stream().throttle(2)) == [(0, 1), (2, 2), (4, 3), (7, 4)]


async def test_debounce_gives_what_silence_follows() -> None:
    """An item goes out when it has been the newest for so long, and the last one at the end."""
    clock = virtual()
    source = Timeline(clock, (0, 1), (0.5, 2), (1, 3), (4, 4), (4.2, 5))
    assert await seen(clock, source.stream().debounce(1)) == [(2, 3), (4.2, 5)]


async def test_debounce_gives_a_slow_consumer_the_newest() -> None:
    """What has settled meanwhile is given at once; what it replaced is gone."""
    clock = virtual()
    source = Timeline(clock, (0, 1), (2, 2), (4, 3), (20, 4))
    assert await seen(clock, source.stream().debounce(1), busy=5) == [(1, 1), (6, 3), (20, 4)]


async def test_sample_gives_the_newest_at_each_tick() -> None:
    """Ticks without anything new give nothing; the last item comes at the end."""
    clock = virtual()
    source = Timeline(clock, (0.1, 1), (0.7, 2), (3.5, 3), (4.2, 4), (4.4, 5))
    assert await seen(clock, source.stream().sample(1)) == [(1, 2), (4, 3), (4.4, 5)]


async def test_timeout_counts_only_while_the_consumer_waits() -> None:
    """A gap that is too long raises after what came before it; a consumer that takes its time is no gap."""
    clock = virtual()
    source = Timeline(clock, (0, 1), (1, 2), (9, 3))
    out: list[tuple[float, Any]] = []
    with pytest.raises(StreamTimeout, match=r"no item within 2 s") as caught:
        await seen(clock, source.stream().timeout(2), busy=3, out=out)
    assert out == [(0, 1), (3, 2)]
    assert caught.value.seconds == 2
    assert isinstance(caught.value, TimeoutError)
    assert source.log == ["source opened", "source closed"]
    assert nothing_is_left()


async def test_retry_opens_the_source_again() -> None:
    """After an error the source begins anew, so many times, so much later; then the error comes through."""
    clock = virtual()
    source = Timeline(clock, (1, "a"), (2, error := ValueError("broken")))
    out: list[tuple[float, Any]] = []
    with pytest.raises(ValueError, match="broken") as caught:
        await seen(clock, source.stream().retry(2, delay=3), out=out)
    assert caught.value is error
    assert out == [(1, "a"), (6, "a"), (11, "a")]
    assert source.log == ["source opened", "source closed"] * 3


async def test_retry_leaves_other_errors_alone() -> None:
    """Only the classes that are named are tried again."""
    clock = virtual()
    source = Timeline(clock, (0, ValueError("broken")))
    with pytest.raises(ValueError, match="broken"):
        await source.stream().retry(5, on=(OSError, KeyError)).to_list()
    assert source.log == ["source opened", "source closed"]


async def test_buffer_reads_ahead_and_no_further() -> None:
    """While the consumer is busy, as many items are read as fit, and one waits at the door."""
    clock = virtual()
    source = Timeline(clock, *((0, item) for item in range(10)))
    async with source.stream().buffer(3).open() as items:
        assert await anext(items) == 0
        await pause(clock, 100)
        assert source.given == 5


async def test_share_reads_once_for_all() -> None:
    """Consumers that are there from the first see the same items of one reading; a later one sees what comes after."""
    clock = virtual()
    source = Timeline(clock, (1, 1), (2, 2), (3, 3))
    shared = source.stream().share()

    async def late() -> list[Any]:
        await pause(clock, 1.5)
        return await shared.to_list()

    assert list(await asyncio.gather(shared.to_list(), shared.to_list(), late())) == [[1, 2, 3], [1, 2, 3], [2, 3]]
    assert source.log == ["source opened", "source closed"]
    assert nothing_is_left()


async def test_share_waits_for_the_slowest() -> None:
    """A slow consumer loses nothing and holds the source back; when it leaves, the others go on."""
    clock = virtual()
    source = Timeline(clock, *((0, item) for item in range(10)))
    shared = source.stream().share(2)

    async def slow() -> list[Any]:
        async with shared.open() as items:
            first = await anext(items)
            await pause(clock, 10)
            assert source.given == 4
            return [first, await anext(items)]

    start = clock.monotonic()
    fast, two = await asyncio.gather(shared.to_list(), slow())
    assert (fast, two) == (list(range(10)), [0, 1])
    assert clock.monotonic() - start == 10
    assert nothing_is_left()


async def test_share_gives_an_error_to_all_and_can_begin_anew() -> None:
    """Each consumer gets what came before the error, then the error; the next consumer opens the source again."""
    source = Timeline(virtual(), (1, 1), (2, ValueError("broken")))
    shared = source.stream().share()
    for _ in range(2):
        results = await asyncio.gather(*(Stream(shared).scan(add, 0).to_list() for _ in range(2)), return_exceptions=True)
        assert [str(result) for result in results] == ["broken", "broken"]
    assert source.log == ["source opened", "source closed"] * 2


async def test_a_source_that_never_waits_cannot_hold_time_back() -> None:
    """Ticks come also where each next item is there before the reader asks for it."""
    clock = virtual()

    async def hot():
        for item in range(1, 11):
            clock.advance(0.1)
            yield item

    stream = Stream(hot, clock=clock)
    samples = await stream.sample(0.25).to_list()
    windows = await stream.window(seconds=0.25).to_list()
    batches = await stream.batch(100, within=0.25).to_list()
    assert len(samples) == 4
    assert samples[-1] == 10
    for parts in (windows, batches):
        assert [item for part in parts for item in part] == list(range(1, 11))
        assert all(len(part) <= 4 for part in parts)


@pytest.mark.parametrize("call", ["throttle", "debounce", "sample", "timeout"])
async def test_a_duration_may_be_a_timedelta(call: str) -> None:
    """It means the same as its seconds; 0.3 is no sum of microseconds of the clock, and time goes on all the same."""

    async def run(duration: float | dt.timedelta) -> list[tuple[float, Any]]:
        source = Timeline(virtual(), *((moment * 0.2, moment) for moment in range(10)))
        return await seen(source.clock, getattr(source.stream(), call)(duration))

    assert await run(dt.timedelta(milliseconds=300)) == await run(0.3) != []
