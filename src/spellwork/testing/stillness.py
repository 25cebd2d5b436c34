"""Owns the question whether anything real could still move an event loop: input, a timer, a thread of its own.
It must never say no where it cannot see.
"""

from __future__ import annotations

import asyncio
from typing import Any


def stands_still(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether nothing is ready, no timer runs, no file or socket is watched, and `to_thread` is not at work.

    To be asked from a callback of the loop, which then is the only thing that happens there.
    """
    inside: Any = loop
    try:
        watched = len(inside._selector.get_map()) - 1  # one is the loop's own, by which threads wake it
        timers = any(not handle.cancelled() for handle in inside._scheduled)
        ready = any(not handle.cancelled() for handle in inside._ready)
        pool = inside._default_executor
        at_work = pool is not None and (pool._work_queue.qsize() > 0 or pool._idle_semaphore._value < len(pool._threads))
    except AttributeError:  # another loop than asyncio's own with a selector
        return False
    return not (watched or timers or ready or at_work)
