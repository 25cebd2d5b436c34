"""A writer that may kill itself: `python -m tests.store.crash_writer URL ACKS FIRST [POINT PASSAGE]`.

Commits groups of batches without end; each batch is rows and an entry of a log, and its number is noted when it is acknowledged.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys

from spellwork.store import Batch, open_store
from spellwork.testing import CrashAt

GROUP = 3


def batch_of(number: int) -> Batch:
    """What batch `number` writes."""
    name = number.to_bytes(4, "big")
    return (
        Batch().put(b"\x40" + name, b"%d" % number * 300).put(b"\x90" + name, b"")
        .append(b"\x41log", name).merge(b"\x42sum", "add", (1).to_bytes(8, "big"))
    )  # fmt: skip


async def main(url: str, acks: str, first: int, point: str, passage: int) -> None:
    store = open_store(url, probe=CrashAt(point, passage) if point else None)
    noted = os.open(acks, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def commit(number: int) -> None:
        await store.commit(batch_of(number))
        os.write(noted, b"%d\n" % number)

    for start in itertools.count(first, GROUP):
        await asyncio.gather(*(commit(number) for number in range(start, start + GROUP)))
        sys.stdout.write(".")
        sys.stdout.flush()


if __name__ == "__main__":
    given = [*sys.argv[4:], "", "1"]
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), given[0], int(given[1])))
