"""Owns random kill -9 over hosted machines with timers: `python -m spellwork.testing.chaos.machines KILLS SEED DIRECTORY`.
It must never judge a store while the process that writes it lives. Linux and macOS.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

from spellwork import Engine
from spellwork.codec import Codec
from spellwork.engine import rows
from spellwork.hosted import MachineExecution, MachineType
from spellwork.journal import ErrorRegistry, SignalReceived, TimerFired
from spellwork.journal.rows import Keys, number_of
from spellwork.machine import Assign, ChartBuilder
from spellwork.store import open_store
from spellwork.testing import Ledger
from spellwork.testing.chaos import laws
from spellwork.testing.chaos.life import Inside, Life, Work
from spellwork.testing.chaos.share import Share, Tally, split
from spellwork.testing.chaos.trial import Deadline, Figure, LawBroken

LAW = "machines under kill -9: each transition once, no timer early, lost or doubled, and replay gives the stored snapshot"
FEW, MANY, MANY_FROM = 300, 10_000, 50
HITS, TICKS = 4, 4
_TICK, _LIFE, _TRIM, _STARVED = 0.15, 900.0, 5, 120.0
_AT_ONCE = 500


def kind() -> MachineType:
    """A machine that ends when it was hit and has ticked so many times; its context remembers each hit, and counts the ticks."""
    chart = ChartBuilder("chaos", context=lambda: {"hits": [], "ticks": 0}, strict=False).initial("left")
    hit = Assign(lambda context, event: {"hits": [*context["hits"], event.data]})
    tick = Assign(lambda context: {"ticks": context["ticks"] + 1})
    for here, there in (("left", "right"), ("right", "left")):
        state = chart.state(here).on("hit", do=hit)
        state.after(_TICK, there, guard=lambda context: context["ticks"] < TICKS, do=tick)
        state.always("done", guard=lambda context: context["ticks"] == TICKS and len(context["hits"]) == HITS)
    chart.final("done", lambda context: context)
    return MachineType(chart.build(), trim=_TRIM)


KIND = kind()


def run(place: Path, seed: int, count: int, deadline: Deadline) -> Figure:
    """Kill `count` times: 10,000 machines from 50 kills on, else a few hundred."""
    return split(__name__, LAW, place, seed, count, deadline, parts=1)


def share(part: Share, tally: Tally) -> None:
    """One store, killed again and again until there were enough kills; then its machines may end."""
    machines = MANY if part.count >= MANY_FROM else FEW
    tally.note("machines", machines)
    with tally.judging(f"seed {part.seed}, {machines} machines, files in {part.place}"):
        _Trial(part.place, machines, part.rng, tally).play(part)


class _Trial:
    """One store with its lives."""

    def __init__(self, place: Path, machines: int, rng: random.Random, tally: Tally):
        self.place, self.machines, self.rng, self.tally = place, machines, rng, tally
        self.database, self.acks = place / "store.db", place / "acks"

    def play(self, part: Share) -> None:
        """Raises `LawBroken`."""
        lines = self.machines * (HITS + 1)
        while self.tally.count < part.count and self.tally.goes_on(part):
            # some lives are short; the others come so far that none comes to the end
            wanted = 0 if self.rng.random() < 0.2 else self.rng.randint(1, max(1, lines // part.count))
            if not self._life(wanted, self.rng.uniform(0.0, 0.2)):
                break
            _committed(self.database, self.acks)
        self._end()
        asyncio.run(_judged(self.database, self.machines, self.tally))

    def _life(self, wanted: int, seconds: float) -> bool:
        """Kill a life so many seconds after so many more acknowledgements; whether it had not come to its end before."""
        life = Life(life_of(self.place, self.machines), self.place / "log")
        ended, until = False, time.monotonic() + _STARVED
        target = self._acknowledged() + wanted
        while not ended and wanted and self._acknowledged() < target and time.monotonic() < until:
            ended = any("end" in words for words in life.words(0.01))
        ended = ended or any("end" in words for words in life.words(seconds))
        if ended:
            self._check(life)
            return False
        life.kill()
        self.tally.count += 1
        return True

    def _acknowledged(self) -> int:
        return self.acks.read_bytes().count(b"\n") if self.acks.exists() else 0

    def _end(self) -> None:
        began = time.monotonic()
        self._check(Life(life_of(self.place, self.machines), self.place / "log"))
        self.tally.note_most("seconds_of_the_last_life", time.monotonic() - began)

    def _check(self, life: Life) -> None:
        ending = life.end(_LIFE)
        if not ending.done:
            raise LawBroken(f"a life failed: {ending}")


def life_of(place: Path, machines: int) -> Work:
    """A life that sends every hit that was not acknowledged yet, and waits for every machine to end."""

    def work(_inside: Inside) -> None:
        acks = Ledger(place / "acks")
        asyncio.run(_live(f"sqlite:{place}/store.db", machines, set(acks.lines()), acks))

    return work


async def _live(url: str, machines: int, before: set[str], acks: Ledger) -> None:
    gate = asyncio.Semaphore(_AT_ONCE)

    async def drive(engine: Engine, name: str) -> None:
        if f"ended {name}" in before:
            return
        machine = engine.machine(KIND, name)
        async with gate:
            for number in range(HITS):
                line = f"hit {name}.{number}"
                if line not in before:
                    await machine.send("hit", number, id=f"{name}.{number}")
                    acks.write(line)
        result = await machine.result()
        if sorted(result["hits"]) != list(range(HITS)) or result["ticks"] != TICKS:
            raise LawBroken(f"machine {name} ended with {result}")
        acks.write(f"ended {name}")

    async with Engine(url, machines=[KIND], cache=machines, max_recoveries=10_000) as engine:
        await asyncio.gather(*(drive(engine, f"machine-{number}") for number in range(machines)))


def _committed(database: Path, acks: Path) -> None:
    """Between two lives: the file is sound, no journal has a hole, and what was acknowledged is in one."""
    journals = laws.Journals(database)
    known = journals.signals
    for line in Ledger(acks).lines():
        verb, _, name = line.partition(" ")
        if verb == "hit" and known[name] == 0:
            raise LawBroken(f"{line} was acknowledged and is lost")


async def _judged(database: Path, machines: int, tally: Tally) -> None:
    """At the end: every journal replays to its snapshot and its end, no timer was early, and nothing happened twice."""
    codec = Codec()
    store = open_store(f"sqlite:{database}", create=False)
    try:
        ended: dict[str, Any] = {}
        hits: dict[str, list[str]] = {}
        fired = 0
        for key, _ in await store.scan(bytes((Keys.RUNS,)), bytes((Keys.RUNS + 1,))):
            number = number_of(key)
            stored = await store.read(lambda reader, n=number: rows.read_run(reader, n))  # type: ignore[misc]
            if stored is None:
                raise LawBroken(f"run number {number} has vanished")
            entries, row = stored.entries, stored.row
            machine = MachineExecution(number, KIND, codec, ErrorRegistry())
            fired += _replayed(machine, entries, row.id)
            own = hits.setdefault(row.id, [])
            own += [entry.id for entry in entries if isinstance(entry, SignalReceived) and entry.id]
            if str(row.status) == "completed":
                ended[row.id] = machine.configuration.context
            machine.close()
    finally:
        await store.close()
    _right(ended, hits, machines, fired)
    tally.note("timers_fired", fired)
    tally.note("transitions", fired + sum(map(len, hits.values())))


def _replayed(machine: MachineExecution, entries: list[Any], run_id: str) -> int:
    """Replay one journal (which compares it with the snapshot that followed); how many timers it fired, none of them early."""
    fired = 0
    for entry in entries:
        if isinstance(entry, TimerFired):
            due = machine.pending[entry.n].due
            fired += 1
            if entry.at < due:
                raise LawBroken(f"a timer of {run_id} fired {due - entry.at} µs early")
        machine.follow([entry])
    return fired


def _right(ended: dict[str, Any], hits: dict[str, list[str]], machines: int, fired: int) -> None:
    if len(ended) != machines:
        raise LawBroken(f"{machines - len(ended)} machines of {machines} have not ended")
    for name, context in ended.items():
        if sorted(context["hits"]) != list(range(HITS)) or context["ticks"] != TICKS:
            raise LawBroken(f"machine {name} is at {context}")
        if sorted(hits[name]) != [f"{name}.{number}" for number in range(HITS)]:
            raise LawBroken(f"machine {name} has had {sorted(hits[name])}")
    if fired < machines * TICKS:  # one that has ticked enough before it was hit enough has one more, which does nothing
        raise LawBroken(f"{fired} timers fired for {machines} machines with {TICKS} each")


def main(kills: int, seed: int, directory: Path) -> None:
    """One share that is the whole."""
    directory.mkdir(parents=True, exist_ok=True)
    tally = Tally()
    share(Share(directory, seed, kills, Deadline(3600), 0, 1), tally)
    sys.stdout.write(json.dumps({"seed": seed, "kills": tally.count, **dataclasses.asdict(tally)}) + "\n")
    sys.exit(1 if tally.broken else 0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
