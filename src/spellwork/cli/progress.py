"""Owns the live line of progress on a terminal: steps completed, what is waited for, time elapsed.
It must never write to stdout, nor anything at all where stderr is no terminal.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable

from spellwork import Engine
from spellwork.cli.output import duration
from spellwork.clock import SystemClock
from spellwork.engine.rows import read_row
from spellwork.journal import StepCompleted, unpack_entry
from spellwork.journal.rows import journal_key, journal_range

_EVERY = 0.2
_NAMED = 3


@contextlib.asynccontextmanager
async def progress(engine: Engine, run_id: str, *, quiet: bool) -> AsyncIterator[None]:
    """Show the progress of a run while the block runs."""
    if quiet or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True)
    with console.status("starting") as status:
        follower = asyncio.create_task(_follow(engine, run_id, lambda line: status.update(Text(line))))
        try:
            yield
        finally:
            follower.cancel()
            await asyncio.gather(follower, return_exceptions=True)


async def _follow(engine: Engine, run_id: str, tell: Callable[[str], None]) -> None:
    clock = SystemClock()
    began, counter = clock.monotonic(), StepCounter(engine, run_id)
    while True:
        steps = await counter.count()
        parts = [f"{steps} steps", waiting_for(engine, run_id), duration(clock.monotonic() - began)]
        tell(f"{run_id}: " + " · ".join(part for part in parts if part))
        await asyncio.sleep(_EVERY)


class StepCounter:
    """Counts the completed steps of a run by reading only what is new in its journal."""

    def __init__(self, engine: Engine, run_id: str):
        self._engine = engine
        self._run_id = run_id
        self._number = 0
        self._position = 0
        self._steps = 0

    async def count(self) -> int:
        """How many there are by now, over all runs of a chain."""
        store = self._engine.store
        row = await store.read(lambda reader: read_row(reader, self._run_id))
        if row is None:
            return self._steps
        if row.number != self._number:  # continued as new
            self._number, self._position = row.number, 0
        fresh = await store.scan(journal_key(row.number, self._position), journal_range(row.number)[1])
        self._position += len(fresh)
        self._steps += sum(isinstance(unpack_entry(key, frame), StepCompleted) for key, frame in fresh)
        return self._steps


def waiting_for(engine: Engine, run_id: str) -> str:
    """What the run waits for, as far as this process runs it."""
    live = engine._host.by_id.get(run_id)
    if live is None or live.dropped:
        return ""
    names = sorted({str(pending) for pending in live.execution.pending.values()})
    if not names:
        return ""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"waiting for {', '.join(names[:_NAMED])}{more}"
