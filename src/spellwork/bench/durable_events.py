"""Owns the figures of durable topics: events a second that are published, read and acknowledged, beside what the store alone does.
It must never measure with less than full durability.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from spellwork.bench.conditions import Result, load, machine, scratch
from spellwork.events.durable import DurableTopic, open_topics
from spellwork.events.durable.record import pack_record
from spellwork.store import Batch, Store

EVENTS = 30_000
_SINGLES = 1_000
_ROUNDS = 3
_KEYS = [f"customer-{n}" for n in range(10)]


class _Order(msgspec.Struct):
    order: int
    customer: str
    total: float
    text: str


_PAYLOAD = _Order(4711, "ada", 12.5, "x" * 50)


def durable(events: int | None = None) -> list[Result]:
    """Publishing one after the other (beside single commits of the store), by 1,000 at once and in batches; reading; a group.

    Single publishes take turns with plain commits of one row, and of the rows that a publish writes, so that all meet the same
    disk; every other figure is the best of three.
    """
    count = events or EVENTS
    with scratch() as folder:
        figures = asyncio.run(_measure(f"sqlite:{folder}/events.db", count))
    return [{"bench": "durable events", **figures, "durability": "full", "events": count, **machine(), "load": load()}]


async def _measure(url: str, count: int) -> Result:
    async with open_topics(url, sweep_every=None) as topics:
        topic = await topics.topic("orders", type=_Order)
        figures = await _singly(topic, topics.store, min(_SINGLES, count))
        before = topics.store.stats.syncs
        for many in (100, 1_000):
            figures[f"by_{many}_per_second"] = await _best(count, lambda many=many: _at_once(topic, count, many))  # type: ignore[misc]
        figures["syncs"] = topics.store.stats.syncs - before
        figures["in_batches_per_second"] = await _best(count, lambda: _in_batches(topic, count))
        figures["read_per_second"] = await _best(count, lambda: _read(topic, count))
        figures["acknowledged_per_second"] = await _best(count, lambda: _acknowledge(topic, count), rounds=1)
    return figures


async def _best(count: int, work: Callable[[], Awaitable[None]], rounds: int = _ROUNDS) -> float:
    best = 0.0
    for _ in range(rounds):
        began = time.perf_counter()
        await work()
        best = max(best, count / (time.perf_counter() - began))
    return best


async def _singly(topic: DurableTopic[Any], store: Store, count: int) -> Result:
    record = pack_record(topic.record(_PAYLOAD, key="ada"))

    async def publish(_: bytes) -> None:
        await topic.publish(_PAYLOAD, key="ada")

    async def one_row(number: bytes) -> None:
        await store.commit(Batch().put(b"\x3fraw" + number, record))

    async def same_rows(number: bytes) -> None:
        await store.commit(Batch().put(b"\x3fsame" + number, record).put(b"\x3ftold", number))

    ways = (publish, one_row, same_rows)
    seconds = dict.fromkeys(ways, 0.0)
    for n in range(count):
        for way in ways[n % 3 :] + ways[: n % 3]:  # none of them always behind the same one
            began = time.perf_counter()
            await way(n.to_bytes(8, "big"))
            seconds[way] += time.perf_counter() - began
    return {
        "single_per_second": count / seconds[publish],
        "raw_commits_per_second": count / seconds[one_row],
        "raw_commits_of_the_same_rows_per_second": count / seconds[same_rows],
        "single_to_raw": seconds[one_row] / seconds[publish],
        "single_to_raw_of_the_same_rows": seconds[same_rows] / seconds[publish],
    }


async def _at_once(topic: DurableTopic[Any], count: int, many: int) -> None:
    async def publisher(key: str) -> None:
        for _ in range(count // many):
            await topic.publish(_PAYLOAD, key=key)

    await asyncio.gather(*(publisher(_KEYS[n % len(_KEYS)]) for n in range(many)))


async def _in_batches(topic: DurableTopic[Any], count: int) -> None:
    payloads = [_PAYLOAD] * 1_000
    for _ in range(count // 1_000):
        await topic.publish_many(payloads)


async def _read(topic: DurableTopic[Any], count: int) -> None:
    seen = 0
    async for _ in topic.read(follow=False):
        seen += 1
        if seen == count:
            return


async def _acknowledge(topic: DurableTopic[Any], count: int) -> None:
    seen = 0
    async with topic.consume("bench", in_flight=1_000, ack_within=0.05) as consumer:
        async for delivery in consumer:
            await delivery.ack()
            seen += 1
            if seen == count:
                return
