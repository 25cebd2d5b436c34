"""Owns the lanes that a consumer has: what is out of them, what of that is overdue, and what is not stored yet.
It must never await: the consumer reads and commits, and says what time it is.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from spellwork.errors import SpellworkError
from spellwork.events.durable.keys import Spaces, row_key
from spellwork.events.durable.lane import Entry, Lane
from spellwork.events.durable.membership import claim_key
from spellwork.events.durable.reading import Found
from spellwork.events.durable.rows import DeadRow, pack_row, partition_of
from spellwork.store import Batch

_SAVE_EVERY = 1000


class Held:
    """A lane that this consumer has. What it writes requires that its claim still has this `version`.

    `rows` go with the next batch, those of a batch under way are `flying`, and it is `writing`. `behind`: there may be
    events behind its position.
    """

    __slots__ = ("behind", "changed", "flying", "lane", "leaving", "lost", "rows", "saved", "told", "version", "waiting", "writing")

    def __init__(self, lane: Lane, version: int):
        self.lane = lane
        self.version = version
        self.behind = True
        self.leaving = False
        self.lost = False
        self.changed = False
        self.writing = False
        self.saved = lane.position
        self.rows: dict[bytes, bytes | None] = {}
        self.flying: dict[bytes, bytes | None] = {}
        self.waiting: list[asyncio.Future[None]] = []
        self.told: list[asyncio.Future[None]] = []

    def answer(self, error: SpellworkError | None = None) -> None:
        """Tell those whose acknowledgement is stored now (or those of everything, that it never will be)."""
        futures, self.told, self.writing = self.told, [], False
        if error is not None:
            futures, self.waiting = futures + self.waiting, []
        for future in futures:
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)


class Ticket(NamedTuple):
    """An event that is out of a lane."""

    held: Held
    entry: Entry
    number: int

    @property
    def valid(self) -> bool:
        """Whether it is still this consumer's."""
        return not self.held.lost and self.held.lane.has_out(self.entry, self.number)


