"""Owns the processors of a bus: which see an event, in which order, and what becomes of the event when one of them fails.
It must never let an error of one of them reach another one, or the publisher.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from threading import Lock
from typing import Any, Literal

from spellwork.errors import DefinitionError, EventError
from spellwork.events.event import Event
from spellwork.events.pattern import PatternIndex
from spellwork.supervision import attempt

Processor = Callable[[Event[Any]], Event[Any] | None]
Report = Callable[["Stage", str, str | None, BaseException], None]
OnError = Literal["pass", "drop"]
_CACHED = 4096


class Stage:
    """A processor at work. `dropped` events went no further because of it, at `failed` ones it raised (the last: `error`)."""

    def __init__(
        self, pipeline: Pipeline, processor: Processor, pattern: str, name: str, order: tuple[float, int], on_error: OnError
    ):
        self.processor = processor
        self.pattern = pattern
        self.name = name
        self.order = order
        self.on_error: OnError = on_error
        self.dropped = self.failed = 0
        self.error: BaseException | None = None
        self._pipeline = pipeline
        self._lock = Lock()

    def remove(self) -> None:
        """Let it see no more events; what it has gathered (`batch`) goes out. A second call does nothing."""
        self._pipeline.remove(self)

    def process(self, event: Event[Any]) -> Event[Any] | None:
        """What becomes of the event: None if it goes no further."""
        result, error = attempt(self.processor, event)
        if error is None and result is None:
            with self._lock:
                self.dropped += 1
            return None
        if error is None and not (isinstance(result, Event) and (result.type, result.id) == (event.type, event.id)):
            error = EventError(f"a processor returns None or the event with its id and type, not {result!r}")
        if error is None:
            passed: Event[Any] = result
            return passed
        self.fail(event.type, event.id, error)
        return event if self.on_error == "pass" else None

    def fail(self, topic: str, id: str | None, error: BaseException) -> None:
        """Count and report an error; what is no plain error (an interrupt, the end of the program) goes on as it is."""
        if not isinstance(error, Exception):
            raise error
        with self._lock:
            self.failed += 1
            self.error = error
        self._pipeline.report(self, topic, id, error)


class Pipeline:
    """Stages in order: by their `order`, and by when they were added where that is equal."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.stages: tuple[Stage, ...] = ()
        self._index: PatternIndex[Stage] = PatternIndex()
        self._count = itertools.count()
        self._lock = Lock()
        self._by_topic: dict[str, tuple[Stage, ...]] = {}  # replaced at each change, as in PatternIndex

    def add(self, processor: Processor, pattern: str, name: str | None, order: float, on_error: OnError | None) -> Stage:
        """Put a processor to work."""
        if not callable(processor):
            raise DefinitionError(f"a processor is a function of an event, not {processor!r}")
        wanted = on_error or getattr(processor, "on_error", "pass")
        if wanted not in ("pass", "drop"):
            raise DefinitionError(f"on_error is {wanted!r}, but must be 'pass' or 'drop'")
        label = name or str(getattr(processor, "__name__", type(processor).__name__))
        stage = Stage(self, processor, pattern, label, (order, next(self._count)), wanted)
        attach = getattr(processor, "attach", None)
        if attach is not None:
            attach(lambda error: stage.fail(pattern, None, error))
        with self._lock:
            self._index.add(pattern, stage)
            self.stages = (*self.stages, stage)
            self._by_topic = {}
        return stage

    def remove(self, stage: Stage) -> None:
        """Take it away and close what can be closed."""
        with self._lock:
            if stage not in self.stages:
                return
            self._index.discard(stage.pattern, stage)
            self.stages = tuple(each for each in self.stages if each is not stage)
            self._by_topic = {}
        close = getattr(stage.processor, "close", None)
        if close is not None:
            _, error = attempt(close)
            if error is not None:
                stage.fail(stage.pattern, None, error)

    def run(self, event: Event[Any]) -> Event[Any] | None:
        """The event as the stages leave it, or None."""
        found = self._by_topic.get(event.type)
        for stage in self._sorted(event.type) if found is None else found:
            passed = stage.process(event)
            if passed is None:
                return None
            event = passed
        return event

    def _sorted(self, topic: str) -> tuple[Stage, ...]:
        known = self._by_topic
        stages = tuple(sorted(self._index.match(topic), key=lambda stage: stage.order))
        if len(known) < _CACHED:
            known[topic] = stages
        return stages
