"""A process that fills a small disk again and again under one store: `python -m tests.store.small_disk SCHEME PLACE`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import subprocess
import sys
from pathlib import Path

from spellwork.errors import StoreFailed, StoreFull
from spellwork.store import Batch, Store, open_store

SIZE = 48 << 20
LEVELS = (0, 1_000, 5_000, 30_000, 100_000, 300_000, 1_000_000)


async def main(scheme: str, disk: Path) -> None:
    """Judge each level by a model of what was acknowledged."""
    rng = random.Random(7)
    parameters = "?preset=small" if scheme == "rocksdb" else ""
    store = open_store(f"{scheme}:{disk / 'store'}{parameters}")
    model: dict[bytes, bytes] = {}
    for number in range(50):
        await put(store, model, number, rng)
    refused = 0
    for level in LEVELS:
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            filler.write(bytes(max(0, free - level)))
        for number in range(30):
            try:
                await put(store, model, number, rng)
            except StoreFull:
                refused += 1
                if refused % 5 == 0:
                    break
            await judge(store, model)
        (disk / "filler").unlink()
        await put(store, model, 1, rng)  # the same store object, at once
        await judge(store, model)
    await store.close()
    again = open_store(f"{scheme}:{disk / 'store'}{parameters}", create=False)
    await judge(again, model)
    await again.close()
    sys.stdout.write(f"refused {refused}\n" if refused > len(LEVELS) else "the disk was never full\n")


async def put(store: Store, model: dict[bytes, bytes], number: int, rng: random.Random) -> None:
    """Acknowledged or not there."""
    rows = {b"\x40%03d" % ((number * 7 + i) % 60): rng.randbytes(rng.choice((10, 3_000, 20_000))) for i in range(3)}
    batch = Batch()
    for key, value in rows.items():
        batch.put(key, value)
    try:
        await store.commit(batch)
    except StoreFailed:
        found = {key: await store.get(key) for key in rows}
        if found == rows:  # its outcome was not known
            model.update(rows)
        raise
    model.update(rows)


async def judge(store: Store, model: dict[bytes, bytes]) -> None:
    """Nothing acknowledged is lost and nothing else is there."""
    assert dict(await store.scan(b"\x40", b"\x41")) == model


if __name__ == "__main__":
    place = Path(sys.argv[2]) / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(place)], check=True)
    asyncio.run(main(sys.argv[1], place))
