"""Workflows whose commands depend on the world: `python -m tests.workflow.ambient run|replay URL`."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import threading
import time
import uuid
from typing import Any

from spellwork import Engine, Workflow, activity, workflow
from spellwork.testing import replays

_counter = [0]
NAMES = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta")


@activity
async def use(value: str) -> str:
    return value


@workflow
async def wall_clock() -> str:
    return await use(str(time.time()))


@workflow
async def module_random() -> str:
    return await use(str(random.random()))


@workflow
async def set_order() -> None:
    for name in set(NAMES):
        await use(name)


@workflow
async def environment() -> str:
    return await use(os.environ["AMBIENT"])


@workflow
async def module_uuid() -> str:
    return await use(str(uuid.uuid4()))


@workflow
async def other_thread() -> str:
    return await use(str(_counter[0]))


@workflow
async def address() -> str:
    things = [object() for _ in range(3)]
    return await use(str(sorted(id(thing) for thing in things)))


KINDS: list[Workflow[..., Any]] = [wall_clock, module_random, set_order, environment, module_uuid, other_thread, address]


async def main(verb: str, url: str) -> None:
    """Run each, or replay each and print what was found."""
    worker = threading.Thread(target=lambda: _counter.__setitem__(0, time.monotonic_ns()))
    worker.start()
    worker.join()
    async with Engine(url, workflows=KINDS) as engine:
        if verb == "run":
            for kind in KINDS:
                await engine.run(kind, id=kind.name)
        else:
            verdicts = await replays(engine)
            sys.stdout.write(json.dumps({v.run_id: [v.ok, v.position, v.error] for v in verdicts}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
