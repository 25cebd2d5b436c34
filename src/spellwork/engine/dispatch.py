"""Owns bringing events of durable topics to the runs that wait for them, and starting runs by events.
It must never lose its place: the cursor moves after what it stands for is durable, and everything before that is idempotent.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeVar

import msgspec

from spellwork.engine import messages as m
from spellwork.engine.follower import Follower
from spellwork.engine.host import Host
from spellwork.engine.partition import Partition
from spellwork.engine.subscribers import Subscribers, is_waited_for, oldest_subscription, subscribers
from spellwork.engine.triggers import Trigger
from spellwork.errors import (
    Conflict,
    DefinitionError,
    Fenced,
    InternalError,
    RowDamaged,
    RunBlocked,
    RunFinished,
    RunNotFound,
    SpellworkError,
    StoreClosed,
    StoreError,
    UsageError,
)
from spellwork.events.durable.decoded import event_of
from spellwork.events.durable.keys import matcher
from spellwork.events.durable.reading import Found
from spellwork.events.durable.record import pack_record
from spellwork.events.durable.subscription import LAST, Cursor, found_after, place
from spellwork.events.durable.topics import Topics
from spellwork.events.event import Event
from spellwork.journal.rows import cursor_key, trigger_key
from spellwork.store import Batch, Reader
from spellwork.store.keyspace import REVISION

log = logging.getLogger("spellwork.engine")
T = TypeVar("T")
_PAGE = 500
# What says nothing about the event that could not be brought: the engine fails or is being closed, or the store does.
_NOT_ITS_FAULT = (StoreError, InternalError, UsageError)


class Delivery(msgspec.Struct):
    """What is to be brought to one run: its events in order, and the keys of the subscriptions that ask for them."""

    events: list[tuple[str, Found]] = []
    keys: set[bytes] = set()


class Plan(msgspec.Struct):
    """What one look at the store comes to: what is for whom, and the cursor behind it."""

    runs: dict[str, Delivery]
    cursor: Cursor
    more: bool


class Dispatch:
    """Follows the topics, as soon as somebody here subscribes or an engine has triggers."""

    def __init__(
        self,
        host: Host,
        topics: Topics,
        triggers: Iterable[Trigger],
        bring: Callable[[m.AskSignal, Partition], Awaitable[Any]],
        start: Callable[[Trigger, Event[Any], str, Batch], Awaitable[None]],
        taken_over: Callable[[Partition], None],
    ):
        self._host = host
        self._store = host.store
        self._topics = topics
        self._triggers = tuple(triggers)
        self._bring_in = bring
        self._start = start
        self._taken_over = taken_over
        self._cursors: dict[Partition, Cursor] = {}
        self._standing: set[str] = set()
        self._closed = False
        # each trigger has its own, so that the backlog of one holds up no other
        looks: list[Callable[[], Awaitable[bool | None]]] = [
            self._dispatch_all,
            *(functools.partial(self._tried, functools.partial(self._trigger, each)) for each in self._triggers),
        ]
        self._followers = [Follower(topics, look, host.broken) for look in looks]  # else no run would get an event any more

    async def open(self) -> None:
        """Give each new trigger its place: behind everything that was published up to now."""
        for trigger in self._triggers:
            key = trigger_key(trigger.name)
            if await self._store.get(key) is None:
                here = Cursor(await self._store.revision(), LAST)
                with contextlib.suppress(Conflict):  # another engine has given it one
                    await self._store.commit(Batch().put(key, bytes(here)).require_absent(key))
        if self._triggers:
            self.wake()

    def wake(self) -> None:
        """There may be something to do: a subscription, or a partition."""
        if not self._closed:
            for follower in self._followers:
                follower.wake()

    @property
    def busy(self) -> bool:
        """Whether events may be on their way: all that was committed is not known to be brought."""
        awake = [each for each in self._followers if each.is_awake]
        return any(each.busy for each in awake) or (bool(awake) and self._topics.watch.busy)

    async def close(self) -> None:
        """Stop, for good."""
        self._closed = True
        for follower in self._followers:
            await follower.close()

    async def _dispatch_all(self) -> bool | None:
        partitions = list(self._host.partitions.values())
        self._cursors = {each: cursor for each, cursor in self._cursors.items() if each.held}
        more = await asyncio.gather(*(self._tried(functools.partial(self._dispatch, each)) for each in partitions))
        return None if None in more else any(more)

    async def _tried(self, work: Callable[[], Awaitable[bool]]) -> bool | None:
        """Whether there may be more; None when the store did not let it. The other partitions and triggers go on all the same."""
        try:
            return await work()
        except StoreClosed:
            raise
        except StoreError as error:
            log.warning("events are not brought to runs for now, once more in a second: %s", error)
            return None

    # To runs that wait

    async def _dispatch(self, partition: Partition) -> bool:
        """Bring the next events to the runs of a partition; whether there may be more."""
        before = self._cursors.get(partition)
        plan = await self._store.read(lambda reader: planned(reader, partition.index, before))
        if plan is None:
            self._cursors.pop(partition, None)  # whoever subscribes next wants nothing of what comes until then
        if plan is None or not partition.held:
            return False
        if plan.runs:
            batch = Batch().require_epoch(partition.index, partition.epoch)
            try:
                outcomes = await _all_done(self._bring(run_id, each, partition) for run_id, each in plan.runs.items())
                for key in set().union(*outcomes):
                    batch.delete(key)
                await self._store.commit(batch.put(cursor_key(partition.index), bytes(plan.cursor)))
            except Fenced:
                self._taken_over(partition)
                self._cursors.pop(partition, None)
                return False  # its new owner begins where the stored cursor is
        self._cursors[partition] = plan.cursor  # not before: if that failed, all of it is brought once more
        return plan.more

    async def _bring(self, run_id: str, delivery: Delivery, partition: Partition) -> set[bytes]:
        """Bring a run its events, in order; returns the subscriptions that nobody is behind any more."""
        for pattern, found in delivery.events:
            if found.record is None:
                log.error("event %d of topic %s is damaged and was not brought to run %s", found.offset, found.topic, run_id)
                continue
            payload = self._topics.codec.untyped.encode([found.topic, found.offset, found.revision, pack_record(found.record)])
            message = m.AskSignal(run_id, f"event {pattern}", payload, f"{found.topic}:{found.offset}:{pattern}")
            try:
                await self._bring_in(message, partition)
            except (RunFinished, RunNotFound):
                return delivery.keys
            except RunBlocked as error:
                log.warning("event %d of topic %s was not brought to run %s: %s", found.offset, found.topic, run_id, error)
        return set()

    # Triggers

    async def _trigger(self, trigger: Trigger) -> bool:
        partition = self._host.partitions.get(0)
        if partition is None:
            return False  # the owner of the first partition pulls the triggers
        key = trigger_key(trigger.name)
        try:
            stored = await self._store.get(key)
            cursor = None if stored is None else Cursor.of(stored)
        except (RowDamaged, DefinitionError) as error:
            return self._stand_still(trigger, f"its place can't be read: {error}; restore a backup")
        if cursor is None:
            return self._stand_still(trigger, "its place was deleted; it gets another one when the engine is opened again")
        wanted = matcher(trigger.pattern)
        found = await self._store.read(lambda reader: found_after(reader, wanted, cursor, _PAGE))
        if not found:
            return False
        # with the cursor go the letters to the partitions of others, so that each event is sent once, and nobody waits for them
        batch = Batch().require_epoch(0, partition.epoch).put(key, bytes(place(found[-1])))
        await _all_done(self._pull(trigger, each, batch) for each in found)
        letters = len(batch.rows) > 1
        try:
            await self._store.commit(batch)
        except Fenced:
            self._taken_over(partition)
            return False  # the new owner of the first partition goes on where the stored cursor is
        if letters:
            self._host.unblocked()  # their inboxes may have become ours in between
        return True

    def _stand_still(self, trigger: Trigger, why: str) -> bool:
        """It starts nothing: nobody knows what it has started already."""
        if trigger.name not in self._standing:
            self._standing.add(trigger.name)
            log.error("trigger %s starts no more runs: %s", trigger.name, why)
        return False

    async def _pull(self, trigger: Trigger, found: Found, batch: Batch) -> None:
        name = trigger.workflow.name
        try:
            event = event_of(found, self._topics.codec.shape(trigger.type))
            await self._start(trigger, event, f"{name}:{event.id}", batch)
        except SpellworkError as error:
            if isinstance(error, _NOT_ITS_FAULT) and not isinstance(error, RowDamaged):
                raise
            self._skipped(trigger, found, error)

    def _skipped(self, trigger: Trigger, found: Found, error: SpellworkError) -> None:
        """It will not fit next time either; the event stays in its topic."""
        name = trigger.workflow.name
        log.error("event %d of topic %s has not started workflow %s: %s", found.offset, found.topic, name, error)


async def _all_done(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What came of each. What went wrong with one is raised when all are done: it holds up no other, and none goes on alone."""
    outcomes = await asyncio.gather(*work, return_exceptions=True)
    done = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return done


