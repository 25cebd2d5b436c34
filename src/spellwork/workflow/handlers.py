"""Owns `@query` and `@update`: what a running workflow answers.
It must never let a query change the run.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar, overload

from spellwork.errors import DefinitionError
from spellwork.workflow.parameters import Parameters
from spellwork.workflow.verbs import current

F = TypeVar("F", bound=Callable[..., Any])


class Handler:
    """A function of the running workflow that the outside may call by name."""

    def __init__(self, fn: Callable[..., Any], name: str | None):
        self.fn = fn
        self.name = name or fn.__name__
        self.parameters = Parameters(fn, self.name)
        self.check: Callable[..., Any] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function itself, for the workflow's own use."""
        return self.fn(*args, **kwargs)


class Update(Handler):
    """A durable request with an answer. `@handler.validator` registers what may refuse it before anything is written."""

    def validator(self, fn: F) -> F:
        """Register a plain function with the handler's parameters; an exception in it rejects the update."""
        if inspect.iscoroutinefunction(fn):
            raise DefinitionError(f"the validator of update {self.name} must be a plain function")
        self.check = fn
        return fn


@overload
def query(fn: F, /) -> F: ...
@overload
def query(*, name: str) -> Callable[[F], F]: ...
def query(fn: Any = None, /, *, name: str | None = None) -> Any:
    """Inside a workflow: register a plain function that tells something about the run, without changing it."""
    if fn is None:
        return lambda function: query(function) if name is None else _register_query(function, name)
    return _register_query(fn, None)


def _register_query(fn: Any, name: str | None) -> Any:
    if inspect.iscoroutinefunction(fn):
        raise DefinitionError(f"query {fn.__name__} must be a plain function: it only looks")
    handler = Handler(fn, name)
    current("@query").queries[handler.name] = handler
    return fn


@overload
def update(fn: Callable[..., Any], /) -> Update: ...
@overload
def update(*, name: str) -> Callable[[Callable[..., Any]], Update]: ...
def update(fn: Any = None, /, *, name: str | None = None) -> Any:
    """Inside a workflow: register an `async def` (or plain) function that changes the run and answers."""
    if fn is None:
        return lambda function: _register_update(function, name)
    return _register_update(fn, None)


def _register_update(fn: Any, name: str | None) -> Update:
    handler = Update(fn, name)
    current("@update").updates[handler.name] = handler
    return handler
