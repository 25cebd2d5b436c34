"""Owns how a thread of a store stands still for a moment: by the monotonic clock.
It must never fail: a `time.sleep` under libfaketime is refused by the system when the wall clock jumps meanwhile, and a commit
that was waiting for its turn failed with it.
"""

from __future__ import annotations

import threading

_never = threading.Lock()
_never.acquire()


def pause(seconds: float) -> None:
    """Let other threads and processes work for so long."""
    _never.acquire(timeout=seconds)
