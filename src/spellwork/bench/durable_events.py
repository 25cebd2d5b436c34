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

    Single publishes and raw commits take turns, so that both meet the same disk; every other figure is the best of three.
    """
    count = events or EVENTS
    with scratch() as folder:
        figures = asyncio.run(_measure(f"sqlite:{folder}/events.db", count))
    return [{"bench": "durable events", **figures, "durability": "full", "events": count, **machine(), "load": load()}]


async def _measure(url: str, count: int) -> Result:
    async with open_topics(url, sweep_every=None) as topics:
        topic = await topics.topic("orders", type=_Order)
        single, raw = await _singly(topic, topics.store, min(_SINGLES, count))
        figures: Result = {"single_per_second": single, "raw_commits_per_second": raw, "single_to_raw": single / raw}
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


async def _singly(topic: DurableTopic[Any], store: Store, count: int) -> tuple[float, float]:
    seconds = [0.0, 0.0]
    value = b"x" * 150
    for n in range(count):
        began = time.perf_counter()
        await topic.publish(_PAYLOAD, key="ada")
        between = time.perf_counter()
        await store.commit(Batch().put(b"\x3fraw" + n.to_bytes(8, "big"), value))
        seconds[0] += between - began
        seconds[1] += time.perf_counter() - between
    return count / seconds[0], count / seconds[1]


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
