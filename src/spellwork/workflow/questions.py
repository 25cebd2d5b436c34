"""Owns the questions from outside that a run's code answers without going on: queries, and the validators of updates.
It must never let an answer change the journal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from spellwork.errors import QueryFailed, UpdateRejected
from spellwork.supervision import attempt

if TYPE_CHECKING:
    from spellwork.workflow.execution import Execution


def answer_query(execution: Execution, name: str, payload: bytes) -> bytes:
    """The encoded answer of a query; raises `QueryFailed`.

    The execution is not to be used afterwards: the query may have changed it.
    """
    handler = execution.find_query(name)
    if handler is None:
        known = ", ".join(sorted(execution.queries)) or "none"
        raise QueryFailed(f"run {execution.started.run_id} has no query {name!r}; it has: {known}")
    commands = len(execution.outbox)
    answer, error = attempt(_look, execution, handler.fn, *handler.parameters.decode(execution.codec, payload))
    if isinstance(error, QueryFailed):
        raise error
    if error is not None:
        raise QueryFailed(f"query {name} raised {type(error).__name__}: {error}") from error
    if _has_changed(execution, commands):
        raise QueryFailed(f"query {name} tried to change the run; use an update for that")
    return execution.codec.shape(handler.parameters.result).encode(answer)


def _look(execution: Execution, function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
    with execution.looking():
        return execution.loop.enter(lambda: function(*args, **kwargs))


def _has_changed(execution: Execution, commands: int) -> bool:
    return len(execution.outbox) != commands or execution.loop.has_ready


def validate_update(execution: Execution, name: str, payload: bytes) -> None:
    """Ask the validator of an update; raises `UpdateRejected`, or `PayloadError` for arguments that do not fit.

    Like a query, it may leave the execution changed.
    """
    handler = execution.updates.get(name)
    if handler is None:
        known = ", ".join(sorted(execution.updates)) or "none"
        raise UpdateRejected(f"run {execution.started.run_id} has no update {name!r}; it has: {known}")
    args, kwargs = handler.parameters.decode(execution.codec, payload)
    if handler.check is None:
        return
    commands = len(execution.outbox)
    _, error = attempt(_look, execution, handler.check, args, kwargs)
    if error is not None:
        raise UpdateRejected(f"update {name} was rejected: {error}") from error
    if _has_changed(execution, commands):
        raise UpdateRejected(f"the validator of update {name} tried to change the run; it must only look")
