"""Owns the verbs by which a workflow publishes to durable topics and waits for their events.
It must never let an event out before the journal says so, nor miss one that was published after the subscription.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import msgspec

from spellwork.clock import MICROSECONDS, Duration, seconds
from spellwork.errors import Conflict, StoreError
from spellwork.events.durable.decoded import event_of
from spellwork.events.durable.keys import check_name
from spellwork.events.durable.reading import Found
from spellwork.events.durable.record import Record, append_event, pack_record, unpack_record
from spellwork.events.event import Event as Happened
from spellwork.events.event import Header, check_attributes
from spellwork.events.pattern import pattern_tokens
from spellwork.journal.rows import subscription_key
from spellwork.store import Batch
from spellwork.workflow.effects import Commit, Moment, Write
from spellwork.workflow.signal import Signal
from spellwork.workflow.verbs import current

if TYPE_CHECKING:
    from spellwork.workflow.execution import Execution

T = TypeVar("T")


async def publish(  # noqa: PLR0913 - what events carry
    topic: str,
    payload: Any,
    *,
    type: Any = Any,  # noqa: A002 - the word of `Topic` and `Signal`
    key: str | None = None,
    subject: str | None = None,
    correlation: str | None = None,
    causation: str | None = None,
    priority: int | None = None,
    headers: Mapping[str, Header] | None = None,
) -> None:
    """Publish an event to a durable topic, as a part of the workflow's journal: it is there if and only if its entry is, once.

    `type` is the annotation of the payload; `key` keeps events in order. `correlation` and `causation` are those of this run unless
    given: what began it all (the run itself, if no event or other run started it), and what started it. The event's id is made of
    the run and the command, its source is `workflow/NAME/RUN`. Raises `PayloadError`.
    """
    execution = current("publish()")
    check_attributes(key=key, subject=subject, correlation=correlation, causation=causation, priority=priority, headers=headers)
    codec, started = execution.codec, execution.started
    told = Record(
        "", 0, codec.shape(type).encode(payload), key, f"workflow/{started.workflow}/{started.run_id}", subject,
        correlation or started.origin, causation or started.causation, priority, codec.plain(dict(headers)) if headers else None,
    )  # fmt: skip
    await execution.perform(publication(topic, told))


def publication(topic: str, told: Record) -> Write:
    """The effect that publishes `told`, with the id and the time of its command; raises `DefinitionError` if it is no topic."""
    check_name(topic)

    def put(batch: Batch, moment: Moment) -> None:
        append_event(batch, topic, msgspec.structs.replace(told, id=moment.key, time=moment.at))

    return Write(f"publish {topic}", pack_record(told), put)


class Event(Generic[T]):
    """Events of the durable topics that match a pattern, as something that a workflow can wait for.

    `*` stands for one token, `>` at the end for the rest. `type` is the annotation of the payloads.
    """

    def __init__(self, pattern: str, type: type[T] = Any) -> None:  # type: ignore[assignment] # noqa: A002 - as above
        pattern_tokens(pattern)
        self.pattern = pattern
        self.type = type
        self._signal: Signal[list[Any]] = Signal(f"event {pattern}", list)

    async def subscribe(self) -> None:
        """From here on no matching event is missed, whenever it is received. `receive` does it if it was not done."""
        execution = current("Event.subscribe()")
        asked = execution.subscriptions.get(self.pattern)
        if asked is None:
            asked = execution.loop.create_task(self._subscribe(execution))
            execution.subscriptions[self.pattern] = asked
        await asyncio.shield(asked)  # who comes second waits as well, also when the first one is cancelled

    async def _subscribe(self, execution: Execution) -> None:
        run_id = execution.started.run_id

        def put(batch: Batch, moment: Moment) -> None:
            key = subscription_key(moment.partition, self.pattern, run_id)
            batch.put(key, b"").require_absent(key)

        try:
            await execution.perform(Commit(f"subscribe {self.pattern}", "", put, subscribes=True))
        except Conflict:
            return  # an earlier run of this chain has subscribed, and what came since is on its way
        except StoreError:
            del execution.subscriptions[self.pattern]  # there is none: the next one asks again
            raise

    @overload
    async def receive(self, *, where: Callable[[Happened[T]], bool] | None = None) -> Happened[T]: ...
    @overload
    async def receive(
        self, *, where: Callable[[Happened[T]], bool] | None = None, timeout: Duration | None
    ) -> Happened[T] | None: ...
    async def receive(
        self, *, where: Callable[[Happened[T]], bool] | None = None, timeout: Duration | None = None
    ) -> Happened[T] | None:
        """The next matching event that was published after the subscription; None after `timeout` (seconds or timedelta, durable).

        With `where`, events for which it is false are passed over for good. It must be pure: it runs again on replay. Raises
        `PayloadError` for an event whose payload does not fit the annotation.
        """
        execution = current("Event.receive()")
        shape = execution.codec.shape(self.type)
        deadline = None if timeout is None else execution.now + round(seconds(timeout) * MICROSECONDS)
        await self.subscribe()
        while True:
            left = None if deadline is None else max(deadline - execution.now, 0) / MICROSECONDS
            found = await execution.receive(self._signal, left, None)
            if found is None:
                return None
            topic, offset, revision, data = found
            event: Happened[T] = event_of(Found(topic, offset, revision, unpack_record(b"", data)), shape)
            if where is None or where(event):
                return event

    def __repr__(self) -> str:
        return f"<events {self.pattern}>"
