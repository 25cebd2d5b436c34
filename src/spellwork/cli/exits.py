"""Owns what the command line's exit codes mean, and which error leads to which.
It must never print anything.
"""

from __future__ import annotations

import enum

import click

from spellwork import errors


class Exit(enum.IntEnum):
    """The exit codes; `meaning` is what `spellwork --help` says of each."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    UNAVAILABLE = 4
    REFUSED = 5
    DAMAGED = 6
    INTERRUPTED = 130

    @property
    def meaning(self) -> str:
        """One line for people."""
        return _MEANINGS[self]


_MEANINGS = {
    Exit.OK: "done",
    Exit.FAILED: "the run failed, was ended or is blocked; replay found differences",
    Exit.USAGE: "the command was given wrongly",
    Exit.NOT_FOUND: "no such run, workflow, topic, event, store, key or file",
    Exit.UNAVAILABLE: "the store is owned or locked by another process, or nobody answered in time",
    Exit.REFUSED: "refused: the id is taken, the run has ended, an update, a value or a key was rejected, a condition did not hold",
    Exit.DAMAGED: "the store or a backup is damaged, or the disk failed or is full",
    Exit.INTERRUPTED: "interrupted; the run goes on when it is resumed",
}

_EXITS: dict[type, Exit] = {
    errors.RunNotFound: Exit.NOT_FOUND,
    errors.StoreMissing: Exit.NOT_FOUND,
    errors.TopicNotFound: Exit.NOT_FOUND,
    errors.UnknownWorkflow: Exit.NOT_FOUND,
    errors.RunFailed: Exit.FAILED,
    errors.RunCancelled: Exit.FAILED,
    errors.RunTerminated: Exit.FAILED,
    errors.RunBlocked: Exit.FAILED,
    errors.NonDeterminismError: Exit.FAILED,
    errors.ActivityFailed: Exit.FAILED,
    errors.ActivityTimeout: Exit.FAILED,
    errors.InternalError: Exit.FAILED,
    errors.KeyMissing: Exit.REFUSED,
    errors.KeyRefused: Exit.REFUSED,
    errors.NotEncrypted: Exit.REFUSED,
    errors.Conflict: Exit.REFUSED,
    errors.MergeRefused: Exit.REFUSED,
    errors.MigrationFailed: Exit.REFUSED,
    errors.Lagged: Exit.REFUSED,
    errors.StoreCorrupt: Exit.DAMAGED,
    errors.StoreFailed: Exit.DAMAGED,
    errors.StoreError: Exit.UNAVAILABLE,
    errors.UsageError: Exit.USAGE,
    errors.SpellworkError: Exit.REFUSED,
}


class CommandError(click.ClickException):
    """What the command line itself has to report; `code` is the stable name in the JSON form, `exit_code` an `Exit`."""

    def __init__(self, message: str, exit_code: Exit, code: str):
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc] # click declares it for the class, and reads it from the instance
        self.code = code


class NotFound(CommandError):
    """A file, workflow, run or event that is not there."""

    def __init__(self, message: str):
        super().__init__(message, Exit.NOT_FOUND, "not-found")


class Unavailable(CommandError):
    """Nobody answers."""

    def __init__(self, message: str):
        super().__init__(message, Exit.UNAVAILABLE, "unavailable")


class Interrupted(CommandError):
    """Ctrl-C reached a command that has something to say about it."""

    def __init__(self, message: str):
        super().__init__(message, Exit.INTERRUPTED, "interrupted")


def exit_of(error: errors.SpellworkError) -> Exit:
    """The exit code for an error of the library: that of its nearest listed class."""
    return next(_EXITS[kind] for kind in type(error).__mro__ if kind in _EXITS)
