"""Another process on a store: `python -m tests.store.other URL`; it obeys lines on stdin, and ends at an empty one.

A number behind # is the size of an LMDB map.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from spellwork.store import Batch, Store, open_store
from spellwork.store.lmdb import LmdbBackend
from tests.store.faulty import store_over

ONE = (1).to_bytes(8, "big", signed=True)


def tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def obey(store: Store, verb: str, rest: list[str]) -> str:
    backend: Any = store._backend
    match verb:
        case "put":
            await store.commit(Batch().put(b"\x90k", rest[0].encode()))
            return "ok"
        case "get":
            return str(len(await store.get(bytes.fromhex(rest[0])) or b""))
        case "count":
            return str(await count(store, float(rest[0])))
        case "hold":
            backend.begin(sync=True)
            backend.write([(b"\x40never", b"", 99)], [])
            return "holding"
        case _:
            reader = backend.reader()
            reader.get(b"\x40a")
            return "reading"


async def count(store: Store, seconds: float) -> int:
    """Add one in a loop, now through a merge, now through the version of what was read."""
    loop = asyncio.get_running_loop()
    until, added = loop.time() + seconds, 0
    while loop.time() < until:
        await store.commit(Batch().merge(b"\x40n", "add", ONE))
        added += 1
    return added


async def main(url: str) -> None:
    url, _, size = url.partition("#")
    store = store_over(LmdbBackend(url.partition(":")[2], map_size=int(size))) if size else open_store(url)
    tell("open")
    loop = asyncio.get_running_loop()
    while line := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
        verb, *rest = line.split()
        tell(await obey(store, verb, rest))
    await store.close()
    tell("closed")


asyncio.run(main(sys.argv[1]))
