"""Owns the processors that come with the bus: filter, enrich, redact, persist, batch and metrics, for `bus.process(...)`.
They must never change an event; what they change is a copy.
"""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any

import msgspec

from spellwork.clock import Cancellable, Clock, Duration, SystemClock
from spellwork.errors import DefinitionError, UsageError
from spellwork.events.event import Event, check_attributes
from spellwork.events.limits import positive, whole
from spellwork.events.pipeline import OnError, Processor

_CHANGEABLE = frozenset({"data", "subject", "correlation", "causation", "key", "priority", "headers"})
Sink = Callable[[Event[Any]], object]


def filter(keep: Callable[[Event[Any]], object]) -> Processor:
    """Only events for which `keep` gives something true go on."""
    _plain(keep, "filter")
    return _named("filter", lambda event: event if keep(event) else None)


def enrich(function: Callable[[Event[Any]], Mapping[str, Any]]) -> Processor:
    """The fields that `function` gives replace those of the event; `headers` are added to the ones it has.

    Fields are data, subject, correlation, causation, key, priority and headers.
    """
    _plain(function, "enrich")

    def change(event: Event[Any]) -> Event[Any]:
        changes = dict(function(event))
        if unknown := sorted(changes.keys() - _CHANGEABLE):
            raise DefinitionError(f"enrich can't change {', '.join(unknown)}; it may change {', '.join(sorted(_CHANGEABLE))}")
        check_attributes(**{name: value for name, value in changes.items() if name != "data"})
        if changes.get("headers"):
            changes["headers"] = {**(event.headers or {}), **changes["headers"]}
        return msgspec.structs.replace(event, **changes)

    return _named("enrich", change)


def redact(*paths: str, mask: Any = "***") -> Processor:
    """Put `mask` in place of what stands at each path in the data: `user.card`, or `users.*.card` for all of a list or dict.

    It goes into dicts, lists, tuples, dataclasses and structs. If it fails, the event goes no further, unless it is added
    with `on_error="pass"`.
    """
    if not paths or not all(path and all(path.split(".")) for path in paths):
        raise DefinitionError("redact takes paths such as 'password' or 'users.*.card'")
    split = [path.split(".") for path in paths]

    def change(event: Event[Any]) -> Event[Any]:
        data = event.data
        for path in split:
            data = _masked(data, path, mask)
        return event if data is event.data else msgspec.structs.replace(event, data=data)

    return _named("redact", change, "drop")


def persist(sink: Sink) -> Processor:
    """Give each event to `sink` before anybody gets it. With `on_error="drop"`, what could not be persisted is not delivered."""
    _plain(sink, "persist")

    def give(event: Event[Any]) -> Event[Any]:
        sink(event)
        return event

    return _named("persist", give)


class batch:  # noqa: N801 - used like the functions beside it
    """Give `sink` lists of `size` events, and shorter ones `within` so many seconds of their first event, and when it is removed.

    The events themselves go on at once. `within` needs a running event loop; the time is the clock's. The sink is called by whoever
    publishes the last event of a batch.
    """

    def __init__(
        self,
        size: int,
        sink: Callable[[list[Event[Any]]], object],
        *,
        within: Duration | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._size = whole("size", size, 1)
        self._sink = sink
        _plain(sink, "batch")
        self._within = None if within is None else positive("within", within)
        self._clock: Clock = clock or SystemClock()
        self._loop = None if within is None else _running()
        self._held: list[Event[Any]] = []
        self._lock = Lock()
        self._timer: Cancellable | None = None
        self._closed = False  # then an event that was on its way goes out by itself
        self._report: Callable[[BaseException], None] | None = None

    def __call__(self, event: Event[Any]) -> Event[Any]:
        """Take an event."""
        with self._lock:
            self._held.append(event)
            first, full = len(self._held) == 1, len(self._held) == self._size or self._closed
            batch = self._out() if full else []
        if full:
            self._sink(batch)
        elif first and self._loop is not None:
            self._on_loop(self._arm)
        return event

    def attach(self, report: Callable[[BaseException], None]) -> None:
        """Report errors of batches that time sends out."""
        self._report = report
        self._closed = False

    def close(self) -> None:
        """Give out what is held."""
        if self._loop is not None:
            self._on_loop(self._disarm)
        with self._lock:
            self._closed = True
            batch = self._out()
        if batch:
            self._sink(batch)

    def _out(self) -> list[Event[Any]]:
        batch, self._held = self._held, []
        return batch

    def _on_loop(self, call: Callable[[], None]) -> None:
        if self._loop is None or self._loop.is_closed():
            return
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        if here:
            call()
        else:
            self._loop.call_soon_threadsafe(call)

    def _arm(self) -> None:
        self._disarm()
        self._timer = self._clock.call_later(self._within or 0.0, self._flush)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _flush(self) -> None:
        self._timer = None
        with self._lock:
            batch = self._out()
        if batch:
            try:
                self._sink(batch)
            except Exception as error:
                if self._report is None:
                    raise
                self._report(error)


class metrics:  # noqa: N801 - the same
    """Count events: `counts` by topic, `newest` their last time (microseconds)."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.newest: dict[str, int] = {}
        self._lock = Lock()

    def __call__(self, event: Event[Any]) -> Event[Any]:
        """Count one."""
        with self._lock:
            self.counts[event.type] = self.counts.get(event.type, 0) + 1
            self.newest[event.type] = event.at
        return event

    @property
    def total(self) -> int:
        """All together."""
        with self._lock:
            return sum(self.counts.values())


def _named(name: str, function: Callable[[Event[Any]], Event[Any] | None], on_error: OnError = "pass") -> Processor:
    function.__name__ = name
    setattr(function, "on_error", on_error)  # noqa: B010 - the pipeline reads it
    return function


def _plain(function: Any, what: str) -> None:
    if not callable(function):
        raise DefinitionError(f"{what} takes a function, not {function!r}")
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None)):  # noqa: B004
        raise DefinitionError(
            f"{what} runs while an event is published and can't await {function!r}; read a subscription: "
            "`async for events in Stream(subscription).batch(100, within=1.0): await sink(events)`"
        )


def _running() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError as error:
        raise UsageError("batch(within=...) needs a running event loop for its timer; make it there") from error


def _masked(value: Any, path: list[str], mask: Any) -> Any:
    if not path:
        return mask
    name, rest = path[0], path[1:]
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        changed = [_masked(item, rest, mask) if name in ("*", str(index)) else item for index, item in enumerate(value)]
        return type(value)(changed)
    if isinstance(value, Mapping):
        keys = value.keys() if name == "*" else {name} & value.keys()
        return {**value, **{key: _masked(value[key], rest, mask) for key in keys}} if keys else value
    if isinstance(value, msgspec.Struct):
        if name in value.__struct_fields__:
            return msgspec.structs.replace(value, **{name: _masked(getattr(value, name), rest, mask)})
    elif dataclasses.is_dataclass(value) and name in {field.name for field in dataclasses.fields(value)}:
        return dataclasses.replace(value, **{name: _masked(getattr(value, name), rest, mask)})  # type: ignore[type-var]
    return value
