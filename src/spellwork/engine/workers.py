"""Owns the worker processes of CPU-bound activities: one call at a time in each, so that one can be killed and no other is hit.
It must never leave a process at work that nobody waits for.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
from collections.abc import Callable
from typing import Any


class Workers:
    """Worker processes, started as they are needed; at most `size` at a time, by default one for each core."""

    def __init__(self, size: int | None):
        self._slots = asyncio.Semaphore(size or os.cpu_count() or 1)
        self._idle: list[concurrent.futures.ProcessPoolExecutor] = []

    async def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """What a function returns in a worker, whose process is killed if this is cancelled; raises `BrokenExecutor` if it died."""
        async with self._slots:
            worker = self._idle.pop() if self._idle else _started()
            try:
                result = await asyncio.wrap_future(worker.submit(function, *args))
            except (asyncio.CancelledError, concurrent.futures.BrokenExecutor):
                _kill(worker)
                raise
            except BaseException:
                self._idle.append(worker)
                raise
            self._idle.append(worker)
            return result

    async def close(self) -> None:
        """Let the idle ones go; those at work are killed with the tasks that wait for them."""
        idle, self._idle = self._idle, []
        for worker in idle:
            await asyncio.get_running_loop().run_in_executor(None, worker.shutdown)


def _started() -> concurrent.futures.ProcessPoolExecutor:
    import multiprocessing  # noqa: PLC0415 - half a tenth of the import time, for what few programs use

    return concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def _kill(worker: concurrent.futures.ProcessPoolExecutor) -> None:
    # before Python 3.14 there is no public way to its process
    processes = list((getattr(worker, "_processes", None) or {}).values())
    worker.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.kill()