class Holding:
    """All lanes of a consumer."""

    def __init__(self, topic: str, group: str, partitions: int, max_attempts: int):
        self.topic = topic
        self.group = group
        self.partitions = partitions
        self.max_attempts = max_attempts
        self.lanes: dict[int, Held] = {}
        self.queue: deque[Ticket] = deque()
        self._alone: Ticket | None = None
        self._deadlines: deque[tuple[float, Ticket]] = deque()

    @property
    def out(self) -> int:
        """How many events are out."""
        return sum(held.lane.out for held in self.lanes.values())

    @property
    def ahead(self) -> int:
        """How many of them the user does not have yet."""
        return self.out - sum(held.lane.handed for held in self.lanes.values())

    def hungry(self, ahead: int) -> list[Held]:
        """The lanes to read for: if one wants more, all that have room, so that they go over the log together."""
        lanes = [held for held in self.lanes.values() if held.behind and not held.leaving]
        if not any(held.lane.wants(ahead) for held in lanes):
            return []
        return [held for held in lanes if held.lane.has_room(ahead)]

    def take_in(self, hungry: list[Held], page: list[Found], *, whole: bool) -> None:
        """Give lanes their events of a page; unless it is `whole`, it was the last one."""
        for found in page:
            key = None if found.record is None else found.record.key
            held = self.lanes.get(partition_of(key, found.offset, self.partitions))
            if held is not None and held in hungry and found.offset > held.lane.position:
                held.lane.take_in(found.offset, found.record)
        for held in hungry:
            if page:
                held.lane.position = max(held.lane.position, page[-1].offset)
            held.behind = whole

    def revive(self, found: Iterable[Found]) -> None:
        """Take in dead letters that are to be delivered again."""
        for each in found:
            key = None if each.record is None else each.record.key
            held = self.lanes.get(partition_of(key, each.offset, self.partitions))
            if held is not None and not held.leaving and self.revived_key(each.offset) not in held.rows:
                held.lane.take_in(each.offset, each.record, revived=True)

    def hand_out(self, now: int, limit: int) -> list[Ticket]:
        """Up to `limit` events that may go now. A suspect goes alone, when nothing else is out."""
        if self._alone is not None and self._alone.valid:
            return []
        self._alone = None
        lanes = [held for held in self.lanes.values() if not held.leaving]
        suspicious = [held for held in lanes if held.lane.suspicious]
        if suspicious:
            if self.out:
                return []
            tickets = list(self._next(suspicious[:1], now, 1))
            self._alone = tickets[0] if tickets else None
            return tickets
        return list(self._next(lanes, now, limit))

    def _next(self, lanes: list[Held], now: int, limit: int) -> Iterator[Ticket]:
        """One event of each lane in turn."""
        while lanes and limit > 0:
            for held in list(lanes):
                entry = held.lane.next(now)
                if entry is None:
                    lanes.remove(held)
                    continue
                held.changed = True
                if entry.attempts > self.max_attempts:
                    times = entry.attempts - 1
                    self._give_up(held, entry, now, times, f"its consumer ended {times} times while it had the event")
                elif entry.record is None:
                    self._give_up(held, entry, now, 0, "the event is damaged (checksum)")
                else:
                    yield Ticket(held, entry, entry.ticket)
                    limit -= 1
                    if not limit:
                        return

    def stored(self, tickets: Iterable[Ticket]) -> None:
        """The store knows that these are out: the user may have those that wait for no other one of their key."""
        for ticket in tickets:
            if ticket.valid:
                ticket.entry.durable = True
                if ticket.held.lane.is_first(ticket.entry):
                    self.queue.append(ticket)

    def taken(self, ticket: Ticket, deadline: float) -> None:
        """The user has an event now, until `deadline` (monotonic; later ones come later)."""
        ticket.held.lane.hand(ticket.entry)
        self._deadlines.append((deadline, ticket))

    def deadline(self) -> float | None:
        """When the next event is overdue."""
        while self._deadlines and not self._deadlines[0][1].valid:
            self._deadlines.popleft()
        return self._deadlines[0][0] if self._deadlines else None

    def overdue(self, monotonic: float) -> Iterator[Ticket]:
        """The events whose time is up."""
        while (deadline := self.deadline()) is not None and deadline <= monotonic:
            yield self._deadlines.popleft()[1]

    def due(self) -> int | None:
        """When the next delayed event may go (wall clock)."""
        return min((due for held in self.lanes.values() if (due := held.lane.due()) is not None), default=None)

    def finish(self, ticket: Ticket) -> None:
        """The event is done."""
        held, entry = ticket.held, ticket.entry
        self._end(held, entry)

    def fail(self, ticket: Ticket, now: int, reason: str, *, due: int = 0, final: bool = False) -> None:
        """The event could not be done: again, from `due` on, or a dead letter."""
        held, entry = ticket.held, ticket.entry
        held.changed = True
        if final or entry.attempts >= self.max_attempts:
            self._give_up(held, entry, now, entry.attempts, reason)
        else:
            held.lane.fail(entry, due)

    def _give_up(self, held: Held, entry: Entry, now: int, attempts: int, reason: str) -> None:
        row = DeadRow(entry.record, attempts, reason, now)
        held.rows[row_key(Spaces.DEAD, self.topic, self.group, entry.offset)] = pack_row(row)
        self._end(held, entry)

    def _end(self, held: Held, entry: Entry) -> None:
        if entry.revived:
            held.rows[self.revived_key(entry.offset)] = None
        following = held.lane.finish(entry)
        if following is not None and following.durable:
            self.queue.append(Ticket(held, following, following.ticket))
        held.changed = True

    def put_back(self, lanes: Iterable[Held], *, handed: bool = False) -> None:
        """Take back what is out of lanes and nobody has looked at (or, with `handed`, all of it) without counting that."""
        for held in lanes:
            held.lane.withdraw(handed=handed)
            held.changed = True

    def in_hand(self) -> list[Ticket]:
        """What the user has."""
        return [
            Ticket(held, entry, entry.ticket)
            for held in self.lanes.values()
            for entry in held.lane.entries.values()
            if entry.handed
        ]

    def changed(self, *, all_moved: bool = False) -> list[Held]:
        """The lanes with something to store. One that has only moved on is stored now and then, or with `all_moved`."""
        least = 1 if all_moved else _SAVE_EVERY
        return [held for held in self.lanes.values() if held.changed or held.lane.position - held.saved >= least]

    def write(self, batch: Batch, lanes: Iterable[Held]) -> None:
        """Add what lanes have to store to a batch."""
        for held in lanes:
            partition = held.lane.partition
            batch.require_version(claim_key(self.topic, self.group, partition), held.version)
            batch.put(progress_key(self.topic, self.group, partition), pack_row(held.lane.progress()))
            batch.rows.update(held.rows)
            held.flying, held.rows = held.rows, {}
            held.told, held.waiting = held.waiting, []
            held.changed, held.saved, held.writing = False, held.lane.position, True

    def unwritten(self, lanes: Iterable[Held]) -> None:
        """The batch was refused: everything of it is still to be stored."""
        for held in lanes:
            held.rows = held.flying | held.rows
            held.waiting = held.told + held.waiting
            held.flying, held.told, held.changed, held.writing = {}, [], True, False

    def lose(self, partition: int, error: SpellworkError) -> None:
        """Another consumer has the lane."""
        held = self.lanes.pop(partition)
        held.lost = True
        held.answer(error)

    def revived_key(self, offset: int) -> bytes:
        """The key of a dead letter that is to be delivered again."""
        return row_key(Spaces.REVIVED, self.topic, self.group, offset)


def progress_key(topic: str, group: str, partition: int) -> bytes:
    """The key of how far a lane is."""
    return row_key(Spaces.LANES, topic, group, partition)
