"""Laws of a group over random lives: publishing, handing out, acks, failures, time, crashes, and a store that knows what was saved.

The group's heart (`Holding` and its lanes) does no I/O, so a life is a list of moves; what the store has is a dict.
"""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from spellwork.events.durable.holding import Held, Holding, Ticket, progress_key
from spellwork.events.durable.keys import Spaces, offset_of, rows_of
from spellwork.events.durable.lane import SUSPICIOUS, Entry, Lane
from spellwork.events.durable.reading import Found
from spellwork.events.durable.record import Record
from spellwork.events.durable.rows import Progress, partition_of, unpack_row
from spellwork.store import Batch

PARTITIONS, LIMIT, VISIBILITY, SECOND = 2, 4, 30, 1_000_000
KEYS = st.sampled_from(["a", "b", "c", "d", None])
MOVES = st.one_of(
    st.tuples(st.just("publish"), KEYS),
    st.tuples(st.just("step"), st.none()),
    st.tuples(st.sampled_from(["hand_out", "save", "take", "crash", "give_back"]), st.none()),
    st.tuples(st.just("retake"), st.integers(0, PARTITIONS - 1)),
    st.tuples(st.just("ack"), st.integers(0, 5)),
    st.tuples(st.just("nack"), st.tuples(st.integers(0, 5), st.sampled_from([0, 5, 50]))),
    st.tuples(st.just("advance"), st.sampled_from([1, 10, 40])),
)


