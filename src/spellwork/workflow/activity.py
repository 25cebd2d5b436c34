"""Owns `@activity`: the description of a function with effects, and the context it sees while it runs.
It must never run anything durable itself; the engine does.
"""

from __future__ import annotations

import contextvars
import functools
import inspect
from asyncio import events
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, Literal, ParamSpec, Protocol, TypeVar, overload

import msgspec

from spellwork.clock import LONGEST, Duration, is_duration, seconds
from spellwork.errors import DefinitionError, UsageError
from spellwork.workflow.loop import WorkflowLoop
from spellwork.workflow.parameters import resolve_hints
from spellwork.workflow.retry import Retry

P = ParamSpec("P")
R = TypeVar("R")
Where = Literal["async", "thread", "process"]


class Activity(Generic[P, R]):
    """A function with effects. Called in a workflow it becomes a durable step; called anywhere else it just runs.

    Limits are in seconds (or timedelta): `timeout` bounds one attempt (start to close), `schedule_timeout` all attempts together,
    `heartbeat_timeout` the silence between two `heartbeat()` calls.
    """

    def __init__(
        self,
        fn: Callable[P, Any],
        *,
        name: str | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        schedule_timeout: Duration | None = None,
        heartbeat_timeout: Duration | None = None,
        executor: Where | None = None,
    ) -> None:
        self.fn = fn
        self._declared: Activity[P, R] | None = None
        self.name: str = name or str(getattr(fn, "__name__", ""))
        self.retry = retry or Retry()
        self.timeout = _limit(self.name, "timeout", timeout)
        self.schedule_timeout = _limit(self.name, "schedule_timeout", schedule_timeout)
        self.heartbeat_timeout = _limit(self.name, "heartbeat_timeout", heartbeat_timeout)
        is_async = inspect.iscoroutinefunction(fn)
        self.executor: Where = executor or ("async" if is_async else "thread")
        self._check(is_async)
        functools.update_wrapper(self, fn)

    def _check(self, is_async: bool) -> None:
        if not self.name:
            raise DefinitionError("@activity needs a named function")
        if not isinstance(self.retry, Retry):
            raise DefinitionError(f"activity {self.name}: retry= takes a Retry, not {self.retry!r}")
        if self.executor not in ("async", "thread", "process"):
            raise DefinitionError(
                f'activity {self.name}: executor={self.executor!r} is unknown; use "async", "thread" or "process"'
            )
        if is_async != (self.executor == "async"):
            kind = "an async" if is_async else "a plain"
            raise DefinitionError(
                f'activity {self.name}: {kind} function cannot run with executor="{self.executor}"; '
                f"use {'async' if is_async else 'thread or process'}"
            )

    @functools.cached_property
    def result(self) -> Any:
        """The annotation of what it returns."""
        annotation = resolve_hints(self.fn, f"activity {self.name}").get("return", Any)
        return None if annotation is type(None) else annotation

    @functools.cached_property
    def _signature(self) -> tuple[inspect.Signature, int, int]:
        signature = inspect.signature(self.fn)
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        positional = [p for p in signature.parameters.values() if p.kind in kinds]
        least = sum(p.default is p.empty for p in positional)
        simple = len(positional) == len(signature.parameters)
        return signature, least if simple else 1, len(positional) if simple else 0

    def check_arity(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise TypeError at the call, not in the first attempt, when the arguments do not fit the parameters."""
        signature, least, most = self._signature
        if kwargs or not least <= len(args) <= most:
            try:
                signature.bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f"activity {self.name}{signature}: {error}") from None

    @property
    def is_limited(self) -> bool:
        """Whether an attempt has a limit of time."""
        return not (self.timeout is None and self.schedule_timeout is None and self.heartbeat_timeout is None)

    def options(self, **changes: Any) -> Activity[P, R]:
        """The same activity (same name, same journal) with other limits or another retry policy for one call."""
        unknown = changes.keys() - {"retry", "timeout", "schedule_timeout", "heartbeat_timeout"}
        if unknown:
            raise DefinitionError(f"activity {self.name}: options() does not know {', '.join(sorted(unknown))}")
        twin: Activity[P, R] = object.__new__(type(self))  # copy.copy() would give the activity itself: see __reduce__
        vars(twin).update(vars(self), _declared=self.declared)
        for name, value in changes.items():
            setattr(twin, name, value if name == "retry" else _limit(self.name, name, value))
        twin._check(self.executor == "async")
        return twin

    @property
    def declared(self) -> Activity[P, R]:
        """The activity that `options()` was called on; itself, if it was made by the decorator."""
        return self._declared or self

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """A durable step inside a workflow; outside, the function itself."""
        loop = events._get_running_loop()
        if type(loop) is WorkflowLoop:
            return loop.timers.step(self, args, kwargs)  # type: ignore[attr-defined, no-any-return]
        return self.fn(*args, **kwargs)  # type: ignore[no-any-return]

    def __reduce__(self) -> str:
        # by reference, so that a process pool finds it by importing its module
        return self.fn.__qualname__

    def __repr__(self) -> str:
        return f"<activity {self.name}>"


def _limit(name: str, what: str, value: Duration | None) -> float | None:
    if value is None:
        return None
    if not is_duration(value) or not seconds(value):
        raise DefinitionError(f"activity {name}: {what} must be more than 0 seconds and at most {LONGEST:g}, not {value!r}")
    return seconds(value)


@overload
def activity(fn: Callable[P, Awaitable[R]], /) -> Activity[P, R]: ...
@overload
def activity(fn: Callable[P, R], /) -> Activity[P, R]: ...
@overload
def activity(
    *,
    name: str | None = None,
    retry: Retry | None = None,
    timeout: Duration | None = None,
    schedule_timeout: Duration | None = None,
    heartbeat_timeout: Duration | None = None,
    executor: Where | None = None,
) -> _Decorator: ...
def activity(fn: Any = None, /, **options: Any) -> Any:
    """Declare an activity, bare or with options (see `Activity`)."""
    if fn is not None:
        return Activity(fn)
    return lambda function: Activity(function, **options)


class _Decorator:
    """What `@activity(...)` with options gives; only for type checkers."""

    @overload
    def __call__(self, fn: Callable[P, Awaitable[R]], /) -> Activity[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Activity[P, R]: ...
    def __call__(self, fn: Any, /) -> Any:
        return Activity(fn)


class ActivityContext(msgspec.Struct):
    """What a running activity knows of itself. `idempotency_key` is the same for all attempts of one step.

    `correlation` is that of what its run publishes.
    """

    run_id: str
    workflow: str
    activity: str
    attempt: int
    number: int
    n: int
    correlation: str
    last_heartbeat: Any = None
    beat: Callable[[Any], None] | None = None
    step: Any = None

    @property
    def idempotency_key(self) -> str:
        """A key for outside systems, equal for every attempt of this step and different for every other step."""
        return f"{self.run_id}:{self.number:x}:{self.n}"


class Attempt(Protocol):
    """An attempt under way; it tells its context only when it is asked, since most activities never do."""

    def context(self) -> ActivityContext:
        """What the attempt may know of itself."""
        ...


_current: contextvars.ContextVar[Attempt] = contextvars.ContextVar("spellwork.activity")


def enter_activity(attempt: Attempt) -> None:
    """Make `attempt` the current one (of this task or thread)."""
    _current.set(attempt)


def activity_context() -> ActivityContext:
    """The context of the activity that is running; raises `UsageError` anywhere else."""
    try:
        attempt = _current.get()
    except LookupError:
        raise UsageError(
            'activity_context() was called outside a running activity; those with executor="process" have no context'
        ) from None
    return attempt.context()


def heartbeat(details: Any = None) -> None:
    """Say that the activity is alive; `details` reach the next attempt as `activity_context().last_heartbeat`.

    Raises `asyncio.CancelledError` in a thread whose step was cancelled or timed out, so that it can stop.
    """
    context = activity_context()
    if context.beat is not None:
        context.beat(details)
