"""Damages a closed store in many ways and reads it each time: `python -m tests.store.damager SCHEME PLACE COUNT`.

Prints how many damages were told of and how many were harmless. A process of its own, since a database library may die of one.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import sys
from pathlib import Path

from spellwork.errors import StoreError
from spellwork.store import open_store
from tests.store.test_damage_elsewhere import filled


def damage(place: Path, rng: random.Random) -> str:
    """Flip a bit, cut a file or zero its end; returns what was done."""
    files = sorted(file for file in (place.rglob("*") if place.is_dir() else [place]) if file.is_file() and file.stat().st_size)
    notes = ("LOG", "OPTIONS", "LOCK", "IDENTITY")  # what RocksDB writes for people
    file = rng.choice([file for file in files if file.suffix != ".json" and not file.name.startswith(notes)])
    data = bytearray(file.read_bytes())
    at = rng.randrange(len(data))
    match rng.choice(("flip", "flip", "flip", "cut", "zero")):
        case "flip":
            data[at] ^= 1 << rng.randrange(8)
        case "cut":
            del data[at:]
        case _:
            data[at:] = bytes(len(data) - at)
    file.write_bytes(data)
    return f"{file.name} at {at} of {file.stat().st_size}"


async def main(scheme: str, place: Path, count: int) -> None:
    rng = random.Random(5)
    model = await filled(f"{scheme}:{place / 'whole'}")
    for _ in range(2):  # so that RocksDB has brought it from its log into tables
        store = open_store(f"{scheme}:{place / 'whole'}")
        await store.close()
    told = 0
    for number in range(count):
        copy = place / f"copy-{number}"
        (shutil.copytree if (place / "whole").is_dir() else shutil.copy)(place / "whole", copy)
        what = damage(copy, rng)
        sys.stdout.write(f"{what}\n")
        sys.stdout.flush()
        try:
            store = open_store(f"{scheme}:{copy}", create=False)
        except StoreError:
            told += 1
            continue
        try:
            found = dict(await store.scan(b"\x40", b"\x41"))
            if found != model:
                lost = sorted(set(model) - set(found))
                raise SystemExit(f"{what}: {len(lost)} rows are gone or wrong, and nobody was told")
        except StoreError:
            told += 1
        finally:
            await store.close()
    sys.stdout.write(f"{told} {count - told}\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