class World:
    """A topic, what the store has of its group, and the consumer that has the group now."""

    def __init__(self, max_attempts: int):
        self.max_attempts = max_attempts
        self.log: list[Found] = []
        self.store: dict[bytes, bytes] = {}
        self.acked: set[int] = set()
        self.failures: dict[int, int] = {}
        self.now = 1_700_000_000 * SECOND
        self.open()

    def open(self) -> None:
        self.holding = Holding("t", "g", PARTITIONS, self.max_attempts)
        self.unsaved: set[int] = set()
        self.granted: list[Ticket] = []
        self.user: list[Ticket] = []
        for partition in range(PARTITIONS):
            self.take_over(partition)

    def take_over(self, partition: int) -> None:
        lane = Lane.restored(partition, self.progress(partition), lambda n: Entry(n, self.log[n - 1].record))
        self.holding.lanes[partition] = Held(lane, 1)

    def progress(self, partition: int) -> Progress:
        key = progress_key("t", "g", partition)
        return unpack_row(Progress, key, self.store[key]) if key in self.store else Progress(0)

    def dead(self, *, also_unsaved: bool = False) -> set[int]:
        start, end = rows_of(Spaces.DEAD, "t", "g")
        rows = [*self.store, *(key for held in self.holding.lanes.values() for key in held.rows if also_unsaved)]
        return {offset_of(key) for key in rows if start <= key < end}

    # The moves

    def publish(self, key: str | None) -> None:
        self.log.append(Found("t", len(self.log) + 1, len(self.log) + 1, Record("id", self.now, b"", key)))

    def hand_out(self, _: None = None) -> None:
        for held in self.holding.lanes.values():
            held.behind = True
        hungry = self.holding.hungry(LIMIT)
        if hungry:
            after = min(held.lane.position for held in hungry)
            self.holding.take_in(hungry, self.log[after : after + 3], whole=len(self.log) > after + 3)
        for ticket in self.holding.overdue(self.now / SECOND):
            self.fail(ticket)
        self.granted += self.holding.hand_out(self.now, LIMIT - self.holding.out)
        assert self.holding.out <= LIMIT

    def save(self, _: None = None) -> None:
        changed = self.holding.changed(all_moved=True)
        batch = Batch()
        self.holding.write(batch, changed)
        for key, value in batch.rows.items():
            if value is None:
                self.store.pop(key, None)
            else:
                self.store[key] = value
        self.acked |= self.unsaved
        self.unsaved = set()
        self.holding.stored(self.granted)
        self.granted = []

    def step(self, _: None = None) -> None:
        self.hand_out()
        self.save()
        self.take()

    def take(self, _: None = None) -> None:
        while self.holding.queue:
            ticket = self.holding.queue.popleft()
            if ticket.valid:
                self.check(ticket)
                self.holding.taken(ticket, self.now / SECOND + VISIBILITY)
                self.user.append(ticket)
                return

    def check(self, ticket: Ticket) -> None:
        """What must hold whenever the user gets an event."""
        offset, key = ticket.entry.offset, ticket.entry.key
        stored = {each.offset: each for each in self.progress(partition_of(key, offset, PARTITIONS)).pending}
        assert stored[offset].out, "the store does not know that it is out"
        assert offset not in self.acked | self.unsaved | self.dead(also_unsaved=True), "it has come to its end"
        assert ticket.entry.attempts <= self.max_attempts
        ended = self.acked | self.unsaved | self.dead(also_unsaved=True)
        earlier = {each.offset for each in self.log[: offset - 1] if each.record and each.record.key == key}
        assert key is None or earlier <= ended, "an earlier one of its key has no end"
        if stored[offset].losses >= SUSPICIOUS:
            assert self.holding.out == 1, "a suspect is not alone"

    def held(self, index: int) -> Ticket | None:
        self.user = [ticket for ticket in self.user if ticket.valid]
        return self.user.pop(index % len(self.user)) if self.user else None

    def ack(self, index: int) -> None:
        if (ticket := self.held(index)) is not None:
            self.holding.finish(ticket)
            self.unsaved.add(ticket.entry.offset)

    def nack(self, given: tuple[int, int]) -> None:
        index, delay = given
        if (ticket := self.held(index)) is not None:
            self.fail(ticket, delay)

    def fail(self, ticket: Ticket, delay: int = 0) -> None:
        offset = ticket.entry.offset
        self.failures[offset] = self.failures.get(offset, 0) + 1
        self.holding.fail(ticket, self.now, "no", due=self.now + delay * SECOND if delay else 0)

    def advance(self, seconds: int) -> None:
        self.now += seconds * SECOND

    def crash(self, _: None = None) -> None:
        self.open()

    def retake(self, partition: int) -> None:
        """One lane had another consumer meanwhile, which died."""
        self.holding.lanes.pop(partition).lost = True
        self.unsaved = {n for n in self.unsaved if self.partition(n) != partition}
        self.take_over(partition)

    def partition(self, offset: int) -> int:
        record = self.log[offset - 1].record
        return partition_of(record.key if record else None, offset, PARTITIONS)

    def give_back(self, _: None = None) -> None:
        self.holding.put_back(self.holding.lanes.values(), handed=True)
        self.save()
        pending = [each for partition in range(PARTITIONS) for each in self.progress(partition).pending]
        assert not [each for each in pending if each.out], "it was given back, but is still out"
        self.open()

    def drain(self) -> None:
        """In the end everything comes to its end."""
        for _ in range(40 * (len(self.log) + 1)):
            self.step()
            while self.holding.queue:
                self.take()
            self.one_of_a_key()
            while self.user:
                self.ack(0)
            self.advance(10)
            self.save()
            if not self.holding.out and self.acked | self.dead() == set(range(1, len(self.log) + 1)):
                break

    def one_of_a_key(self) -> None:
        """The user never has two events of a key."""
        self.user = [ticket for ticket in self.user if ticket.valid]
        keys = [ticket.entry.key for ticket in self.user if ticket.entry.key is not None]
        assert len(keys) == len(set(keys)), "the user has two events of a key"


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 3), st.lists(KEYS, max_size=12), st.lists(MOVES, min_size=20, max_size=45))
def test_whatever_happens_each_event_comes_to_its_end_in_the_order_of_its_key(max_attempts: int, keys: list, moves: list) -> None:
    """No event is lost, none comes again after its end, and the user never has two of a key."""
    world = World(max_attempts)
    for key in keys:
        world.publish(key)
    for name, given_ in moves:
        getattr(world, name)(given_)
        world.one_of_a_key()
    world.drain()
    dead = world.dead()
    assert world.acked | dead == set(range(1, len(world.log) + 1))
    assert not world.acked & dead
    for offset in dead:
        assert world.failures.get(offset, 0) or _losses(moves) > max_attempts, "given up without a failure"
    assert [world.progress(partition).floor for partition in range(PARTITIONS)] == [len(world.log)] * PARTITIONS
    assert not [each for partition in range(PARTITIONS) for each in world.progress(partition).pending]


def _losses(moves: Iterable[tuple[str, object]]) -> int:
    return sum(name in ("crash", "retake") for name, _ in moves)
