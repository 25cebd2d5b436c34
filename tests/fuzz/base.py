"""The store that the fuzz targets start from: a few runs that have ended, one that waits."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import tempfile
from pathlib import Path

from spellwork.testing import TestEngine
from spellwork.testing.chaos import corpus


@functools.cache
def base_store() -> bytes:
    """The bytes of the database, after a clean end."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "store.db"
        # not on this thread, where a test's event loop may be running
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            pool.submit(asyncio.run, _fill(path)).result()
        return path.read_bytes()


async def _fill(path: Path) -> None:
    async with TestEngine(f"sqlite:{path}", workflows=corpus.WORKFLOWS, partitions=1) as engine:
        await engine.run(corpus.sequence, 3, id="ended")
        await engine.run(corpus.nested, 2, id="parent")
        waiting = await engine.start(corpus.signals, 3, id="waiting")
        await waiting.signal(corpus.go, 1, id="one")
