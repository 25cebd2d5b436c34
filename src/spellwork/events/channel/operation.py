"""Owns what it means to wait for one of several things that may happen in channels, for tasks and for threads.
It must never do two of them, and must never keep to itself a wake-up that another waiter could use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Generic, Protocol, TypeVar

from spellwork.clock import Duration, seconds
from spellwork.errors import ChannelTimeout
from spellwork.events.limits import not_negative
from spellwork.events.nothing import NOTHING, NoItem
from spellwork.events.waiter import TaskWaiter, ThreadWaiter, Waiter

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Receivable(Protocol[T_co]):
    """What can be received from."""

    def take(self) -> T_co | NoItem:
        """An item, if there is one; raises `ChannelClosed` if none can come."""
        ...

    def enlist_receiver(self, waiter: Waiter, *, first: bool) -> bool:
        """Wake `waiter` when there may be an item; False if there may be one now. `first` puts it before all others."""
        ...

    def delist(self, waiter: Waiter) -> None:
        """Do not wake it any more."""
        ...

    def nudge(self) -> None:
        """Wake whoever can go on: a waiter that was woken has not used it."""
        ...


class Sendable(Protocol):
    """What can be sent to."""

    def entry(self, item: Any, priority: int | None) -> Any:
        """What `put` takes."""
        ...

    def put(self, entry: Any) -> bool:
        """Send if there is room; raises `ChannelClosed`."""
        ...

    def enlist_sender(self, waiter: Waiter, operation: Send, *, first: bool) -> bool:
        """Wake `waiter` when there may be room; False if there may be some now."""
        ...

    def delist(self, waiter: Waiter) -> None:
        """Do not wake it any more."""
        ...

    def nudge(self) -> None:
        """Wake whoever can go on."""
        ...


class Operation(Protocol):
    """One of the things waited for. `taken` says that somebody else has done it while its waiter slept."""

    taken: bool

    @property
    def value(self) -> Any:
        """What came of it."""
        ...

    def attempt(self) -> bool:
        """Do it now, if possible."""
        ...

    def enlist(self, waiter: Waiter, *, first: bool) -> bool:
        """Wake `waiter` when it may be possible; False if it may be now."""
        ...

    def delist(self, waiter: Waiter) -> None:
        """Do not wake it any more."""
        ...

    def nudge(self) -> None:
        """Wake another one in place of a waiter that was woken and has not used it."""
        ...

    def due(self) -> float | None:
        """When a thread has to look again, on the system's monotonic clock."""
        ...


class Receive(Generic[T]):
    """Receive from a channel."""

    __slots__ = ("channel", "taken", "value")

    def __init__(self, channel: Receivable[T]) -> None:
        self.channel = channel
        self.taken = False
        self.value: Any = NOTHING

    def attempt(self) -> bool:
        """Take an item."""
        self.value = self.channel.take()
        return self.value is not NOTHING

    def enlist(self, waiter: Waiter, *, first: bool) -> bool:
        """Wait for an item."""
        return self.channel.enlist_receiver(waiter, first=first)

    def delist(self, waiter: Waiter) -> None:
        """Wait no more."""
        self.channel.delist(waiter)

    def nudge(self) -> None:
        """Let another receiver have it."""
        self.channel.nudge()

    def due(self) -> None:
        """No time is set."""
        return


class Send:
    """Send to a channel."""

    __slots__ = ("channel", "entry", "taken", "value")

    def __init__(self, channel: Sendable, entry: Any) -> None:
        self.channel = channel
        self.entry = entry
        self.taken = False
        self.value = None

    def attempt(self) -> bool:
        """Put the item in."""
        return self.channel.put(self.entry)

    def enlist(self, waiter: Waiter, *, first: bool) -> bool:
        """Wait for room, or to be taken from."""
        return self.channel.enlist_sender(waiter, self, first=first)

    def delist(self, waiter: Waiter) -> None:
        """Wait no more."""
        self.channel.delist(waiter)

    def nudge(self) -> None:
        """Let another sender have the room."""
        self.channel.nudge()

    def due(self) -> None:
        """No time is set."""
        return


Order = Callable[[int], Sequence[int]]


async def settled(operations: Sequence[Operation], order: Order) -> int:
    """Wait until one of them is done; its index. Cancelled, none is (but see `Rendezvous`)."""
    again = False
    while True:
        done = _attempted(operations, order, again)
        if done is not None:
            return done
        waiter = TaskWaiter()
        try:
            if _enlisted(operations, waiter, again):
                await waiter.sleep()
        except BaseException:
            _delist(operations, waiter)
            _nudge(operations)
            raise
        if len(operations) > 1:  # else who woke it has taken it off the only list
            _delist(operations, waiter)
        if (taken := _taken(operations)) is not None:
            _nudge(operations)
            return taken
        again = True


def settled_sync(operations: Sequence[Operation], order: Order, timeout: Duration | None = None) -> int:
    """Block the thread until one of them is done; its index. After `timeout` real seconds raises `ChannelTimeout`."""
    until = None if timeout is None else monotonic() + not_negative("timeout", timeout)
    again = False
    while True:
        done = _attempted(operations, order, again)
        if done is not None:
            return done
        waiter = ThreadWaiter()
        try:
            if _enlisted(operations, waiter, again):
                waiter.sleep(_left(operations, until))
        except BaseException:
            _delist(operations, waiter)
            _nudge(operations)
            raise
        _delist(operations, waiter)
        if (taken := _taken(operations)) is not None:
            _nudge(operations)
            return taken
        again = True
        if until is not None and monotonic() >= until:
            done = _attempted(operations, order, again)
            if done is None:
                _nudge(operations)
                raise ChannelTimeout(f"nothing happened within {timeout} s", seconds=seconds(timeout or 0))
            return done


def _left(operations: Sequence[Operation], until: float | None) -> float | None:
    moments = [moment for moment in (until, *(operation.due() for operation in operations)) if moment is not None]
    return min(moments) - monotonic() if moments else None


def _attempted(operations: Sequence[Operation], order: Order, woken: bool) -> int | None:
    # One who was woken may do another thing than the one he was woken for, or find a channel closed.
    try:
        done = next((index for index in order(len(operations)) if operations[index].attempt()), None)
    except BaseException:
        if woken:
            _nudge(operations)
        raise
    if woken and done is not None:
        _nudge(operations)
    return done


def _enlisted(operations: Sequence[Operation], waiter: Waiter, first: bool) -> bool:
    return all(operation.enlist(waiter, first=first) for operation in operations)


def _delist(operations: Sequence[Operation], waiter: Waiter) -> None:
    for operation in operations:
        operation.delist(waiter)


def _taken(operations: Sequence[Operation]) -> int | None:
    return next((index for index, operation in enumerate(operations) if operation.taken), None)


def _nudge(operations: Sequence[Operation]) -> None:
    for operation in operations:
        operation.nudge()
