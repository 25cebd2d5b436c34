"""Owns `Watch`: the newest value, for whoever wants to know when it changes.
It must never make a sender wait, or keep a value that has been replaced.
"""

from __future__ import annotations

from threading import Lock
from typing import Generic, Self, TypeVar

from spellwork.clock import Duration
from spellwork.errors import ChannelClosed, ChannelEmpty
from spellwork.events.channel.operation import Receive, settled, settled_sync
from spellwork.events.nothing import NOTHING, NoItem
from spellwork.events.waiter import Waiter

T = TypeVar("T")


class Watch(Generic[T]):
    """A value that is replaced, by tasks and threads; each `watcher` sees the newest one it has not seen, and may miss others."""

    def __init__(self, initial: T) -> None:
        self._lock = Lock()
        self._state: tuple[int, T] = (0, initial)
        self._closed = False
        self._waiting: list[Waiter] = []

    @property
    def value(self) -> T:
        """The newest one."""
        return self._state[1]

    def send(self, value: T) -> None:
        """Replace the value, from a task or any thread."""
        with self._lock:
            if self._closed:
                raise ChannelClosed("nothing was sent: the watch is closed", channel=self)
            self._state = (self._state[0] + 1, value)
            self._wake()

    def watcher(self) -> Watcher[T]:
        """A receiver of changes from now on; the value at this moment counts as seen."""
        return Watcher(self)

    def close(self) -> None:
        """Let nothing in any more; watchers get the last value, if they have not, and then `ChannelClosed`."""
        with self._lock:
            self._closed = True
            self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.wake()


class Watcher(Generic[T]):
    """One who watches; `async for value in watch.watcher()` ends when the watch is closed."""

    def __init__(self, watch: Watch[T]) -> None:
        self._watch = watch
        self._seen = watch._state[0]

    async def recv(self) -> T:
        """Wait for a value that this watcher has not seen."""
        operation = Receive(self)
        await settled([operation], range)
        value: T = operation.value
        return value

    def recv_sync(self, timeout: Duration | None = None) -> T:
        """The same for a thread, which it blocks; after `timeout` real seconds raises `ChannelTimeout`."""
        operation = Receive(self)
        settled_sync([operation], range, timeout)
        value: T = operation.value
        return value

    def recv_nowait(self) -> T:
        """The newest value, if this watcher has not seen it: else `ChannelEmpty`."""
        value = self.take()
        if value is NOTHING:
            raise ChannelEmpty("the value has not changed; `recv` waits for that, and `watch.value` is the newest one")
        return value

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        try:
            return await self.recv()
        except ChannelClosed:
            raise StopAsyncIteration from None

    def take(self) -> T | NoItem:
        """See `Receivable`."""
        watch = self._watch
        with watch._lock:
            version, value = watch._state
            if version != self._seen:
                self._seen = version
                return value
            if watch._closed:
                raise ChannelClosed("the watch is closed, and its last value has been received", channel=self)
            return NOTHING

    def enlist_receiver(self, waiter: Waiter, *, first: bool) -> bool:  # noqa: ARG002 - all are woken
        """See `Receivable`."""
        watch = self._watch
        with watch._lock:
            if watch._closed or watch._state[0] != self._seen:
                return False
            watch._waiting.append(waiter)
            return True

    def delist(self, waiter: Waiter) -> None:
        """See `Receivable`."""
        with self._watch._lock:
            if waiter in self._watch._waiting:
                self._watch._waiting.remove(waiter)

    def nudge(self) -> None:
        """See `Receivable`. A change wakes all, so none has waited in another one's place."""


def watch(initial: T) -> Watch[T]:
    """A value to watch."""
    return Watch(initial)
