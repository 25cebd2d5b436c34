"""Owns what an engine opens over its store only when it is needed: state, durable topics, and the dispatch of their events.
It must never import them before that: each takes a tenth of the time in which Spellwork is imported.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from spellwork.engine import messages as m
from spellwork.engine.host import Host
from spellwork.engine.partition import Partition
from spellwork.store import Batch

if TYPE_CHECKING:
    from spellwork.engine.dispatch import Dispatch
    from spellwork.engine.triggers import Trigger
    from spellwork.events.durable import Topics
    from spellwork.events.event import Event
    from spellwork.state import StateStore

Bring = Callable[[m.AskSignal, Partition], Awaitable[None]]
Start = Callable[["Trigger", "Event[Any]", str, Batch], Awaitable[None]]
_SWEEP_EVERY = 60.0


class Data:
    """State and topics of one engine, from its opening to its closing.

    `bring` gives an event to a run, `start` starts one by an event, `taken_over` is told of a partition that was lost.
    """

    def __init__(
        self, host: Host, triggers: tuple[Trigger, ...], bring: Bring, start: Start, taken_over: Callable[[Partition], None]
    ):
        self._host = host
        self._triggers = triggers
        self._bring, self._start, self._taken_over = bring, start, taken_over
        self._state: StateStore | None = None
        self._topics: Topics | None = None
        self._dispatch: Dispatch | None = None
        self._stopped = False

    @property
    def state(self) -> StateStore:
        """Typed trees."""
        if self._state is None:
            from spellwork.state import StateStore  # noqa: PLC0415 - see above

            self._state = StateStore(self._host.store, codec=self._host.codec)
            self._state.sweeper.start()
        return self._state

    @property
    def topics(self) -> Topics:
        """Durable topics."""
        if self._topics is None:
            from spellwork.events.durable import Topics  # noqa: PLC0415 - see above

            self._topics = Topics(self._host.store, codec=self._host.codec, clock=self._host.clock)
            if self._host.clock.longest_wait < float("inf"):  # virtual time would jump from one look to the next for ever
                self._topics.sweep_every(_SWEEP_EVERY)
        return self._topics

    @property
    def dispatch(self) -> Dispatch:
        """Who brings events to runs and triggers."""
        if self._dispatch is None:
            from spellwork.engine.dispatch import Dispatch  # noqa: PLC0415 - see above

            self._dispatch = Dispatch(self._host, self.topics, self._triggers, self._bring, self._start, self._taken_over)
        return self._dispatch

    def expects(self, batch: Batch) -> None:
        """A batch brings values that expire."""
        self.state.sweeper.expect_of(batch)

    def subscribed(self) -> None:
        """A run waits for events, or a partition may have runs that do."""
        if not self._stopped:
            self.dispatch.wake()

    @property
    def dispatches(self) -> bool:
        """Whether events have been dispatched since the engine was opened."""
        return self._dispatch is not None

    @property
    def busy(self) -> bool:
        """Whether events are on their way."""
        return self._dispatch is not None and self._dispatch.busy

    async def stop(self) -> None:
        """Bring no more events: what can no longer be started must not be taken for done."""
        self._stopped = True
        if self._dispatch is not None:
            await self._dispatch.close()

    async def close(self) -> None:
        """Let go of everything, after `stop`."""
        if self._topics is not None:
            self._topics.close()
        if self._state is not None:
            await self._state.close()
