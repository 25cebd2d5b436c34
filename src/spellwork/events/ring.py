"""Owns what one group of subscribers has yet to read: its items in order, and who waits for them or for room.
It must never hold more items than twice the largest buffer among its subscribers. Its lock is its owner's, who may have many rings.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from threading import RLock
from typing import Generic, Protocol, TypeVar

from spellwork.errors import ChannelClosed
from spellwork.events.waiter import Waiter

T = TypeVar("T")


class Reader(Protocol):
    """A subscriber, as a ring sees it: it has read everything before `cursor`."""

    cursor: int
    buffer: int
    blocks: bool
    waiter: Waiter | None  # set while it sleeps


class Ring(Generic[T]):
    """Items with numbers from 0; `end` is that of the next one.

    Whatever changes it needs the lock, which `put` takes itself. A reader needs none to look: `end` grows after the item is there,
    and a window that is too long is replaced, never shortened. `keeps_oldest` turns away what comes while the (then only) reader's
    buffer is full.

    While `end < mark` there is room in front of everybody and in the window: then adding an item, a larger `end` and waking those
    that are `sleeping` are all there is to do. An interrupt (Ctrl-C) may come between any two steps: so where the items end is
    counted each time, and one that was left in between is there with the next.
    """

    __slots__ = (
        "_limit", "_readers", "closed", "end", "keeps_oldest", "lock", "mark", "refused", "room", "sleeping", "waiting", "window",
    )  # fmt: skip

    def __init__(self, lock: RLock, *, keeps_oldest: bool = False) -> None:
        self.lock = lock
        self.end = 0
        self.mark: float = 0
        self.room: float = math.inf  # up to this number there is certainly room in front of those for whom something waits
        self.closed = False
        self.keeps_oldest = keeps_oldest
        self.refused = 0  # how many were turned away
        self.waiting: deque[Waiter] = deque()  # publishers
        self.sleeping: list[Waiter] = []  # readers
        self._readers: list[Reader] = []
        self._limit = 0
        self.window: tuple[int, list[T]] = (0, [])  # the newest items, behind the number of the first

    @property
    def readers(self) -> int:
        """How many there are."""
        return len(self._readers)

    def join(self, reader: Reader) -> None:
        """Let it see what comes from now on."""
        reader.cursor = self._settled()
        self._readers.append(reader)
        self._measure()

    def leave(self, reader: Reader) -> None:
        """Forget it, and wake it if it sleeps; nobody waits for it any more."""
        self._readers.remove(reader)
        self._measure()
        self.room_freed()
        if reader.waiter is not None:
            self.unsleep(reader.waiter)
            reader.waiter.wake()

    def put(self, item: T) -> bool:
        """Add an item, unless more is to be done for it than for nearly all: then False."""
        # Taken by `with`, the lock would cost twice as much. This is as safe: an `RLock` refuses who does not hold it, so it may be
        # given back wherever an interrupt has come.
        lock = self.lock
        try:
            lock.acquire()
            base, items = self.window
            end = base + len(items)
            if there_is_room := end < self.mark:
                items.append(item)
                self.end = end + 1
                if self.sleeping:
                    self.wake()
            lock.release()
        except BaseException:
            with contextlib.suppress(RuntimeError):
                lock.release()
            raise
        return there_is_room

    def has_room(self) -> bool:
        """Whether the next item fits in front of every reader that blocks; raises `ChannelClosed`."""
        if self._settled() < self.mark:
            return True
        if self.closed:
            raise ChannelClosed("nothing was published: it is closed")
        return self.keeps_oldest or self._has_room_now()

    def append(self, item: T) -> None:
        """Add an item for which there is room."""
        base, items = self.window
        end = base + len(items)
        if end >= self.mark:
            if self.keeps_oldest and end >= self.room and not self._has_room_now():
                self.refused += 1
                return
            if not self._readers:  # the last one left while this was on its way
                return
            if len(items) >= self._limit:
                items = items[-(self._limit // 2) :]
                self._replace(items)
            self._set_mark()
        items.append(item)
        self.end = end + 1
        if self.sleeping:
            self.wake()

    def wake(self) -> None:
        """Wake the readers that sleep."""
        sleeping = self.sleeping
        try:
            self.sleeping = []
            for waiter in sleeping:
                waiter.wake()
        except BaseException:  # an interrupt: one that is claimed, and not told, would sleep for ever
            self.sleeping = []
            for waiter in sleeping:
                waiter.claim()
                waiter.notify()
            raise

    def sleep(self, reader: Reader, waiter: Waiter) -> bool:
        """Wake `waiter` when an item comes; False if there is one already."""
        if self._settled() > reader.cursor or self.closed:
            return False
        self.sleeping.append(waiter)
        if self.waiting:
            self.room_freed()  # an interrupt may have come between a read and this
        # If all sleep, everybody has read everything; an interrupt may have left one here that does not sleep any more.
        if self.window[1] and len(self.sleeping) >= len(self._readers) and all(each.cursor >= self.end for each in self._readers):
            self._replace([])
            self._set_mark()
        return True

    def unsleep(self, waiter: Waiter) -> None:
        """It does not sleep any more."""
        if waiter in self.sleeping:
            self.sleeping.remove(waiter)

    def wait_for_room(self, waiter: Waiter) -> bool:
        """Wake `waiter` when there is room; False if there is some already."""
        self.waiting.append(waiter)
        # A reader moves on and then looks for who waits, without the lock; so this looks once more after the waiter is to be seen.
        if self.closed or self._has_room_now():
            self.waiting.remove(waiter)
            return False
        return True

    def room_freed(self) -> None:
        """Wake a publisher if there is room."""
        while self.waiting and (self.closed or self.has_room()):
            woken = _woken(self.waiting[0])
            self.waiting.popleft()
            if woken:
                return

    def was_slowest(self, cursor: int, buffer: int) -> bool:
        """Whether a reader that stood at `cursor` may have been the one in front of whom there was no room."""
        return cursor + buffer <= self.room

    def close(self) -> None:
        """Wake readers and publishers: nothing comes any more."""
        self.closed = True
        self.mark = 0
        self.wake()
        while self.waiting:
            _woken(self.waiting[0])
            self.waiting.popleft()

    def _has_room_now(self) -> bool:
        counted = [reader.cursor + reader.buffer for reader in self._readers if reader.blocks or self.keeps_oldest]
        self.room = min(counted, default=math.inf)
        self._set_mark()
        return self._settled() < self.room

    def _set_mark(self) -> None:
        self.mark = 0 if self.closed else min(self.room, self.window[0] + self._limit)

    def _measure(self) -> None:
        self._limit = 2 * max((reader.buffer for reader in self._readers), default=0)
        if not self._readers:
            self._replace([])
        self._has_room_now()

    def _replace(self, items: list[T]) -> None:
        self.window = (self._settled() - len(items), items)

    def _settled(self) -> int:
        """The end, with what an interrupt may have left behind it."""
        base, items = self.window
        self.end = base + len(items)
        return self.end


def _woken(waiter: Waiter) -> bool:
    try:
        return waiter.wake()
    except BaseException:  # as in `Ring.wake`
        waiter.claim()
        waiter.notify()
        raise
