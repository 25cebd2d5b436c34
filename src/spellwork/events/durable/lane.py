"""Owns one lane of a group in memory: which of its events may be handed out, are out, wait for their key or for a time.
It must never await, read time or touch the store: what is asked is passed in, what is to be stored is given out.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable

from spellwork.events.durable.record import Record
from spellwork.events.durable.rows import Pending, Progress

MOST_PENDING = 1000
SUSPICIOUS = 2


class Entry:
    """An event without an end yet.

    It is *out* while it has a `ticket`, a new one each time; the store knows that when it is `durable`. What is out may wait
    behind an earlier event of its key, or in the consumer's queue; with the user it is `handed`. It is `eligible` while it may
    go out next.
    """

    __slots__ = ("attempts", "due", "durable", "eligible", "handed", "key", "losses", "offset", "record", "revived", "ticket")

    def __init__(self, offset: int, record: Record | None, *, revived: bool = False):
        self.offset = offset
        self.record = record
        self.key = None if record is None else record.key
        self.attempts = 0
        self.due = 0
        self.losses = 0
        self.revived = revived
        self.ticket = 0
        self.eligible = False
        self.durable = False
        self.handed = False

    @property
    def suspect(self) -> bool:
        """Whether it may be what its owners died of, so that it is to be out alone."""
        return self.losses >= SUSPICIOUS

    def stored(self) -> Pending:
        """What a later owner of the lane must know of it."""
        return Pending(self.offset, self.attempts, self.due, self.ticket > 0, self.losses, self.revived)


class Lane:
    """The events of one partition. Those of one key go out, and to the user, one after the other."""

    def __init__(self, partition: int, position: int = 0):
        self.partition = partition
        self.position = position
        self._top = position
        self.entries: dict[int, Entry] = {}
        self.out = 0
        self.handed = 0
        self._may_go_now = 0
        self._keys: dict[str, deque[Entry]] = {}
        self._ready: list[int] = []
        self._suspects: list[int] = []
        self._delayed: list[tuple[int, int]] = []
        self._tickets = 0

    @classmethod
    def restored(cls, partition: int, progress: Progress, find: Callable[[int], Entry | None]) -> Lane:
        """A lane as its last owner left it. `find` gives the entry of an event, None if that is gone.

        What was out with two owners in a row is suspect. Until then a loss is no attempt: it may only have been fetched ahead.
        """
        lane = cls(partition, progress.position)
        for pending in sorted(progress.pending, key=lambda each: each.offset):
            entry = find(pending.offset)
            if entry is not None:
                entry.attempts = pending.attempts - (pending.out and pending.losses < SUSPICIOUS)
                entry.due = pending.due
                entry.losses = pending.losses + pending.out
                lane._add(entry)
        return lane

    def progress(self) -> Progress:
        """What is to be stored. Events behind all that ever went out are left to be read again: they are most of what waits."""
        position, entries = self.position, list(self.entries.values())
        while entries and entries[-1].offset > self._top:
            position = entries.pop().offset - 1
        return Progress(position, [entry.stored() for entry in entries])

    def wants(self, ahead: int) -> bool:
        """Whether it can take in more, to have `ahead` events that may go out: what waits for its key or a time holds up none."""
        return self._may_go_now < ahead and self.has_room(ahead)

    def has_room(self, ahead: int) -> bool:
        """Whether it may take in more at all."""
        return len(self.entries) < MOST_PENDING + ahead

    def take_in(self, offset: int, record: Record | None, *, revived: bool = False) -> None:
        """One more event; the lane is behind its position unless it was revived."""
        if offset not in self.entries:
            self._add(Entry(offset, record, revived=revived))
        if not revived:
            self.position = max(self.position, offset)

    def _add(self, entry: Entry) -> None:
        self.entries[entry.offset] = entry
        if entry.key is None:
            self._may_go(entry)
            return
        line = self._keys.setdefault(entry.key, deque())
        before = line[-1] if line else None
        line.append(entry)
        if before is None or (before.ticket and not before.suspect and not entry.suspect):
            self._may_go(entry)

    def _may_go(self, entry: Entry) -> None:
        self._may_go_now += not (self._goes(entry) or entry.due)
        entry.eligible = True
        if entry.suspect:
            heapq.heappush(self._suspects, entry.offset)
        elif entry.due:
            heapq.heappush(self._delayed, (entry.due, entry.offset))
        else:
            heapq.heappush(self._ready, entry.offset)

    def _goes(self, entry: Entry | None) -> bool:
        return entry is not None and entry.eligible and not entry.due

    @property
    def suspicious(self) -> bool:
        """Whether the next to go out is to be out alone."""
        while self._suspects and not self._goes(self.entries.get(self._suspects[0])):
            heapq.heappop(self._suspects)  # it has been withdrawn since, or had come in twice
        return bool(self._suspects)

    def next(self, now: int) -> Entry | None:
        """Let the next event out that may go, suspects first."""
        while self._delayed and self._delayed[0][0] <= now:
            due, offset = heapq.heappop(self._delayed)
            entry = self.entries.get(offset)
            if entry is not None and entry.eligible and entry.due == due:
                entry.due = 0
                self._may_go_now += 1
                heapq.heappush(self._ready, offset)
        waiting = self._suspects if self.suspicious else self._ready
        while waiting:
            entry = self.entries.get(heapq.heappop(waiting))
            if entry is not None and self._goes(entry):  # else it has been withdrawn since
                self._let_out(entry)
                return entry
        return None

    def _let_out(self, entry: Entry) -> None:
        self._tickets += 1
        entry.ticket = self._tickets
        self._top = max(self._top, entry.offset)
        self._may_go_now -= 1
        entry.eligible = False
        entry.attempts += 1
        self.out += 1
        if entry.key is not None and not entry.suspect:
            self._let_follow(self._keys[entry.key], entry)

    def _let_follow(self, line: deque[Entry], entry: Entry) -> None:
        # what is out of a line is always its beginning, and mostly the last of it has just come
        following = line[line.index(entry) + 1] if line[-1] is not entry else None
        if following is not None and not following.suspect:
            self._may_go(following)

    def hand(self, entry: Entry) -> None:
        """The user has an event that is out."""
        entry.handed = True
        self.handed += 1

    def is_first(self, entry: Entry) -> bool:
        """Whether no earlier event of its key is without an end, so that the user may have it."""
        return entry.key is None or self._keys[entry.key][0] is entry

    def due(self) -> int | None:
        """When the next delayed event may go."""
        return self._delayed[0][0] if self._delayed else None

    def has_out(self, entry: Entry, ticket: int) -> bool:
        """Whether the event is still out by that ticket."""
        return entry.ticket == ticket and self.entries.get(entry.offset) is entry

    def finish(self, entry: Entry) -> Entry | None:
        """An event that is out has come to its end; the next one of its key, if that is out and had to wait for this."""
        self._come_back(entry)
        del self.entries[entry.offset]
        if entry.key is None:
            return None
        line = self._keys[entry.key]
        was_first = line[0] is entry
        line.remove(entry)
        if not line:
            del self._keys[entry.key]
            return None
        first = line[0]
        if not first.ticket and not first.eligible:
            self._may_go(first)
        return first if was_first and first.ticket else None

    def fail(self, entry: Entry, due: int = 0) -> None:
        """An event that is out may go out again, from `due` on. It has not taken its process with it.

        What is out behind it comes back: it would keep others from going out.
        """
        self._come_back(entry)
        entry.losses = 0
        entry.due = due
        if entry.key is not None:
            self._withdraw(list(self._keys[entry.key])[1:])
        self._may_go(entry)

    def withdraw(self, *, handed: bool = False) -> None:
        """All that is out comes back without having been tried; what the user has, only if `handed`."""
        self._withdraw([entry for entry in self.entries.values() if handed or not entry.handed])
        for entry in list(self.entries.values()):
            line = None if entry.key is None else self._keys[entry.key]
            if entry.ticket and line is not None and not entry.suspect:
                self._let_follow(line, entry)
            elif not entry.ticket and (line is None or line[0] is entry):
                self._may_go(entry)

    def _withdraw(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self._may_go_now -= self._goes(entry)
            entry.eligible = False
            if entry.ticket:
                self._come_back(entry)
                entry.attempts -= 1

    def _come_back(self, entry: Entry) -> None:
        self.out -= 1
        self.handed -= entry.handed
        entry.ticket = 0
        entry.durable = entry.handed = False
