"""Owns the child process of a review: starting it, killing it, and what it said when it failed by itself.
It must never ask it to stop: what the demonstration shows is that it need not be asked.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec

from spellwork import SpellworkError
from spellwork.demo.pipeline.session import Session

LOG = "worker.log"
_TAIL = 600


class WorkerFailed(SpellworkError):
    """The process that runs the review ended by itself before the review did; the message has its last words."""

    code = "demo-worker-failed"


class Victim:
    """A process that runs `spellwork.demo.pipeline.worker`."""

    def __init__(self, session: Session, run_id: str):
        self._session = session
        self._run_id = run_id
        self._process: asyncio.subprocess.Process | None = None
        self._log = Path(session.out) / LOG

    async def start(self) -> None:
        """Start it, and return once it owns the store and the run."""
        arguments = [msgspec.json.encode(self._session).decode(), self._run_id]
        with self._log.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "spellwork.demo.pipeline.worker",
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        self._process = process
        if process.stdout is None or not await process.stdout.readline():
            await process.wait()
            raise self._failure(process.returncode)

    async def kill(self) -> int:
        """Kill it if it lives, with SIGKILL (on Windows TerminateProcess), and return its number once it is gone."""
        process = self._process
        if process is None:
            return 0
        if process.returncode is None:
            process.kill()
            await process.wait()
        return process.pid

    def check(self) -> None:
        """Raise `WorkerFailed` if it ended by itself, and badly."""
        if self._process is not None and self._process.returncode:
            raise self._failure(self._process.returncode)

    async def end(self, seconds: float) -> None:
        """Wait until it has ended by itself; raises `WorkerFailed` when it does not."""
        if self._process is not None:
            try:
                await asyncio.wait_for(self._process.wait(), seconds)
            except TimeoutError:
                raise self._failure(None) from None

    def _failure(self, code: int | None) -> WorkerFailed:
        words = self._log.read_text(encoding="utf-8", errors="replace").strip()[-_TAIL:]
        what = "does not end" if code is None else f"ended with {code}"
        return WorkerFailed(f"the process that runs {self._run_id} {what}: {words or 'it said nothing'} (see {self._log})")
