"""Owns the benchmark `store`: what each backend takes for the same work as the library under it, in the same run.
It must never measure the two at different times: they take turns, round by round.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import TypeVar

from spellwork.bench.conditions import Result, filesystem, load, machine, scratch
from spellwork.bench.raw_stores import RAW, Pairs, Raw
from spellwork.state import Migration
from spellwork.state import open_store as open_state
from spellwork.store import Batch, Store, open_store

T = TypeVar("T")
KEYS, BIG = 100_000, 1_000_000
_LIBRARIES = {"sqlite": "apsw", "lmdb": "lmdb", "rocksdb": "rocksdict"}
_ROUNDS = 15
_VALUE = b"x" * 100
_BATCHES = {1: 20, 10: 10, 100: 5, 1000: 2}
_GETS, _SCANS, _SCANNED = 200, 40, 100
_FILL = 10_000
_MIGRATED = 20_000
_END = b"\x41"


def run_store(backends: tuple[str, ...] = (), *, big: bool = False, rounds: int = _ROUNDS, keys: int | None = None) -> list[Result]:
    """The figures of each backend whose library is installed; microseconds, and how many times the raw library's they are."""
    chosen = backends or tuple(name for name, library in _LIBRARIES.items() if find_spec(library) is not None)
    results = []
    for name in chosen:
        with scratch() as folder:
            figures = asyncio.run(_measured(name, Path(folder), rounds))
            figures |= asyncio.run(_migrated(name, Path(folder)))
            figures |= asyncio.run(_reopened(name, Path(folder), keys or (BIG if big else KEYS)))
            where: Result = {**machine(), "load": load(), "filesystem": filesystem(folder)}
            results.append({"bench": "store", "backend": name, **figures, **where})
    return results


async def _measured(name: str, folder: Path, rounds: int) -> Result:
    ours, raw = open_store(f"{name}:{folder / 'ours'}"), RAW[name](folder / "raw")
    found: Result = {"durability": ours.durability.name}
    numbers = count()
    try:
        for size, times in _BATCHES.items():
            found |= await _writes(ours, raw, numbers, size, times, rounds)
        found |= await _reads(ours, raw, next(numbers), rounds)
        return found
    finally:
        raw.close()
        await ours.close()


async def _writes(ours: Store, raw: Raw, numbers: Iterator[int], size: int, times: int, rounds: int) -> Result:
    def rows() -> list[Pairs]:
        return [[(_key(next(numbers)), _VALUE) for _ in range(size)] for _ in range(times)]

    async def write(batches: list[Pairs]) -> None:
        for pairs in batches:
            await ours.commit(_batch(pairs))

    async def write_raw(batches: list[Pairs]) -> None:
        for pairs in batches:
            raw.put(pairs)

    async def write_raw_off_the_loop(batches: list[Pairs]) -> None:
        loop = asyncio.get_running_loop()
        for pairs in batches:
            await loop.run_in_executor(None, raw.put, pairs)

    taken = await _in_turns(rounds, rows, (write, write_raw, write_raw_off_the_loop))
    one, alone, off = (seconds / times for seconds in taken)
    name = "put" if size == 1 else f"batch_of_{size}"
    return _figures(name, [one, alone]) | {f"{name}_ratio_off_the_loop": one / off}


