"""Owns what the events are measured against: asyncio's own queues, and the libraries that happen to be installed.
It must never be needed: a library that is missing is left out, and said to be.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import threading
import time
from collections.abc import AsyncIterable, Awaitable, Callable
from typing import Any

from spellwork.bench.conditions import Result

PACKAGES = ("anyio", "blinker", "janus", "pyee")
Fan = Callable[[int, int], Awaitable[float]]
Bridge = Callable[[int], Any]


def versions() -> Result:
    """The version of each library, or that it is not installed."""
    found: Result = {}
    for name in PACKAGES:
        there = _library(name) is not None
        found[f"{name}_version"] = importlib.metadata.version(name) if there else "not installed"
    return found


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def fans(bound: int) -> dict[str, Fan]:
    """Ways to give each item to many; functions are called at once, and hold no item at all."""
    ways: dict[str, Fan] = {"asyncio_queue": lambda subscribers, items: _queues(bound, subscribers, items)}
    if (anyio := _library("anyio")) is not None:
        ways["anyio"] = lambda subscribers, items: _anyio(anyio, bound, subscribers, items)
    if (pyee := _library("pyee")) is not None:
        ways["pyee"] = lambda subscribers, items: _pyee(pyee, subscribers, items)
    if (blinker := _library("blinker")) is not None:
        ways["blinker"] = lambda subscribers, items: _blinker(blinker, subscribers, items)
    return ways


async def _queues(bound: int, subscribers: int, items: int) -> float:
    queues = [asyncio.Queue[int](bound) for _ in range(subscribers)]

    async def follow(queue: asyncio.Queue[int]) -> None:
        for _ in range(items):
            await queue.get()

    followers = [asyncio.create_task(follow(queue)) for queue in queues]
    await asyncio.sleep(0)
    began = time.perf_counter()
    for number in range(items):
        for queue in queues:
            await queue.put(number)
    await asyncio.gather(*followers)
    return time.perf_counter() - began


async def _anyio(anyio: Any, bound: int, subscribers: int, items: int) -> float:
    ends = [anyio.create_memory_object_stream(bound) for _ in range(subscribers)]

    async def follow(end: Any) -> None:
        async with end:
            left = items
            async for _ in end:
                left -= 1
                if not left:
                    break

    followers = [asyncio.create_task(follow(receive)) for _, receive in ends]
    await asyncio.sleep(0)
    began = time.perf_counter()
    for number in range(items):
        for send, _ in ends:
            await send.send(number)
    await asyncio.gather(*followers)
    seconds = time.perf_counter() - began
    for send, _ in ends:
        send.close()
    return seconds


def _counters(subscribers: int) -> tuple[list[int], list[Callable[..., None]]]:
    counts = [0] * subscribers

    def counter(place: int) -> Callable[..., None]:
        def count(_payload: object, **_more: object) -> None:
            counts[place] += 1

        return count

    return counts, [counter(place) for place in range(subscribers)]


async def _pyee(pyee: Any, subscribers: int, items: int) -> float:
    emitter = pyee.EventEmitter()
    _, counters = _counters(subscribers)
    for count in counters:
        emitter.on("tick", count)
    began = time.perf_counter()
    for number in range(items):
        emitter.emit("tick", number)
    return time.perf_counter() - began


async def _blinker(blinker: Any, subscribers: int, items: int) -> float:
    signal = blinker.Signal()
    _, counters = _counters(subscribers)
    for count in counters:
        signal.connect(count, weak=False)
    began = time.perf_counter()
    for number in range(items):
        signal.send(None, number=number)
    return time.perf_counter() - began


async def drained(feed: Callable[[], None], items: AsyncIterable[int]) -> float:
    """The seconds in which a thread feeds what a task reads, to its end."""
    thread = threading.Thread(target=feed)
    began = time.perf_counter()
    thread.start()
    async for _ in items:
        pass
    seconds = time.perf_counter() - began
    thread.join()
    return seconds


def bridges(bound: int) -> dict[str, Bridge]:
    """Ways from a thread to a task."""
    ways: dict[str, Bridge] = {"call_soon_threadsafe_": _called}
    if (janus := _library("janus")) is not None:
        ways["janus_"] = lambda items: _janus(janus, bound, items)
    return ways


async def _called(items: int) -> float:
    # What is written without a library; nothing bounds it.
    queue, loop = asyncio.Queue[int](), asyncio.get_running_loop()

    def feed() -> None:
        for number in range(items):
            loop.call_soon_threadsafe(queue.put_nowait, number)

    thread = threading.Thread(target=feed)
    began = time.perf_counter()
    thread.start()
    for _ in range(items):
        await queue.get()
    seconds = time.perf_counter() - began
    thread.join()
    return seconds


async def _janus(janus: Any, bound: int, items: int) -> float:
    queue = janus.Queue(bound)

    def feed() -> None:
        for number in range(items):
            queue.sync_q.put(number)

    thread = threading.Thread(target=feed)
    began = time.perf_counter()
    thread.start()
    for _ in range(items):
        await queue.async_q.get()
    seconds = time.perf_counter() - began
    thread.join()
    await queue.aclose()
    return seconds
