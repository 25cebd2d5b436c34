"""Owns the queues at contended keys: who lost at one gets its turn there before it tries again.
It must never make anybody wait who holds a turn already, nor wait for ever.
"""

from __future__ import annotations

import asyncio
import collections
from types import TracebackType
from typing import Self

from spellwork.clock import Clock

_LONGEST_WAIT = 1.0


class Turns:
    """Who is at which key. A key is in `_queues` while somebody has its turn."""

    def __init__(self, clock: Clock):
        self._clock = clock
        self._queues: dict[bytes, collections.deque[asyncio.Future[bool]]] = {}

    def are_taken(self, key: bytes) -> bool:
        """Whether somebody has the turn at this key."""
        return key in self._queues

    async def take(self, key: bytes) -> bool:
        """Wait for the turn at a key, at most a second: whoever has it may itself wait for this caller. Whether it was got."""
        queue = self._queues.get(key)
        if queue is None:
            self._queues[key] = collections.deque()
            return True
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        queue.append(future)
        timer = self._clock.call_later(_LONGEST_WAIT, lambda: _settle(future, got=False))
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.result():
                self.give(key)  # the turn came at the moment of the cancellation
            raise
        finally:
            timer.cancel()

    def give(self, key: bytes) -> None:
        """Hand the turn to who waits longest."""
        queue = self._queues[key]
        while queue:
            future = queue.popleft()
            if not future.done():
                future.set_result(True)
                return
        del self._queues[key]


def _settle(future: asyncio.Future[bool], *, got: bool) -> None:
    if not future.done():
        future.set_result(got)


class Turn:
    """At most one turn, held from when it is taken to the end of the block."""

    def __init__(self, turns: Turns):
        self._turns = turns
        self._held: bytes | None = None

    async def join(self, key: bytes) -> None:
        """Take the turn at a key if there is a queue; called by who holds nothing."""
        if self._held is None and self._turns.are_taken(key):
            await self.move(key)

    async def move(self, key: bytes) -> None:
        """Hold the turn at this key and at no other."""
        if self._held != key:
            self._leave()
            if await self._turns.take(key):
                self._held = key

    def _leave(self) -> None:
        if self._held is not None:
            held, self._held = self._held, None
            self._turns.give(held)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave()
