"""Owns `Consumer`: one participant of a group, from joining it to giving its lanes back.
It must never hand out an event before the store knows that it is out.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING, Generic, TypeVar

from spellwork.clock import MICROSECONDS, Cancellable, Duration, seconds
from spellwork.codec import Shape
from spellwork.errors import Conflict, DefinitionError, DeliveryLost, PayloadError, SpellworkError, UsageError
from spellwork.events.durable.decoded import event_of
from spellwork.events.durable.delivery import Delivery
from spellwork.events.durable.groups import GroupOptions, dropped, restored, revived
from spellwork.events.durable.holding import Held, Holding, Ticket
from spellwork.events.durable.membership import Membership, View, view
from spellwork.events.durable.options import microseconds
from spellwork.events.durable.reading import PAGE, Found, page
from spellwork.events.durable.watch import Listener
from spellwork.store import Batch
from spellwork.supervision import attempt

if TYPE_CHECKING:
    from spellwork.events.durable.topics import Topics

T = TypeVar("T")
_BEATS = 3
_LONGEST_REASON = 2000
_LEAST_PAGE = 10


class Consumer(Generic[T]):
    """Takes part in a group: `async with topic.consume("group") as consumer: async for delivery in consumer: ...`.

    Several tasks may iterate over one consumer. Leaving the `async with` gives back at once what was not acknowledged; if an error
    leaves it, that counts as a failure of the events that were being handled.
    """

    def __init__(self, topics: Topics, topic: str, group: str, shape: Shape, options: GroupOptions):
        self.topic = topic
        self.group = group
        self._topics = topics
        self._store = topics.store
        self._clock = topics.clock
        self._shape = shape
        self._options = options
        self._filled = asyncio.Event()
        self._open = contextlib.ExitStack()
        self._task: asyncio.Task[None] | None = None
        self._timer: Cancellable | None = None
        self._save_by = math.inf
        self._entered = self._closing = False
        self._failure: BaseException | None = None
        self._beat_at = 0.0
        self._made = 0
        self._log_news = self._group_news = True
        self._listener: Listener
        self._holding: Holding
        self._membership: Membership

    # What users do with it

    async def __aenter__(self) -> Consumer[T]:
        if self._entered:
            raise UsageError(f"a consumer is entered once; ask for another one of group {self.group} with topic.consume()")
        self._entered = True
        partitions, self._made = await self._options.declare(self._topics, self.topic, self.group)
        self._holding = Holding(self.topic, self.group, partitions, self._options.max_attempts)
        self._listener = self._open.enter_context(self._topics.watch.listening(self._is_news))
        joined = False
        try:
            await self._join()
            joined = True
        finally:
            if not joined:
                self._membership.close()
                self._open.close()
        self._task = task = asyncio.get_running_loop().create_task(self._run())
        task.add_done_callback(self._ended)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closing, self._failure = True, error
        if self._task is None:
            return
        if not self._task.done():
            self._listener.wake()
        try:
            await asyncio.wait([self._task])
        finally:
            self._task.cancel()  # nothing if it is done, which it is unless this was cancelled
            self._membership.close()
        if error is None:
            self._task.result()

    def __aiter__(self) -> AsyncIterator[Delivery[T]]:
        return self

    async def __anext__(self) -> Delivery[T]:
        self._require_running()
        queue = self._holding.queue
        while True:
            while queue:
                ticket = queue.popleft()
                delivery = self._delivery(ticket) if ticket.valid else None
                if not queue:
                    self._listener.wake()  # time to fetch more
                if delivery is not None:
                    return delivery
            self._require_running()
            if self._closing:
                raise StopAsyncIteration
            self._filled.clear()
            await self._filled.wait()

    def _delivery(self, ticket: Ticket) -> Delivery[T] | None:
        entry, options = ticket.entry, self._options
        try:
            event = event_of(Found(self.topic, entry.offset, 0, entry.record), self._shape)
        except PayloadError as error:
            reason = f"its data cannot be read: {error}"
            self._holding.fail(ticket, self._clock.now(), self._reason(reason), final=True)
            self._save_soon()
            return None
        if self._holding.deadline() is None:
            self._listener.wake()  # there is a time to wait for now
        self._holding.taken(ticket, self._clock.monotonic() + options.visibility)
        return Delivery(event, entry.attempts, self, ticket)

    async def ack(self, ticket: Ticket) -> None:
        """What `Delivery.ack` does."""
        self._require(ticket)
        self._holding.finish(ticket)
        self._call()
        await self._stored(ticket)

    async def nack(self, ticket: Ticket, delay: Duration, reason: str) -> None:
        """What `Delivery.nack` does."""
        wait = microseconds(delay)
        if not isinstance(reason, str):
            raise DefinitionError(f"the reason of a nack is a text, not {reason!r}")
        self._require(ticket)
        now = self._clock.now()
        self._holding.fail(ticket, now, self._reason(reason) or "refused by its consumer", due=now + wait if wait else 0)
        self._call()
        await self._stored(ticket)

    async def flush(self) -> None:
        """Wait until everything that was acknowledged so far is durable."""
        self._require_running()
        changed = self._holding.changed()
        waiting = [self._waiting(held) for held in changed]
        for held in self._holding.lanes.values():
            if held.writing and held not in changed:  # what was acknowledged is in the batch that is just being stored
                held.told.append(asyncio.get_running_loop().create_future())
                waiting.append(held.told[-1])
        await asyncio.gather(*waiting)

    def _require(self, ticket: Ticket) -> None:
        self._require_running()
        if not ticket.valid:
            raise self._lost(ticket.entry.offset)

    def _require_running(self) -> None:
        if self._task is None:
            raise UsageError(f"a consumer gives events within its `async with` alone; enter that of group {self.group} first")
        if self._task.done():
            self._task.result()

    def _reason(self, text: str) -> str:
        """Why an event failed, as it may be stored, whatever characters it has."""
        return self._topics.codec.text(text)[:_LONGEST_REASON].encode("utf-8", "backslashreplace").decode()

    def _lost(self, offset: int) -> DeliveryLost:
        return DeliveryLost(
            f"the event at {offset} of topic {self.topic} is no longer this consumer's: its time was up, or another consumer of "
            f"group {self.group} has taken over; it is delivered again",
            topic=self.topic,
            offset=offset,
        )

    async def _stored(self, ticket: Ticket) -> None:
        if self._options.ack_within:
            self._save_soon()
            return
        try:
            await self._waiting(ticket.held)
        except DeliveryLost:
            raise self._lost(ticket.entry.offset) from None

    def _save_soon(self) -> None:
        self._save_by = min(self._save_by, self._clock.monotonic() + self._options.ack_within)
        self._listener.wake()

    def _waiting(self, held: Held) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        held.waiting.append(future)
        self._listener.wake()
        return future

    # The pump: one batch at a time, with all that has come up meanwhile

    async def _run(self) -> None:
        while not self._closing:
            self._listener.clear()
            await self._organise()
            full = await self._read()
            tickets = self._hand_out()
            await self._save(tickets)
            self._call()
            if full:
                await asyncio.sleep(0)  # a store in memory answers at once, and others want to run
            else:
                self._set_timer()
                await self._listener.wait()
        await self._give_back()

    def _is_news(self, topic: str, group: str) -> bool:
        if topic == self.topic and group in ("", self.group):
            self._log_news |= not group
            self._group_news |= bool(group)
            return True
        return False

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._open.close()
        self._filled.set()
        if self._timer is not None:
            self._timer.cancel()
        error = None if task.cancelled() else task.exception()
        told = error if isinstance(error, SpellworkError) else self._lost(0)
        for partition in list(self._holding.lanes):
            self._holding.lose(partition, told)

    async def _join(self) -> None:
        self._membership = Membership(self._store, self._clock, self.topic, self.group, self._made, self._options.lease)
        try:
            await self._membership.join()
        except Conflict:
            raise dropped(self.topic, self.group) from None
        self._beat_at = self._clock.monotonic() + self._options.lease / _BEATS

    async def _organise(self) -> None:
        """Show that this consumer is alive, and take and give lanes."""
        now = self._clock.monotonic()
        due = now >= self._beat_at
        if due:
            self._beat_at = now + self._options.lease / _BEATS
            if not await self._membership.beat():
                self._membership.close()
                for partition in list(self._holding.lanes):
                    self._lose(partition)
                await self._join()
            moved = self._holding.changed(all_moved=True)
            if moved:
                await self._commit(moved)
        if due or self._group_news:
            self._group_news = False
            await self._share()
            self._holding.revive(await self._store.read(lambda reader: revived(reader, self.topic, self.group)))
        leaving = [held for held in self._holding.lanes.values() if held.leaving and not held.lane.out]
        if leaving:
            await self._commit(leaving, release=True)

    async def _share(self) -> None:
        holding, membership = self._holding, self._membership
        seen = await self._store.read(lambda reader: view(reader, self.topic, self.group, holding.partitions))
        alive = await membership.alive(seen)
        mine = membership.share(alive, holding.partitions)
        for partition, held in list(holding.lanes.items()):
            if seen.claims[partition][1] != held.version:
                self._lose(partition)
            elif held.leaving != (partition not in mine):
                held.leaving = not held.leaving
                if held.leaving:
                    holding.put_back([held])
        for partition in sorted(mine - holding.lanes.keys()):
            await self._take_over(partition, seen, alive)

    async def _take_over(self, partition: int, seen: View, alive: list[str]) -> None:
        claim, version = seen.claims[partition]
        if claim.member and claim.member in alive and claim.member != self._membership.me.id:
            return  # it gives the lane back when it sees that there are more of us
        version = await self._membership.claim(partition, version)
        if version:
            lane = await self._store.read(lambda reader: restored(reader, self.topic, self.group, partition))
            self._holding.lanes[partition] = Held(lane, version)

    def _lose(self, partition: int) -> None:
        self._holding.lose(partition, self._lost(0))

    async def _read(self) -> bool:
        """Take events in; whether there may be more that there is room for."""
        if self._log_news:
            self._log_news = False
            for held in self._holding.lanes.values():
                held.behind = True
        hungry = self._holding.hungry(self._options.in_flight)
        if not hungry:
            return False
        after = min(held.lane.position for held in hungry)
        # many at a time cost less, and each is held until it is done: few are held for who wants few
        limit = min(PAGE, max(_LEAST_PAGE, 4 * self._options.in_flight))
        found = await self._store.read(lambda reader: page(reader, self.topic, after, limit))
        self._holding.take_in(hungry, found, whole=len(found) == limit)
        return bool(self._holding.hungry(self._options.in_flight))

    def _hand_out(self) -> list[Ticket]:
        now, holding = self._clock.now(), self._holding
        for ticket in holding.overdue(self._clock.monotonic()):
            holding.fail(ticket, now, f"not acknowledged within {self._options.visibility:g} s")
        out, most = holding.out, self._options.in_flight
        # few at a time would cost a commit for each: either there is nothing left to take, or room for many
        if out > most // 2 and holding.ahead:
            return []
        return holding.hand_out(now, most - out)

    async def _save(self, tickets: list[Ticket]) -> None:
        now = self._clock.monotonic()
        changed = self._holding.changed()
        if not (tickets or now >= self._save_by or any(held.waiting for held in changed) or any(held.rows for held in changed)):
            return
        # what has only moved on rides along: the lag that others see is up to date then
        await self._commit(self._holding.changed(all_moved=True))
        self._holding.stored(tickets)

    def _call(self) -> None:
        """Whoever waits for an event may look."""
        if self._holding.queue:
            self._filled.set()

    async def _commit(self, lanes: list[Held], *, release: bool = False) -> None:
        """Store lanes, and give them back with `release`; those that are another's are lost."""
        batch = Batch()
        self._holding.write(batch, lanes)
        self._save_by = math.inf
        if release:
            for held in lanes:
                self._membership.release(batch, held.lane.partition)
        try:
            await self._store.commit(batch)
        except Conflict:
            self._holding.unwritten(lanes)
            await self._drop_lost()
            kept = [held for held in lanes if not held.lost]
            if len(kept) == len(lanes):
                raise
            if kept:
                await self._commit(kept, release=release)
            return
        for held in lanes:
            held.answer()
            if release:
                held.lost = True
                del self._holding.lanes[held.lane.partition]

    async def _drop_lost(self) -> None:
        seen = await self._store.read(lambda reader: view(reader, self.topic, self.group, self._holding.partitions))
        for partition, held in list(self._holding.lanes.items()):
            if seen.claims[partition][1] != held.version:
                self._lose(partition)

    async def _give_back(self) -> None:
        holding, now = self._holding, self._clock.now()
        if isinstance(self._failure, Exception):
            shown, _ = attempt(repr, self._failure)
            reason = self._reason(f"its consumer ended with {shown or type(self._failure).__name__}")
            for ticket in holding.in_hand():
                holding.fail(ticket, now, reason)
        lanes = list(holding.lanes.values())
        holding.put_back(lanes, handed=True)
        if lanes:
            await self._commit(lanes, release=True)
        await self._membership.leave()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        now = self._clock.monotonic()
        moments = [self._beat_at, self._save_by, self._holding.deadline() or math.inf]
        due = self._holding.due()
        if due is not None:
            moments.append(now + max(0, due - self._clock.now()) / MICROSECONDS)
        self._timer = self._clock.call_later(max(0.0, min(moments) - now), self._listener.wake)


def consumer_options(
    start: str, in_flight: int, visibility: Duration, max_attempts: int, lease: Duration, ack_within: Duration
) -> GroupOptions:
    """The options of a consumer; raises `DefinitionError`."""
    return GroupOptions(start, in_flight, seconds(visibility), max_attempts, seconds(lease), seconds(ack_within)).checked()
