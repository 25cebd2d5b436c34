"""Owns the split of a trial over processes: `python -m spellwork.testing.chaos.share MODULE PLACE SEED COUNT SECONDS INDEX OF`.
It must never run a share in the process that asked for it: shares fork, and that process may have threads.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from spellwork.testing.chaos.trial import Deadline, Figure, LawBroken

T = TypeVar("T")
_PATIENCE = 90.0
_ENOUGH = 3


@dataclasses.dataclass(frozen=True, slots=True)
class Share:
    """One of `of` processes of a trial: its folder, its part of the count, its randomness."""

    place: Path
    seed: int
    count: int
    deadline: Deadline
    index: int
    of: int

    @property
    def rng(self) -> random.Random:
        """The same numbers each time, for this share of this seed."""
        return random.Random(f"{self.seed}/{self.index}")

    def of_all(self, everything: Sequence[T]) -> list[T]:
        """This share's part of a list; where fewer than all are wanted, they lie evenly in it, from where the seed says."""
        wanted = min(self.count * self.of, len(everything))
        first = random.Random(self.seed).randrange(len(everything))
        chosen = [everything[(first + i * len(everything) // wanted) % len(everything)] for i in range(wanted)]
        return chosen[self.index :: self.of]


@dataclasses.dataclass(slots=True)
class Tally:
    """What a share has found so far."""

    count: int = 0
    wanted: int | None = None
    broken: list[str] = dataclasses.field(default_factory=list)
    sums: dict[str, int] = dataclasses.field(default_factory=dict)
    most: dict[str, float] = dataclasses.field(default_factory=dict)
    skipped: str = ""

    def note(self, fact: str, number: int = 1) -> None:
        """Add to a fact."""
        self.sums[fact] = self.sums.get(fact, 0) + number

    def note_most(self, fact: str, value: float) -> None:
        """Keep the largest value of a fact."""
        self.most[fact] = round(max(self.most.get(fact, 0.0), value), 3)

    @contextlib.contextmanager
    def judging(self, what: str) -> Iterator[None]:
        """Note a broken law, with what was done to break it."""
        try:
            yield
        except LawBroken as error:
            self.broken.append(f"{what}: {error}")

    def goes_on(self, share: Share) -> bool:
        """Whether there is time left and not enough broken yet."""
        return share.deadline.left > 0 and len(self.broken) < _ENOUGH


def split(  # noqa: PLR0913 - a trial's own four, and how it is split
    module: str, law: str, place: Path, seed: int, count: int, deadline: Deadline,
    *, parts: int = 2, wrapper: Sequence[str] = (), environment: dict[str, str] | None = None,
) -> Figure:  # fmt: skip
    """Run `share(share, tally)` of `module` in `parts` processes and add up what they found."""
    began = time.monotonic()
    place.mkdir(parents=True, exist_ok=True)
    parts = max(1, min(parts, count))
    processes = []
    for index in range(parts):
        part = count // parts + (index < count % parts)
        arguments = [module, str(place / f"share-{index}"), str(seed), str(part), f"{deadline.left:.1f}", str(index), str(parts)]
        # the real interpreter, not the venv's link: wrappers follow what they exec
        command = [*wrapper, os.path.realpath(sys.executable), "-m", "spellwork.testing.chaos.share", *arguments]
        processes.append(
            subprocess.Popen(
                command,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)} | (environment or {}),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
    try:
        total = _added([_tally_of(process, deadline) for process in processes])
    finally:
        for process in processes:
            _end(process)
    return Figure(
        trial=module.rpartition(".")[2],
        law=law,
        seed=seed,
        wanted=count if total.wanted is None else total.wanted,
        count=total.count,
        broken=tuple(total.broken),
        facts={**total.sums, **total.most},
        seconds=round(time.monotonic() - began, 1),
        skipped=total.skipped,
    )


def skipped(module: str, law: str, seed: int, count: int, why: str) -> Figure:
    """The figure of a trial for which the machine lacks something."""
    return Figure(module.rpartition(".")[2], law, seed, count, skipped=why)


def _tally_of(process: subprocess.Popen[str], deadline: Deadline) -> Tally:
    try:
        printed, errors = process.communicate(timeout=deadline.left + _PATIENCE)
    except subprocess.TimeoutExpired:
        return Tally(broken=[f"a share of the trial hung beyond its deadline by {_PATIENCE:.0f} s"])
    try:
        return Tally(**json.loads(printed.splitlines()[-1]))
    except (IndexError, ValueError):
        return Tally(broken=[f"a share of the trial died with {process.returncode}: {errors[-3000:]}"])


def _end(process: subprocess.Popen[str]) -> None:
    # the whole session of the share: its lives and their tracers, and nothing else
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def _added(tallies: list[Tally]) -> Tally:
    total = Tally()
    for tally in tallies:
        total.count += tally.count
        total.wanted = tally.wanted if total.wanted is None else total.wanted + (tally.wanted or 0)
        total.broken += tally.broken
        for fact, number in tally.sums.items():
            total.note(fact, number)
        total.skipped = total.skipped or tally.skipped
        for fact, value in tally.most.items():
            total.note_most(fact, value)
    return total


def main(module: str, place: str, seed: str, count: str, seconds: str, index: str, of: str) -> None:
    """Do one share and print its tally."""
    share = Share(Path(place), int(seed), int(count), Deadline(float(seconds)), int(index), int(of))
    share.place.mkdir(parents=True, exist_ok=True)
    tally = Tally()
    importlib.import_module(module).share(share, tally)
    sys.stdout.write(json.dumps(dataclasses.asdict(tally)) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
