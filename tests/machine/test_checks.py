"""Malformed charts are refused when they are defined, with the name of the fault and of the state."""

import pytest

from spellwork.errors import ChartRefused, DefinitionError, InvalidTransition, UsageError
from spellwork.machine import Assign, ChartBuilder, Machine, from_json


def chart(states, **more):
    """A chart in JSON with `a` first."""
    return {"id": "m", "initial": "a", "states": states, **more}


MALFORMED = [
    (chart({"a": {"on": {"x": "nowhere"}}}), "unresolved-target", "a"),
    (chart({"a": {}, "b": {"on": {"x": "a"}}}), "unreachable-state", "b"),
    (chart({"a": {"on": {"x": ["a", "b"]}}, "b": {}}), "ambiguous-transitions", "a"),
    (chart({"a": {"on": {"*": "b", "x": "b"}}, "b": {}}), "ambiguous-transitions", "a"),
    (chart({"a": {"always": "b"}, "b": {"always": "a"}}), "eventless-cycle", "a"),
    (chart({"a": {"always": {"actions": [{"type": "raise", "event": "x"}]}}}), "eventless-cycle", "a"),
    (chart({"a": {"states": {"b": {}}}}), "missing-initial", "a"),
    (chart({"a": {"initial": "c", "states": {"b": {}}}, "c": {}}), "missing-initial", "a"),
    ({"id": "m", "states": {}}, "missing-initial", "(m)"),
    (chart({"a": {"initial": "b", "states": {"b": {"on": {"x": "h"}}, "h": {"type": "history"}}}}), "missing-history-default", "h"),
    (chart({"a": {}}, events=["x"]), "unhandled-event", "(m)"),
    (chart({"a": {"on": {"y": "a", "x": "a"}}}, events=["x"]), "unknown-event", "a"),
    (chart({"a": {"on": {"x": "b"}}, "b": {"type": "final", "on": {"x": "a"}}}), "final-with-content", "b"),
    (chart({"a": {"type": "parallel"}}), "missing-initial", "a"),
    (chart({"a": {"on": {"x": {"target": ["b", "c"]}}}, "b": {}, "c": {}}), "conflicting-targets", "a"),
    (chart({"a": {"initial": "a", "states": {"a": {}}}}), "duplicate-state", "a"),
    (chart({"a": {"always": {}}}), "empty-transition", "a"),
    (chart({"a": {"on": {"x": {"guard": "nobody"}}}}), "unknown-name", "(m)"),
]


@pytest.mark.parametrize(("data", "fault", "state"), MALFORMED, ids=[f"{i}-{fault}" for i, (_, fault, _) in enumerate(MALFORMED)])
def test_malformed_charts_are_refused_by_name(data, fault, state):
    """The error holds the fault's name and the state, and its message shows both."""
    with pytest.raises(ChartRefused) as caught:
        from_json(data)
    assert (fault, state) in {(found.name, found.state) for found in caught.value.faults}
    assert fault in str(caught.value)
    assert repr(state) in str(caught.value)


def test_all_faults_are_told_at_once():
    """A chart with two faults names both."""
    with pytest.raises(ChartRefused) as caught:
        from_json(chart({"a": {"on": {"x": ["a", "b"]}}, "b": {}, "c": {}}))
    assert [fault.name for fault in caught.value.faults] == ["ambiguous-transitions", "unreachable-state"]


def test_strict_charts_refuse_and_lenient_ones_drop():
    """An unknown event is an InvalidTransition with state, event and what is allowed; a lenient chart answers False."""

    def made(strict):
        built = ChartBuilder("m", strict=strict).initial("a")
        built.state("a").on("go", "b").on("stay")
        built.state("b").on("back", "a")
        return Machine(built.build())

    machine = made(strict=True)
    with pytest.raises(InvalidTransition) as caught:
        machine.send("back")
    error = caught.value
    assert (error.state, error.event, error.allowed, error.machine) == (("a",), "back", ("go", "stay"), "m")
    assert machine.state == ("a",)
    assert made(strict=False).send("back") is False


def test_actions_take_at_most_context_and_event():
    """A function that wants more is refused when the chart is defined."""
    built = ChartBuilder("m").initial("a")
    built.state("a").on("x", do=lambda a, b, c: None)
    with pytest.raises(ValueError, match="at most two arguments"):
        built.build()


def test_a_state_entered_from_inside_first_is_still_reached_as_a_whole():
    """A transition straight to a nested state does not hide that another enters its parent by the initial state."""
    built = ChartBuilder("m").initial("s")
    built.state("s").on("deep", "a2").on("whole", "a")
    above = built.state("a").initial("a1")
    above.state("a1")
    above.state("a2")
    machine = Machine(built.build())
    machine.send("whole")
    assert machine.state == ("a1",)


@pytest.mark.parametrize("default", ["h", "z"])
def test_the_default_of_a_history_lies_in_its_parent(default):
    """One that leads out of it, or back to the history itself, is refused by name."""
    built = ChartBuilder("m").initial("s")
    built.state("s").on("go", "h").on("in", "a")
    built.state("a").initial("a1").history("h", default).state("a1")
    built.state("z").on("x", "a")
    with pytest.raises(ChartRefused, match="missing-history-default in 'h'"):
        built.build()


def test_a_region_is_never_final():
    """A final state has no place directly in a parallel one."""
    built = ChartBuilder("m").initial("p")
    regions = built.parallel("p")
    regions.final("f")
    regions.state("q")
    with pytest.raises(ChartRefused, match="final-in-parallel in 'f'"):
        built.build()


@pytest.mark.parametrize("delay", ["5 parsecs", "1.2.3s", "s", "-5s"])
def test_a_delay_that_is_none_is_a_fault_of_the_definition(delay):
    """The error is one of the library's own, in every form."""
    with pytest.raises(DefinitionError, match="is no delay"):
        ChartBuilder("m").state("a").after(delay, "a")
    with pytest.raises(DefinitionError, match="is no delay"):
        from_json({"id": "m", "initial": "a", "states": {"a": {"after": {delay: "a"}}}})


def test_a_period_is_above_zero():
    """Time would stand still."""
    with pytest.raises(DefinitionError, match="above zero"):
        ChartBuilder("m").state("a").every(0, do=lambda: None)


async def rings() -> bool:
    return False


def test_an_async_action_needs_a_machine_that_awaits():
    """A `Machine` refuses a chart whose action it would call and never await."""
    builder = ChartBuilder("bell").initial("a")
    builder.state("a").on("x", "b", do=rings)
    builder.state("b")
    chart = builder.build()
    with pytest.raises(UsageError, match=r"rings\(\) of the chart 'bell' is async.*AsyncMachine"):
        Machine(chart)
    with pytest.raises(UsageError, match="AsyncMachine"):
        Machine.restore(chart, {"chart": "bell", "states": ["a"]})


def test_a_guard_is_never_async():
    """A coroutine is always true, so an `async` guard or change is refused when the chart is made."""
    for options in ({"guard": rings}, {"do": Assign(rings)}):
        builder = ChartBuilder("bell").initial("a")
        builder.state("a").on("x", "b", **options)
        builder.state("b")
        with pytest.raises(DefinitionError, match=r"rings\(\) is async"):
            builder.build()