def _brought(reader: Reader, partition: int) -> Cursor:
    """Up to where the runs of a partition were brought their events. If that cannot be read, all of it is brought once more."""
    try:
        stored = reader.get(cursor_key(partition))
        return Cursor.of(stored) if stored else Cursor()
    except (RowDamaged, DefinitionError) as damage:
        log.warning("events are brought once more to the runs of partition %d, each knows those it has had: %s", partition, damage)
        return Cursor()


def planned(reader: Reader, partition: int, before: Cursor | None) -> Plan | None:
    """What is to be brought to the runs of a partition; None when nobody waits.

    An event goes to those that had subscribed before it was committed: both are told apart by their revisions.
    """
    if not is_waited_for(reader, partition):
        return None
    cursor = before or Cursor()
    if before is None:  # from here on, what was looked at is remembered: who subscribes later wants nothing older
        oldest = oldest_subscription(reader, partition)
        if oldest is None:
            return None
        cursor = max(_brought(reader, partition), Cursor(oldest, LAST))
    waiting: dict[str, Subscribers] = {}

    def wanted(topic: str) -> bool:
        waiting[topic] = subscribers(reader, partition, topic)
        return bool(waiting[topic])

    found = found_after(reader, wanted, cursor, _PAGE)
    runs: dict[str, Delivery] = {}
    for event in found:
        for pattern, subscribed in waiting[event.topic].items():
            for version, run_id, key in subscribed:
                if version < event.revision:
                    delivery = runs.setdefault(run_id, Delivery())
                    delivery.events.append((pattern, event))
                    delivery.keys.add(key)
    if found:
        return Plan(runs, place(found[-1]), len(found) == _PAGE)
    newest = int.from_bytes(reader.get(REVISION) or b"", "big")
    return Plan(runs, max(cursor, Cursor(newest, LAST)), False)
