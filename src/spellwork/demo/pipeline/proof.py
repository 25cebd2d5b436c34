"""Owns the proof that a review did nothing twice, from two independent witnesses: the ledger and the journal.
It must never take the word of the process that did the work.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import msgspec

from spellwork.demo.pipeline.ledger import Line
from spellwork.demo.pipeline.standing import Committed, Standing


class Kill(msgspec.Struct, frozen=True):
    """A kill from outside: the process, how many files were committed, and the keys on the ledger that were not yet."""

    pid: int
    committed: int
    in_flight: list[str]


class Proof(msgspec.Struct, frozen=True):
    """What was found.

    `repeated_in_flight` counts analyses that stood on the ledger, but not in the journal, when their process died.
    """

    planned: int
    committed: int
    ledger_lines: int
    processes: int
    repeated_in_flight: int
    in_flight_bound: int
    problems: list[str]

    @property
    def holds(self) -> bool:
        """Whether every file was committed exactly once and nothing was repeated after its commit."""
        return not self.problems


def step_key(run: str, number: int, n: int) -> str:
    """The idempotency key of step `n` of the run `run`, whose number is `number`."""
    return f"{run}:{number:x}:{n}"


def prove(state: Standing, lines: Sequence[Line], run: str, number: int, width: int, kills: Sequence[Kill] = ()) -> Proof:
    """Compare ledger and journal.

    The attempts at one step follow one another, so if the committed one is the last on the ledger, none came after it.
    """
    by_key: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        by_key[line.key].append(line)
    steps = {step_key(run, number, each.n): each for each in state.committed}
    problems = _once(state)
    for key, each in steps.items():
        problems += _last_is_committed(each, by_key.get(key, []))
    problems += [f"{key} is on the ledger but not in the journal" for key in by_key if key not in steps]
    superseded = [line for attempts in by_key.values() for line in attempts[:-1]]
    processes = len({line.pid for line in lines})
    problems += _bounded(superseded, width, kills)
    return Proof(
        planned=len(state.planned or ()),
        committed=len(state.committed),
        ledger_lines=len(lines),
        processes=processes,
        repeated_in_flight=len(superseded),
        in_flight_bound=width * max(processes - 1, 0),
        problems=problems,
    )


def _once(state: Standing) -> list[str]:
    if state.planned is None:
        return ["the journal has no list of files"]
    times = Counter(each.path for each in state.committed)
    problems = [f"{path} was committed {times[path]} times" for path in state.planned if times[path] != 1]
    return problems + [f"{path} was committed but never planned" for path in times.keys() - set(state.planned)]


def _last_is_committed(step: Committed, attempts: Sequence[Line]) -> list[str]:
    if not attempts:
        return [f"{step.path} is in the journal but not on the ledger"]
    last = attempts[-1]
    if last.token != step.token:
        return [f"{step.path} was analysed again after its step was committed"]
    if (last.path, last.sha256) != (step.path, step.sha256):
        return [f"{step.path}: ledger and journal tell of different files"]
    return []


def _bounded(superseded: Sequence[Line], width: int, kills: Sequence[Kill]) -> list[str]:
    """No process may leave more behind than it had in flight, nor anything else than was seen when it was killed."""
    left: dict[int, set[str]] = defaultdict(set)
    for line in superseded:
        left[line.pid].add(line.key)
    problems = [
        f"process {pid} left {len(keys)} analyses behind, more than the {width} it may have in flight"
        for pid, keys in left.items()
        if len(keys) > width
    ]
    return problems + [
        f"process {kill.pid} left behind {sorted(surplus)}, which the journal had when it died"
        for kill in kills
        if (surplus := left[kill.pid] - set(kill.in_flight))
    ]
