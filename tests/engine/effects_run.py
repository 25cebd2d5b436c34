"""A run that writes, reads and commits under keys of its own.

`python -m tests.engine.effects_run URL POINT N` dies at the N-th passage of a crash point.
"""

from __future__ import annotations

import asyncio
import sys

from spellwork import Engine, workflow
from spellwork.codec import Codec
from spellwork.errors import Conflict
from spellwork.store import Batch, Store
from spellwork.testing import CrashAt
from spellwork.workflow.effects import Commit, Moment, Read, Write
from spellwork.workflow.events import publish
from spellwork.workflow.verbs import current

ROUNDS = 5
CODEC = Codec()
LOG, COUNTER, WRITES = b"\x90log", b"\x90counter", b"\x90writes"
ONE = (1).to_bytes(8, "big", signed=True)


def number(data: bytes | None) -> int:
    return int.from_bytes(data or b"", "big")


async def written(name: str) -> None:
    """A line of the log, and one more in a count."""

    def put(batch: Batch, moment: Moment) -> None:
        batch.append(LOG, f"{name} {moment.key}".encode()).merge(WRITES, "add", ONE)

    await current("written()").perform(Write(f"write {name}", name, put))


async def seen() -> tuple[int, int]:
    """The counter and its version."""

    async def look(store: Store) -> bytes:
        return CODEC.untyped.encode(await store.read(lambda reader: [number(reader.get(COUNTER)), reader.version(COUNTER)]))

    value, version = await current("seen()").perform(Read("read counter", "", look, CODEC.untyped))
    return value, version


async def counted(value: int, version: int) -> None:
    """The counter becomes `value`, unless it was changed since."""

    def put(batch: Batch, _moment: Moment) -> None:
        batch.put(COUNTER, value.to_bytes(8, "big")).require_version(COUNTER, version)

    await current("counted()").perform(Commit("commit counter", (value, version), put))


@workflow
async def busy() -> int:
    for i in range(ROUNDS):
        await written(f"round {i}")
        await publish("rounds", i)
        while True:
            value, version = await seen()
            try:
                await counted(value + 1, version)
                break
            except Conflict:
                await written("conflict")
    return (await seen())[0]


async def main(url: str, point: str, n: int) -> None:
    async with Engine(url, workflows=[busy], max_recoveries=250, probe=CrashAt(point, n) if n else None) as engine:
        run = await engine.start(busy, id="busy")
        sys.stdout.write(str(await run.result(timeout=30)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
