"""Owns what one group of subscribers has yet to read: its items in order, and who waits for them or for room.
It must never hold more items than twice the largest buffer among its subscribers. Its lock is its owner's, who may have many rings.
"""

from __future__ import annotations

import math
from collections import deque
from threading import Lock
from typing import Generic, Protocol, TypeVar

from spellwork.events.waiter import Waiter

T = TypeVar("T")


class Reader(Protocol):
    """A subscriber, as a ring sees it: it has read everything before `cursor`."""

    cursor: int
    buffer: int
    blocks: bool


class Window(Generic[T]):
    """The newest items; the first has the number `base`."""

    __slots__ = ("base", "items")

    def __init__(self, base: int, items: list[T]) -> None:
        self.base = base
        self.items = items


class Ring(Generic[T]):
    """Items with numbers from 0; `end` is that of the next one.

    Whatever changes it needs the lock. A reader needs none to look: `end` grows after the item is there, and a window that is
    too long is replaced, never shortened. `keeps_oldest` turns away what comes while the (then only) reader's buffer is full.
    """

    __slots__ = ("_readers", "_size", "_sleeping", "closed", "end", "keeps_oldest", "lock", "refused", "until", "waiting", "window")

    def __init__(self, lock: Lock, *, keeps_oldest: bool = False) -> None:
        self.lock = lock
        self.window: Window[T] = Window(0, [])
        self.end = 0
        self.closed = False
        self.keeps_oldest = keeps_oldest
        self.refused = 0  # how many were turned away
        self.waiting: deque[Waiter] = deque()  # publishers
        self._sleeping: list[Waiter] = []  # readers
        self._readers: list[Reader] = []
        self._size = 0
        # Up to this number there is certainly room in front of everybody for whom publishers wait, or whom a ring turns away for.
        self.until: float = math.inf

    @property
    def readers(self) -> int:
        """How many there are."""
        return len(self._readers)

    def join(self, reader: Reader) -> None:
        """Let it see what comes from now on."""
        reader.cursor = self.end
        self._readers.append(reader)
        self._measure()

    def leave(self, reader: Reader, waiter: Waiter | None) -> None:
        """Forget it, and wake it if it sleeps; nobody waits for it any more."""
        self._readers.remove(reader)
        self._measure()
        self.room_freed()
        if waiter is not None:
            self.unsleep(waiter)
            waiter.wake()
        if not self._readers:
            self._release()

    def has_room(self) -> bool:
        """Whether the next item fits in front of every reader that blocks."""
        return self.end < self.until or self.keeps_oldest or self._has_room_now()

    def _has_room_now(self) -> bool:
        self.until = min((reader.cursor + reader.buffer for reader in self._readers if self._counts(reader)), default=math.inf)
        return self.end < self.until

    def _counts(self, reader: Reader) -> bool:
        return reader.blocks or self.keeps_oldest

    def append(self, item: T) -> None:
        """Add an item and wake the readers that sleep."""
        if self.keeps_oldest and self.end >= self.until and not self._has_room_now():
            self.refused += 1
            return
        if not self._readers:
            return
        items = self.window.items
        items.append(item)
        self.end += 1
        if len(items) > self._size:
            kept = items[-(self._size // 2) :]
            self.window = Window(self.end - len(kept), kept)
        if self._sleeping:
            sleeping, self._sleeping = self._sleeping, []
            for waiter in sleeping:
                waiter.wake()

    def sleep(self, reader: Reader, waiter: Waiter) -> bool:
        """Wake `waiter` when an item comes; False if there is one already."""
        if self.end > reader.cursor or self.closed:
            return False
        self._sleeping.append(waiter)
        if len(self._sleeping) == len(self._readers):
            self._release()  # everybody has read everything
        return True

    def unsleep(self, waiter: Waiter) -> None:
        """It does not sleep any more."""
        if waiter in self._sleeping:
            self._sleeping.remove(waiter)

    def wait_for_room(self, waiter: Waiter) -> bool:
        """Wake `waiter` when there is room; False if there is some already."""
        self.waiting.append(waiter)
        # A reader moves on and then looks for who waits, without the lock; so this looks once more after the waiter is to be seen.
        if self.closed or self.has_room():
            self.waiting.remove(waiter)
            return False
        return True

    def close(self) -> None:
        """Wake readers and publishers: nothing comes any more."""
        self.closed = True
        for waiter in (*self._sleeping, *self.waiting):
            waiter.wake()
        self._sleeping.clear()
        self.waiting.clear()

    def room_freed(self) -> None:
        """Wake a publisher if there is room."""
        while self.waiting and self.has_room():
            if self.waiting.popleft().wake():
                return

    def was_slowest(self, cursor: int, buffer: int) -> bool:
        """Whether a reader that stood at `cursor` may have been the one in front of whom there was no room."""
        return cursor + buffer <= self.until

    def _measure(self) -> None:
        self._size = 2 * max((reader.buffer for reader in self._readers), default=0)
        self._has_room_now()

    def _release(self) -> None:
        if self.window.items:
            self.window = Window(self.end, [])
