"""Owns the linearizability checker: whether what concurrent clients saw could have come of one operation after the other.
It must never take an operation whose answer is unknown for one that did not happen, nor for one that did.

The search is Wing and Gong's (1993), with the memory of Lowe (2017): a set of operations that led to a state once is not tried
again. A history is linearizable if that of each object is (Herlihy and Wing 1990), so each key is judged alone.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

State = TypeVar("State", bound=Hashable)

UNKNOWN: Any = type("Unknown", (), {"__repr__": lambda _self: "UNKNOWN"})()
"""The result of an operation that nobody was told: it may have had its effect, at any time after it was called, or none at all."""


@dataclasses.dataclass(frozen=True, slots=True)
class Operation:
    """What one client called, and what it was told. `invoked` and `returned` are moments in one order; None: it never returned."""

    client: str
    call: tuple[Any, ...]
    result: Any = UNKNOWN
    invoked: int = 0
    returned: int | None = None

    def __str__(self) -> str:
        until = "..." if self.returned is None else self.returned
        return f"[{self.invoked}, {until}] {self.client}: {' '.join(map(str, self.call))} -> {self.result}"


class Model(Protocol[State]):
    """What one object does when operations come one after the other."""

    def key(self, call: tuple[Any, ...]) -> Hashable:
        """Which object the call is about."""
        ...

    def initial(self) -> State:
        """An object that nobody has touched."""
        ...

    def step(self, state: State, call: tuple[Any, ...], result: Any) -> Iterable[State]:
        """The states after `call` if it may have answered `result` (or `UNKNOWN`) in `state`; none if it may not."""
        ...


class History:
    """Records operations of tasks of one event loop, whose moments are the order in which things are noted."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self._moment = 0

    def _next(self) -> int:
        self._moment += 1
        return self._moment

    @contextmanager
    def call(self, client: str, *call: Any) -> Iterator[list[Any]]:
        """Within it the client waits for the answer and appends it to the list; without an answer it stays unknown."""
        invoked, answer = self._next(), list[Any]()
        try:
            yield answer
        finally:
            result, returned = (answer[0], self._next()) if answer else (UNKNOWN, None)
            self.operations.append(Operation(client, call, result, invoked, returned))


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a history is linearizable; `order` explains one that is (the keys one after the other).

    For one that is not, `offending` holds the operations of one key up to the first answer that cannot be explained.
    """

    ok: bool
    order: tuple[Operation, ...] = ()
    offending: tuple[Operation, ...] = ()

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        if self.ok:
            return f"linearizable: {len(self.order)} operations"
        return "no order of these explains the last answer:\n" + "\n".join(map(str, self.offending))


def check(history: Iterable[Operation], model: Model[Any]) -> Verdict:
    """Judge a history; its operations may come in any order."""
    by_key: dict[Hashable, list[Operation]] = collections.defaultdict(list)
    for operation in sorted(history, key=lambda each: each.invoked):
        by_key[model.key(operation.call)].append(operation)
    order: list[Operation] = []
    for operations in by_key.values():
        found = _linearize(operations, model)
        if found is None:
            return Verdict(ok=False, offending=tuple(_shortest(operations, model)))
        order += found
    return Verdict(ok=True, order=tuple(order))


def _shortest(operations: list[Operation], model: Model[Any]) -> list[Operation]:
    """What was seen up to the first answer that has no explanation; what was under way then is unknown."""
    part = operations
    for moment in sorted(each.returned for each in operations if each.returned is not None):
        part = [_as_of(each, moment) for each in operations if each.invoked <= moment]
        if _linearize(part, model) is None:
            break
    return sorted(part, key=lambda each: (each.returned is None, each.returned))


def _as_of(operation: Operation, moment: int) -> Operation:
    if operation.returned is None or operation.returned <= moment:
        return operation
    return dataclasses.replace(operation, result=UNKNOWN, returned=None)


def _linearize(operations: list[Operation], model: Model[Any]) -> list[Operation] | None:
    """An order that explains the answers, or None."""
    must = sum(1 << i for i, each in enumerate(operations) if each.returned is not None)
    seen: set[tuple[int, Hashable]] = set()
    path: list[int] = []
    stack = [_next_steps(operations, 0, model.initial(), model)]
    if not must:
        return []
    while stack:
        for i, done, state in stack[-1]:
            if (done, state) in seen:
                continue
            seen.add((done, state))
            path.append(i)
            if done & must == must:
                return [operations[i] for i in path]
            stack.append(_next_steps(operations, done, state, model))
            break
        else:
            stack.pop()
            if path:
                path.pop()
    return None


def _next_steps(operations: list[Operation], done: int, state: Any, model: Model[Any]) -> Iterator[tuple[int, int, Any]]:
    left = [(i, each) for i, each in enumerate(operations) if not done >> i & 1]
    # nothing that was called after another had returned may come before it
    horizon = min((each.returned for _, each in left if each.returned is not None), default=None)
    for i, each in left:
        if horizon is not None and each.invoked > horizon:
            return
        for after in model.step(state, each.call, each.result):
            yield i, done | 1 << i, after


@dataclasses.dataclass(frozen=True, slots=True)
class RunState:
    """A run as its clients know it. `number` and `outcome` are None as long as nobody has seen them."""

    workflow: str
    input: Any
    number: int | None = None
    outcome: str | None = None


class RunsById:
    """The model of runs by id.

    Operations, and what they may answer:

    - `("start", id, workflow, input)`: the run's number, or `"exists"` when the id belongs to another workflow or input;
    - `("status", id)`: the number, or `"absent"`;
    - `("cancel", id)`: `"accepted"`, `"ended"` or `"absent"`;
    - `("result", id)`: `"completed"`, `"cancelled"` or `"absent"`.
    """

    def key(self, call: tuple[Any, ...]) -> Hashable:
        """The id."""
        return call[1]  # type: ignore[no-any-return]

    def initial(self) -> RunState | None:
        """No run."""
        return None

    def step(self, state: RunState | None, call: tuple[Any, ...], result: Any) -> Iterable[RunState | None]:
        """See `Model`."""
        verb = call[0]
        if state is None:
            if verb != "start":
                return [None] if result in ("absent", UNKNOWN) else []
            if result == "exists":
                return []
            return [RunState(call[2], call[3], None if result is UNKNOWN else result)]
        if verb == "start" and (state.workflow, state.input) != call[2:]:
            return [state] if result in ("exists", UNKNOWN) else []
        if verb in ("start", "status"):
            return self._seen(state, result)
        return self._ended(state, verb, result)

    def _seen(self, state: RunState, result: Any) -> Iterable[RunState]:
        if result is UNKNOWN or result == state.number:
            return [state]
        return [dataclasses.replace(state, number=result)] if state.number is None and isinstance(result, int) else []

    def _ended(self, state: RunState, verb: str, result: Any) -> Iterable[RunState]:
        # what a cancellation that was accepted has decided, nothing changes; an end may also come unseen, before an answer
        seen = state.outcome
        outcomes: list[str | None] = []
        if (verb, result) == ("cancel", "accepted"):
            outcomes = ["cancelled"] if seen != "completed" else []
        elif (verb, result) == ("cancel", "ended"):
            outcomes = [seen or "completed"]
        elif (verb, result) == ("result", "completed"):
            outcomes = ["completed"] if seen != "cancelled" else []
        elif (verb, result) == ("result", "cancelled"):
            outcomes = ["cancelled"] if seen == "cancelled" else []
        elif result is UNKNOWN:
            outcomes = [seen] if verb == "result" or seen else [seen, "cancelled"]
        return [dataclasses.replace(state, outcome=outcome) for outcome in outcomes]
