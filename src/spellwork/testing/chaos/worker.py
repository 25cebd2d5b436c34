"""Owns one life of a process that runs the corpus: `python -m spellwork.testing.chaos.worker DB LEDGER ACKS SHAPE...`.
It must never clean up: it prints the results as JSON when everything has ended, and is meant to be killed before.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spellwork import Engine
from spellwork.errors import SpellworkError
from spellwork.testing import Ledger
from spellwork.testing.chaos import corpus
from spellwork.testing.chaos.life import Inside, Work


async def live(
    database: str,
    shapes: list[str],
    acknowledge: Callable[[str], None],
    *,
    opened: Callable[[float], None] = lambda _seconds: None,
    ending: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Open the store, drive the shapes to their ends; `opened` is told how long opening took, `ending` comes before closing."""
    began = time.monotonic()
    async with Engine(f"sqlite:{database}", workflows=corpus.WORKFLOWS, max_recoveries=10_000) as engine:
        opened(time.monotonic() - began)
        results = await corpus.drive(engine, shapes, acknowledge)
        ending()
        return results


def life_of(
    place: Path, shapes: list[str], *pauses: str, limited: Callable[[], None] | None = None, database: Path | None = None
) -> Work:
    """The work of a life that runs the corpus in the folder `place` and pauses at "opening" or "closing".

    With `limited`, which is called before the store is opened, it needs no file of its own: what was acknowledged is told, and
    no effect is written.
    """

    def work(inside: Inside) -> dict[str, Any]:
        os.environ[corpus.LEDGER] = str(place / "ledger")
        acknowledge = Ledger(place / "acks").write
        if limited:
            os.environ.pop(corpus.LEDGER)
            acknowledge = lambda line: inside.say(ack=line)  # noqa: E731 - the same, by another way

        def at(point: str) -> None:
            if point in pauses:
                inside.pause(point)

        async def whole() -> dict[str, Any]:
            if limited:
                limited()
            return await live(
                str(database or place / "store.db"),
                shapes,
                acknowledge,
                opened=lambda seconds: inside.say(opened=seconds),
                ending=lambda: at("closing"),
            )

        at("opening")
        return asyncio.run(whole())

    return work


def warm_up() -> None:
    """Import and build what a first life would, so that those forked from here start at once. Leaves no thread behind."""
    os.environ.pop(corpus.LEDGER, None)

    async def once() -> None:
        async with Engine("memory:", workflows=corpus.WORKFLOWS) as engine:
            await corpus.drive(engine, list(corpus.SHAPES), lambda _line: None)

    importlib.import_module("spellwork.store.sqlite")  # which a store in memory does without
    with contextlib.suppress(SpellworkError, TimeoutError):  # an engine that is broken shows in the trial
        asyncio.run(once())
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(10)  # those of activities end a moment after their engine


def main(database: str, ledger: str, acks: str, *shapes: str) -> None:
    """Run one life."""
    os.environ[corpus.LEDGER] = ledger
    results = asyncio.run(live(database, list(shapes), Ledger(acks).write))
    sys.stdout.write(json.dumps(results) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
