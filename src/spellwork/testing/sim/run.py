"""Owns running one seed: building its world, catching what the engine says, and telling what was seen.
It must never keep anything from one seed to the next.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Iterator

from spellwork.clock import MICROSECONDS
from spellwork.testing.sim.plan import Plan
from spellwork.testing.sim.workload import Workload, mixed
from spellwork.testing.sim.world import World


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What one simulation showed. `digest` is equal for equal histories; `story` tells what led to the first
    broken law; `journals` holds a line an entry, without times and numbers, for each run by its id and generation.
    """

    plan: Plan
    digest: str
    broken: tuple[str, ...]
    marks: Counter[str]
    commits: int
    seconds: float
    story: tuple[str, ...]
    journals: dict[str, tuple[str, ...]]

    @property
    def ok(self) -> bool:
        """Whether every law held."""
        return not self.broken


def simulate(seed: int, *, plan: Plan | None = None, workload: Callable[[int], Workload] = mixed) -> Outcome:
    """Run the plan of `seed` (or another plan) over the workload of `seed`."""
    chosen = plan or Plan.of(seed)
    world = World(chosen, workload(chosen.seed))
    with _listening(world):
        world.run()
    return Outcome(
        chosen,
        world.disk.digest,
        tuple(world.broken),
        world.marks,
        world.disk.commits.total(),
        world.now / MICROSECONDS,
        tuple(world.witness.story),
        world.witness.readable(),
    )


class _Ear(logging.Handler):
    def __init__(self, world: World):
        super().__init__()
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        """What the engine logs marks a branch that it took."""
        self._world.mark(f"log: {record.msg}")
        self._world.note(record.getMessage())


@contextlib.contextmanager
def _listening(world: World) -> Iterator[None]:
    log = logging.getLogger("spellwork")
    ear, level, propagate, handlers = _Ear(world), log.level, log.propagate, log.handlers
    log.setLevel(logging.INFO)
    log.propagate, log.handlers = False, [ear]
    try:
        yield
    finally:
        log.setLevel(level)
        log.propagate, log.handlers = propagate, handlers
