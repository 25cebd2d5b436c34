"""Owns the benchmark `events`: broadcast, the way from threads to tasks, latency and patterns, beside what is installed.
It must never give one library another work than the others: the same items, bounds and receivers, in turns, in one process.
"""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from spellwork.bench import event_peers
from spellwork.bench.conditions import Result, load, machine
from spellwork.bench.latency import percentile
from spellwork.events import Broadcast, Bus
from spellwork.events.channel import Channel, barrier, bounded
from spellwork.events.pattern import PatternIndex

DELIVERIES = 20_000
BOUND = 1024  # items that may wait for a receiver, of everybody who has a bound
BRIDGE_BOUND = 4096
PATTERNS = 10_000
_ROUNDS = 10  # short ones: on a busy machine the best of many tells more than a long one

Fan = Callable[[int, int], Awaitable[float]]  # (subscribers, items) to seconds


async def _ours(subscribers: int, items: int, send: Callable[[Any], Awaitable[object]], subscribe: Callable[[], Any]) -> float:
    ready = barrier(subscribers + 1)

    async def follow() -> None:
        async with subscribe() as events:
            await ready.wait()
            left = items
            async for _ in events:
                left -= 1
                if not left:
                    break

    followers = [asyncio.create_task(follow()) for _ in range(subscribers)]
    await ready.wait()
    began = time.perf_counter()
    for number in range(items):
        await send(number)
    await asyncio.gather(*followers)
    return time.perf_counter() - began


async def _broadcast(subscribers: int, items: int) -> float:
    broadcast = Broadcast[int]()
    return await _ours(
        subscribers, items, broadcast.send, lambda: broadcast.subscribe(overflow="block", buffer=BOUND)
    )  # fmt: skip


async def _bus(subscribers: int, items: int) -> float:
    bus = Bus()
    return await _ours(
        subscribers, items, lambda number: bus.publish("bench.tick", number),
        lambda: bus.subscribe("bench.*", overflow="block", buffer=BOUND),
    )  # fmt: skip


async def _batched(subscribers: int, items: int) -> float:
    broadcast, ready = Broadcast[int](), barrier(subscribers + 1)

    async def follow() -> None:
        async with broadcast.subscribe(overflow="block", buffer=BOUND) as events:
            await ready.wait()
            left = items
            while left:
                left -= len(await events.recv_many(left))

    followers = [asyncio.create_task(follow()) for _ in range(subscribers)]
    await ready.wait()
    began = time.perf_counter()
    for number in range(items):
        await broadcast.send(number)
    await asyncio.gather(*followers)
    return time.perf_counter() - began


def _fans() -> dict[str, Fan]:
    ours: dict[str, Fan] = {"broadcast": _broadcast, "broadcast_in_batches": _batched, "bus": _bus}
    return ours | event_peers.fans(BOUND)


