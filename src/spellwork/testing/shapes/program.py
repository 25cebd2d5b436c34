"""Owns what a program is: its nodes, how one is generated, what it wants from outside, and what it must come to.
It must never run anything: a program is lists, numbers and text.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

Node = list[Any]
"""`[kind, ...]`; `perform.py` says what each kind does."""

Program = list[Node]
"""Stages, one node each; between two of them the run continues as new."""

_Of = Callable[..., Any]


def bumped(x: int) -> int:
    """What the step `bump` makes of `x`."""
    return 2 * x + 1


def expected(program: Program) -> list[Any]:
    """What the program comes to when nothing breaks, and so must come to when something does: one result a stage."""
    return [due(node) for node in program]


def due(node: Node) -> Any:
    """What one node comes to."""
    return _DUE[node[0]](*node[1:])


def _all(nodes: list[Node]) -> list[Any]:
    return [due(node) for node in nodes]


def _bumps(xs: list[int]) -> list[int]:
    return [bumped(x) for x in xs]


_DUE: dict[str, _Of] = {
    "step": bumped,
    "plain": lambda x: 3 * x,
    "flaky": lambda x, failures: [x, failures + 1],
    "hopeless": lambda x: f"failed {x}",
    "withdrawn": lambda _x: "withdrawn",
    "sequence": _all,
    "gather": _all,
    "group": _all,
    "comes": lambda xs: sorted(_bumps(xs)),
    "queue": _bumps,
    "lock": _bumps,
    "event": lambda x: [bumped(x), x],
    "sleep": lambda ms: ms,
    "race": lambda waits: waits.index(min(waits)),
    "timeout": lambda limit, ms: "late" if limit < ms else "in time",
    "shield": lambda x: ["timed out", bumped(x)],
    "careful": lambda x, y: [bumped(x), ["cleaned", bumped(y)]],
    "chance": lambda: "chance",
    "patched": lambda _patch, new, _old: due(new),
    "child": expected,
    "joined": lambda x, program: [bumped(x), expected(program)],
    "left": lambda _program: "left",
    "doomed": lambda x: f"doomed {x}",
    "stopped": lambda x: f"stopped {x}",
    "given_up": lambda _x: "late",
    "hasty": lambda x: [x, bumped(x)],
    "broken_group": lambda x: f"failed {x}",
    "told": lambda x: [x, bumped(x)],
    "receive": lambda name, count: [value for _, value, _ in _signals(name, count)],
    "lapse": lambda ms: -ms,
    "update": lambda _name, value, _works: value,
}


def _signals(name: str, count: int) -> list[tuple[str, int, str]]:
    # values differ from one signal to the next, also of one name, so that a lost or repeated one shows
    return [(name, 1000 + 10 * int(name.partition("-")[2]) + i, f"{name}/{i}") for i in range(count)]


def signals_wanted(program: Program) -> list[tuple[str, int, str]]:
    """Name, value and id of each signal to send, those of one name in order."""
    return [signal for node in _walk(program) if node[0] == "receive" for signal in _signals(node[1], node[2])]


def updates_wanted(program: Program) -> list[tuple[str, tuple[str, int], str]]:
    """Update, arguments and id of each update to send; the answer to `put` and `work` is `bumped(value)`."""
    return [
        ("work" if node[3] else "put", (node[1], node[2]), f"{node[1]}/update") for node in _walk(program) if node[0] == "update"
    ]


def _walk(nodes: list[Node]) -> Iterator[Node]:
    """The nodes that this run performs itself, not those of its children."""
    for node in nodes:
        yield node
        if node[0] in ("sequence", "gather", "group"):
            yield from _walk(node[1])
        elif node[0] == "patched":
            yield from _walk([node[2]])


def generate(rng: random.Random, *, size: int = 12) -> Program:
    """A program of about `size` nodes."""
    growth = _Growth(rng)
    stages = rng.choice((1, 1, 1, 1, 2, 3))
    growth.chain = stages > 1
    return [growth.bunch("sequence", max(1, size // stages)) for _ in range(stages)]


_MADE_OF = {
    "sequential": ("sequence",),
    "parallel": ("gather", "group", "sequence"),
    "nested": ("child", "joined", "sequence", "gather"),
}


def of_steps(rng: random.Random, kind: str, count: int = 20) -> Program:
    """A program of exactly `count` steps: "sequential", "parallel", or "nested" in children and their children."""
    return [_Growth(rng).steps(_MADE_OF[kind], count, _MADE_OF[kind][0])]


class _Growth:
    """Draws nodes; labels make the results of any two nodes differ."""

    def __init__(self, rng: random.Random):
        self._rng = rng
        self._label = 0
        self._children = 0
        self.chain = False

    def _next(self) -> int:
        self._label += 1
        return self._label

    def _nexts(self, least: int, most: int) -> list[int]:
        return [self._next() for _ in range(self._rng.randint(least, most))]

    def _ms(self) -> int:
        return 10 * self._rng.randint(1, 20)

    def bunch(self, kind: str, size: int) -> Node:
        """A node of nodes."""
        nodes = []
        while size > 0:
            part = self._rng.randint(1, size)
            nodes.append(self.node(part))
            size -= part
        return [kind, nodes]

    def node(self, size: int) -> Node:
        """A node that stands for about `size` nodes."""
        if size <= 2:
            return self._leaf()
        kind = self._rng.choices(("sequence", "gather", "group", "patched", "child"), (3, 4, 3, 1, 2))[0]
        if kind == "patched":
            return ["patched", f"patch-{self._next()}", self.node(size - 1), ["step", self._next()]]
        if kind == "child" and self._children < 2:
            return self._child(size - 1)
        return self.bunch("gather" if kind == "child" else kind, size - 1)

    def steps(self, kinds: tuple[str, ...], count: int, kind: str = "") -> Node:
        """A node of exactly `count` steps, which is of `kind` and made of `kinds`."""
        if count == 1:
            return [self._rng.choice(("step", "plain")), self._next()]
        kind = kind or self._rng.choice(kinds)
        if kind == "joined":
            return ["joined", self._next(), [self.steps(kinds, count - 1)]]
        nodes, left = [], count
        while left:
            part = self._rng.randint(1, min(left, count - 1))
            nodes.append(self.steps(kinds, part))
            left -= part
        return ["child", [["sequence", nodes]]] if kind == "child" else [kind, nodes]

    def _child(self, size: int) -> Node:
        self._children += 1
        program = [self.bunch("sequence", size)]
        self._children -= 1
        kind = self._rng.choice(("child", "child", "joined", "left"))
        return [kind, self._next(), program] if kind == "joined" else [kind, program]

    def _leaf(self) -> Node:
        rng = self._rng
        leaves: list[tuple[int, Callable[[], Node]]] = [
            (6, lambda: ["step", self._next()]),
            (3, lambda: ["plain", self._next()]),
            (2, lambda: ["flaky", self._next(), rng.randint(1, 3)]),
            (1, lambda: ["hopeless", self._next()]),
            (1, lambda: ["withdrawn", self._next()]),
            (1, lambda: ["comes", self._nexts(2, 4)]),
            (1, lambda: ["queue", self._nexts(1, 4)]),
            (1, lambda: ["lock", self._nexts(2, 3)]),
            (1, lambda: ["event", self._next()]),
            (3, lambda: ["sleep", self._ms()]),
            (1, lambda: ["race", [10 * ms for ms in rng.sample(range(1, 20), rng.randint(2, 4))]]),
            (1, lambda: ["timeout", *(10 * ms for ms in rng.sample(range(1, 20), 2))]),
            (1, lambda: ["shield", self._next()]),
            (1, lambda: ["careful", self._next(), self._next()]),
            (1, lambda: ["chance"]),
            (1, lambda: ["doomed", self._next()]),
            (1, lambda: ["stopped", self._next()]),
            (1, lambda: ["told", self._next()]),
            (1, lambda: ["given_up", self._next()]),
            (1, lambda: ["hasty", self._next()]),
            (1, lambda: ["broken_group", self._next()]),
            (1, lambda: ["lapse", self._ms()]),
        ]
        if not self._children:  # the driver knows the id of the outermost run only
            leaves += [
                (3, lambda: ["receive", f"go-{self._next()}", rng.randint(1, 3)]),
                # an update that works is answered after a step; a chain might go on as new before that
                (2, lambda: ["update", f"put-{self._next()}", self._next(), rng.choice((0, 0 if self.chain else 1))]),
            ]
        return rng.choices([make for _, make in leaves], [weight for weight, _ in leaves])[0]()
