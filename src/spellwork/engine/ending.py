"""Owns how the end of a run is told: as a result, or as the error that its waiters get.
It must never read anything but the row and the last entry.
"""

from __future__ import annotations

from typing import Any

from spellwork.errors import (
    InternalError,
    RunBlocked,
    RunCancelled,
    RunError,
    RunFailed,
    RunQuarantined,
    RunTerminated,
    SpellworkError,
)
from spellwork.journal import Cancelled, Completed, ErrorRegistry, Failed, Failure, RunRow, Status, Terminated


def ended_error(row: RunRow, entry: Any, errors: ErrorRegistry) -> RunError | InternalError | None:
    """The error of a run that ended without a result, or None if it completed."""
    run_id = row.id
    match entry:
        case Completed():
            return None
        case Failed(failure=failure):
            error = RunFailed(f"run {run_id} failed: {failure}", run_id=run_id)
            error.__cause__ = errors.rebuild(failure)
            return error
        case Cancelled(reason=reason):
            return RunCancelled(f"run {run_id} was cancelled: {reason}", run_id=run_id, reason=reason)
        case Terminated(reason=reason):
            return RunTerminated(f"run {run_id} was terminated: {reason}", run_id=run_id, reason=reason)
    if row.status is Status.TERMINATED:
        return RunTerminated(f"run {run_id} was terminated: {row.reason}", run_id=run_id, reason=row.reason)
    return InternalError(f"run {run_id} is {row.status}, but its last entry is {type(entry).__name__}")


def blocked_error(row: RunRow) -> RunBlocked:
    """The error of a run that is parked with a reason."""
    kind = RunQuarantined if row.status is Status.QUARANTINED else RunBlocked
    return kind(f"run {row.id} is {row.status}: {row.reason}", run_id=row.id, reason=row.reason)


def reason_of(error: BaseException) -> str:
    """Why a run is blocked, in a line: errors of ours say it all, others need their name."""
    return str(error) if isinstance(error, SpellworkError) else f"{type(error).__name__}: {error}"


def failure_of_end(row: RunRow, entry: Any) -> Failure | None:
    """What a parent is told of a child that ended without a result."""
    error = ended_error(row, entry, ErrorRegistry())
    if error is None:
        return None
    told = Failure.of(error)
    return Failure(told.type, told.code, told.message, told.data, entry.failure if isinstance(entry, Failed) else None, told.where)