async def _measured_fans(deliveries: int, rounds: int) -> Result:
    result: Result = {}
    for subscribers in (1, 10, 100):
        best: dict[str, float] = {}
        for _ in range(rounds):  # in turns, so that a busy moment of the machine meets everybody
            for name, fan in _fans().items():
                items = max(deliveries // subscribers // (10 if name == "anyio" else 1), 10)  # it is slow enough
                gc.collect()
                rate = subscribers * items / await fan(subscribers, items)
                best[name] = max(best.get(name, 0.0), rate)
        for name, rate in best.items():
            result[f"{name}_to_{subscribers}_deliveries_per_second"] = rate
        result[f"broadcast_to_{subscribers}_ratio_to_asyncio_queue"] = best["broadcast"] / best["asyncio_queue"]
    return result


def measure_broadcast(deliveries: int, rounds: int = _ROUNDS) -> Result:
    """Deliveries a second to 1, 10 and 100 subscribers, each of which gets everything."""
    return asyncio.run(_measured_fans(deliveries, rounds))


async def _bridge(items: int) -> float:
    channel: Channel[int] = bounded(BRIDGE_BOUND)

    def feed() -> None:
        for number in range(items):
            channel.send_sync(number)
        channel.close()

    return await event_peers.drained(feed, channel)


def measure_bridge(items: int, rounds: int = _ROUNDS) -> Result:
    """Items a second from a thread to a task, through a bounded channel."""
    result: Result = {"thread_to_loop_bound": BRIDGE_BOUND}
    bridges = {"": _bridge, **event_peers.bridges(BRIDGE_BOUND)}
    shares = {"": 1, "janus_": 20, "call_soon_threadsafe_": 4}  # the slower ones get fewer, so that the whole takes seconds
    for _ in range(rounds):
        for name, bridge in bridges.items():
            count = max(items // shares[name], 10)
            key = f"{name}thread_to_loop_items_per_second"
            result[key] = max(result.get(key, 0.0), count / asyncio.run(bridge(count)))
    return result


async def _latencies(items: int, send: Callable[[Any], Awaitable[object]], take: Callable[[], Awaitable[Any]]) -> list[float]:
    seen: list[float] = []

    async def receive() -> None:
        for _ in range(items):
            await take()
            seen.append(time.perf_counter() - sent)

    sent = 0.0
    receiver = asyncio.create_task(receive())
    for number in range(items):
        await asyncio.sleep(0)  # the receiver goes to sleep
        sent = time.perf_counter()
        await send(number)
        while len(seen) <= number:  # noqa: ASYNC110 - an event would be one more wake-up
            await asyncio.sleep(0)
    await receiver
    return seen


async def _measured_latencies(items: int) -> Result:
    bus, channel, queue = Bus(), bounded(BOUND), asyncio.Queue[int](BOUND)
    result: Result = {}
    async with bus.subscribe("bench.*") as events:
        ways: dict[str, tuple[Any, Any]] = {
            "bus": (lambda number: bus.publish("bench.tick", number), events.recv),
            "channel": (channel.send, channel.recv),
            "asyncio_queue": (queue.put, queue.get),
        }
        for name, (send, take) in ways.items():
            await _latencies(min(items, 100), send, take)
            times = await _latencies(items, send, take)
            result[f"{name}_latency_p50_us"] = statistics.median(times) * 1e6
            result[f"{name}_latency_p99_us"] = percentile(times, 0.99)
    return result


def measure_latency(items: int, rounds: int = _ROUNDS) -> Result:
    """From `publish` to a subscriber on the same loop that was asleep, in microseconds."""
    return _least([asyncio.run(_measured_latencies(items)) for _ in range(rounds)])


def _least(found: Sequence[Result]) -> Result:
    return {key: min(result[key] for result in found) for key in found[0]}


def _patterns(count: int) -> list[str]:
    # As subscribers have them: names, and wildcards at each place.
    forms = ("area{0}.device{1}.state", "area{0}.*.state", "*.device{1}.alarm{0}", "area{0}.device{1}.>", "area{0}.*.alarm{1}")
    return [forms[number % len(forms)].format(number % 97, number) for number in range(count)]


async def _measured_patterns(count: int, events: int) -> Result:
    bus = Bus()
    index: PatternIndex[int] = PatternIndex()
    for number, pattern in enumerate(_patterns(count)):
        index.add(pattern, number)
        await bus.subscribe(pattern, overflow="drop_oldest").__aenter__()
    topics = [f"area{number % 97}.device{number}.state" for number in range(events)]
    gc.collect()  # what the subscribers have left to the collector is not the publisher's
    began = time.perf_counter()
    for topic in topics:
        bus.publish_nowait(topic, None)
    new = (time.perf_counter() - began) / events
    cached = topics[-1]
    began = time.perf_counter()
    for _ in range(events):
        index.match(cached)
    matching = (time.perf_counter() - began) / events
    began = time.perf_counter()
    for _ in range(events):
        bus.publish_nowait(cached, None)
    again = (time.perf_counter() - began) / events
    index.match(topics[0])
    began = time.perf_counter()
    for topic in topics:
        index.match(topic)
    searching = (time.perf_counter() - began) / events
    bus.close()
    return {
        "patterns": count,
        "publish_new_topic_us": new * 1e6,
        "publish_cached_topic_us": again * 1e6,
        "match_new_topic_us": searching * 1e6,
        "match_cached_topic_us": matching * 1e6,
    }


def measure_patterns(count: int, events: int, rounds: int = _ROUNDS) -> Result:
    """What a publish costs among so many patterns, in microseconds; each topic for the first time, and again."""
    return _least([asyncio.run(_measured_patterns(count, events)) for _ in range(rounds)])


def run_events(deliveries: int | None = None, *, patterns: int = PATTERNS, rounds: int = _ROUNDS) -> list[Result]:
    """One result: ours, the others', and the ratios, each the best of some rounds. A further section only adds to it."""
    count = DELIVERIES if deliveries is None else deliveries
    sections: Sequence[Callable[[], Result]] = (
        lambda: measure_broadcast(count, rounds),
        lambda: measure_bridge(count, rounds),
        lambda: measure_latency(max(count // 20, 50), rounds),
        lambda: measure_patterns(patterns, max(count // 10, 50), rounds),
    )
    result: Result = {"bench": "events", "deliveries": count, "bound": BOUND, **machine(), **event_peers.versions()}
    for section in sections:
        result |= section()
    return [{**result, "load": load()}]
