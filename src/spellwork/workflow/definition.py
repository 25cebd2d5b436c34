"""Owns `@workflow`: the description of a durable function, with name and version.
It must never start anything; the engine does.
"""

from __future__ import annotations

import functools
import inspect
from asyncio import events
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar, overload

from spellwork.errors import DefinitionError
from spellwork.workflow.loop import WorkflowLoop
from spellwork.workflow.parameters import Parameters

if TYPE_CHECKING:
    from spellwork.codec import Codec
    from spellwork.journal import ErrorRegistry
    from spellwork.workflow.execution import Execution

P = ParamSpec("P")
R = TypeVar("R")


class Known(Protocol):
    """Definitions by name."""

    def find(self, name: str, version: str | None = None) -> Workflow[Any, Any]:
        """The workflow of this name (and version, else the newest); raises `UnknownWorkflow`."""
        ...


class Workflow(Generic[P, R]):
    """A durable `async def`. Called in another workflow it runs as its child; called anywhere else it just runs."""

    def __init__(self, fn: Callable[P, Coroutine[Any, Any, R]], *, name: str | None = None, version: str = "1"):
        if not inspect.iscoroutinefunction(fn):
            raise DefinitionError(f"@workflow needs an async def function, not {fn!r}")
        self.fn = fn
        self.name: str = name or fn.__name__
        self.version = str(version)
        if not self.name or "/" in self.name:
            raise DefinitionError(f"workflow name {self.name!r} is empty or contains a slash")
        functools.update_wrapper(self, fn)

    @functools.cached_property
    def parameters(self) -> Parameters:
        """How its arguments and result are stored."""
        return Parameters(self.fn, f"workflow {self.name}")

    def same_as(self, other: Workflow[Any, Any]) -> bool:
        """Whether both describe the same code."""
        return self.fn is other.fn

    def execution(self, number: int, codec: Codec, errors: ErrorRegistry, known: Known | None = None) -> Execution:
        """A run of it in memory, at its very beginning. `known` finds other definitions by name."""
        from spellwork.workflow.execution import Execution  # noqa: PLC0415 - an execution imports the definition

        del known  # plain code names what it starts by the thing itself
        return Execution(number, self, codec, errors)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """A child run inside a workflow; outside, the function itself."""
        loop = events._get_running_loop()
        if type(loop) is WorkflowLoop:
            return loop.timers.run_child(self, args, kwargs)  # type: ignore[attr-defined, no-any-return]
        return self.fn(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<workflow {self.name} version {self.version}>"


@overload
def workflow(fn: Callable[P, Coroutine[Any, Any, R]], /) -> Workflow[P, R]: ...
@overload
def workflow(*, name: str | None = None, version: str = "1") -> Callable[[Callable[P, Coroutine[Any, Any, R]]], Workflow[P, R]]: ...
def workflow(fn: Any = None, /, **options: Any) -> Any:
    """Declare a workflow, bare or with `name=` and `version=`.

    Several versions of one name may be registered at once: a run keeps the version it was started with, new runs take the one
    registered last.
    """
    if fn is not None:
        return Workflow(fn)
    return lambda function: Workflow(function, **options)
