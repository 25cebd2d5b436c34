"""Owns `Rendezvous`: a channel without room, where a sender waits until a receiver takes the item out of its hands.
It must never hold an item of a sender that does not wait any more.
"""

from __future__ import annotations

from collections import deque
from typing import Any, TypeVar

from spellwork.errors import ChannelClosed
from spellwork.events.channel.channel import Channel, enlist
from spellwork.events.channel.operation import Send
from spellwork.events.nothing import NOTHING, NoItem
from spellwork.events.waiter import Waiter

T = TypeVar("T")


class Rendezvous(Channel[T]):
    """A channel of size 0: when `send` returns, a receiver has the item.

    Only a sender that waits can be taken from, so `send_nowait`, and `send` beside `default` in a `select`, never succeed here. A
    `send` that is cancelled in the very moment in which its item is taken raises CancelledError although it was.
    """

    def __init__(self) -> None:
        super().__init__(0)
        self._offers: deque[tuple[Waiter, Send]] = deque()

    def put(self, entry: Any) -> bool:  # noqa: ARG002 - the item stays with its sender
        """See `Sendable`."""
        self._check_open()
        return False

    def take(self) -> T | NoItem:
        """See `Receivable`."""
        with self._lock:
            while self._offers:
                waiter, operation = self._offers.popleft()
                if not waiter.claim():
                    continue
                operation.taken = True  # before the sender can wake up and look
                if waiter.notify():
                    item: T = operation.entry
                    return item
                operation.taken = False
            if self._closed:
                raise ChannelClosed("the channel is closed, and nobody offers anything", channel=self)
            return NOTHING

    def enlist_receiver(self, waiter: Waiter, *, first: bool) -> bool:
        """See `Receivable`."""
        with self._lock:
            # In a `select` that also sends here, its own offer is none.
            if self._closed or any(other is not waiter for other, _ in self._offers):
                return False
            enlist(self._receivers, waiter, first)
            return True

    def enlist_sender(self, waiter: Waiter, operation: Send, *, first: bool) -> bool:
        """See `Sendable`."""
        with self._lock:
            if self._closed:
                return False
            if first:
                self._offers.appendleft((waiter, operation))
            else:
                self._offers.append((waiter, operation))
            self._call_receiver()
            return True

    def delist(self, waiter: Waiter) -> None:
        """See `Receivable`."""
        super().delist(waiter)
        with self._lock:
            for offer in [offer for offer in self._offers if offer[0] is waiter]:
                self._offers.remove(offer)

    def nudge(self) -> None:
        """See `Receivable`."""
        with self._lock:
            self._call_receiver()

    def __len__(self) -> int:
        return len(self._offers)

    def _call_receiver(self) -> None:
        # A receiver that is itself the only one to offer something would wake up for nothing, again and again.
        passed: list[Waiter] = []
        while self._offers and self._receivers:
            receiver = self._receivers.popleft()
            if all(receiver is waiter for waiter, _ in self._offers):
                passed.append(receiver)
            elif receiver.wake():
                break
        self._receivers.extendleft(reversed(passed))

    def _wake_everybody(self) -> None:
        super()._wake_everybody()
        while self._offers:
            self._offers.popleft()[0].wake()


def rendezvous() -> Rendezvous[Any]:
    """A channel without room: senders wait until their item is received."""
    return Rendezvous()
