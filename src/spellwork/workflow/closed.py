"""Owns what code meets that is being dropped from memory and goes on all the same, in a `finally` or an `except BaseException`.
It must never let such code finish anything: it will run after replay.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

from spellwork.workflow.loop import TimerHandle


class ClosedTimers:
    """Stands in for the execution of a closed loop: whatever is awaited of it never ends.

    An error would be swallowed by `except BaseException` in a loop, for ever; a wait makes the interpreter give up.
    """

    def start_timer(self, _delay: float, _handle: TimerHandle) -> None:
        """No timer is started."""
        return

    def stop_timer(self, _handle: TimerHandle) -> None:
        """No timer is stopped."""
        return

    def __getattr__(self, name: str) -> Callable[..., Never]:
        return lambda *_args, **_kwargs: Never()


class Never:
    """A wait without end."""

    def __await__(self) -> Generator[None, None, None]:
        while True:
            yield


CLOSED = ClosedTimers()
