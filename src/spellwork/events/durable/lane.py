"""Owns one lane of a group in memory: which of its events may be handed out, are out, wait for their key or for a time.
It must never await, read time or touch the store: what is asked is passed in, what is to be stored is given out.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable

from spellwork.events.durable.record import Record
from spellwork.events.durable.rows import Pending, Progress

MOST_PENDING = 1000


class Entry:
    """An event without an end yet. `ticket` is new each time it is handed out, and 0 while it is not."""

    __slots__ = ("attempts", "due", "key", "offset", "record", "revived", "suspect", "ticket")

    def __init__(self, offset: int, record: Record | None, *, revived: bool = False):
        self.offset = offset
        self.record = record
        self.key = None if record is None else record.key
        self.attempts = 0
        self.due = 0
        self.suspect = False
        self.revived = revived
        self.ticket = 0

    def stored(self) -> Pending:
        """What a later owner of the lane must know of it."""
        return Pending(self.offset, self.attempts, self.due, self.ticket > 0, self.suspect, self.revived)


class Lane:
    """The events of one partition, in their order. Those of one key go one after the other."""

    def __init__(self, partition: int, position: int = 0):
        self.partition = partition
        self.position = position
        self.entries: dict[int, Entry] = {}
        self.out = 0
        self._keys: dict[str, deque[Entry]] = {}
        self._ready: list[int] = []
        self._suspects: list[int] = []
        self._delayed: list[tuple[int, int]] = []
        self._tickets = 0

    @classmethod
    def restored(cls, partition: int, progress: Progress, find: Callable[[int], Entry | None]) -> Lane:
        """A lane as its last owner left it. `find` gives the entry of an event, None if that is gone.

        What was out with that owner is suspect. The first loss is not counted: it may only have been fetched ahead.
        """
        lane = cls(partition, progress.position)
        for pending in sorted(progress.pending, key=lambda each: each.offset):
            entry = find(pending.offset)
            if entry is not None:
                entry.attempts = pending.attempts - (pending.out and not pending.suspect)
                entry.due = pending.due
                entry.suspect = pending.out
                lane._add(entry)
        return lane

    def progress(self) -> Progress:
        """What is to be stored."""
        return Progress(self.position, [entry.stored() for entry in self.entries.values()])

    def wants(self, ahead: int) -> bool:
        """Whether it can take in more, to have `ahead` events ready."""
        return len(self._ready) < ahead and len(self.entries) < MOST_PENDING

    def take_in(self, offset: int, record: Record | None, *, revived: bool = False) -> None:
        """One more event; the lane is behind its position unless it was revived."""
        if offset not in self.entries:
            self._add(Entry(offset, record, revived=revived))
        if not revived:
            self.position = max(self.position, offset)

    def _add(self, entry: Entry) -> None:
        self.entries[entry.offset] = entry
        if entry.key is not None:
            waiting = self._keys.setdefault(entry.key, deque())
            waiting.append(entry)
            if waiting[0] is not entry:
                return
        self._may_go(entry)

    def _may_go(self, entry: Entry) -> None:
        if entry.suspect:
            heapq.heappush(self._suspects, entry.offset)
        elif entry.due:
            heapq.heappush(self._delayed, (entry.due, entry.offset))
        else:
            heapq.heappush(self._ready, entry.offset)

    @property
    def suspicious(self) -> bool:
        """Whether the next to be handed out is to be out alone."""
        return bool(self._suspects)

    def next(self, now: int) -> Entry | None:
        """Hand out the next event that may be, suspects first."""
        while self._delayed and self._delayed[0][0] <= now:
            heapq.heappush(self._ready, heapq.heappop(self._delayed)[1])
        waiting = self._suspects or self._ready
        if not waiting:
            return None
        entry = self.entries[heapq.heappop(waiting)]
        self._tickets += 1
        entry.ticket = self._tickets
        entry.attempts += 1
        entry.due = 0
        self.out += 1
        return entry

    def due(self) -> int | None:
        """When the next delayed event may be handed out."""
        return self._delayed[0][0] if self._delayed else None

    def has_out(self, entry: Entry, ticket: int) -> bool:
        """Whether the event is still out by that ticket."""
        return entry.ticket == ticket and self.entries.get(entry.offset) is entry

    def finish(self, entry: Entry) -> None:
        """An event that is out has come to its end: the next one of its key may go."""
        self._come_back(entry)
        del self.entries[entry.offset]
        if entry.key is not None:
            waiting = self._keys[entry.key]
            waiting.popleft()
            if waiting:
                self._may_go(waiting[0])
            else:
                del self._keys[entry.key]

    def fail(self, entry: Entry, due: int = 0) -> None:
        """An event that is out may be handed out again, from `due` on. It has not taken its process with it."""
        self._come_back(entry)
        entry.suspect = False
        entry.due = due
        self._may_go(entry)

    def put_back(self, entry: Entry) -> None:
        """An event that is out was never looked at."""
        self._come_back(entry)
        entry.attempts -= 1
        self._may_go(entry)

    def _come_back(self, entry: Entry) -> None:
        entry.ticket = 0
        self.out -= 1
