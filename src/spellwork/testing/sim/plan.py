"""Owns the plan of one simulation: how many processes there are, and what goes wrong when.
It must never be drawn from while the simulation runs: a plan is data, so that faults can be left out of it one by one.
"""

from __future__ import annotations

import random
from typing import Literal

import msgspec

from spellwork.clock import MICROSECONDS

Kind = Literal[
    "crash",  # forget a process in the middle of a turn
    "fail",  # the next commit fails and wrote nothing
    "unknown",  # the next commit fails and wrote everything
    "torn",  # of the next group only the first batches are written, and the commit fails
    "slow",  # reads and commits take long
    "isolate",  # reads and commits wait until the process reaches the store again
    "freeze",  # SIGSTOP and, later, SIGCONT
    "clock",  # the wall clock jumps
    "evict",  # somebody else takes the partitions' epochs
    "duplicate",  # a message that was consumed arrives again
    "power",  # all processes die, and commits that were not synced are lost
]
_MILLISECOND = 1000


class Fault(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that goes wrong: at `at` (microseconds from the start), for the process in `slot`.

    `seconds` is how long it lasts, or by how much a clock jumps; `count` after how many callbacks a crash comes, or how many
    batches (or unsynced commits) survive.
    """

    at: int
    kind: Kind
    slot: int
    seconds: float = 0.0
    count: int = 0

    def __str__(self) -> str:
        more = f" for {self.seconds:g} s" if self.seconds else ""
        return (
            f"{self.at / MICROSECONDS:9.4f} s  {self.kind:9} worker {self.slot}{more}{f' count {self.count}' if self.count else ''}"
        )


class Plan(msgspec.Struct, frozen=True):
    """What a seed stands for, apart from the order of things. `clients` processes own nothing and only send messages."""

    seed: int
    workers: int
    clients: int
    partitions: int
    per_worker: int
    durability: str
    cache: int
    faults: tuple[Fault, ...]

    @classmethod
    def of(cls, seed: int) -> Plan:
        """The plan of a seed."""
        rng = random.Random(f"spellwork plan {seed}")
        workers = rng.choice((2, 2, 3, 3, 4, 5))
        partitions = rng.choice((1, 2, 3, 4))
        durability = "relaxed" if rng.random() < 0.15 else "full"
        kinds: dict[Kind, int] = {
            "crash": 8, "fail": 3, "unknown": 4, "torn": 3, "slow": 3, "isolate": 4,
            "freeze": 5, "clock": 2, "evict": 2, "duplicate": 4, "power": 2,
        }  # fmt: skip
        count = rng.choice((0, 1, 2, 3, 4, 6, 8, 12))
        chosen = rng.choices(list(kinds), list(kinds.values()), k=count)
        faults = sorted((_fault(rng, kind, workers) for kind in chosen), key=lambda fault: (fault.at, fault.slot, fault.kind))
        return cls(
            seed=seed,
            workers=workers,
            clients=rng.choice((0, 0, 1)),
            partitions=partitions,
            per_worker=rng.randint(-(-partitions // workers), partitions),
            durability=durability,
            cache=rng.choice((0, 1, 256)),
            faults=tuple(faults),
        )

    def without(self, index: int) -> Plan:
        """The same plan with one fault left out."""
        return msgspec.structs.replace(self, faults=self.faults[:index] + self.faults[index + 1 :])

    def __str__(self) -> str:
        head = (
            f"seed {self.seed}: {self.workers} workers and {self.clients} clients, {self.partitions} partitions "
            f"(up to {self.per_worker} each), durability {self.durability}, cache {self.cache}, {len(self.faults)} faults"
        )
        return "\n  ".join([head, *map(str, self.faults)])


def _fault(rng: random.Random, kind: Kind, workers: int) -> Fault:
    # most of the work happens in the first moments, so most faults do too
    at = round(rng.uniform(0.0, 3.0) ** 3 * MICROSECONDS) if rng.random() < 0.7 else rng.randrange(20 * MICROSECONDS)
    at = max(at, _MILLISECOND)
    slot = rng.randrange(workers)
    if kind == "crash":
        return Fault(at, kind, slot, round(rng.expovariate(1.0), 3), rng.randrange(60))
    if kind in ("slow", "isolate", "freeze"):
        return Fault(at, kind, slot, round(rng.uniform(0.01, 2.0) ** 4, 3))
    if kind == "clock":
        # timers follow the wall clock: two clocks must differ by less than the shortest timeout that matters to a result
        return Fault(at, kind, slot, float(rng.choice((-14, -5, -1, 1, 5, 14))))
    if kind in ("torn", "power"):
        return Fault(at, kind, slot, round(rng.expovariate(1.0), 3), rng.randrange(4))
    return Fault(at, kind, slot)
