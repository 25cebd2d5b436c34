"""Owns `DurableTopic`: publishing to one topic, and reading it without a group.
It must never acknowledge an event that is not durable.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from spellwork.clock import Duration
from spellwork.codec import Shape
from spellwork.errors import DefinitionError, MergeRefused, TopicNotFound
from spellwork.events.durable.consumer import Consumer, consumer_options
from spellwork.events.durable.decoded import event_of
from spellwork.events.durable.dedup import Once, duplicate_of
from spellwork.events.durable.keys import check_name
from spellwork.events.durable.options import Options
from spellwork.events.durable.reading import BEYOND, PAGE, Found, before_time, head, page, require_kept, swept
from spellwork.events.durable.record import Record, append_event
from spellwork.events.event import Event, Header, check_attributes
from spellwork.instant import microseconds_of
from spellwork.store import Batch, Reader

if TYPE_CHECKING:
    from spellwork.events.durable.topics import Topics

T = TypeVar("T")
Start = int | str | dt.datetime


class DurableTopic(Generic[T]):
    """A topic of a store: a log of events, numbered from 1 in the order of their commits. Made by `Topics.topic`."""

    def __init__(self, topics: Topics, name: str, shape: Shape, options: Options):
        self.name = name
        self.options = options
        self._topics = topics
        self._shape = shape

    async def publish(
        self,
        payload: T,
        *,
        key: str | None = None,
        id: str | None = None,
        headers: Mapping[str, Header] | None = None,
        **attributes: str | int | None,
    ) -> int:
        """Add an event and return its offset, once it is durable. Events of one key keep their order for each group.

        `attributes` are `correlation`, `causation`, `subject`, `source` and `priority`. With an `id` that the topic has had within
        its window of dedup, nothing is added, and the first event's offset is returned. Whoever is cancelled meanwhile does not
        know whether it was added. Raises `PayloadError`.
        """
        record = self.record(payload, key=key, id=id, headers=headers, **attributes)
        if id is not None and self.options.dedup:
            return (await self._once([record]))[0]
        return await self._topics.outlet.publish(self.name, record)

    async def publish_many(
        self, payloads: Iterable[T], *, key: Callable[[T], str | None] | None = None, id: Callable[[T], str] | None = None
    ) -> list[int]:
        """Add events in one commit, all or none, and return their offsets. `key` and `id` tell those of a payload.

        Payloads with an id that the topic has had within its window of dedup add nothing, and give the first event's offset.
        """
        records = [self.record(each, key=key and key(each), id=id and id(each)) for each in payloads]
        if not records:
            return []
        if id is not None and self.options.dedup:
            return await self._once(records)
        batch = Batch()
        for record in records:
            append_event(batch, self.name, record)
        await self._topics.store.commit(batch)
        return batch.sequences

    def record(
        self,
        payload: T,
        *,
        key: str | None = None,
        id: str | None = None,
        headers: Mapping[str, Header] | None = None,
        **attributes: str | int | None,
    ) -> Record:
        """The stored form of an event, for `append_event` into a batch of one's own. Raises `PayloadError`."""
        topics = self._topics
        # the short ways for what most events have: a key, and nothing else
        plain = key is None or (type(key) is str and key and key.isascii())
        if id is not None or headers is not None or attributes or not plain:
            check_attributes(key=key, id=id, headers=headers, **attributes)  # type: ignore[arg-type]
        event_id = topics.new_id() if id is None else id
        record = Record(event_id, topics.clock.now(), self._shape.encode(payload), key, topics.source)
        if headers:
            attributes["headers"] = topics.codec.plain(dict(headers))
        return msgspec.structs.replace(record, **attributes) if attributes else record

    async def _once(self, records: list[Record]) -> list[int]:
        """Publish what is new of some events, and find the offsets of the others."""
        clock, window = self._topics.clock, self.options.dedup
        known: dict[str, int] = {}
        while True:
            fresh: dict[str, Record] = {}
            for record in records:
                if record.id not in known:
                    fresh.setdefault(record.id, record)
            batch = Batch()
            once = Once(batch, self.name, clock.now(), window)
            for place, record in enumerate(fresh.values(), 1):
                once.claim(record.id, place)
                append_event(batch, self.name, record)
            try:
                if fresh:
                    await self._topics.store.commit(batch)
            except MergeRefused as error:
                duplicate = duplicate_of(error)
                # whoever publishes many again has many duplicates: one look finds those that are there by now
                known |= await self._topics.store.read(lambda reader: once.known(reader, fresh))  # noqa: B023 - called before
                known[duplicate.event_id] = duplicate.offset
                continue
            known |= zip(fresh, batch.sequences, strict=True)
            return [known[record.id] for record in records]

    async def read(self, start: Start = "earliest", *, follow: bool = True) -> AsyncIterator[Event[T]]:
        """The events from `start` on: "earliest", "latest", an offset, or a time (of the publishers' clocks).

        With `follow=False` it ends at the newest event, else it waits for more, by any process. Raises `Lagged` when events that
        were asked for are no longer retained.
        """
        store, after, deletions = self._topics.store, -1, -1
        with self._topics.watch.listening(lambda topic, group: topic == self.name and not group) as news:
            while True:
                news.clear()
                asked = after
                deleted = deletions
                found, after, deletions = await store.read(lambda reader: self._next_page(reader, asked, start, deleted))  # noqa: B023
                for each in found:
                    yield event_of(each, self._shape)
                    after = each.offset
                if len(found) < PAGE:
                    if not follow:
                        return
                    await news.wait()

    def _next_page(self, reader: Reader, after: int, start: Start, deleted: int) -> tuple[list[Found], int, int]:
        deletions = swept(reader, self.name).deletions
        if deletions != deleted >= 0:
            raise TopicNotFound(
                f"topic {self.name} was deleted while it was read; what is published from now on is new", topic=self.name
            )
        if after < 0:
            after = self._before(reader, start)
        require_kept(reader, self.name, after)
        return page(reader, self.name, after), after, deletions

    def _before(self, reader: Reader, start: Start) -> int:
        if isinstance(start, dt.datetime):
            return before_time(reader, self.name, microseconds_of(start))
        if type(start) is int and 0 < start < BEYOND:
            return start - 1
        if start == "earliest":
            return swept(reader, self.name).trimmed
        if start == "latest":
            return head(reader, self.name)
        raise DefinitionError(f'a topic is read from "earliest", "latest", an offset from 1 on, or a time, not {start!r}')

    def consume(
        self,
        group: str,
        *,
        start: str = "earliest",
        in_flight: int = 100,
        visibility: Duration = 30,
        max_attempts: int = 5,
        lease: Duration = 10,
        ack_within: Duration = 0,
    ) -> Consumer[T]:
        """Take part in a group: `async with topic.consume("mail") as consumer: async for delivery in consumer: ...`.

        Each event goes to one consumer of the group until it is acknowledged; those of one key go one after the other.

        - `start`: where a group begins that does not exist yet, "earliest" or "latest".
        - `in_flight`: at most so many events are fetched and not acknowledged.
        - `visibility`: an event that is not acknowledged for so long is delivered again.
        - `max_attempts`: an event that failed so often becomes a dead letter.
        - `lease`: after so long without a sign of life, a consumer loses its lanes (at once if its process is gone).
        - `ack_within`: 0 makes `ack` wait until it is durable; else it returns at once, and is durable so much later.

        Raises `DefinitionError`.
        """
        options = consumer_options(start, in_flight, visibility, max_attempts, lease, ack_within)
        return Consumer(self._topics, self.name, check_name(group, "group"), self._shape, options)
