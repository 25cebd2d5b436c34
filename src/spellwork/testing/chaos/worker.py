"""Owns one life of a process that runs the corpus: `python -m spellwork.testing.chaos.worker DB LEDGER ACKS SHAPE...`.
It must never clean up: it prints the results as JSON when everything has ended, and is meant to be killed before.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

from spellwork import Engine
from spellwork.testing import Ledger
from spellwork.testing.chaos import corpus


async def live(database: str, acks: str, shapes: list[str]) -> dict[str, object]:
    """Open the store, drive the shapes to their ends."""
    told = Ledger(acks)
    async with Engine(f"sqlite:{database}", workflows=corpus.WORKFLOWS, max_recoveries=10_000) as engine:
        return await corpus.drive(engine, shapes, told.write)


def main(database: str, ledger: str, acks: str, *shapes: str) -> None:
    """Run one life."""
    os.environ[corpus.LEDGER] = ledger
    results = asyncio.run(live(database, acks, list(shapes)))
    sys.stdout.write(json.dumps(results) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
