"""Owns what surrounds a machine in memory: its queue, its timers, its children, and how events travel between sessions.
It must never decide a transition.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from spellwork.errors import QueueFull
from spellwork.machine import action
from spellwork.machine.chart import Chart
from spellwork.machine.event import Event
from spellwork.machine.waiting import PLATFORM, Cancellable, EventQueue, Timers, VirtualTime
from spellwork.supervision import attempt

if TYPE_CHECKING:
    from spellwork.machine.configuration import Configuration

STOP = Event("stop")
_SCXML_TYPES = (None, "", "scxml", "http://www.w3.org/TR/scxml", "http://www.w3.org/TR/scxml/")


class Member(Protocol):
    """A machine as its neighbours see it."""

    @property
    def configuration(self) -> Configuration:
        """Where it stands."""
        ...

    def receive(self, event: Event, priority: int = 0) -> None:
        """Take an event that a neighbour or a timer sent; one that nothing handles is dropped."""
        ...

    def stop(self) -> None:
        """End, with all exit actions."""
        ...


class World:
    """Machines that can reach each other: sessions by id, one clock, and the charts that can be invoked by name."""

    def __init__(self, clock: Timers | None, charts: Mapping[str, Chart] | Callable[[Any], Chart] | None):
        self.clock: Timers = clock if clock is not None else VirtualTime()
        self.charts = charts or {}
        self.sessions: dict[str, Member] = {}
        self.lock: AbstractContextManager[Any] = contextlib.nullcontext()  # what timers hold while they deliver
        self._number = itertools.count(1)

    def new_session(self) -> str:
        """An id that no session of this world has, restored ones included."""
        return next(id_ for number in self._number if (id_ := f"session-{number}") not in self.sessions)

    def chart(self, src: Any) -> Chart:
        """The chart behind a source. LookupError if there is none."""
        found = self.charts(src) if callable(self.charts) else self.charts.get(str(src))
        if found is None:
            raise LookupError(f"no chart is known by {src!r}; give it in `charts`")
        return found


class Host:
    """The surroundings of one machine."""

    def __init__(self, world: World, session: str, limit: int | None = None, parent: tuple[Member, str] | None = None):
        self.world, self.session, self.parent = world, session, parent
        self.queue = EventQueue(limit)
        self.children: dict[str, Member] = {}
        self._timers: dict[int, tuple[str | None, Cancellable, action.Deliver, float]] = {}
        self._late: list[tuple[str, Event]] = []
        self._numbers = itertools.count()

    def make_room(self, actions: Iterable[action.Action]) -> None:
        """Refuse a step that sends its machine more than the queue can hold, while the machine can still stay where it is.

        Raises:
            QueueFull: the queue can't hold it.
        """
        limit, own = self.queue.limit, (None, f"#_scxml_{self.session}")
        sent = [each for each in actions if isinstance(each, action.Deliver) and each.delay <= 0 and each.target in own]
        if limit is not None and sent and len(self.queue) + len(sent) > limit:
            raise QueueFull(
                f"the step sends {', '.join(each.event.name for each in sent)} to its own machine, "
                f"whose queue holds {limit} and has {len(self.queue)} already",
                limit=limit,
            )

    def perform(self, member: Member, actions: tuple[action.Action, ...], spawn: Callable[..., Member]) -> BaseException | None:
        """Do what a step asked for, except calling its actions; the first error, of a child or neighbour, stops none of it."""
        first: BaseException | None = None
        for wanted in actions:
            _, error = attempt(self._perform, member, wanted, spawn)
            first = first or error
        return first

    def _perform(self, member: Member, wanted: action.Action, spawn: Callable[..., Member]) -> None:
        match wanted:
            case action.Deliver():
                self.deliver(member, wanted)
            case action.Withdraw(id):
                self.withdraw(id)
            case action.Start():
                self._start(member, wanted, spawn)
            case action.Stop(id):
                child = self.children.pop(id, None)
                if child is not None:
                    child.stop()
            case action.Forward(id, event):
                if id in self.children:
                    self.children[id].receive(event)
            case _:
                pass

    def deliver(self, member: Member, wanted: action.Deliver) -> None:
        """Send an event on its way, now or later."""
        if wanted.delay <= 0:
            self._arrive(member, wanted)
            return
        number = next(self._numbers)

        def due() -> None:
            with self.world.lock:
                arrive()

        def arrive() -> None:
            if self._timers.pop(number, None) is None:
                return  # it was withdrawn while a clock with threads of its own was about to call
            if wanted.id is not None:
                if not len(self.queue):
                    self._late.clear()  # none of them waits any more
                self._late.append((wanted.id, wanted.event))
            if member.configuration.running:
                self._arrive(member, wanted)

        timer = self.world.clock.call_later(wanted.delay, due)
        self._timers[number] = (wanted.id, timer, wanted, wanted.delay)

    def reaches(self, target: str) -> bool:
        """Whether an event to this target would arrive now."""
        if target == "#_parent":
            return self.parent is not None
        if target.startswith("#_scxml_"):
            return target.removeprefix("#_scxml_") in self.world.sessions
        return target.removeprefix("#_") in self.children

    def withdraw(self, id_: str) -> None:
        """Forget the delayed deliveries of this id, those too that came while a step was under way and still wait."""
        for late in [event for known, event in self._late if known == id_]:
            self.queue.remove(late)
        for number in [number for number, entry in self._timers.items() if entry[0] == id_]:
            self._timers.pop(number)[1].cancel()

    @property
    def waiting(self) -> tuple[action.Deliver, ...]:
        """The deliveries that wait for their time."""
        return tuple(entry[2] for entry in self._timers.values())

    def ended(self, member: Member) -> None:
        """The machine has ended: its timers are forgotten, its children stop, and its parent is told."""
        for entry in self._timers.values():
            entry[1].cancel()
        self._timers.clear()
        children, self.children = self.children, {}
        for child in children.values():
            child.stop()
        self.world.sessions.pop(self.session, None)
        if self.parent is not None:
            parent, invokeid = self.parent
            self.parent = None
            parent.receive(Event(f"done.invoke.{invokeid}", member.configuration.result, invokeid=invokeid))

    def _arrive(self, member: Member, wanted: action.Deliver) -> None:
        target, event = wanted.target, wanted.event
        if target is None or target == f"#_scxml_{self.session}":
            member.receive(event)
            return
        to: Member | None = None
        if target == "#_parent" and self.parent is not None:
            to, invokeid = self.parent
            event = dataclasses.replace(event, invokeid=invokeid)
        elif target.startswith("#_scxml_"):
            to = self.world.sessions.get(target.removeprefix("#_scxml_"))
        else:
            to = self.children.get(target.removeprefix("#_"))
        if to is None:
            self._failed(member, f"{target} can't be reached", sendid=wanted.id)
        else:
            to.receive(event)

    def _failed(self, member: Member, message: str, *, sendid: str | None = None, name: str = "error.communication") -> None:
        member.receive(Event(name, message, "platform", sendid=sendid), PLATFORM)

    def _start(self, member: Member, wanted: action.Start, spawn: Callable[..., Member]) -> None:
        if wanted.type not in _SCXML_TYPES:
            self._failed(member, f"nothing can invoke {wanted.type!r}", name="error.execution")
            return
        content = wanted.content
        chart, error = (
            (content, None) if isinstance(content, Chart) else attempt(self.world.chart, wanted.src if content is None else content)
        )
        if error is not None:
            self._failed(member, str(error))
            return
        self.children[wanted.id] = spawn(chart, self.world, (member, wanted.id), wanted.data)
