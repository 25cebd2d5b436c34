"""Owns what is durable about a run: its entries, its row, and the keys under which they lie.
It must never await, log, or read time.
"""

from spellwork.journal.entries import (
    AttemptFailed,
    Cancelled,
    CancelRequested,
    ChildEnded,
    ChildStarted,
    Completed,
    Continued,
    Entry,
    Failed,
    Patched,
    SignalReceived,
    SignalSent,
    Started,
    StepCompleted,
    StepFailed,
    Terminated,
    TimerFired,
    UpdateAccepted,
    UpdateCompleted,
    pack_entry,
    unpack_entry,
)
from spellwork.journal.failure import ErrorRegistry, Failure
from spellwork.journal.rows import Parent, RunRow, Status

__all__ = [
    "AttemptFailed",
    "CancelRequested",
    "Cancelled",
    "ChildEnded",
    "ChildStarted",
    "Completed",
    "Continued",
    "Entry",
    "ErrorRegistry",
    "Failed",
    "Failure",
    "Parent",
    "Patched",
    "RunRow",
    "SignalReceived",
    "SignalSent",
    "Started",
    "Status",
    "StepCompleted",
    "StepFailed",
    "Terminated",
    "TimerFired",
    "UpdateAccepted",
    "UpdateCompleted",
    "pack_entry",
    "unpack_entry",
]
