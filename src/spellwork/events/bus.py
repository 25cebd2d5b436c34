"""Owns `Bus`: topics and patterns in memory, and who gets what is published.
It must never deliver an event to one of its subscribers and not to another one that it belongs to.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from threading import RLock
from typing import Any, Final, Protocol, TypeVar, Unpack, overload

import msgspec

from spellwork.clock import Clock, Duration, SystemClock, nanoseconds, new_id
from spellwork.errors import ChannelClosed, DefinitionError, EventError
from spellwork.events.event import Attributes, Event, check_attributes
from spellwork.events.failure import Failure
from spellwork.events.hand_over import hand_over, hand_over_later, hand_over_now, hand_over_sync
from spellwork.events.pattern import PatternIndex, pattern_tokens, topic_name
from spellwork.events.pipeline import OnError, Pipeline, Processor, Stage
from spellwork.events.ring import Ring
from spellwork.events.subscription import BUFFER, Overflow, Place, Subscription, SyncSubscription
from spellwork.events.topic import Topic

T = TypeVar("T")
log = logging.getLogger("spellwork.events")

ERRORS: Final = Topic[Failure]("error", Failure)
_Rings = tuple[Ring[Event[Any]], ...]
_KNOWN = 4096  # topics whose way a bus remembers


class _Way(Protocol):
    """Where the events of a topic go."""

    def put(self, item: Event[Any]) -> bool:
        """Let it have an event, unless more is to be done for it."""
        ...


class _Nobody:
    """Where they go when no one has subscribed to them, as to most topics of a big program."""

    def put(self, item: Event[Any]) -> bool:  # noqa: ARG002 - as everywhere
        return True


_NOBODY: Final = _Nobody()


class Bus:
    """Events in memory, for tasks and threads: `bus.publish("agent.started", {...})`, `bus.subscribe("agent.*")`.

    In a pattern, `*` stands for one token and `>` at the end for one or more. Subscribers of the same patterns share a ring (see
    `Broadcast`), so an event costs each group of them once, and each subscriber a step of its cursor. What one task or thread
    publishes arrives in that order. `source` is the origin that events name; ids and times are the clock's; `sequence` counts what
    was published.

    Nothing here may be called from a signal handler or a finalizer (`__del__`): it could interrupt the bus while it holds a lock.
    """

    def __init__(self, *, source: str = "spellwork", clock: Clock | None = None) -> None:
        check_attributes(source=source)
        self._clock: Clock = clock or SystemClock()
        self._nanoseconds = nanoseconds(self._clock)
        self._source = source
        self._prefix = new_id(self._clock) + "-"
        self._count = itertools.count(1)
        self._lock = RLock()
        self._index: PatternIndex[Ring[Event[Any]]] = PatternIndex()
        self._shared: dict[tuple[str, ...], Ring[Event[Any]]] = {}
        self._pipeline = Pipeline(self._report)
        self._private: dict[Ring[Event[Any]], None] = {}
        # Where a plain event of a topic goes, if that is one place. Read without a lock; whatever changes it replaces all.
        self._ways: dict[str, _Way] = {}
        self._closed = False
        self.unreported = 0  # failures that a full subscriber to `error` had no room for

    @overload
    async def publish(self, topic: Topic[T], payload: T, **attributes: Unpack[Attributes]) -> Event[T]: ...
    @overload
    async def publish(self, topic: str, payload: T, **attributes: Unpack[Attributes]) -> Event[T]: ...
    async def publish(self, topic: Any, payload: Any, **attributes: Unpack[Attributes]) -> Event[Any]:
        """Publish, and return the event. Waits while a subscriber with `overflow="block"` has no room; cancelled, it did nothing.

        `id` (by default a new one; nobody looks whether it has been there before), `key`, `priority`, `correlation`, `causation`,
        `headers`, `source` and `subject` travel with the event, see `Event`. Raises `PayloadError` for a payload that is not of the
        topic's type and for attributes that CloudEvents can't carry, and `ChannelClosed`.
        """
        event, rings = self._prepared(topic, payload, attributes)
        if rings and (full := hand_over(self._lock, rings, event)) is not None:
            await hand_over_later(self._lock, self._everybody(event), event, full)
        return event

    @overload
    def publish_nowait(self, topic: Topic[T], payload: T, **attributes: Unpack[Attributes]) -> Event[T]: ...
    @overload
    def publish_nowait(self, topic: str, payload: T, **attributes: Unpack[Attributes]) -> Event[T]: ...
    def publish_nowait(self, topic: Any, payload: Any, **attributes: Unpack[Attributes]) -> Event[Any]:
        """Publish from a task or any thread; where `publish` would wait, it raises `ChannelFull` and nobody gets the event."""
        way = self._ways.get(topic) if type(topic) is str and not attributes else None
        if way is None:
            event, rings = self._prepared(topic, payload, attributes)
            if rings:
                hand_over_now(self._lock, rings, event)
            return event
        number = next(self._count)
        event = Event(f"{self._prefix}{number}", self._source, topic, self._nanoseconds() // 1000, payload, None, number)
        if not way.put(event):
            hand_over_now(self._lock, self._index.match(topic), event)
        return event

    @overload
    def publish_sync(
        self, topic: Topic[T], payload: T, *, timeout: Duration | None = ..., **attributes: Unpack[Attributes]
    ) -> Event[T]: ...
    @overload
    def publish_sync(
        self, topic: str, payload: T, *, timeout: Duration | None = ..., **attributes: Unpack[Attributes]
    ) -> Event[T]: ...
    def publish_sync(
        self, topic: Any, payload: Any, *, timeout: Duration | None = None, **attributes: Unpack[Attributes]
    ) -> Event[Any]:
        """Publish from a thread, and block it where `publish` would wait; after `timeout` real seconds raises `ChannelTimeout`."""
        event, rings = self._prepared(topic, payload, attributes)
        hand_over_sync(self._lock, self._everybody(event) if rings else tuple, event, timeout)
        return event

    async def forward(self, event: Event[T]) -> Event[T]:
        """Publish an event that exists already, such as one from `Event.from_cloudevent`; its `sequence` becomes this bus's."""
        rings = self._index.match(topic_name(event.type))
        self._check_open()
        passed, rings = self._processed(msgspec.structs.replace(event, sequence=next(self._count)), rings)
        if (full := hand_over(self._lock, rings, passed)) is not None:
            await hand_over_later(self._lock, self._everybody(passed), passed, full)
        return passed

    @overload
    def subscribe(self, topic: Topic[T], /, *, overflow: Overflow = ..., buffer: int = ...) -> Subscription[Event[T]]: ...
    @overload
    def subscribe(self, *patterns: str, overflow: Overflow = ..., buffer: int = ...) -> Subscription[Event[Any]]: ...
    def subscribe(self, *patterns: Any, overflow: Overflow = "error", buffer: int = BUFFER) -> Subscription[Event[Any]]:
        """A subscription for a task to all topics of these patterns, each event once; it begins when it is entered.

        `overflow` says what happens when it is more than `buffer` events behind, see `Broadcast`.
        """
        return Subscription(_Group(self, patterns), overflow, buffer)

    @overload
    def subscribe_sync(self, topic: Topic[T], /, *, overflow: Overflow = ..., buffer: int = ...) -> SyncSubscription[Event[T]]: ...
    @overload
    def subscribe_sync(self, *patterns: str, overflow: Overflow = ..., buffer: int = ...) -> SyncSubscription[Event[Any]]: ...
    def subscribe_sync(self, *patterns: Any, overflow: Overflow = "error", buffer: int = BUFFER) -> SyncSubscription[Event[Any]]:
        """The same for a thread, which it blocks."""
        return SyncSubscription(_Group(self, patterns), overflow, buffer)

    def process(
        self,
        processor: Processor,
        pattern: str = ">",
        *,
        name: str | None = None,
        order: float = 0,
        on_error: OnError | None = None,
    ) -> Stage:
        """Let `processor` see the events of a pattern before they are delivered, from now until `remove` of what this returns.

        It returns the event, a changed one, or None for an event that is to go no further; `spellwork.events.processors` has some.
        One that has a method `close()` is closed when it is removed.
        Lower `order` comes first, then who was added first. It runs in the task or thread that publishes. When it raises, that is
        counted and published on the topic `error` (events of that topic are not processed), and the event goes on as if it were not
        there, or, with `on_error="drop"`, goes no further.
        """
        stage = self._pipeline.add(processor, pattern, name, order, on_error)
        self._ways = {}
        return stage

    def report(self, failure: Failure) -> None:
        """Publish a failure on the topic `error`, never raising: without a subscriber it is logged, without room it is counted."""
        try:
            if not self._index.match(ERRORS.name):
                log.error("%s failed at an event of %s: %s: %s", failure.where, failure.topic, failure.type, failure.message)
                return
            event, rings = self._prepared(ERRORS.name, failure, {})
            hand_over_now(self._lock, rings, event)
        except EventError:
            with self._lock:
                self.unreported += 1

    def close(self) -> None:
        """Publish no more: subscribers read what they hold and are at the end; those who wait for room get `ChannelClosed`.

        Processors are removed, so that what they have gathered goes out.
        """
        for stage in self._pipeline.stages:
            stage.remove()
        with self._lock:
            self._closed = True
            self._ways = {}
            for ring in (*self._shared.values(), *self._private):
                ring.close()

    def _prepared(self, topic: Any, payload: Any, attributes: Attributes) -> tuple[Event[Any], _Rings]:
        ways = self._ways
        # A name whose rings are known has been checked.
        rings = self._index.cached.get(topic) if type(topic) is str else None
        if rings is None:
            if isinstance(topic, Topic):
                topic.check(payload)
                topic = topic.name
            else:
                topic_name(topic)
            rings = self._index.match(topic)
        if self._closed:
            self._check_open()
        number = next(self._count)
        event = Event(f"{self._prefix}{number}", self._source, topic, self._nanoseconds() // 1000, payload, None, number)
        if attributes:
            check_attributes(**attributes)
            if attributes.get("id", "") is None:
                del attributes["id"]
            if headers := attributes.get("headers"):
                attributes["headers"] = dict(headers)  # whoever gave it may change it
            event = msgspec.structs.replace(event, **attributes)
        if self._pipeline.stages:
            return self._processed(event, rings)
        if len(rings) < 2:
            if len(ways) >= _KNOWN:
                ways.clear()
            ways[topic] = rings[0] if rings else _NOBODY
        return event, rings

    def _processed(self, event: Event[T], rings: _Rings) -> tuple[Event[T], _Rings]:
        if event.type == ERRORS.name:
            return event, rings
        passed = self._pipeline.run(event)
        return (event, ()) if passed is None else (passed, rings)

    def _everybody(self, event: Event[Any]) -> Callable[[], _Rings]:
        def rings() -> _Rings:
            self._check_open()
            return self._index.match(event.type)

        return rings

    def _report(self, stage: Stage, topic: str, id: str | None, error: BaseException) -> None:
        self.report(Failure.of(stage.name, topic, id, error))

    def _check_open(self) -> None:
        if self._closed:
            raise ChannelClosed("the bus is closed: nothing is published or subscribed to any more")


class _Group:
    """The subscribers of the same patterns, as each of them sees it."""

    __slots__ = ("_bus", "_patterns")

    def __init__(self, bus: Bus, patterns: tuple[Any, ...]) -> None:
        names = [pattern.name if isinstance(pattern, Topic) else pattern for pattern in patterns]
        for name in names:
            pattern_tokens(name)
        if not names:
            raise DefinitionError("subscribe takes at least one pattern; `>` stands for all topics")
        self._bus = bus
        self._patterns = tuple(sorted(set(names)))

    def admit(self, place: Place[Event[Any]]) -> Ring[Event[Any]]:
        """The ring to read in."""
        bus = self._bus
        with bus._lock:
            bus._check_open()
            private = place.overflow == "drop_newest"
            known = None if private else bus._shared.get(self._patterns)
            ring = Ring(bus._lock, keeps_oldest=private) if known is None else known
            ring.join(place)
            if known is None:
                if private:
                    bus._private[ring] = None
                else:
                    bus._shared[self._patterns] = ring
                for pattern in self._patterns:
                    bus._index.add(pattern, ring)
                bus._ways = {}
            return ring

    def dismiss(self, place: Place[Event[Any]], ring: Ring[Event[Any]]) -> None:
        """Stop reading there."""
        bus = self._bus
        with bus._lock:
            ring.leave(place)
            if not ring.readers:
                for pattern in self._patterns:
                    bus._index.discard(pattern, ring)
                bus._ways = {}
                if ring in bus._private:
                    del bus._private[ring]
                else:
                    del bus._shared[self._patterns]
