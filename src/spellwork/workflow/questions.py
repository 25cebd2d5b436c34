"""Owns the questions from outside that a run's code answers without going on: queries, and the validators of updates.
It must never let an answer change the journal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spellwork.errors import PayloadError, QueryFailed, UpdateRejected

if TYPE_CHECKING:
    from spellwork.workflow.execution import Execution


def answer_query(execution: Execution, name: str, payload: bytes) -> bytes:
    """The encoded answer of a query; raises `QueryFailed`.

    The execution is not to be used afterwards: the query may have changed it.
    """
    handler = execution.queries.get(name)
    if handler is None:
        known = ", ".join(sorted(execution.queries)) or "none"
        raise QueryFailed(f"run {execution.started.run_id} has no query {name!r}; it has: {known}")
    commands = len(execution.outbox)
    try:
        with execution.looking():
            args, kwargs = handler.parameters.decode(execution.codec, payload)
            answer = execution.loop.enter(lambda: handler.fn(*args, **kwargs))
        data = execution.codec.shape(handler.parameters.result).encode(answer)
    except (QueryFailed, PayloadError):
        raise
    except Exception as error:  # supervision point: user code of a query
        raise QueryFailed(f"query {name} raised {type(error).__name__}: {error}") from error
    if len(execution.outbox) != commands or execution.loop.has_ready:
        raise QueryFailed(f"query {name} tried to change the run; use an update for that")
    return data


def validate_update(execution: Execution, name: str, payload: bytes) -> None:
    """Ask the validator of an update; raises `UpdateRejected`, or `PayloadError` for arguments that do not fit."""
    handler = execution.updates.get(name)
    if handler is None:
        known = ", ".join(sorted(execution.updates)) or "none"
        raise UpdateRejected(f"run {execution.started.run_id} has no update {name!r}; it has: {known}")
    check = handler.check
    args, kwargs = handler.parameters.decode(execution.codec, payload)
    if check is None:
        return
    try:
        with execution.looking():
            execution.loop.enter(lambda: check(*args, **kwargs))
    except Exception as error:  # supervision point: user code of a validator
        raise UpdateRejected(f"update {name} was rejected: {error}") from error
