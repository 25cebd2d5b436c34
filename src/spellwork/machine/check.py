"""Owns what is wrong with a chart before it runs: each fault by name, with the state it is in.
It must never stop at the first fault, nor refuse what the SCXML Recommendation allows.
"""

from __future__ import annotations

import itertools
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
        if unresolved or self.twice:
            return
        lost = [*self._initials(), *self._defaults()]
        yield from lost
        if lost:
            return
        yield from self._targets()
        if not self.options.implicit_initial:  # an SCXML document may be careless where the Recommendation lets it
            yield from self._events()
            yield from self._ambiguous()
            yield from self._cycles()
            reached = self._reached()
            for state in self.states.values():
                if state.kind != "history" and state.id not in reached:
                    yield Fault("unreachable-state", state.id, "no transition and no initial state leads here")

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
            if state.kind == "parallel":
                for child in state.children:
                    if child.kind == "final":
                        yield Fault("final-in-parallel", child.id, f"a region of {state.id!r} can't be final; put it into a state")
            for transition in state.transitions:
                if state.kind != "history" and not (
                    transition.events or transition.targets or transition.guard or transition.content
                ):
                    yield Fault("empty-transition", state.id, "a transition needs an event, a guard, a target or an action")

    def _initials(self) -> Iterator[Fault]:
        for state in self.states.values():
            if state.initial is None:
                nested = state.kind == "state" and state.real_children
                if nested and not self.options.implicit_initial:
                    yield Fault("missing-initial", state.id, "say which of its states is entered first")
                continue
            inside = {below.id for below in state.walk()} - {state.id}
            for target in state.initial.targets:
                if target not in inside:
                    yield Fault("missing-initial", state.id, f"its initial state {target!r} does not lie in it")

    def _defaults(self) -> Iterator[Fault]:
        for state in self.states.values():
            if state.kind != "history" or not state.transitions:
                continue
            parent = self.parents[state.id]
            inside = {below.id for below in parent.walk()} - {parent.id}
            outside = [target for target in state.transitions[0].targets if target not in inside]
            if outside:
                yield Fault("missing-history-default", state.id, f"its default {outside[0]!r} does not lie in {parent.id!r}")
            elif self._circular(state):
                yield Fault("missing-history-default", state.id, "its default leads back to it")

    def _circular(self, state: State) -> bool:
        seen, wave = set[str](), {state.id}
        while wave:
            leads = {target for id_ in wave for transition in self.states[id_].transitions for target in transition.targets}
            wave = {target for target in leads if self.states[target].kind == "history"} - seen
            seen |= wave
        return state.id in seen

    def _above(self, state: State) -> list[State]:
        found = []
        while state.id in self.parents:
            state = self.parents[state.id]
            found.append(state)
        return found

    def _targets(self) -> Iterator[Fault]:
        for state in self.states.values():
            for transition in self._transitions(state):
                for first, second in itertools.combinations(transition.targets, 2):
                    lines = [[self.states[id_], *self._above(self.states[id_])] for id_ in (first, second)]
                    common = next(above for above in lines[0] if above in lines[1])
                    if common.kind != "parallel":
                        yield Fault("conflicting-targets", state.id, f"{first!r} and {second!r} can't be active together")

    def _events(self) -> Iterator[Fault]:
        handled = [(state, name) for state in self.states.values() for name in self._handled(state)]
        for declared in self.options.events:
            if not any(matches(name, declared) for _, name in handled):
                yield Fault("unhandled-event", self.root.id, f"the event {declared!r} is declared, but nothing handles it")
        if self.options.events:
            for state, name in handled:
                own = name.startswith(("done.", "error.", "after.", "every.")) or name in ("*", "done", "error")
                if not own and not any(matches(name, declared) for declared in self.options.events):
                    yield Fault("unknown-event", state.id, f"the event {name!r} is not declared")

    @staticmethod
    def _handled(state: State) -> list[str]:
        listed = [text for transition in state.transitions for text in transition.events]
        return [name for text in (*listed, *state.defer) for name in descriptors(text)]

    def _ambiguous(self) -> Iterator[Fault]:
        for state in self.states.values():
            taken: list[str] = []
            always = False
            for transition in state.transitions:
                names = [name for text in transition.events for name in descriptors(text)]
                for name in names:
                    rival = next((before for before in taken if matches(before, name)), None)
                    if rival is not None:
                        yield Fault(
                            "ambiguous-transitions", state.id,
                            f"a transition on {name!r} comes after one on {rival!r} without a guard, so it is never taken",
                        )  # fmt: skip
                if not names and always:
                    yield Fault("ambiguous-transitions", state.id, "an eventless transition comes after one without a guard")
                if transition.guard is None:
                    taken += names
                    always = always or not names

    def _entered(self, id_: str, found: set[str], whole: set[str]) -> None:
        """Adds what is active after the state was entered: itself, what is above, and what is entered with it.

        `whole` are the states whose own beginning was followed already; one that is only above another has not begun.
        """
        state = self.states[id_]
        if id_ in whole:
            return
        whole.add(id_)
        if state.kind != "history":
            found.add(id_)
        for above in self._above(state):
            self._regions(above, found, whole)
        if state.kind == "history":
            for target in (t for transition in state.transitions for t in transition.targets):
                self._entered(target, found, whole)
        elif state.kind == "parallel":
            self._regions(state, found, whole)
        elif state.initial is not None:
            for target in state.initial.targets:
                self._entered(target, found, whole)

    def _regions(self, state: State, found: set[str], whole: set[str]) -> None:
        found.add(state.id)
        if state.kind == "parallel":
            for child in state.real_children:
                self._entered(child.id, found, whole)

    def _reached(self) -> set[str]:
        reached: set[str] = set()
        whole: set[str] = set()
        self._entered(self.root.id, reached, whole)
        seen: set[str] = set()
        while seen != reached:
            for id_ in reached - seen:
                seen.add(id_)
                for transition in self.states[id_].transitions:
                    for target in transition.targets:
                        self._entered(target, reached, whole)
        return reached

    def _cycles(self) -> Iterator[Fault]:
        """Eventless transitions without a guard that lead to each other for ever."""
        free = [
            (s, t) for s in self.states.values() for t in s.transitions if not t.events and t.guard is None and s.kind != "history"
        ]
        leads: dict[str, set[str]] = {}
        for state, transition in free:
            after: set[str] = set() if transition.targets else {state.id}
            for target in transition.targets:
                self._entered(target, after, set())
            leads[state.id] = after & {other.id for other, _ in free}
        for id_ in leads:
            seen, wave = set[str](), {id_}
            while wave:
                wave = {next_ for each in wave for next_ in leads.get(each, ())} - seen
                seen |= wave
            if id_ in seen:
                yield Fault("eventless-cycle", id_, "its eventless transition leads back to it without a guard")
