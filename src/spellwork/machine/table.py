"""Owns a chart compiled for running: states and transitions as numbered records, configurations interned, moves planned once.
It must never evaluate a guard or run content; what depends on them is left to the step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from spellwork.machine.content import Done, Invoke
from spellwork.machine.event import descriptors, matches
from spellwork.machine.model import State, Transition
from spellwork.machine.piece import Names, Piece, compile_block
from spellwork.machine.view import of_view, two_arguments

Blocks = tuple[tuple[Piece, ...], ...]
History = tuple[tuple[int, tuple[int, ...]], ...]
BLOCK, LEAVE, ENTER, DONE, FINISH = range(5)
_CACHED = 4096


class Vertex:
    """A state of the table."""

    __slots__ = (
        "above", "arrows", "atomic", "children", "compound", "defer", "done", "entry", "exit", "histories", "id", "index",
        "initial", "invokes", "kind", "last", "parent", "state",
    )  # fmt: skip

    def __init__(self, state: State, index: int, parent: Vertex | None, names: Names):
        self.state, self.index, self.parent, self.id, self.kind = state, index, parent, state.id, state.kind
        self.last = index
        self.above: tuple[Vertex, ...] = () if parent is None else (parent, *parent.above)
        self.children: list[Vertex] = []
        self.histories: list[Vertex] = []
        self.arrows: list[Arrow] = []
        self.initial: Arrow | None = None
        self.entry: Blocks = tuple(compile_block(block, names) for block in state.entry)
        self.exit: Blocks = tuple(compile_block(block, names) for block in state.exit)
        self.invokes: tuple[Invoke, ...] = state.invokes
        self.done: Done | None = state.done
        self.defer = tuple(name for text in state.defer for name in descriptors(text))
        self.atomic = state.kind == "final" or (state.kind == "state" and not state.real_children)
        self.compound = parent is None or (state.kind == "state" and not self.atomic)

    def __repr__(self) -> str:
        return f"<{self.id}>"

    def below(self, other: Vertex) -> bool:
        """Whether this state is a proper descendant of the other."""
        return other.index < self.index <= other.last


class Arrow:
    """A transition of the table. `guard` sees a view; `direct` is the same of `(context, event)`, if that is enough."""

    __slots__ = ("block", "direct", "events", "guard", "index", "source", "targets", "transition")

    def __init__(self, transition: Transition, source: Vertex, index: int, names: Names):
        self.transition, self.source, self.index = transition, source, index
        self.events = tuple(name for text in transition.events for name in descriptors(text))
        self.targets: tuple[Vertex, ...] = ()
        self.block = compile_block(transition.content, names)
        guard = names.pure(transition.guard, "guard")
        self.guard = None if guard is None else of_view(guard)
        self.direct = two_arguments(guard) if callable(guard) else None

    def __repr__(self) -> str:
        return f"<{self.source.id} -{' '.join(self.transition.events)}-> {' '.join(self.transition.targets)}>"


class Plan:
    """A microstep from one configuration: what runs in which order, and where it ends."""

    __slots__ = ("arrows", "entered", "exited", "ops", "target")

    def __init__(
        self, arrows: tuple[Arrow, ...], ops: tuple[tuple[int, Any], ...], target: Node, exited: list[Vertex], entered: list[Vertex]
    ):
        self.arrows, self.ops, self.target = arrows, ops, target
        self.exited, self.entered = tuple(exited), tuple(entered)


class Node:
    """A configuration, interned: the active states in document order, and what history remembers."""

    __slots__ = (
        "active",
        "atomics",
        "candidates",
        "defer",
        "eventless",
        "exits",
        "history",
        "ids",
        "key",
        "leaves",
        "moves",
        "plans",
        "slow",
    )

    def __init__(self, active: tuple[Vertex, ...], history: History):
        self.active, self.history = active, history
        self.key = (tuple(vertex.index for vertex in active), history)
        self.ids = tuple(vertex.id for vertex in active)
        self.atomics = tuple(vertex for vertex in active if vertex.atomic)
        self.leaves = tuple(vertex.id for vertex in self.atomics)
        self.defer = tuple(name for vertex in active for name in vertex.defer)
        self.candidates: dict[str, tuple[tuple[Arrow, ...], ...]] = {}
        self.moves: dict[Any, Any] = {}  # by name, or by the class of a typed event
        self.plans: dict[tuple[int, ...], Plan] = {}
        self.slow: set[Any] = set()
        self.exits: dict[int, frozenset[int]] = {}
        self.eventless = self._paths(lambda arrow: not arrow.events)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Node) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"<Node {' '.join(self.leaves)}>"

    def defers(self, name: str) -> bool:
        """Whether an active state keeps events of this name for later."""
        return any(matches(wanted, name) for wanted in self.defer)

    def paths(self, name: str) -> tuple[tuple[Arrow, ...], ...]:
        """For each atomic state, the transitions that the event may take, innermost first, each in document order."""
        found = self.candidates.get(name)
        if found is None:
            found = self._paths(lambda arrow: any(matches(wanted, name) for wanted in arrow.events))
            if len(self.candidates) < _CACHED:
                self.candidates[name] = found
        return found

    def _paths(self, wanted: Any) -> tuple[tuple[Arrow, ...], ...]:
        paths = []
        for atomic in self.atomics:
            path: list[Arrow] = []
            for vertex in (atomic, *atomic.above):
                path += filter(wanted, vertex.arrows)
                if path and any(arrow.guard is None for arrow in path):
                    break
            if path:
                paths.append(tuple(path))
        return tuple(paths)


class Table:
    """The compiled chart."""

    def __init__(self, root: State, names: Names):
        self.names = names
        self.vertices: list[Vertex] = []
        self.arrows: list[Arrow] = []
        self._nodes: dict[Any, Node] = {}
        self._first: Plan | None = None
        self.root = self._add(root, None)
        self.nowhere = Node((), ())
        self.by_id = {vertex.id: vertex for vertex in self.vertices}
        for vertex in self.vertices:
            self._arrows_of(vertex)

    def _add(self, state: State, parent: Vertex | None) -> Vertex:
        vertex = Vertex(state, len(self.vertices), parent, self.names)
        self.vertices.append(vertex)
        for child in state.children:
            below = self._add(child, vertex)
            (vertex.histories if child.kind == "history" else vertex.children).append(below)
        vertex.last = len(self.vertices) - 1
        return vertex

    def _arrows_of(self, vertex: Vertex) -> None:
        if vertex.kind == "history":
            vertex.initial = self._arrow(vertex.state.transitions[0], vertex)
            return
        vertex.arrows = [self._arrow(transition, vertex) for transition in vertex.state.transitions]
        if vertex.compound:
            first = vertex.children[0]
            vertex.initial = self._arrow(vertex.state.initial or Transition(targets=(first.id,)), vertex)

    def _arrow(self, transition: Transition, source: Vertex) -> Arrow:
        arrow = Arrow(transition, source, len(self.arrows), self.names)
        arrow.targets = tuple(self.by_id[target] for target in transition.targets)
        self.arrows.append(arrow)
        return arrow

    def node(self, active: Iterable[Vertex], history: History) -> Node:
        """The one record of a configuration. The cache is bounded: a chart may have more configurations than memory."""
        ordered = tuple(sorted(active, key=lambda vertex: vertex.index))
        key = (tuple(vertex.index for vertex in ordered), history)
        found = self._nodes.get(key)
        if found is None:
            if len(self._nodes) >= _CACHED:
                self._nodes.clear()
            found = self._nodes[key] = Node(ordered, history)
        return found

    def exit_set(self, node: Node, arrow: Arrow) -> frozenset[int]:
        """The active states that the transition leaves (Appendix D, computeExitSet)."""
        found = node.exits.get(arrow.index)
        if found is None:
            domain = self._domain(arrow, dict(node.history))
            left = () if domain is None else (v.index for v in node.active if v.below(domain))
            found = node.exits[arrow.index] = frozenset(left)
        return found

    def without_conflicts(self, node: Node, enabled: list[Arrow]) -> list[Arrow]:
        """The optimal transition set (Appendix D, removeConflictingTransitions)."""
        if len(enabled) == 1:
            return enabled
        chosen: list[Arrow] = []
        for arrow in enabled:
            exits = self.exit_set(node, arrow)
            rivals = [other for other in chosen if exits & self.exit_set(node, other)]
            if all(arrow.source.below(other.source) for other in rivals):
                chosen = [other for other in chosen if other not in rivals]
                chosen.append(arrow)
        return chosen

    def plan(self, node: Node, arrows: tuple[Arrow, ...]) -> Plan:
        """The microstep that takes these transitions."""
        key = tuple(arrow.index for arrow in arrows)
        found = node.plans.get(key)
        if found is None:
            found = Microstep(self, node, arrows).plan()
            if len(node.plans) < _CACHED:
                node.plans[key] = found
        return found

    def first(self) -> Plan:
        """Entering the chart."""
        if self._first is None:
            arrow = self.root.initial
            self._first = Microstep(self, Node((), ()), (arrow,) if arrow else ()).plan(entering=True)
        return self._first

    def _effective(self, targets: Iterable[Vertex], history: dict[int, tuple[int, ...]]) -> Iterator[Vertex]:
        for target in targets:
            if target.kind != "history":
                yield target
            elif target.index in history:
                yield from (self.vertices[index] for index in history[target.index])
            elif target.initial is not None:
                yield from self._effective(target.initial.targets, history)

    def _domain(self, arrow: Arrow, history: dict[int, tuple[int, ...]]) -> Vertex | None:
        targets = list(self._effective(arrow.targets, history))
        source = arrow.source
        if not targets:
            return None
        inside = source.compound and all(target.below(source) for target in targets)
        if source.parent is None or (arrow.transition.internal and inside):
            return source
        return next(v for v in source.above if v.compound and all(target.below(v) for target in targets))


class Microstep:
    """Plans one microstep: the exit set, then the content of the transitions, then the entry set (Appendix D)."""

    def __init__(self, table: Table, node: Node, arrows: tuple[Arrow, ...]):
        self.table, self.node, self.arrows = table, node, arrows
        self.history = dict(node.history)
        self.entering: dict[Vertex, None] = {}
        self.default_entry: set[Vertex] = set()
        self.default_history: dict[Vertex, tuple[Piece, ...]] = {}
        self.active = set(node.active)
        self.ops: list[tuple[int, Any]] = []

    def plan(self, *, entering: bool = False) -> Plan:
        """What runs in which order, and where it ends."""
        root = self.table.root
        if entering:
            self.ops += [(BLOCK, block) for block in root.entry]
        domains = [root if entering else self.table._domain(arrow, self.history) for arrow in self.arrows]
        exited = [] if entering else self._exit()
        if not entering:
            self.ops += [(BLOCK, arrow.block) for arrow in self.arrows if arrow.block]
        for arrow, domain in zip(self.arrows, domains, strict=True):
            self._targets(arrow, domain)
        entered = sorted(self.entering, key=lambda vertex: vertex.index)
        for vertex in entered:
            self._enter(vertex)
        remembered = tuple(sorted(self.history.items()))
        return Plan(self.arrows, tuple(self.ops), self.table.node(self.active, remembered), exited, entered)

    def _exit(self) -> list[Vertex]:
        left = frozenset().union(*(self.table.exit_set(self.node, arrow) for arrow in self.arrows))
        exited = [vertex for vertex in reversed(self.node.active) if vertex.index in left]
        for vertex in exited:
            for history in vertex.histories:
                self.history[history.index] = tuple(
                    other.index
                    for other in self.node.active
                    if (other.atomic and other.below(vertex) if history.state.deep else other.parent is vertex)
                )
        for vertex in exited:
            self.ops += [(BLOCK, block) for block in vertex.exit]
            self.ops.append((LEAVE, vertex))
            self.active.discard(vertex)
        return exited

    def _targets(self, arrow: Arrow, domain: Vertex | None) -> None:
        for target in arrow.targets:
            self._descend(target)
        if arrow.targets:
            for target in self.table._effective(arrow.targets, self.history):
                self._ascend(target, domain)

    def _descend(self, vertex: Vertex) -> None:
        if vertex.kind == "history":
            if vertex.index in self.history:
                targets = [self.table.vertices[index] for index in self.history[vertex.index]]
            else:
                targets = list(vertex.initial.targets) if vertex.initial else []
                if vertex.initial and vertex.parent:
                    self.default_history[vertex.parent] = vertex.initial.block
            for target in targets:
                self._descend(target)
            for target in targets:
                self._ascend(target, vertex.parent)
            return
        self.entering[vertex] = None
        if vertex.kind == "parallel":
            self._regions(vertex)
        elif vertex.compound and vertex.initial:
            self.default_entry.add(vertex)
            for target in vertex.initial.targets:
                self._descend(target)
            for target in vertex.initial.targets:
                self._ascend(target, vertex)

    def _ascend(self, vertex: Vertex, ancestor: Vertex | None) -> None:
        for above in vertex.above:
            # Appendix D climbs from what a deep history has recorded to the history's parent, also past states that were not left.
            if above is ancestor or above.parent is None or above in self.active:
                break
            self.entering[above] = None
            if above.kind == "parallel":
                self._regions(above)

    def _regions(self, parallel: Vertex) -> None:
        for child in parallel.children:
            if not any(vertex is child or vertex.below(child) for vertex in self.entering):
                self._descend(child)

    def _enter(self, vertex: Vertex) -> None:
        self.active.add(vertex)
        self.ops.append((ENTER, vertex))
        self.ops += [(BLOCK, block) for block in vertex.entry]
        if vertex in self.default_entry and vertex.initial and vertex.initial.block:
            self.ops.append((BLOCK, vertex.initial.block))
        if self.default_history.get(vertex):
            self.ops.append((BLOCK, self.default_history[vertex]))
        if vertex.kind == "final" and vertex.parent is not None:
            self._final(vertex, vertex.parent)

    def _final(self, vertex: Vertex, parent: Vertex) -> None:
        if parent.parent is None:
            self.ops.append((FINISH, vertex))
            return
        self.ops.append((DONE, (parent.id, vertex.done)))
        grand = parent.parent
        if grand.kind == "parallel" and all(self._is_final(child) for child in grand.children):
            self.ops.append((DONE, (grand.id, None)))

    def _is_final(self, vertex: Vertex) -> bool:
        if vertex.kind == "parallel":
            return all(self._is_final(child) for child in vertex.children)
        return any(child.kind == "final" and child in self.active for child in vertex.children)
