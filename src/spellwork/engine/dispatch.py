"""Owns bringing events of durable topics to the runs that wait for them, and starting runs by events.
It must never lose its place: the cursor moves after what it stands for is durable, and everything before that is idempotent.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec

from spellwork.engine import messages as m
from spellwork.engine.follower import Follower
from spellwork.engine.host import Host
from spellwork.engine.partition import Partition
from spellwork.engine.triggers import Trigger
from spellwork.errors import (
    DefinitionError,
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
from spellwork.events.pattern import PatternIndex
from spellwork.journal.rows import cursor_key, subscription_of, subscription_range, trigger_key
from spellwork.store import Batch, Reader
from spellwork.store.keyspace import REVISION
from spellwork.supervision import attempt

log = logging.getLogger("spellwork.engine")
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
        post: Callable[[m.AnyMessage], Awaitable[Any]],
        start: Callable[[Trigger, Event[Any], str], Awaitable[Any]],
    ):
        self._host = host
        self._store = host.store
        self._topics = topics
        self._triggers = tuple(triggers)
        self._post = post
        self._start = start
        self._cursors: dict[Partition, Cursor] = {}
        self._closed = False
        # each trigger has its own, since a run that it starts may have to wait for the owner of its partition
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
                try:
                    await self._store.commit(Batch().put(key, bytes(here)).require_absent(key))
                except StoreError as error:
                    log.debug("trigger %s has its place already: %s", trigger.name, error)
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
        more = [await self._tried(functools.partial(self._dispatch, each)) for each in list(self._host.partitions.values())]
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
        if plan is None or not partition.held:
            return False
        if plan.runs:
            batch = Batch().require_epoch(partition.index, partition.epoch)
            outcomes = await asyncio.gather(*(self._bring(run_id, delivery) for run_id, delivery in plan.runs.items()))
            for gone in outcomes:
                for key in gone:
                    batch.delete(key)
            await self._store.commit(batch.put(cursor_key(partition.index), bytes(plan.cursor)))
        self._cursors[partition] = plan.cursor  # not before: if that failed, all of it is brought once more
        return plan.more

    async def _bring(self, run_id: str, delivery: Delivery) -> set[bytes]:
        """Bring a run its events, in order; returns the subscriptions that nobody is behind any more."""
        for pattern, found in delivery.events:
            if found.record is None:
                log.error("event %d of topic %s is damaged and was not brought to run %s", found.offset, found.topic, run_id)
                continue
            payload = self._topics.codec.untyped.encode([found.topic, found.offset, found.revision, pack_record(found.record)])
            message = m.AskSignal(run_id, f"event {pattern}", payload, f"{found.topic}:{found.offset}:{pattern}")
            try:
                await self._post(message)
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
        stored = await self._store.get(key)
        cursor = Cursor.of(stored) if stored else Cursor()
        wanted = matcher(trigger.pattern)
        found = await self._store.read(lambda reader: found_after(reader, wanted, cursor, _PAGE))
        if not found:
            return False
        for each in found:
            await self._pull(trigger, each)
        await self._store.commit(Batch().require_epoch(0, partition.epoch).put(key, bytes(place(found[-1]))))
        return True

    async def _pull(self, trigger: Trigger, found: Found) -> None:
        name = trigger.workflow.name
        try:
            event = event_of(found, self._topics.codec.shape(trigger.type))
            await self._start(trigger, event, f"{name}:{event.id}")
        except SpellworkError as error:
            if isinstance(error, _NOT_ITS_FAULT) and not isinstance(error, RowDamaged):
                raise
            self._skipped(trigger, found, error)

    def _skipped(self, trigger: Trigger, found: Found, error: SpellworkError) -> None:
        """It will not fit next time either; the event stays in its topic."""
        name = trigger.workflow.name
        log.error("event %d of topic %s has not started workflow %s: %s", found.offset, found.topic, name, error)


def _subscriptions(reader: Reader, partition: int) -> list[tuple[bytes, int]]:
    """The subscriptions of a partition, with the revisions that they are as old as."""
    start, end = subscription_range(partition)
    try:
        return [(key, version) for key, _, version in reader.rows(start, end)]
    except RowDamaged:
        kept = []
        for key, _ in reader.scan(start, end, damaged=b""):
            version, damage = attempt(reader.version, key)
            if damage is None:
                kept.append((key, version))
            else:
                log.warning("run %s gets no events of %s: %s", *reversed(subscription_of(key)), damage)
        return kept


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
    subscribed: dict[str, list[tuple[int, str, bytes]]] = defaultdict(list)
    for key, version in _subscriptions(reader, partition):
        pattern, run_id = subscription_of(key)
        subscribed[pattern].append((version, run_id, key))
    if not subscribed:
        return None
    first = min(version for each in subscribed.values() for version, _, _ in each)
    cursor = max(before or Cursor(), _brought(reader, partition), Cursor(first, LAST))
    patterns: PatternIndex[str] = PatternIndex()
    for pattern in subscribed:
        patterns.add(pattern, pattern)
    found = found_after(reader, lambda topic: bool(patterns.match(topic)), cursor, _PAGE)
    runs: dict[str, Delivery] = {}
    for event in found:
        for pattern in patterns.match(event.topic):
            for version, run_id, key in subscribed[pattern]:
                if version < event.revision:
                    delivery = runs.setdefault(run_id, Delivery())
                    delivery.events.append((pattern, event))
                    delivery.keys.add(key)
    if found:
        return Plan(runs, place(found[-1]), len(found) == _PAGE)
    newest = int.from_bytes(reader.get(REVISION) or b"", "big")
    return Plan(runs, max(cursor, Cursor(newest, LAST)), False)
