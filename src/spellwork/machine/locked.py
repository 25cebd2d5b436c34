"""Owns a machine that several threads share: one step at a time, whoever sends.
It must never hold its lock while nothing is being done.
"""

from __future__ import annotations

import threading
from typing import Any

from spellwork.machine.machine import Machine
from spellwork.machine.why import Refusal


class LockedMachine:
    """A `Machine` behind a lock. Actions run in the thread that sends; what they send to the machine itself waits its turn.

    Its timers, and those of its children, hold the lock too, whatever thread its clock calls them in.
    """

    def __init__(self, machine: Machine):
        self._machine, self._lock = machine, threading.RLock()
        machine._surroundings().world.lock = self._lock

    @property
    def state(self) -> tuple[str, ...]:
        """The active leaf states."""
        with self._lock:
            return self._machine.state

    @property
    def context(self) -> Any:
        """The context."""
        with self._lock:
            return self._machine.context

    def send(self, event: Any, data: Any = None, *, priority: int = 0) -> bool:
        """As `Machine.send`."""
        with self._lock:
            return self._machine.send(event, data, priority=priority)

    def post(self, event: Any, data: Any = None, *, priority: int = 0) -> None:
        """As `Machine.post`."""
        with self._lock:
            self._machine.post(event, data, priority=priority)

    def run(self) -> int:
        """As `Machine.run`."""
        with self._lock:
            return self._machine.run()

    def advance(self, seconds: float) -> None:
        """As `Machine.advance`."""
        with self._lock:
            self._machine.advance(seconds)

    def snapshot(self) -> dict[str, Any]:
        """As `Machine.snapshot`."""
        with self._lock:
            return self._machine.snapshot()

    def why_not(self, event: Any, data: Any = None) -> Refusal:
        """As `Machine.why_not`."""
        with self._lock:
            return self._machine.why_not(event, data)
