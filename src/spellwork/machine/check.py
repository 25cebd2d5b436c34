"""Owns what is wrong with a chart before it runs: each fault by name, with the state it is in.
It must never stop at the first fault, nor refuse what the SCXML Recommendation allows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from spellwork.machine.event import descriptors, matches
from spellwork.machine.model import Options, State, Transition


class Fault(NamedTuple):
    """One fault: its name, the state, and what to do about it."""

    name: str
    state: str
    message: str


def faults_of(root: State, options: Options) -> list[Fault]:
    """All faults of a chart."""
    return list(_Check(root, options).faults())


class _Check:
    def __init__(self, root: State, options: Options):
        self.root, self.options = root, options
        self.states: dict[str, State] = {}
        self.parents: dict[str, State] = {}
        self.twice: list[str] = []
        for state in root.walk():
            if state.id in self.states:
                self.twice.append(state.id)
            self.states[state.id] = state
            for child in state.children:
                self.parents.setdefault(child.id, state)

    def faults(self) -> Iterator[Fault]:
        for id_ in self.twice:
            yield Fault("duplicate-state", id_, "another state has this id; ids are unique in a chart")
        unresolved = list(self._unresolved())
        yield from unresolved
        yield from self._shape()
        if not unresolved and not self.twice:
            yield from self._initials()

    def _transitions(self, state: State) -> Iterator[Transition]:
        yield from state.transitions
        if state.initial is not None:
            yield state.initial

    def _unresolved(self) -> Iterator[Fault]:
        for state in self.states.values():
            for transition in self._transitions(state):
                for target in transition.targets:
                    if target not in self.states or target == self.root.id:
                        yield Fault("unresolved-target", state.id, f"there is no state {target!r} to go to")

    def _shape(self) -> Iterator[Fault]:
        if not self.root.real_children:
            yield Fault("missing-initial", self.root.id, "the chart has no states")
        for state in self.states.values():
            if state.kind == "history":
                if len(state.transitions) != 1 or not state.transitions[0].targets or state.transitions[0].events:
                    yield Fault("missing-history-default", state.id, "say where to go while there is nothing to remember")
            elif state.kind == "final" and (state.children or state.transitions):
                yield Fault("final-with-content", state.id, "a final state has neither children nor transitions")
            elif state.kind == "parallel" and not state.real_children:
                yield Fault("missing-initial", state.id, "a parallel state needs at least one region")
            for transition in state.transitions:
                if state.kind != "history" and not (
                    transition.events or transition.targets or transition.guard or transition.content
                ):
                    yield Fault("empty-transition", state.id, "a transition needs an event, a guard, a target or an action")

    def _initials(self) -> Iterator[Fault]:
        for state in self.states.values():
            if state.initial is None:
                continue
            inside = {below.id for below in state.walk()} - {state.id}
            for target in state.initial.targets:
                if target not in inside:
                    yield Fault("missing-initial", state.id, f"its initial state {target!r} does not lie in it")


def _same(events: tuple[str, ...], other: tuple[str, ...]) -> bool:
    return any(
        matches(a, b) or matches(b, a)
        for text in events for a in descriptors(text) for rival in other for b in descriptors(rival)
    )  # fmt: skip
