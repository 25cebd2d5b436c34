"""Owns owners that are frozen past their lease and wake after another has taken over. POSIX only.
It must never freeze a process that it did not fork, nor count an owner whose successor never came.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import apsw

from spellwork import Engine, Run, activity, workflow
from spellwork.codec import Codec
from spellwork.engine.ownership import read_claims
from spellwork.journal import StepCompleted, unpack_entry
from spellwork.journal.rows import Keys
from spellwork.store import open_store
from spellwork.store.keyspace import REVISION
from spellwork.testing.chaos import corpus, laws, worker
from spellwork.testing.chaos.life import Inside, Life, Work
from spellwork.testing.chaos.share import Share, Tally, split
from spellwork.testing.chaos.trial import Deadline, Figure, LawBroken

LAW = "an owner that was frozen past its lease writes nothing when it wakes; what it ran goes on elsewhere, once"
LEASE = 0.3
RUNS, STEPS = 3, 12
_PARTITIONS = 2
_LIFE = 40.0


@activity
async def who() -> int:
    corpus.effect("who")
    return os.getpid()


@workflow
async def patrol(steps: int) -> int:
    for _ in range(steps):
        await who()
        await asyncio.sleep(0.03)
    return steps


def run(place: Path, seed: int, count: int, deadline: Deadline) -> Figure:
    """Freeze `count` owners. Most of it is waiting, so four processes do it on two cores."""
    return split(__name__, LAW, place, seed, count, deadline, parts=4)


def share(part: Share, tally: Tally) -> None:
    """Freeze one owner after the other."""
    worker.warm_up()
    rng, number = part.rng, 0
    while tally.count < part.count and tally.goes_on(part):
        place = part.place / str(number)
        place.mkdir()
        number += 1
        with tally.judging(f"zombie {number} of share {part.index}, files in {place}"):
            _Pair(place, tally).play(rng.uniform(0.0, 0.4), rng.uniform(0.0, 0.2))
            shutil.rmtree(place)


class _Pair:
    """An owner that is frozen, and the one that stands by."""

    def __init__(self, place: Path, tally: Tally):
        self.place = place
        self.tally = tally
        self.database = place / "store.db"

    def play(self, before: float, after: float) -> None:
        """Freeze, wait for the successor, wake, and judge."""
        zombie = Life(_owner(self.place, standby=False), self.place / "log-zombie")
        heir = None
        try:
            zombie.hear("working", _LIFE)
            heir = Life(_owner(self.place, standby=True), self.place / "log-heir")
            heir.hear("open", _LIFE)
            time.sleep(before)
            zombie.send(signal.SIGSTOP)
            froze = time.monotonic()
            if not self._taken_over(heir):
                self._held(zombie, heir)
                return
            self.tally.note_most("slowest_takeover", time.monotonic() - froze)
            self._wake(zombie, heir, after)
        finally:
            for life in (zombie, heir):
                if life is not None:
                    with contextlib.suppress(LawBroken):
                        life.kill()

    def _taken_over(self, heir: Life) -> bool:
        """Whether the heir got everything; if not, the frozen owner holds SQLite's lock."""
        for seconds in (LEASE + 0.5, 10.0):
            with contextlib.suppress(LawBroken):
                heir.hear("owned", seconds)
                return True
            if is_locked(self.database):
                return False
        raise LawBroken(f"nobody took over within {LEASE + 10.5:.1f} s, and the lock is free")

    def _held(self, zombie: Life, heir: Life) -> None:
        """Frozen inside a transaction: nobody can write until it wakes, and nothing may be lost either."""
        self.tally.note("held_the_lock")
        before, seen = laws.Journals(self.database), laws.effects(self.place / "ledger")
        zombie.send(signal.SIGCONT)
        self._end(zombie, heir)
        self._once(before, seen)

    def _once(self, before: laws.Journals, seen: collections.Counter[str]) -> None:
        """What was committed stays, and has no further effect, but for the one activity a run that was under way at the freeze."""
        laws.nothing_lost(before, laws.Journals(self.database))
        now = laws.effects(self.place / "ledger")
        late = [step for step in before.steps if now[step] != seen[step]]
        by_run = collections.Counter(step.partition(":")[0] for step in late)
        if any(count > 1 for count in by_run.values()) or any(now[step] > 2 for step in late):
            raise LawBroken(f"committed steps ran again: { ({step: now[step] for step in late}) }")
        self.tally.note("late_effects", len(late))

    def _wake(self, zombie: Life, heir: Life, after: float) -> None:
        time.sleep(after)
        before, seen = laws.Journals(self.database), laws.effects(self.place / "ledger")
        frozen_at, epochs, owners = self._claims()
        if owners != {heir.pid}:
            self.tally.note("half_taken_over")
        zombie.send(signal.SIGCONT)
        self._end(zombie, heir)
        self._once(before, seen)
        if accepted := _steps_of(self.database, zombie.pid, frozen_at):
            raise LawBroken(f"writes of the zombie were accepted: {accepted}")
        if owners == {heir.pid}:
            _, now, last = self._seen_at_the_end
            if now != epochs or last != owners:
                raise LawBroken(f"partitions went back to the zombie: epochs {epochs} -> {now}, owners {last}")
            self.tally.count += 1

    def _end(self, zombie: Life, heir: Life) -> None:
        """Both see every run end with its result; the partitions are looked at before the heir gives them back."""
        zombie.reach("closing", _LIFE)
        heir.reach("closing", _LIFE)
        self._seen_at_the_end = self._claims()
        for life in (zombie, heir):
            life.go_on()
            ending = life.end(_LIFE)
            if not ending.done or ending.noise or ending.value != [STEPS] * RUNS:
                raise LawBroken(f"the {'heir' if life is heir else 'zombie'} ended wrongly: {ending}")

    def _claims(self) -> tuple[int, list[int], set[int]]:
        async def look() -> tuple[int, list[int], set[int]]:
            store = open_store(f"sqlite:{self.database}", create=False)
            try:
                revision = int.from_bytes(await store.get(REVISION) or b"", "big")
                claims = await store.read(lambda reader: read_claims(reader, _PARTITIONS))
            finally:
                await store.close()
            return revision, [claim.epoch for claim in claims], {claim.owner.pid for claim in claims}

        return asyncio.run(look())


