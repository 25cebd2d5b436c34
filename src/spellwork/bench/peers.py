"""Owns the machines that ours are measured against: by hand with a dict, and in the libraries that happen to be installed.
It must never be needed: a library that is missing is left out, and said to be.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

PACKAGES = {"statemachine": "python-statemachine", "transitions": "transitions"}


def by_hand(shape: str, act: Callable[[], None]) -> Callable[[str], None]:
    """What someone would write without a library: a dict from state and event to state, and the actions in a loop."""
    table = {("a", "go"): "b", ("b", "go"): "a"}
    actions = (act,) * 6 if shape == "deep" else ()
    state, count = "a", 0

    def send(event: str) -> None:
        nonlocal state, count
        if shape == "guarded":
            if count < 0:
                return
            count += 1
        target = table[state, event]
        for action in actions:
            action()
        state = target

    return send


def peer(name: str, act: Callable[[], None]) -> dict[str, Callable[[], Any]] | None:
    """Makers of the three shapes in a library; None where it is not installed."""
    try:
        library: Any = importlib.import_module(name)
        extensions: Any = importlib.import_module("transitions.extensions") if name == "transitions" else None
    except ImportError:
        return None
    return _transitions(library, extensions, act) if extensions else _statemachine(library, act)


def _statemachine(library: Any, act: Callable[[], None]) -> dict[str, Callable[[], Any]]:
    state = library.State
    nest: Any = type(state.Compound)  # its classes are states

    def compound(name: str, initial: bool) -> Any:
        leaf = nest(name, (state.Compound,), {f"{name}3": state(initial=True, enter=act, exit=act)}, name=f"{name}2", initial=True)
        leaf.enter.add(act)
        leaf.exit.add(act)
        top = nest(f"{name}1", (state.Compound,), {f"{name}2": leaf}, name=f"{name}1", initial=initial)
        top.enter.add(act)
        top.exit.add(act)
        return top, leaf.states[0]

    def shape(guard: bool) -> Any:
        a, b = state(initial=True), state()
        conditions = {"cond": "small", "on": "more"} if guard else {}
        moves = a.to(b, **conditions) | b.to(a, **conditions)

        def more(self: Any) -> None:
            self.n += 1

        body = {"a": a, "b": b, "go": moves, "n": 0, "small": lambda self: self.n >= 0, "more": more}
        return type("Peer", (library.StateMachine,), body)

    (a1, a3), (b1, b3) = compound("a", True), compound("b", False)
    deep = type("Deep", (library.StateChart,), {"a1": a1, "b1": b1, "go": a3.to(b3) | b3.to(a3)})
    return {"flat": shape(False), "deep": deep, "guarded": shape(True)}


class _Model:
    """What a machine of `transitions` moves."""

    def __init__(self) -> None:
        self.n = 0

    def small(self) -> bool:
        return self.n >= 0

    def more(self) -> None:
        self.n += 1


def _transitions(library: Any, extensions: Any, act: Callable[[], None]) -> dict[str, Callable[[], Any]]:
    def made(machine: Any, **options: Any) -> Callable[[], Any]:
        def make() -> Any:
            model: Any = _Model()
            machine(model=model, auto_transitions=False, **options)
            model.send = model.trigger
            return model

        return make

    def nested(name: str) -> dict[str, Any]:
        inner: dict[str, Any] = {"name": f"{name}3", "on_enter": act, "on_exit": act}
        for level in (2, 1):
            inner = {"name": f"{name}{level}", "children": [inner], "initial": inner["name"], "on_enter": act, "on_exit": act}
        return inner

    plain = [["go", "a", "b"], ["go", "b", "a"]]
    guarded = [
        {"trigger": "go", "source": s, "dest": d, "conditions": "small", "before": "more"} for s, d in (("a", "b"), ("b", "a"))
    ]
    deep = [["go", "a1_a2_a3", "b1_b2_b3"], ["go", "b1_b2_b3", "a1_a2_a3"]]
    return {
        "flat": made(library.Machine, states=["a", "b"], transitions=plain, initial="a"),
        "deep": made(extensions.HierarchicalMachine, states=[nested("a"), nested("b")], transitions=deep, initial="a1"),
        "guarded": made(library.Machine, states=["a", "b"], transitions=guarded, initial="a"),
    }