async def _reads(ours: Store, raw: Raw, end: int, rounds: int) -> Result:
    rng = random.Random(7)  # noqa: S311 - the same keys each time

    def some(number: int) -> Callable[[], list[bytes]]:
        return lambda: [_key(rng.randrange(end)) for _ in range(number)]

    async def get(keys: list[bytes]) -> None:
        for key in keys:
            await ours.get(key)

    async def get_together(keys: list[bytes]) -> None:
        await ours.read(lambda reader: [reader.get(key) for key in keys])

    async def get_raw(keys: list[bytes]) -> None:
        for key in keys:
            raw.get(key)

    async def get_raw_off_the_loop(keys: list[bytes]) -> None:
        loop = asyncio.get_running_loop()
        for key in keys:
            await loop.run_in_executor(None, raw.get, key)

    async def scan(keys: list[bytes]) -> None:
        for key in keys:
            await ours.scan(key, _END, limit=_SCANNED)

    async def scan_raw(keys: list[bytes]) -> None:
        for key in keys:
            raw.scan(key, _SCANNED)

    async def scan_raw_off_the_loop(keys: list[bytes]) -> None:
        loop = asyncio.get_running_loop()
        for key in keys:
            await loop.run_in_executor(None, raw.scan, key, _SCANNED)

    one, off, together, alone = (
        seconds / _GETS for seconds in await _in_turns(rounds, some(_GETS), (get, get_raw_off_the_loop, get_together, get_raw))
    )
    scanned, scanned_off, scanned_alone = (
        seconds / _SCANS for seconds in await _in_turns(rounds, some(_SCANS), (scan, scan_raw_off_the_loop, scan_raw))
    )
    return (
        _figures("get", [one, alone])
        | {"get_ratio_off_the_loop": one / off}
        | _figures("get_of_many", [together, alone])
        | _figures("scan_of_100", [scanned, scanned_alone])
        | {"scan_of_100_ratio_off_the_loop": scanned / scanned_off}
    )


async def _in_turns(rounds: int, work: Callable[[], T], ways: tuple[Callable[[T], Awaitable[None]], ...]) -> list[float]:
    """The median seconds of each way; one round is not counted."""
    seconds: list[list[float]] = [[] for _ in ways]
    for number in range(rounds + 1):
        for index, way in enumerate(ways):
            given = work()
            began = time.perf_counter()
            await way(given)
            if number:
                seconds[index].append(time.perf_counter() - began)
    return [statistics.median(each) for each in seconds]


async def _migrated(name: str, folder: Path) -> Result:
    """Values of a tree that are migrated in a second, tried before and kept aside, and rolled back."""
    plan = Migration("values", to=2, change=len, old=str, new=int)
    async with open_state(f"{name}:{folder / 'migrated'}") as state:
        tree = state.tree("values", str)
        for start in range(0, _MIGRATED, _FILL):
            batch = state.batch()
            for number in range(start, start + _FILL):
                batch.put(tree, number, "x" * 100)
            await batch.commit()
        began = time.perf_counter()
        await state.migrate(plan)
        migrated = time.perf_counter()
        await state.rollback_migration(plan)
        back = time.perf_counter()
    return {"migrated_per_second": _MIGRATED / (migrated - began), "rolled_back_per_second": _MIGRATED / (back - migrated)}


async def _reopened(name: str, folder: Path, keys: int) -> Result:
    """Seconds to open a store with many keys and read one, and the bytes it takes."""
    url = f"{name}:{folder / 'large'}"
    ours, raw = open_store(url, durability="relaxed"), RAW[name](folder / "raw-large")
    for start in range(0, keys, _FILL):
        pairs = [(_key(number), _VALUE) for number in range(start, min(start + _FILL, keys))]
        await ours.commit(_batch(pairs))
        raw.put(pairs)
    await ours.close()
    raw.close()
    wanted, times, raw_times = _key(keys // 2), [], []
    for _ in range(3):
        began = time.perf_counter()
        ours = open_store(url)
        await ours.get(wanted)
        times.append(time.perf_counter() - began)
        await ours.close()
        began = time.perf_counter()
        raw = RAW[name](folder / "raw-large")
        raw.get(wanted)
        raw_times.append(time.perf_counter() - began)
        raw.close()
    sizes = _size(folder / "large"), _size(folder / "raw-large")
    return {
        "keys": keys,
        "reopen_seconds": statistics.median(times),
        "reopen_raw_seconds": statistics.median(raw_times),
        "bytes_on_disk": sizes[0],
        "bytes_on_disk_raw": sizes[1],
    }


def _size(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else path.parent.glob(f"{path.name}*")
    return sum(file.stat().st_blocks * 512 for file in files if file.is_file())


def _batch(pairs: Pairs) -> Batch:
    return Batch().put_all(pairs)


def _key(number: int) -> bytes:
    return b"\x40" + number.to_bytes(8, "big")


def _figures(name: str, seconds: list[float]) -> Result:
    ours, raw = seconds
    return {f"{name}_us": ours * 1e6, f"{name}_raw_us": raw * 1e6, f"{name}_ratio": ours / raw}