def is_locked(database: Path) -> bool:
    """Whether somebody holds SQLite's write lock for longer than a working process does."""
    connection = apsw.Connection(str(database))
    connection.set_busy_timeout(300)
    try:
        connection.execute("BEGIN IMMEDIATE; ROLLBACK")
    except apsw.BusyError:
        return True
    finally:
        connection.close()
    return False


def _owner(place: Path, *, standby: bool) -> Work:
    async def whole(inside: Inside) -> list[int]:
        options: dict[str, Any] = {"lease": LEASE, "partitions": _PARTITIONS, "standby": standby}
        async with Engine(f"sqlite:{place / 'store.db'}", workflows=[patrol], **options) as engine:
            inside.say(open=True)
            if standby:
                while engine.owned < _PARTITIONS:  # noqa: ASYNC110 - there is no event for it
                    await asyncio.sleep(0.01)
                inside.say(owned=True)
            else:
                # what it loses it must not claim again: its successor may be slow without being gone
                engine._tenure.most = 0
            runs: list[Run[int]] = [await engine.start(patrol, STEPS, id=f"patrol-{i}") for i in range(RUNS)]
            inside.say(working=True)
            results = [await run.result(30) for run in runs]
            inside.pause("closing")
            return results

    def work(inside: Inside) -> list[int]:
        os.environ[corpus.LEDGER] = str(place / "ledger")
        return asyncio.run(whole(inside))

    return work


def _steps_of(database: Path, pid: int, since: int) -> list[str]:
    """Steps that process `pid` committed after revision `since`."""
    codec = Codec().untyped
    connection = apsw.Connection(str(database))
    try:
        rows: list[Any] = connection.execute(
            "SELECT k, v, substr(r, 1, 8) FROM kv WHERE k >= ? AND k < ?", (bytes((Keys.JOURNAL,)), bytes((Keys.JOURNAL + 1,)))
        ).fetchall()
    finally:
        connection.close()
    found = []
    for key, frame, version in rows:
        entry = unpack_entry(key, frame)
        if isinstance(entry, StepCompleted) and codec.decode(entry.result) == pid and int.from_bytes(version, "big") > since:
            found.append(f"step {entry.n} at revision {int.from_bytes(version, 'big')} > {since}")
    return found
