"""Owns named crash points: a probe that kills its own process, without any clean-up, at the n-th passage of one.
It must never leave the process half alive.
"""

from __future__ import annotations

import os
import signal
import sys

from spellwork.errors import DefinitionError

CRASH_POINTS = {
    "commit.before": "a group of batches was taken from the queue; nothing is written",
    "commit.sync": "the group is written but not committed",
    "commit.after": "the group is durable; nobody has been told",
}


class CrashAt:
    """Pass it as `Engine(probe=...)`: the process dies with SIGKILL at the n-th passage (from 1) of the point."""

    def __init__(self, point: str, n: int = 1):
        if point not in CRASH_POINTS:
            raise DefinitionError(f"unknown crash point {point!r}; there are: {', '.join(CRASH_POINTS)}")
        self._point = point
        self._left = n

    def __call__(self, point: str) -> None:
        """Pass a point, or die there."""
        if point == self._point:
            self._left -= 1
            if self._left == 0:
                if sys.platform != "win32":
                    os.kill(os.getpid(), signal.SIGKILL)
                os._exit(137)
