"""Owns runs that kill their process, or never come back, among ninety-nine that do not. POSIX only.
It must never take the neighbours' word for it: each must end with its own result, in whatever life that is.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

from spellwork import Engine, Run, Signal, activity, workflow
from spellwork.errors import RunFailed, RunQuarantined
from spellwork.testing.chaos import laws, worker
from spellwork.testing.chaos.corpus import LEDGER, effect
from spellwork.testing.chaos.life import Inside, Life, Work
from spellwork.testing.chaos.share import Share, Tally, split
from spellwork.testing.chaos.trial import Deadline, Figure, LawBroken

LAW = "a run that kills its process is quarantined after the bound, and its 99 neighbours finish"
NEIGHBOURS, BOUND = 99, 3
_LIFE = 60.0
_CGROUPS = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup"))


def segfault() -> None:
    ctypes.string_at(0)


def leave() -> None:
    os._exit(7)


def eat() -> None:
    """Until the kernel's out-of-memory killer comes (or, without a cgroup of our own, what it would send)."""
    eaten = []
    if not os.environ.get("SPELLWORK_CGROUP"):
        os.kill(os.getpid(), signal.SIGKILL)
    while True:
        eaten.append(bytearray(os.urandom(1 << 16) * 64))


def recurse() -> None:
    recurse()


HARM = {"segfault": segfault, "exit": leave, "oom": eat, "recursion": recurse}


@activity
async def harm(kind: str) -> None:
    HARM[kind]()


@activity
def harm_in_thread(kind: str) -> None:
    HARM[kind]()


@activity(executor="process")
def harm_in_process(kind: str) -> None:
    HARM[kind]()


@activity
async def work(n: int) -> int:
    effect("work")
    await asyncio.sleep(0.002)
    return n


@workflow
async def poisoned(kind: str, where: str) -> None:
    await work(0)
    if where == "workflow":
        HARM[kind]()
    elif where == "timer":
        await asyncio.sleep(0.01)
        HARM[kind]()
    elif where == "thread":
        await harm_in_thread(kind)
    elif where == "process":
        await harm_in_process(kind)
    else:
        await harm(kind)


GO = Signal[int]("go")


def waits(n: int) -> bool:
    """Every third neighbour only waits while processes die around it, which must not count against it."""
    return n % 3 == 0


@workflow
async def neighbour(n: int) -> int:
    total = await GO.receive() if waits(n) else 0
    for i in range(4):
        total += await work(i)
    return total + n


CASES = [(kind, where) for where in ("activity", "workflow", "thread", "process", "timer") for kind in HARM]


def run(place: Path, seed: int, count: int, deadline: Deadline) -> Figure:
    """Try `count` kinds of harm, in two processes."""
    return split(__name__, LAW, place, seed, count, deadline)


def share(part: Share, tally: Tally) -> None:
    """Poison one store after the other."""
    worker.warm_up()
    if (cgroup := _cgroup(part)) is not None:
        os.environ["SPELLWORK_CGROUP"] = str(cgroup)
    else:
        tally.note("oom_by_sigkill_for_want_of_a_cgroup")
    try:
        for number in range(part.index, part.count * part.of, part.of):
            if not tally.goes_on(part):
                break
            kind, where = CASES[(part.seed + number * 7) % len(CASES)]
            place = part.place / f"{number}-{kind}-{where}"
            place.mkdir()
            with tally.judging(f"{kind} in {where}, files in {place}"):
                _poison(place, kind, where, tally)
                tally.count += 1
                shutil.rmtree(place)
    finally:
        if cgroup is not None:
            with contextlib.suppress(OSError):
                cgroup.rmdir()


def _poison(place: Path, kind: str, where: str, tally: Tally) -> None:
    deaths = 0
    before, seen = None, laws.effects(place / "ledger")
    while True:
        ending = Life(_life(place, kind, where), place / "log").end(_LIFE)
        after, now = laws.Journals(place / "store.db"), laws.effects(place / "ledger")
        if before is not None:
            laws.committed_once(before, seen, now)
            laws.nothing_lost(before, after)
        before, seen = after, now
        if ending.done:
            break
        if ending.raw or ending.typed:
            raise LawBroken(f"the life failed: {ending}")
        deaths += 1
        # a timer may kill before its run is parked durably: that counts against the run at work, the later ones against the timer
        if deaths > BOUND + (2 if where == "timer" else 1):
            raise LawBroken(f"it has killed {deaths} processes and is not quarantined")
    _judge(kind, where, deaths, ending.value)
    tally.note("deaths", deaths)
    tally.note(ending.value["guilty"])
    tally.note_most("most_deaths", deaths)


def _judge(kind: str, where: str, deaths: int, value: dict[str, Any]) -> None:
    if value["neighbours"] != [6 + n for n in range(NEIGHBOURS)]:
        raise LawBroken(f"the neighbours ended with {value['neighbours']}")
    # a worker process that dies and a RecursionError are failures of the activity: the run fails, and its process lives
    wanted = "failed" if kind == "recursion" or where == "process" else "quarantined"
    if value["guilty"] != wanted:
        raise LawBroken(f"the guilty run is {value['guilty']} after {deaths} deaths, not {wanted}: {value['why']}")
    if wanted == "failed" and deaths:
        raise LawBroken(f"{deaths} processes died")


def _life(place: Path, kind: str, where: str) -> Work:
    async def whole() -> dict[str, Any]:
        url = f"sqlite:{place / 'store.db'}"
        async with Engine(url, workflows=[poisoned, neighbour], max_recoveries=BOUND, processes=1) as engine:
            others: list[Run[int]] = [await engine.start(neighbour, n, id=f"n{n}") for n in range(NEIGHBOURS // 2)]
            guilty: Run[None] = await engine.start(poisoned, kind, where, id="guilty")
            others += [await engine.start(neighbour, n, id=f"n{n}") for n in range(NEIGHBOURS // 2, NEIGHBOURS)]
            for n, run in enumerate(others):
                if not waits(n):
                    await run.result(30)
            became, why = "completed", ""
            try:
                await guilty.result(30)
            except RunQuarantined as error:
                became, why = "quarantined", str(error)
            except RunFailed as error:
                became, why = "failed", str(error)
            for n, run in enumerate(others):
                if waits(n):
                    await run.signal(GO, 0, id="go")
            results = [await run.result(30) for run in others]
            return {"neighbours": results, "guilty": became, "why": why}

    def work_of(_inside: Inside) -> dict[str, Any]:
        os.environ[LEDGER] = str(place / "ledger")
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if cgroup := os.environ.get("SPELLWORK_CGROUP"):
            (Path(cgroup) / "cgroup.procs").write_text(str(os.getpid()))
        return asyncio.run(whole())

    return work_of


def _cgroup(part: Share) -> Path | None:
    """A cgroup with little memory, where we may make one."""
    for root in _CGROUPS:
        limits = [("memory.limit_in_bytes", "256M"), ("memory.memsw.limit_in_bytes", "256M")]
        if (root / "cgroup.controllers").exists():
            limits = [("memory.max", "256M"), ("memory.swap.max", "0")]
        group = root / f"spellwork-chaos-{os.getpid()}-{part.index}"
        try:
            group.mkdir()
            (group / limits[0][0]).write_text(limits[0][1])
        except OSError:
            with contextlib.suppress(OSError):
                group.rmdir()
            continue
        with contextlib.suppress(OSError):
            (group / limits[1][0]).write_text(limits[1][1])  # no accounting of swap: then there is none to count
        return group
    return None
