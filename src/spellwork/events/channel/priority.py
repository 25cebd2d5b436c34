"""Owns `PriorityChannel`: a channel with levels, the lower ones first.
It must never let a level wait without end, however much comes on the others.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Any, TypeVar

from spellwork.clock import Duration
from spellwork.errors import ChannelClosed, DefinitionError, UsageError
from spellwork.events.channel.channel import Channel, enlist, wake_one
from spellwork.events.channel.operation import Send, settled, settled_sync
from spellwork.events.limits import whole
from spellwork.events.nothing import NOTHING, NoItem
from spellwork.events.waiter import Waiter

T = TypeVar("T")


class _Level:
    def __init__(self, number: int) -> None:
        self.number = number
        self.items: deque[Any] = deque()
        self.senders: deque[Waiter] = deque()
        self.passed_over = 0  # how many items of other levels were received since one of this, while it had some


class PriorityChannel(Channel[T]):
    """A channel whose items have priorities, each one of its `levels`; a lower number is received first, a level in its order.

    No level starves: one that was passed over `patience` times goes next, if several were, the one that was longest. So nothing at
    the head of its level waits for more than `patience` plus the number of levels other items. Each level has room for `size`
    items of its own, so that a flood of unimportant ones does not keep urgent ones out.
    """

    def __init__(self, levels: Iterable[int], size: int | None, patience: int) -> None:
        super().__init__(0)  # so that only `put` lets anything in
        numbers = sorted(set(levels))
        if not numbers or not all(type(number) is int for number in numbers):
            raise DefinitionError("levels must be one whole number at least, such as (10, 100, 1000)")
        self._levels = {number: _Level(number) for number in numbers}
        self._room = math.inf if size is None else whole("size", size, 1)
        self._patience = whole("patience", patience, 1)
        self._count = 0

    async def send(self, item: T, priority: int | None = None) -> None:
        """Send; waits for room in its level, by default the least urgent one."""
        entry = self.entry(item, priority)
        if not self.put(entry):
            await settled([Send(self, entry)], range)

    def send_nowait(self, item: T, priority: int | None = None) -> None:
        """Send, or raise `ChannelFull`."""
        if not self.put(self.entry(item, priority)):
            self._refuse()

    def send_sync(self, item: T, timeout: Duration | None = None, priority: int | None = None) -> None:
        """Send, and block the thread until there is room."""
        settled_sync([Send(self, self.entry(item, priority))], range, timeout)

    async def __anext__(self) -> T:
        try:
            return await self.recv()
        except ChannelClosed:
            raise StopAsyncIteration from None

    def entry(self, item: T, priority: int | None) -> Any:
        """See `Sendable`."""
        level = max(self._levels) if priority is None else priority
        if level not in self._levels:
            raise UsageError(f"priority is {priority!r}, but this channel has the levels {', '.join(map(str, self._levels))}")
        return self._levels[level], item

    def put(self, entry: Any) -> bool:
        """See `Sendable`."""
        level, item = entry
        with self._lock:
            self._check_open()
            if len(level.items) >= self._room:
                return False
            level.items.append(item)
            self._count += 1
            if self._receivers:
                wake_one(self._receivers)
            return True

    def take(self) -> T | NoItem:
        """See `Receivable`."""
        with self._lock:
            filled = [level for level in self._levels.values() if level.items]
            if not filled:
                if self._closed:
                    raise ChannelClosed("the channel is closed, and what was in it has been received", channel=self)
                return NOTHING
            longest = max(filled, key=lambda level: level.passed_over)
            chosen = longest if longest.passed_over >= self._patience else filled[0]
            for level in filled:
                level.passed_over += 1
            chosen.passed_over = 0
            self._count -= 1
            item: T = chosen.items.popleft()
            wake_one(chosen.senders)
            return item

    def enlist_receiver(self, waiter: Waiter, *, first: bool) -> bool:
        """See `Receivable`."""
        with self._lock:
            if self._count or self._closed:
                return False
            enlist(self._receivers, waiter, first)
            return True

    def enlist_sender(self, waiter: Waiter, operation: Send, *, first: bool) -> bool:
        """See `Sendable`."""
        level = operation.entry[0]
        with self._lock:
            if len(level.items) < self._room or self._closed:
                return False
            enlist(level.senders, waiter, first)
            return True

    def delist(self, waiter: Waiter) -> None:
        """See `Receivable`."""
        with self._lock:
            for waiting in (self._receivers, *(level.senders for level in self._levels.values())):
                while waiter in waiting:
                    waiting.remove(waiter)

    def nudge(self) -> None:
        """See `Receivable`."""
        with self._lock:
            if self._count:
                wake_one(self._receivers)
            for level in self._levels.values():
                if len(level.items) < self._room:
                    wake_one(level.senders)

    def __len__(self) -> int:
        return self._count

    def _wake_everybody(self) -> None:
        super()._wake_everybody()
        for level in self._levels.values():
            while level.senders:
                level.senders.popleft().wake()


def priority(levels: Iterable[int] = (10, 100, 1000), size: int | None = None, *, patience: int = 8) -> PriorityChannel[Any]:
    """A channel with priorities: `await jobs.send(job, priority=10)`; `size` is the room of each level."""
    return PriorityChannel(levels, size, patience)
