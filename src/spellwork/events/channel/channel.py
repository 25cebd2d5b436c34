"""Owns `Channel`: items from any number of senders to any number of receivers, in order, each to one of them.
It must never lose an item because a receiver was cancelled, or send one although its sender was.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Iterator
from threading import Lock
from typing import Any, Generic, Self, TypeVar

from spellwork.clock import Duration
from spellwork.errors import ChannelClosed, ChannelEmpty, ChannelFull, UsageError
from spellwork.events.channel.operation import Receive, Send, settled, settled_sync
from spellwork.events.limits import whole
from spellwork.events.nothing import NOTHING, NoItem
from spellwork.events.waiter import Waiter

T = TypeVar("T")


class Channel(Generic[T]):
    """Items from tasks and threads to tasks and threads; made by `bounded`, `unbounded` and their like.

    The plain methods are for tasks, those with `_sync` block a thread (with a `timeout` in real seconds), those with `_nowait` are
    for both. When the channel is closed, receivers get what is in it and then `ChannelClosed`, senders get that at once, and
    `async for` and `iterate_sync` end. A cancelled `send` has sent nothing, and a cancelled `recv` has taken nothing.

    It may not be used from a signal handler or a finalizer (`__del__`): they could interrupt it while it holds its lock.
    """

    def __init__(self, size: float) -> None:
        self._size = size
        # Receivers pop without the lock, which is why who waits looks once more after it is to be seen.
        self._items: deque[T] = deque()
        self._lock = Lock()
        self._closed = self._threaded = False
        self._receivers: deque[Waiter] = deque()
        self._senders: deque[Waiter] = deque()

    async def send(self, item: T) -> None:
        """Send; waits for room."""
        with self._lock:
            if len(self._items) < self._size and not self._closed:
                self._items.append(item)
                if self._receivers:
                    wake_one(self._receivers)
                return
        await settled([Send(self, item)], range)

    def send_nowait(self, item: T) -> None:
        """Send, or raise `ChannelFull`."""
        if not self.put(self.entry(item, None)):
            self._refuse()

    def send_sync(self, item: T, timeout: Duration | None = None) -> None:
        """Send, and block the thread until there is room."""
        self._threaded = True
        with self._lock:
            if len(self._items) < self._size and not self._closed:
                self._items.append(item)
                if self._receivers:
                    wake_one(self._receivers)
                return
        settled_sync([Send(self, self.entry(item, None))], range, timeout)

    async def recv(self) -> T:
        """Wait for the next item."""
        item = self.take()
        if item is NOTHING and self._threaded:
            # A thread that has just woken this task would wake it for each item anew. One turn of the loop gives up the lock of the
            # interpreter, and the thread goes on until it has no room or its time is over.
            await asyncio.sleep(0)
            item = self.take()
        if item is not NOTHING:
            return item
        operation = Receive(self)
        await settled([operation], range)
        later: T = operation.value
        return later

    def recv_nowait(self) -> T:
        """The next item, or `ChannelEmpty`."""
        item = self.take()
        if item is NOTHING:
            raise ChannelEmpty("the channel holds no item now; `recv` waits for one")
        return item

    def recv_sync(self, timeout: Duration | None = None) -> T:
        """Block the thread until there is an item."""
        operation = Receive(self)
        settled_sync([operation], range, timeout)
        item: T = operation.value
        return item

    async def recv_many(self, most: int) -> list[T]:
        """Wait for an item, and take up to `most` that are there."""
        whole("most", most, 1)
        items = [await self.recv()]
        while len(items) < most and (item := self._take_open()) is not NOTHING:
            items.append(item)
        return items

    def close(self) -> None:
        """Let nothing in any more. A second call does nothing."""
        with self._lock:
            self._closed = True
            self._wake_everybody()

    @property
    def closed(self) -> bool:
        """Whether it is; there may be items in it still."""
        return self._closed

    def __len__(self) -> int:
        return len(self._items)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        items = self._items
        if items:
            try:
                item = items.popleft()
            except IndexError:  # another thread was faster
                pass
            else:
                if self._senders:
                    self.nudge()
                return item
        try:
            return await self.recv()
        except ChannelClosed:
            raise StopAsyncIteration from None

    def iterate_sync(self) -> Iterator[T]:
        """The items, for a thread, until the channel is closed and empty."""
        while True:
            try:
                item = self.recv_sync()
            except ChannelClosed:
                return
            yield item

    # What follows is what `select` and waiting need.

    def entry(self, item: T, priority: int | None) -> Any:
        """See `Sendable`."""
        if priority is not None:
            raise UsageError("this channel has no priorities; `priority(levels)` makes one that has")
        return item

    def put(self, entry: Any) -> bool:
        """See `Sendable`."""
        with self._lock:
            self._check_open()
            if len(self._items) >= self._size:
                return False
            self._items.append(entry)
            if self._receivers:
                wake_one(self._receivers)
            return True

    def take(self) -> T | NoItem:
        """See `Receivable`."""
        try:
            item = self._items.popleft()
        except IndexError:
            if self._closed and not self._items:  # nothing comes in after it is closed, so this look is the last
                raise ChannelClosed("the channel is closed, and what was in it has been received", channel=self) from None
            return NOTHING
        if self._senders:
            self.nudge()
        return item

    def enlist_receiver(self, waiter: Waiter, *, first: bool) -> bool:
        """See `Receivable`."""
        with self._lock:
            if self._items or self._closed:
                return False
            enlist(self._receivers, waiter, first)
            return True

    def enlist_sender(self, waiter: Waiter, operation: Send, *, first: bool) -> bool:  # noqa: ARG002 - a rendezvous needs it
        """See `Sendable`."""
        with self._lock:
            enlist(self._senders, waiter, first)
            if len(self._items) >= self._size and not self._closed:
                return True
            self._senders.remove(waiter)
            return False

    def delist(self, waiter: Waiter) -> None:
        """See `Receivable`."""
        with self._lock:
            for waiting in (self._receivers, self._senders):
                while waiter in waiting:
                    waiting.remove(waiter)

    def nudge(self) -> None:
        """See `Receivable`."""
        with self._lock:
            if self._items and self._receivers:
                wake_one(self._receivers)
            if self._senders and len(self._items) < self._size:
                wake_one(self._senders)

    def _take_open(self) -> T | NoItem:
        try:
            return self.take()
        except ChannelClosed:
            return NOTHING

    def _wake_everybody(self) -> None:
        for waiting in (self._receivers, self._senders):
            while waiting:
                waiting.popleft().wake()

    def _check_open(self) -> None:
        if self._closed:
            raise ChannelClosed("nothing was sent: the channel is closed", channel=self)

    def _refuse(self) -> None:
        raise ChannelFull("nothing was sent: the channel has no room now; `send` waits for some")


class Oneshot(Channel[T]):
    """One item, once: sending it closes the channel, and `send` never waits."""

    def __init__(self) -> None:
        super().__init__(0)  # so that only `put` lets anything in

    def put(self, entry: Any) -> bool:
        """See `Sendable`."""
        with self._lock:
            self._check_open()
            self._items.append(entry)
            self._closed = True
            self._wake_everybody()
            return True


def bounded(size: int) -> Channel[Any]:
    """Make a channel with room for `size` items; say what it carries by an annotation, `numbers: Channel[int]`."""
    return Channel(whole("size", size, 1))


def unbounded() -> Channel[Any]:
    """A channel whose senders never wait; it holds whatever has not been received."""
    return Channel(math.inf)


def oneshot() -> Oneshot[Any]:
    """A channel for one item."""
    return Oneshot()


def enlist(waiting: deque[Waiter], waiter: Waiter, first: bool) -> None:
    """Put a waiter on a list, at its end or before all others."""
    if first:
        waiting.appendleft(waiter)
    else:
        waiting.append(waiter)


def wake_one(waiting: deque[Waiter]) -> None:
    """Wake the first that can be woken."""
    while waiting:
        if waiting.popleft().wake():
            return
