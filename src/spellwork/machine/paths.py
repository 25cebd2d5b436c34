"""Owns test paths: the shortest sequences of events that reach each state and take each transition of a chart.
It must never call an action; only guards and assignments run, which are pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from spellwork.machine.chart import Chart
from spellwork.machine.configuration import Configuration
from spellwork.machine.event import Event, as_event
from spellwork.machine.step import Outcome
from spellwork.machine.table import Arrow


@dataclass(frozen=True, slots=True)
class TestPath:
    """Send these events, one after the other, to get to `goal`; `leaves` are the active leaf states then."""

    __test__ = False

    goal: str
    events: tuple[Event, ...]
    leaves: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Coverage:
    """A path to every state and every transition that was reached; what no path of the given events reaches is named."""

    states: dict[str, TestPath]
    transitions: dict[str, TestPath]
    unreached: tuple[str, ...]


def paths_of(chart: Chart, events: Iterable[Any] | None = None, context: Any = None, limit: int = 10_000) -> Coverage:
    """Explore the chart breadth first by sending `events` (default: each name that it knows, without a payload).

    Timer events count as events. At most `limit` configurations are explored.
    """
    known = [event for event in chart.events if not event.startswith(("done.", "error"))]
    tried = [as_event(event) for event in (known if events is None else events)]
    search = _Search(chart, tried)
    search.note(chart.begin(context), ())
    while search.waiting and len(search.seen) < limit:
        search.expand()
    names = {_name(arrow): None for vertex in chart.table.vertices if vertex.kind != "history" for arrow in vertex.arrows}
    unreached = [id_ for id_ in chart.states if id_ not in search.states] + [name for name in names if name not in search.arrows]
    return Coverage(search.states, search.arrows, tuple(unreached))


class _Search:
    def __init__(self, chart: Chart, events: list[Event]):
        self.chart, self.events = chart, events
        self.states: dict[str, TestPath] = {}
        self.arrows: dict[str, TestPath] = {}
        self.seen: set[tuple[Any, str, int]] = set()
        self.waiting: deque[tuple[Configuration, tuple[Event, ...]]] = deque()

    def expand(self) -> None:
        configuration, path = self.waiting.popleft()
        for event in self.events:
            outcome = self.chart.advance(configuration, event)
            if outcome.handled:
                self.note(outcome, (*path, event))

    def note(self, outcome: Outcome, path: tuple[Event, ...]) -> None:
        after = outcome.configuration
        key = (after.node.key, repr(after.context), len(after.deferred))
        for taken in outcome.taken:
            for vertex in taken.entered:
                self.states.setdefault(vertex.id, TestPath(vertex.id, path, after.leaves))
            for arrow in (each for each in taken.arrows if each is not each.source.initial):
                self.arrows.setdefault(_name(arrow), TestPath(_name(arrow), path, after.leaves))
        if key not in self.seen:
            self.seen.add(key)
            if after.running:
                self.waiting.append((after, path))


def _name(arrow: Arrow) -> str:
    events, targets = " ".join(arrow.transition.events) or "(always)", " ".join(arrow.transition.targets) or "(stays)"
    return f"{arrow.source.id} -- {events} --> {targets}"
