"""Owns the verbs that workflow code uses beside asyncio: time, randomness, versions, children, continuing as new.
It must never answer anything that replay would answer differently.
"""

from __future__ import annotations

import datetime as dt
import random as stdlib_random
import uuid
from asyncio import events
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import msgspec

from spellwork.codec.text import check_name
from spellwork.errors import UsageError
from spellwork.instant import datetime_of
from spellwork.workflow.loop import WorkflowLoop

if TYPE_CHECKING:
    from spellwork.workflow.child import Child
    from spellwork.workflow.definition import Workflow
    from spellwork.workflow.execution import Execution

ParentClose = Literal["cancel", "terminate", "abandon"]


class ContinueAsNew(BaseException):
    """Ends this run and starts the next of the chain. Not an Exception, so that `except Exception` lets it pass."""


class WorkflowInfo(msgspec.Struct, frozen=True):
    """What a workflow may know of itself. `correlation` and `causation` are those of what it publishes: see `publish`."""

    run_id: str
    workflow: str
    version: str
    started: dt.datetime
    parent_id: str | None
    correlation: str
    causation: str | None


def current(verb: str) -> Execution:
    """The execution whose code is running; raises `UsageError` outside a workflow."""
    loop = events._get_running_loop()
    if type(loop) is not WorkflowLoop:
        raise UsageError(f"{verb} was called outside a running workflow")
    return loop.timers  # type: ignore[return-value]


def now() -> dt.datetime:
    """The time of the newest journal entry that the workflow has seen (UTC); equal on replay."""
    return datetime_of(current("now()").now)


def random() -> float:
    """A number in [0, 1), the same on replay."""
    return current("random()").rng.random()


def rng() -> stdlib_random.Random:
    """The run's own generator, seeded when it started: for `choice`, `shuffle` and the like."""
    return current("rng()").rng


def uuid4() -> uuid.UUID:
    """A random UUID, the same on replay."""
    return uuid.UUID(int=current("uuid4()").rng.getrandbits(128), version=4)


def info() -> WorkflowInfo:
    """Who is running."""
    started = current("info()").started
    return WorkflowInfo(
        run_id=started.run_id,
        workflow=started.workflow,
        version=started.version,
        started=datetime_of(started.at),
        parent_id=started.parent.run_id if started.parent else None,
        correlation=started.origin,
        causation=started.causation,
    )


def patched(id: str) -> bool:
    """Whether this run should take the new path: True for runs that get here for the first time, and ever after.

    Runs that passed this place before the patch was written get False. Remove the old path when none of them is left.
    """
    return current("patched()").patched(check_name(id, "id"))


def continue_as_new(*args: Any, **kwargs: Any) -> NoReturn:
    """End this run and go on as a new one under the same id, with fresh arguments and an empty journal.

    Signals that were received but not yet consumed go along.
    """
    current("continue_as_new()").continue_as_new(args, kwargs)


async def start_child(
    workflow: Workflow[Any, Any],
    *args: Any,
    id: str | None = None,
    parent_close: ParentClose = "cancel",
    **kwargs: Any,
) -> Child:
    """Start a child run and return a handle once it exists. `parent_close` says what becomes of it when this run ends."""
    child_id = None if id is None else check_name(id, "id")
    return await current("start_child()").start_child(workflow, args, kwargs, child_id, parent_close)
