"""Writes the golden store of a version: `python -m tests.golden.write VERSION`, once a release, and never again for that version.

Times, ids and randomness are virtual, so that two stores of one version hold the same journals.
"""

from __future__ import annotations

import asyncio
import gzip
import sys
import tempfile
from pathlib import Path

from spellwork.testing import TestEngine
from spellwork.testing.chaos import corpus

GOLDEN = Path(__file__).parent
PARKED = {"parked-signals": 5, "parked-sleeper": "cancelled: enough", "parked-updates": 6}
"""Runs that the golden store leaves unfinished: the result that each must come to."""


async def fill(path: Path) -> None:
    """Run the corpus to its ends, and leave some runs waiting."""
    async with TestEngine(f"sqlite:{path}", workflows=corpus.WORKFLOWS, partitions=2) as engine:
        for name in corpus.SHAPES:
            await corpus.drive(engine, [name], lambda _line: None)
        signals = await engine.start(corpus.signals, 2, id="parked-signals")
        await signals.signal(corpus.go, 2, id="first")
        await engine.start(corpus.cancelled, 1, id="parked-sleeper")
        updates = await engine.start(corpus.updates, 2, id="parked-updates")
        await updates.update("put", 2, id="first")
        await engine.settle()


def _hide_paths() -> None:
    """Failures say in which file they were raised; where this machine keeps it is nobody's business."""
    for value in vars(corpus).values():
        function = getattr(value, "fn", value)
        if hasattr(function, "__code__"):
            function.__code__ = function.__code__.replace(co_filename="corpus.py")


def write(version: str) -> Path:
    """Keep the store of `version`, compressed; returns where."""
    _hide_paths()
    place = GOLDEN / f"{version}.sqlite.gz"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store.sqlite"
        asyncio.run(fill(path))
        place.write_bytes(gzip.compress(path.read_bytes(), 9, mtime=0))
    return place


if __name__ == "__main__":
    sys.stdout.write(f"{write(sys.argv[1])}\n")
