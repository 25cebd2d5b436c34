"""Owns `Emitter`: functions that are called when something happens, one after the other.
It must never let an error of one of them reach another one, or whoever emits.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from threading import Lock
from typing import Any, TypeVar, overload

from spellwork.errors import DefinitionError, UsageError
from spellwork.events.failure import Failure
from spellwork.events.pattern import topic_name
from spellwork.events.topic import Topic
from spellwork.supervision import attempt

T = TypeVar("T")
H = TypeVar("H", bound=Callable[..., Any])
log = logging.getLogger("spellwork.events")

ERROR = "error"
Handler = Callable[[T], Awaitable[object] | object]


class _Entry:
    __slots__ = ("asynchronous", "handler", "once", "removed")

    def __init__(self, handler: Handler[Any], once: bool) -> None:
        self.handler = handler
        self.once = once
        self.removed = False
        self.asynchronous = _is_asynchronous(handler)


class Emitter:
    """`on`, `once`, `off` and `emit`, with plain and `async` handlers, called in the order in which they were added.

    An event is a name, or a `Topic`, whose payloads are checked. A handler that is removed while an event is emitted is not called
    any more, one that is added is called from the next one on. When a handler raises, the others are called all the same, and a
    `Failure` is emitted as `error`; without a handler for that it is logged. What a handler of `error` raises is only logged.
    """

    def __init__(self) -> None:
        self._entries: dict[str, tuple[_Entry, ...]] = {}  # replaced at each change: someone may go through it
        self._lock = Lock()

    @overload
    def on(self, event: Topic[T], handler: Handler[T]) -> Handler[T]: ...
    @overload
    def on(self, event: Topic[T]) -> Callable[[Handler[T]], Handler[T]]: ...
    @overload
    def on(self, event: str, handler: H) -> H: ...
    @overload
    def on(self, event: str) -> Callable[[H], H]: ...
    def on(self, event: Any, handler: Any = None) -> Any:
        """Call `handler(payload)` for each event of that name, also as a decorator; it is called as often as it was added."""
        return self._added(event, handler, once=False)

    @overload
    def once(self, event: Topic[T], handler: Handler[T]) -> Handler[T]: ...
    @overload
    def once(self, event: Topic[T]) -> Callable[[Handler[T]], Handler[T]]: ...
    @overload
    def once(self, event: str, handler: H) -> H: ...
    @overload
    def once(self, event: str) -> Callable[[H], H]: ...
    def once(self, event: Any, handler: Any = None) -> Any:
        """The same, for the next event alone."""
        return self._added(event, handler, once=True)

    def off(self, event: Topic[Any] | str, handler: Handler[Any] | None = None) -> int:
        """Remove a handler, as often as it was added, or all of an event; how many were removed."""
        name = _name(event)
        with self._lock:
            entries = self._entries.get(name, ())
            gone = [entry for entry in entries if handler is None or entry.handler == handler]
            for entry in gone:
                entry.removed = True
            self._sweep(name)
            return len(gone)

    def handlers(self, event: Topic[Any] | str) -> list[Handler[Any]]:
        """Those of an event, in their order."""
        return [entry.handler for entry in self._entries.get(_name(event), ())]

    @overload
    async def emit(self, event: Topic[T], payload: T) -> int: ...
    @overload
    async def emit(self, event: str, payload: Any = ...) -> int: ...
    async def emit(self, event: Any, payload: Any = None) -> int:
        """Call the handlers, each when the one before it is done; how many did not raise. Cancelled, it calls no more of them."""
        name, done = self._checked(event, payload), 0
        for entry in self._entries.get(name, ()):
            if self._takes(name, entry):
                value, error = attempt(entry.handler, payload)
                if error is None and inspect.isawaitable(value):
                    # in a task of its own, so that a CancelledError from within is the handler's, and one from without is ours
                    (value,) = await asyncio.gather(value, return_exceptions=True)
                    error = value if isinstance(value, BaseException) else None
                done += error is None
                if error is not None:
                    await self._failed(name, entry, error)
        return done

    @overload
    def emit_sync(self, event: Topic[T], payload: T) -> int: ...
    @overload
    def emit_sync(self, event: str, payload: Any = ...) -> int: ...
    def emit_sync(self, event: Any, payload: Any = None) -> int:
        """The same where nothing can be awaited; raises `UsageError`, having called nobody, if one of the handlers is `async`."""
        name, done = self._checked(event, payload), 0
        entries = self._entries.get(name, ())
        for entry in (*entries, *self._entries.get(ERROR, ())):
            if entry.asynchronous:
                raise UsageError(f"{_label(entry.handler)} is async: `await emit({name!r}, ...)` calls it")
        for entry in entries:
            if self._takes(name, entry):
                value, error = attempt(entry.handler, payload)
                if inspect.isawaitable(value):
                    _forget(value)
                    error = UsageError(f"{_label(entry.handler)} gave something to await: `await emit({name!r}, ...)` does that")
                done += error is None
                if error is not None:
                    self._failed_sync(name, entry, error)
        return done

    def _added(self, event: Any, handler: Any, *, once: bool) -> Any:
        name = _name(event)
        if handler is None:
            return lambda function: self._added(event, function, once=once)
        if not callable(handler):
            raise DefinitionError(f"a handler is a function of the payload, not {handler!r}")
        with self._lock:
            self._entries[name] = (*self._entries.get(name, ()), _Entry(handler, once))
        return handler

    def _checked(self, event: Any, payload: Any) -> str:
        if isinstance(event, Topic):
            event.check(payload)
            return event.name
        return event if type(event) is str and event in self._entries else topic_name(event)

    def _takes(self, name: str, entry: _Entry) -> bool:
        # Whether to call it. One for a single event is taken away before, so that nobody else calls it too.
        if not entry.once:
            return not entry.removed
        with self._lock:
            if entry.removed:
                return False
            entry.removed = True
            self._sweep(name)
            return True

    def _sweep(self, name: str) -> None:
        # In one step, for others look without the lock.
        if kept := tuple(entry for entry in self._entries.get(name, ()) if not entry.removed):
            self._entries[name] = kept
        else:
            self._entries.pop(name, None)

    async def _failed(self, name: str, entry: _Entry, error: BaseException) -> None:
        failure = self._told(name, entry, error)
        if failure is not None:
            await self.emit(ERROR, failure)

    def _failed_sync(self, name: str, entry: _Entry, error: BaseException) -> None:
        failure = self._told(name, entry, error)
        if failure is not None:
            self.emit_sync(ERROR, failure)

    def _told(self, name: str, entry: _Entry, error: BaseException) -> Failure | None:
        if not isinstance(error, Exception | asyncio.CancelledError):
            raise error
        if name == ERROR or not self._entries.get(ERROR):
            log.error("%s failed at %s", _label(entry.handler), name, exc_info=error)
            return None
        return Failure.of(_label(entry.handler), name, None, error)


def _name(event: Any) -> str:
    return event.name if isinstance(event, Topic) else topic_name(event)


def _label(handler: Any) -> str:
    return str(getattr(handler, "__qualname__", None) or type(handler).__qualname__)


def _forget(value: Any) -> None:
    close = getattr(value, "close", None)
    if close is not None:
        close()


def _is_asynchronous(handler: Any) -> bool:
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None))  # noqa: B004
