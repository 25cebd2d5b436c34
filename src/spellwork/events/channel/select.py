"""Owns `select`: wait for one of several channels or for time, do one thing and leave the others as they are.
It must never prefer an operation to another because of its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from spellwork.clock import Cancellable, Clock, Duration, SystemClock
from spellwork.errors import UsageError
from spellwork.events.channel.operation import Operation, Receivable, Receive, Send, Sendable, settled, settled_sync
from spellwork.events.limits import not_negative
from spellwork.events.waiter import Waiter


@dataclass(frozen=True, slots=True)
class Selected:
    """What `select` did: the operation's place among its arguments, and what was received (None unless it was `recv`)."""

    index: int
    value: Any


class After:
    """Some seconds pass, counted from when `select` begins to wait."""

    def __init__(self, seconds: Duration) -> None:
        self.seconds = not_negative("seconds", seconds)


class Default:
    """Nothing else can be done at once."""


default = Default()


def recv(channel: Receivable[Any]) -> Receive[Any]:
    """In a `select`: receive from a channel, a watcher or a subscription."""
    return Receive(channel)


def send(channel: Sendable, item: Any, priority: int | None = None) -> Send:
    """In a `select`: send to a channel."""
    return Send(channel, channel.entry(item, priority))


def after(seconds: Duration) -> After:
    """In a `select`: that much time has passed (0: not even a moment). Of tasks on the clock, of threads in reality."""
    return After(seconds)


async def select(*operations: Operation | After | Default, clock: Clock | None = None) -> Selected:
    """Do one of the operations, as soon as one is possible; if several are, any of them with the same chance.

    With `default` among them it does not wait. The chance is drawn from the clock's randomness, so that a virtual clock with a seed
    repeats it. Raises `ChannelClosed`, whose `channel` says which, when a channel to receive from is closed and empty, or one to
    send to is closed. Cancelled, it has done nothing.
    """
    chosen = _Choice(operations, clock or SystemClock(), threaded=False)
    if (at_once := chosen.at_once()) is not None:
        return at_once
    return chosen.selected(await settled(chosen.all, chosen.order))


def select_sync(*operations: Operation | After | Default, clock: Clock | None = None) -> Selected:
    """The same for a thread, which it blocks."""
    chosen = _Choice(operations, clock or SystemClock(), threaded=True)
    if (at_once := chosen.at_once()) is not None:
        return at_once
    return chosen.selected(settled_sync(chosen.all, chosen.order))


class _Choice:
    """The operations of one `select`, without `default`, and their places among its arguments."""

    def __init__(self, given: Sequence[Operation | After | Default], clock: Clock, *, threaded: bool) -> None:
        self._clock = clock
        self._default = next((place for place, each in enumerate(given) if isinstance(each, Default)), None)
        self._places = [place for place, each in enumerate(given) if not isinstance(each, Default)]
        self.all: list[Operation] = []
        for each in given:
            if isinstance(each, After):
                self.all.append(_Timer(each.seconds, clock, threaded=threaded))
            elif isinstance(each, Receive | Send):
                self.all.append(each)
            elif not isinstance(each, Default):
                raise UsageError(f"select takes recv(...), send(...), after(...) and default, not {each!r}")
        if not given:
            raise UsageError("select needs something to wait for")

    def order(self, count: int) -> Sequence[int]:
        """All permutations are equally likely."""
        if count == 1:
            return (0,)
        order = list(range(count))
        drawn = int.from_bytes(self._clock.entropy(8), "big")
        for place in range(count - 1, 0, -1):
            drawn, other = divmod(drawn, place + 1)
            order[place], order[other] = order[other], order[place]
        return order

    def at_once(self) -> Selected | None:
        """With `default`: what can be done without waiting, else the default itself."""
        if self._default is None:
            return None
        for index in self.order(len(self.all)):
            if self.all[index].attempt():
                return self.selected(index)
        return Selected(self._default, None)

    def selected(self, index: int) -> Selected:
        """The answer."""
        return Selected(self._places[index], self.all[index].value)


class _Timer:
    """Is possible from some moment on."""

    taken = False
    value = None

    def __init__(self, seconds: float, clock: Clock, *, threaded: bool) -> None:
        self._clock = clock
        self._now = monotonic if threaded else clock.monotonic
        self._threaded = threaded
        self._due = self._now() + seconds
        self._call: Cancellable | None = None

    def attempt(self) -> bool:
        """Whether the moment has come."""
        return self._now() >= self._due

    def enlist(self, waiter: Waiter, *, first: bool) -> bool:  # noqa: ARG002 - there is no queue for a moment
        """Wake `waiter` then."""
        if not self._threaded:

            def wake() -> None:
                waiter.wake()

            self._call = self._clock.call_later(max(self._due - self._now(), 0.0), wake)
        return True

    def delist(self, waiter: Waiter) -> None:  # noqa: ARG002 - it is the only one
        """Do not."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def nudge(self) -> None:
        """Nobody else waits for it."""

    def due(self) -> float | None:
        """When a thread has to look again."""
        return self._due if self._threaded else None
