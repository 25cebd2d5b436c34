"""Owns how an item gets into all the rings it belongs to, at once or not at all, and how publishers wait for room there.
It must never put it into some of them and then wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import RLock
from time import monotonic
from typing import TypeVar

from spellwork.clock import Duration, seconds
from spellwork.errors import ChannelFull, ChannelTimeout
from spellwork.events.limits import not_negative
from spellwork.events.ring import Ring
from spellwork.events.waiter import TaskWaiter, ThreadWaiter, Waiter

T = TypeVar("T")


def hand_over(lock: RLock, rings: Sequence[Ring[T]], item: T) -> Ring[T] | None:
    """Put it into all; or into none, and return the first that has no room. Raises `ChannelClosed`."""
    if len(rings) == 1 and rings[0].put(item):
        return None
    with lock:
        for ring in rings:
            base, items = ring.window
            if base + len(items) >= ring.mark and not ring.has_room():
                return ring
        for ring in rings:
            ring.append(item)
    return None


def hand_over_now(lock: RLock, rings: Sequence[Ring[T]], item: T) -> None:
    """Put it into all, or raise `ChannelFull`."""
    if hand_over(lock, rings, item) is not None:
        raise ChannelFull("nothing was published: a subscriber with overflow='block' has no room; `publish` waits for some")


async def hand_over_later(lock: RLock, rings: Callable[[], Sequence[Ring[T]]], item: T, full: Ring[T]) -> None:
    """Wait until all have room, whoever they are by then. Cancelled, it has put it nowhere."""
    ring: Ring[T] | None = full
    while ring is not None:
        waiter = TaskWaiter()
        if _wait(ring, waiter):
            try:
                await waiter.sleep()
            except BaseException:
                _give_up(ring, waiter)
                raise
        ring = _again(lock, rings(), item, ring)


def hand_over_sync(lock: RLock, rings: Callable[[], Sequence[Ring[T]]], item: T, timeout: Duration | None) -> None:
    """Block the thread until all have room, at most `timeout`."""
    until = None if timeout is None else monotonic() + not_negative("timeout", timeout)
    ring = hand_over(lock, rings(), item)
    while ring is not None:
        waiter = ThreadWaiter()
        late = True  # also for an interrupt, which may come in the middle of queueing
        try:
            late = _wait(ring, waiter) and not waiter.sleep(None if until is None else until - monotonic())
        finally:
            if late:
                _give_up(ring, waiter)
        ring = _again(lock, rings(), item, ring)
        if ring is not None and late:
            raise ChannelTimeout(f"nothing was published: no room within {timeout} s", seconds=seconds(timeout or 0))


def _again(lock: RLock, rings: Sequence[Ring[T]], item: T, before: Ring[T]) -> Ring[T] | None:
    ring = hand_over(lock, rings, item)
    with lock:
        before.room_freed()  # there may be room for more than this one
    return ring


def _wait(ring: Ring[T], waiter: Waiter) -> bool:
    with ring.lock:
        waits = ring.wait_for_room(waiter)
    return waits  # noqa: RET504 - returned from within the `with`, the lock would seem kept to who traces instructions


def _give_up(ring: Ring[T], waiter: Waiter) -> None:
    with ring.lock:
        if waiter in ring.waiting:
            ring.waiting.remove(waiter)
        ring.room_freed()  # it may have been woken in place of another one
