"""Owns `Broadcast`: each item to every subscriber, without topics.
It must never copy an item for a subscriber.
"""

from __future__ import annotations

from threading import RLock
from typing import Generic, TypeVar

from spellwork.clock import Duration
from spellwork.errors import ChannelClosed
from spellwork.events.hand_over import hand_over, hand_over_later, hand_over_now, hand_over_sync
from spellwork.events.ring import Ring
from spellwork.events.subscription import BUFFER, Overflow, Place, Subscription, SyncSubscription

T = TypeVar("T")


class Broadcast(Generic[T]):
    """One ring, and a cursor in it for each subscriber, usable from tasks and threads at both ends.

    Each subscriber sees what is sent while it is open, and says what happens when it is more than `buffer` items behind:

    - `error`: its next read raises `Lagged`, with the exact number of items missed; then it goes on with the `buffer` newest.
    - `drop_oldest`: the same without the error; `dropped` counts them.
    - `sample`: it goes on with the newest item alone.
    - `drop_newest`: it keeps what it holds, and what comes meanwhile is left out.
    - `block`: senders wait for it.
    """

    def __init__(self) -> None:
        self._lock = RLock()
        self._shared: Ring[T] = Ring(self._lock)
        self._rings: tuple[Ring[T], ...] = ()
        self._only: Ring[T] | None = None  # if there is one ring alone
        self._closed = False

    async def send(self, item: T) -> None:
        """Send; waits while a subscriber with `overflow="block"` has no room. Cancelled, it has sent nothing."""
        ring = self._only
        if ring is not None and ring.put(item):
            return
        rings = self._everybody()
        if (full := hand_over(self._lock, rings, item)) is not None:
            await hand_over_later(self._lock, self._everybody, item, full)

    def send_nowait(self, item: T) -> None:
        """Send, from any thread; raises `ChannelFull`, having sent nothing, where `send` would wait."""
        hand_over_now(self._lock, self._everybody(), item)

    def send_sync(self, item: T, timeout: Duration | None = None) -> None:
        """Send, and block the thread where `send` would wait; after `timeout` real seconds raises `ChannelTimeout`."""
        hand_over_sync(self._lock, self._everybody, item, timeout)

    def subscribe(self, *, overflow: Overflow = "error", buffer: int = BUFFER) -> Subscription[T]:
        """A subscription for a task; it begins when it is entered."""
        return Subscription(self, overflow, buffer)

    def subscribe_sync(self, *, overflow: Overflow = "error", buffer: int = BUFFER) -> SyncSubscription[T]:
        """A subscription for a thread; it begins when it is entered."""
        return SyncSubscription(self, overflow, buffer)

    def close(self) -> None:
        """Send no more: subscribers read what they hold and are at the end, senders that wait get `ChannelClosed`."""
        with self._lock:
            self._closed = True
            for ring in self._rings:
                ring.close()

    def admit(self, place: Place[T]) -> Ring[T]:
        """For subscriptions: the ring to read in."""
        with self._lock:
            if self._closed:
                raise ChannelClosed("the broadcast is closed")
            ring = Ring(self._lock, keeps_oldest=True) if place.overflow == "drop_newest" else self._shared
            ring.join(place)
            if ring not in self._rings:
                self._set((*self._rings, ring))
            return ring

    def dismiss(self, place: Place[T], ring: Ring[T]) -> None:
        """For subscriptions: stop reading there."""
        with self._lock:
            ring.leave(place)
            if not ring.readers:
                self._set(tuple(each for each in self._rings if each is not ring))

    def _set(self, rings: tuple[Ring[T], ...]) -> None:
        self._rings = rings
        self._only = rings[0] if len(rings) == 1 else None

    def _everybody(self) -> tuple[Ring[T], ...]:
        if self._closed:
            raise ChannelClosed("nothing was sent: the broadcast is closed")
        return self._rings
