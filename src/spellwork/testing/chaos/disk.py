"""Owns a small disk of its own: full at many levels, with room again, and read-only. Linux only; needs the right to mount.
It must never mount anything where other processes can see it: each share has a mount namespace, which goes with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
from pathlib import Path

from spellwork import Engine
from spellwork.errors import StoreError
from spellwork.testing.chaos import corpus, worker
from spellwork.testing.chaos.errors import typed_only
from spellwork.testing.chaos.life import Inside, Life, Work
from spellwork.testing.chaos.share import Share, Tally, skipped, split
from spellwork.testing.chaos.sweep import CANONICAL, finish
from spellwork.testing.chaos.trial import Deadline, Figure, LawBroken

LAW = "a full or read-only disk is a typed error; others go on reading, nothing is lost, and with room again everything finishes"
SIZE = 4 << 20
_LIFE = 30.0
_READ_ONLY_EVERY = 8


def run(place: Path, seed: int, count: int, deadline: Deadline) -> Figure:
    """Fill a disk `count` times, in two processes."""
    wrapper = _wrapper()
    if not wrapper:
        return skipped(__name__, LAW, seed, count, "the right to mount a tmpfs (root, or user namespaces)")
    return split(__name__, LAW, place, seed, count, deadline, wrapper=wrapper)


def _wrapper() -> list[str]:
    if shutil.which("unshare") is None or shutil.which("mount") is None:
        return []
    for wrapper in (["unshare", "--mount"], ["unshare", "--mount", "--map-root-user"]):
        mounting = [*wrapper, "mount", "-t", "tmpfs", "none", "/mnt"]
        if subprocess.run(mounting, capture_output=True, check=False).returncode == 0:
            return wrapper
    return []


def share(part: Share, tally: Tally) -> None:
    """Fill, judge, make room, finish; every few times the disk becomes read-only instead."""
    worker.warm_up()
    rng = part.rng
    disk = part.place / "disk"
    disk.mkdir()
    _mount(disk)
    for number in range(part.count):
        if not tally.goes_on(part):
            break
        place = part.place / str(number)
        place.mkdir()
        room = rng.randrange(0, 400_000)
        read_only = number % _READ_ONLY_EVERY == _READ_ONLY_EVERY - 1
        with tally.judging(f"{'read-only' if read_only else f'room for {room} bytes'}, files in {place}"):
            (_locked if read_only else _filled)(place, disk, room, tally)
            tally.count += 1
            finish(place, CANONICAL, disk / "store.db")
            shutil.rmtree(place)
        for file in disk.iterdir():
            file.unlink()
    subprocess.run(["umount", "--lazy", str(disk)], check=False)


def _filled(place: Path, disk: Path, room: int, tally: Tally) -> None:
    """A store with a run in it, a reader that has it open, and then a disk with little room."""
    database = disk / "store.db"
    first = Life(worker.life_of(place, ["sequence"], database=database), place / "log-first").end(_LIFE)
    if not first.done:
        raise LawBroken(f"the undisturbed run failed: {first}")
    reader = Life(_reads(database), place / "log-reader")
    reader.reach("open", _LIFE)
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    (disk / "filler").write_bytes(b"\0" * max(0, free - room))
    ending = Life(worker.life_of(place, CANONICAL, database=database), place / "log").end(_LIFE)
    typed_only(ending)
    tally.note(ending.typed.replace("-", "_") or "went_on")
    reader.go_on()
    read = reader.end(_LIFE)
    if not read.done or read.value != corpus.SHAPES["sequence"][3]:
        raise LawBroken(f"a reader could not read while the disk was full: {read}")
    (disk / "filler").unlink()


def _locked(place: Path, disk: Path, _room: int, tally: Tally) -> None:
    """A store with unfinished runs on a disk that has become read-only."""
    database = disk / "store.db"
    life = Life(worker.life_of(place, CANONICAL, database=database), place / "log-first")
    life.hear("opened", _LIFE)
    life.kill()
    _remount(disk, "ro")
    try:
        ending = Life(worker.life_of(place, CANONICAL, database=database), place / "log").end(_LIFE)
        typed_only(ending)
        if not ending.typed:
            raise LawBroken("it wrote to a read-only disk")
        tally.note("read_only_refused")
    finally:
        _remount(disk, "rw")


def _reads(database: Path) -> Work:
    async def whole(inside: Inside) -> int:
        async with Engine(f"sqlite:{database}", workflows=corpus.WORKFLOWS, client=True) as engine:
            await (await engine.get("sequence")).status()
            inside.pause("open")
            result: int = await (await engine.get("sequence")).result(10)
            with contextlib.suppress(StoreError):
                await (await engine.get("sequence")).history()
            return result

    return lambda inside: asyncio.run(whole(inside))


def _mount(disk: Path) -> None:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(disk)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise LawBroken(f"mount failed: {done.stderr}")


def _remount(disk: Path, mode: str) -> None:
    done = subprocess.run(["mount", "-o", f"remount,{mode}", str(disk)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise LawBroken(f"remount failed: {done.stderr}")
