"""Owns the commands by which workflow code asks its host for something.
It must never do anything itself: a command is frozen data that can be compared, logged and simulated.

Commands refer to nothing that refers back to them, so the cycle collector need not look at them (`gc=False`): with a thousand runs
in flight it took a quarter of the time.
"""

from __future__ import annotations

from typing import Any

import msgspec

from spellwork.journal.failure import Failure


class Command(msgspec.Struct, frozen=True, gc=False):
    """Something that the code asked for. `n` is its number in the order of asking."""

    n: int


class RunStep(Command, frozen=True, gc=False):
    """Run an activity."""

    activity: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    digest: bytes


class CancelStep(Command, frozen=True, gc=False):
    """Nobody waits for the activity any more."""


class CancelRead(Command, frozen=True, gc=False):
    """Nobody waits for what the store says any more."""


class StartTimer(Command, frozen=True, gc=False):
    """Wake the run at `due` (microseconds UTC)."""

    due: int


class CancelTimer(Command, frozen=True, gc=False):
    """The timer is no longer needed."""


class StartChild(Command, frozen=True, gc=False):
    """Start another run and tell this one when it ends."""

    workflow: Any
    child_id: str
    args: bytes
    digest: bytes
    parent_close: str


class CancelChild(Command, frozen=True, gc=False):
    """Ask a child run to cancel."""

    child_id: str
    reason: str


class SendSignal(Command, frozen=True, gc=False):
    """Send a signal to another run."""

    target: str
    name: str
    payload: bytes
    digest: bytes


class Perform(Command, frozen=True, gc=False):
    """Do something to Spellwork's own data: a write, a read or a transaction."""

    name: str
    digest: bytes
    effect: Any


class MarkPatch(Command, frozen=True, gc=False):
    """Remember that `patched(id)` answered True."""

    id: str


class AnswerUpdate(Command, frozen=True, gc=False):
    """The handler of an update is done."""

    id: str
    name: str
    result: bytes | None
    failure: Failure | None


class Finish(Command, frozen=True, gc=False):
    """The workflow is over."""

    result: bytes | None = None
    failure: Failure | None = None
    cancelled: str | None = None
    continue_args: bytes | None = None
    carried: tuple[tuple[str, bytes, str | None], ...] = ()
    seen: tuple[str, ...] = ()
