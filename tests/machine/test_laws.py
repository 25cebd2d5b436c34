"""Laws over charts that hypothesis draws: determinism, snapshots, one action once, and the short cut equal to the full step."""

import dataclasses
import json
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from spellwork.errors import ChartRefused, EndlessStep
from spellwork.machine import Chart, ChartBuilder, Event, Machine
from spellwork.machine.builder import StateBuilder
from spellwork.machine.content import Assign
from spellwork.machine.model import Options

EVENTS = ("x", "y", "z.a")


@dataclasses.dataclass(frozen=True)
class Typed:
    """An event that is an object; its class says the name."""

    data: int


TYPED: dict[str, Any] = {name: type(name, (Typed,), {"event_name": name}) for name in EVENTS}


def amount(event):
    """How much an event adds to the count."""
    return getattr(event, "data", None) or 1


@st.composite
def sent(draw):
    """An event in one of the three ways of sending it: a name, a name with a payload, an object."""
    name, data = draw(st.sampled_from(EVENTS)), draw(st.integers(1, 3))
    return draw(st.sampled_from([(name, None), (name, data), (TYPED[name](data), None)]))


@st.composite
def charts(draw):
    """A chart of nested, parallel, history and final states with guards, assignments, raised and deferred events."""
    count = iter(range(1000))
    ids: list[str] = []
    waiting: list[StateBuilder] = []
    built = ChartBuilder("drawn", context=lambda: {"n": 0}, strict=False)

    def grow(parent, depth):
        for _ in range(draw(st.integers(1, 3))):
            id_ = f"s{next(count)}"
            kind = draw(st.sampled_from(["state", "state", "nest", "parallel", "final"] if depth < 3 else ["state", "final"]))
            if kind == "final" and parent.kind == "state" and parent.children:
                parent.final(id_)
                ids.append(id_)
                continue
            state = parent.parallel(id_) if kind == "parallel" else parent.state(id_)
            ids.append(id_)
            waiting.append(state)
            if kind in ("nest", "parallel"):
                grow(state, depth + 1)
                if draw(st.booleans()):
                    state.history(f"h{next(count)}", state.children[0].id, deep=draw(st.booleans()))
                    ids.append(state.children[-1].id)
        if parent.kind == "state":
            parent.initial(parent.children[0].id)

    grow(built, 0)
    for state in waiting:
        state.on_entry(f"enter {state.id}").on_exit(f"exit {state.id}")
        if draw(st.booleans()):
            state.defer(draw(st.sampled_from(EVENTS)))
        for number in range(draw(st.integers(0, 3))):
            modulo = draw(st.integers(1, 3))
            guard = draw(st.sampled_from([None, lambda c, e, modulo=modulo: (c["n"] + amount(e)) % modulo == 0]))
            do = [f"{state.id} takes {number}", *draw(st.sampled_from([[], [Assign(lambda c, e: {"n": c["n"] + amount(e)})]]))]
            event = draw(st.sampled_from([*EVENTS, "z", "*", "done"]))
            state.on(event, draw(st.sampled_from([*ids, None])), guard=guard, do=do, internal=draw(st.booleans()))
    return built


def drawn(built, told):
    """The chart with actions that write into `told`; None if it is malformed, which is not what is tested here."""
    names = {}
    for state in built.model().walk():
        blocks = (*state.entry, *state.exit, *(transition.content for transition in state.transitions))
        for action in (content.action for block in blocks for content in block if hasattr(content, "action")):
            names[action] = lambda context, event, action=action: told.append((action, context["n"], event))
    # As an SCXML document, which may have unreachable states and transitions that are never taken.
    options = Options("drawn", strict=False, implicit_initial=True, context=lambda: {"n": 0}, limit=200)
    try:
        return Chart(built.model(), options, actions=names)
    except ChartRefused:
        return None


@settings(max_examples=150, deadline=None)
@given(charts(), st.lists(sent(), max_size=12))
def test_machines_obey_the_laws(built, events):
    """The machine, the pure steps and a machine restored after each event agree on states, context and every action."""
    told: list[tuple[str, int, Any]] = []
    chart = drawn(built, told)
    assume(chart is not None)
    machine, logged = Machine(chart), []
    warm = Machine(chart)
    configuration, actions = chart.start()
    begun = [(action.name, action.context["n"], action.event) for action in actions]
    assert told == begun * 2
    for event, data in events:
        told.clear()
        try:
            expected = chart.step(configuration, event, data)
        except EndlessStep:
            return
        assert chart.step(configuration, event, data) == expected
        before, (configuration, actions) = configuration, expected
        names = [action.name for action in actions]
        due = [(action.name, action.context["n"], action.event) for action in actions]
        machine.send(event, data)
        assert told == due
        told.clear()
        warm.send(event, data)
        assert told == due
        told.clear()
        plain = machine.snapshot()
        if not any(kept.typed for kept in configuration.deferred):  # their objects are for a codec to write
            plain = json.loads(json.dumps(plain))
        restored = Machine.restore(chart, plain)
        assert restored.configuration == machine.configuration == configuration == warm.configuration
        assert (machine.state, machine.context) == (configuration.leaves, configuration.context)
        _exits_match_entries(before, configuration, names)
        logged += names


def _exits_match_entries(before, after, names):
    """What is active is what was, less what was left, plus what was entered; nothing is entered twice without being left."""
    finals = {vertex.id for node in (before.node, after.node) for vertex in node.active if vertex.kind == "final"}
    active = set(before.states) - finals
    for name in names:
        verb, _, id_ = name.partition(" ")
        if verb == "enter":
            assert id_ not in active, names
            active.add(id_)
        elif verb == "exit" and after.running:
            assert id_ in active, names
            active.discard(id_)
    if after.running:
        assert active == set(after.states) - finals


def test_the_short_cut_sees_each_event_as_it_was_sent():
    """The second time, too, guards and actions get the payload, the object, or an event without one."""
    told = []
    built = ChartBuilder("m").initial("a")
    built.state("a").on("x", "a", guard=lambda c, e: amount(e) > 0, do=lambda c, e: told.append(e))
    machine = Machine(built.build())
    sends: list[tuple[Any, Any]] = [("x", None), ("x", 7), ("x", 8), (TYPED["x"](1), None), (TYPED["x"](2), None), ("x", None)]
    for event, data in sends * 2:
        machine.send(event, data)
    assert told == [Event("x"), Event("x", 7), Event("x", 8), TYPED["x"](1), TYPED["x"](2), Event("x")] * 2
