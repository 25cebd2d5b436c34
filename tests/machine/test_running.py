"""A machine in memory: completion, queue, timers, children, refusals, records; synchronous, asynchronous and threaded."""

import asyncio
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import spellwork
from spellwork.errors import EndlessStep, InvalidTransition, MachineError, QueueFull, SnapshotMismatch
from spellwork.machine import (
    Assign,
    AsyncMachine,
    ChartBuilder,
    LockedMachine,
    Machine,
    Raise,
    Send,
    TransitionLog,
    VirtualTime,
    agent_lifecycle,
    from_json,
    mermaid,
    paths_of,
)  # fmt: skip


def counter(**more):
    """Counts `add`, from a dict as context."""
    built = ChartBuilder("counter", context=lambda: {"n": 0}, **more).initial("on")
    built.state("on").on("add", do=Assign(lambda context, event: {"n": context["n"] + (event.data or 1)})).on("off", "end")
    built.final("end", lambda context: context["n"])
    return built.build()


def test_a_deep_history_enters_nothing_that_was_not_left():
    """From the very state that it has recorded, only that one is left and entered, not what lies between it and the history."""
    told = []

    def tell(text):
        def noted(context, event):
            told.append(text)

        return noted

    built = ChartBuilder("home").initial("outer")
    outer = built.state("outer").initial("inner").on("out", "away").history("was", "inner", deep=True)
    inner = outer.state("inner").initial("first")
    inner.state("first")
    second = inner.state("second").on("again", "was")
    for state in (outer, inner, second):
        state.on_entry(tell(f"enter {state.id}")).on_exit(tell(f"exit {state.id}"))
    inner.on("next", "second")
    built.state("away").on("back", "was")
    machine = Machine(built.build())
    for event in ("next", "out", "back"):
        machine.send(event)
    assert told[-3:] == ["enter outer", "enter inner", "enter second"]
    told.clear()
    machine.send("again")
    assert machine.state == ("second",)
    assert told == ["exit second", "enter second"]


def test_the_interpreter_is_pure():
    """`step` gives a new configuration and the actions, and changes nothing; the same event gives the same again."""
    chart = counter()
    begun, actions = chart.start()
    assert actions == ()
    once, _ = chart.step(begun, "add", 5)
    assert (begun.context, once.context) == ({"n": 0}, {"n": 5})
    assert chart.step(begun, "add", 5) == chart.step(begun, "add", 5)
    ended, _ = chart.step(once, "off")
    assert (ended.running, ended.result) == (False, 5)
    with pytest.raises(InvalidTransition, match="has ended"):
        chart.step(ended, "add")


@pytest.mark.parametrize("change", [None, Assign(lambda context: {"x": 1})])
def test_an_action_that_fails_leaves_the_machine_where_it_was(change):
    """State, context, history and what the step sent to itself are as before; the actions before it are not repeated."""
    done = []

    def fail(context, event):
        done.append("fail")
        raise OSError("disk")

    built = ChartBuilder("m", context=lambda: {"x": 0}).initial("a")
    built.state("a").on(
        "go", "b", do=[change, lambda: machine.send("later"), fail] if change else [lambda: machine.send("later"), fail]
    )
    built.state("b").on("later", "a")
    machine = Machine(built.build())
    for _ in range(3):
        with pytest.raises(OSError, match="disk"):
            machine.send("go")
        assert (machine.state, machine.context) == (("a",), {"x": 0})
    assert machine.run() == 0
    assert done == ["fail"] * 3


def test_events_from_actions_wait_until_the_step_is_over():
    """Run to completion: an action's own event is processed after the step, before `send` returns."""
    seen: list[tuple[str, ...]] = []
    machine: Machine

    def hurry():
        machine.send("next")
        seen.append(machine.state)

    built = ChartBuilder("m").initial("a")
    built.state("a").on("go", "b", do=hurry)
    built.state("b").on("next", "c")
    built.state("c")
    machine = Machine(built.build())
    machine.send("go")
    assert seen == [("a",)]
    assert machine.state == ("c",)


def test_the_queue_is_bounded_and_has_priorities():
    """Higher first, then first come, first served; what does not fit is refused."""
    order = []
    built = ChartBuilder("m").initial("a")
    built.state("a").on("*", do=lambda context, event: order.append(event.name))
    machine = Machine(built.build(), limit=3)
    machine.post("one")
    machine.post("two")
    machine.post("urgent", priority=5)
    with pytest.raises(QueueFull) as caught:
        machine.post("more")
    assert caught.value.limit == 3
    assert machine.run() == 3
    assert order == ["urgent", "one", "two"]


def test_deferred_events_come_back():
    """An event that a state defers is kept until a state no longer defers it."""
    built = ChartBuilder("m").initial("busy")
    built.state("busy").defer("job").on("free", "idle")
    built.state("idle").on("job", "busy")
    machine = Machine(built.build())
    assert machine.send("job")
    assert machine.send("job")
    assert [event.name for event in machine.configuration.deferred] == ["job", "job"]
    machine.send("free")
    assert machine.state == ("busy",)
    assert [event.name for event in machine.configuration.deferred] == ["job"]
    back = Machine.restore(machine.chart, json.loads(json.dumps(machine.snapshot())))
    assert back.configuration.deferred == machine.configuration.deferred


def test_after_and_every_follow_the_clock():
    """A timer fires once when it is due, is forgotten when its state is left, and `every` goes on."""
    ticks = []
    clock = VirtualTime()
    built = ChartBuilder("m").initial("wait")
    built.state("wait").after(10, "late").every(3, do=lambda: ticks.append(clock.now)).on("stop", "late")
    built.state("late").on("again", "wait")
    machine = Machine(built.build(), clock=clock)
    clock.advance(9.5)
    assert ticks == [3, 6, 9]
    clock.advance(1)
    assert machine.state == ("late",)
    machine.send("again")
    machine.send("stop")
    clock.advance(100)
    assert ticks == [3, 6, 9]
    assert machine.pending == ()


def test_children_live_as_long_as_their_state():
    """An invoked chart starts with its state, tells its parent when it is done, and is stopped when the state is left."""
    told = []
    child = ChartBuilder("child").initial("work")
    child.state("work").after(5, "ready").on_exit(lambda: told.append("left"))
    child.final("ready", "answer")
    built = ChartBuilder("m").initial("busy")
    built.state("busy").invoke("worker", id="w").on("done.invoke.w", "got", do=lambda c, e: told.append(e.data)).on("stop", "idle")
    built.state("got").on("again", "busy")
    built.state("idle")
    machine = Machine(built.build(), charts={"worker": child.build()})
    machine.advance(5)
    assert machine.state == ("got",)
    machine.send("again")
    machine.send("stop")
    machine.advance(10)
    assert machine.state == ("idle",)
    assert told == ["left", "answer", "left"]


def test_endless_steps_are_stopped():
    """A circle that only shows at run time ends in an error, and the machine stays where it was."""
    built = ChartBuilder("m").initial("a")
    built.state("a").on("go", "b")
    built.state("b").always("c", guard=lambda: True)
    built.state("c").always("b", guard=lambda: True)
    machine = Machine(built.build())
    with pytest.raises(EndlessStep):
        machine.send("go")
    assert machine.state == ("a",)


def test_an_assignment_gives_a_context():
    """None is a forgotten return, and refused."""
    built = ChartBuilder("m", context=dict).initial("a")
    built.state("a").on("x", do=Assign(lambda context: context.clear()))
    with pytest.raises(MachineError, match="gave None"):
        Machine(built.build()).send("x")


def test_snapshots_are_small_and_refuse_other_charts():
    """A few hundred bytes of JSON; history and timers come back; another chart or version is named."""
    machine = Machine(agent_lifecycle())
    for event in ("initialize", "initialized", "run", "pause", "fail"):
        machine.send(event)
    text = json.dumps(machine.snapshot())
    assert len(text) < 300
    back = Machine.restore(machine.chart, json.loads(text))
    for event in ("recover", "recovered"):
        back.send(event)
    assert back.state == ("Paused",)
    with pytest.raises(SnapshotMismatch, match="not of 'counter'"):
        Machine.restore(counter(), json.loads(text))
    with pytest.raises(SnapshotMismatch, match="names gone"):
        Machine.restore(machine.chart, {"chart": "agent", "states": ["gone"]})


def test_why_not_explains():
    """The guard, the states that would handle it, or that nothing does; nothing happens meanwhile."""

    def enough(context):
        return context["n"] > 3

    built = ChartBuilder("m", context={"n": 1}).initial("a")
    built.state("a").on("go", "b", guard=enough)
    built.state("b").on("back", "a")
    machine = Machine(built.build())
    assert "the guard enough does not hold" in str(machine.why_not("go"))
    assert "only b would handle it" in str(machine.why_not("back"))
    assert "no state of the chart handles it" in str(machine.why_not("what"))
    machine = Machine(machine.chart, {"n": 4})
    assert machine.why_not("go").accepted
    assert machine.state == ("a",)


def test_the_log_tells_guards_actions_and_durations():
    """Each step is an entry; one whose action failed stays without `done`."""

    def yes():
        return True

    def work():
        clock.advance(2)

    def fail():
        raise OSError("disk")

    clock = VirtualTime()
    built = ChartBuilder("m").initial("a")
    built.state("a").on("go", "b", guard=yes, do=work)
    built.state("b").on("no", "a", do=fail)
    log = TransitionLog(10, lambda: clock.now)
    machine = Machine(built.build(), log=log)
    machine.send("go")
    with pytest.raises(OSError, match="disk"):
        machine.send("no")
    _, went, failed = log.entries
    assert (went.transitions, went.exited, went.entered, went.actions) == (("a -> b [yes]",), ("a",), ("b",), ("work",))
    assert (went.seconds, went.done, failed.done) == (2, True, False)


def test_mermaid_marks_the_active_states():
    """The text is a state diagram with every state, and the active ones have a class."""
    machine = Machine(agent_lifecycle())
    machine.send("initialize")
    machine.send("initialized")
    text = mermaid(machine.chart, machine.configuration.states)
    assert text.startswith("stateDiagram-v2\n    [*] --> Uninitialized\n")
    assert "class Active,Ready active" in text
    assert "    Ready --> Running: run\n" in text
    assert text.count("{\n") == text.count("    }\n") == 2


def test_paths_reach_every_state_and_transition():
    """Playing each path leads to its goal; the reference chart is covered whole."""
    chart = agent_lifecycle()
    found = paths_of(chart)
    assert found.unreached == ()
    assert set(found.states) == set(chart.states)
    for path in (*found.states.values(), *found.transitions.values()):
        machine = Machine(chart)
        for event in path.events:
            machine.send(event)
        assert machine.state == path.leaves
    assert [event.name for event in found.states["Paused"].events] == ["initialize", "initialized", "run", "pause"]


async def test_asynchronous_actions_run_to_completion():
    """1,000 concurrent events: each step sees the one before it finished."""
    running, most = 0, 0

    async def work():
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    built = ChartBuilder("m", context=lambda: {"n": 0}).initial("a")
    built.state("a").on("add", do=[work, Assign(lambda context: {"n": context["n"] + 1})])
    async with AsyncMachine(built.build()) as machine:
        await asyncio.gather(*(machine.send("add") for _ in range(1000)))
        assert machine.context == {"n": 1000}
        assert most == 1


async def test_asynchronous_machines_have_timers_children_and_failures():
    """A timer fires on the clock, a child answers, an action's own event waits, a failing action changes nothing."""
    clock = VirtualTime()
    child = ChartBuilder("child").initial("work")
    child.state("work").after(5, "ready")
    child.final("ready")

    async def fail():
        raise OSError("net")

    async def more():
        await machine.send("more")

    built = ChartBuilder("m").initial("busy")
    built.state("busy").invoke("child", id="c").on("done.invoke.c", "got").on("bad", "got", do=fail)
    built.state("got").on("go", "mid", do=more)
    built.state("mid").on("more", "end")
    built.final("end")
    async with AsyncMachine(built.build(), clock=clock, charts={"child": child.build()}) as machine:
        await asyncio.sleep(0)
        with pytest.raises(OSError, match="net"):
            await machine.send("bad")
        assert machine.state == ("busy",)
        clock.advance(5)
        for _ in range(20):
            await asyncio.sleep(0)
        assert machine.state == ("got",)
        await machine.send("go")
        assert not machine.running


def test_threads_share_a_locked_machine():
    """Eight threads of 500 events each: nothing is lost."""
    machine = LockedMachine(Machine(counter()))
    threads = [threading.Thread(target=lambda: [machine.send("add") for _ in range(500)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert machine.context == {"n": 4000}


def test_the_lifecycle_matrix():
    """Every state of the reference chart allows exactly these events."""
    allowed = {
        "Uninitialized": {"initialize", "terminate"}, "Initializing": {"initialized", "fail", "terminate"},
        "Ready": {"run", "fail", "terminate"}, "Running": {"finish", "pause", "fail", "terminate"},
        "Paused": {"resume", "cancel", "fail", "terminate"}, "Failed": {"recover", "terminate"},
        "Recovering": {"recovered", "fail", "terminate"}, "Terminating": {"terminated"}, "Terminated": set(),
    }  # fmt: skip
    chart = agent_lifecycle()
    for leaf, legal in allowed.items():
        path = paths_of(chart).states[leaf]
        for event in chart.events:
            machine = Machine(chart)
            for step in path.events:
                machine.send(step)
            if event in legal:
                assert machine.send(event)
            else:
                with pytest.raises(InvalidTransition):
                    machine.send(event)
                assert machine.state == (leaf,)


def test_a_delayed_event_survives_a_restart():
    """A pending event is in the snapshot and comes after its delay again."""
    built = ChartBuilder("m").initial("a")
    built.state("a").on("go", "b", do=Send("late", delay=5))
    built.state("b").on("late", "c")
    built.state("c")
    machine = Machine(built.build())
    machine.send("go")
    back = Machine.restore(machine.chart, json.loads(json.dumps(machine.snapshot())))
    back.advance(5)
    assert back.state == ("c",)


def test_raised_events_come_before_external_ones():
    """`Raise` goes to the internal queue; its done event ends a region."""
    data = {"id": "m", "initial": "a", "states": {
        "a": {"on": {"x": "p"}},
        "p": {"type": "parallel", "onDone": "end", "entry": [{"type": "raise", "event": "y"}], "states": {
            "q": {"initial": "q1", "states": {"q1": {"on": {"y": "q2"}}, "q2": {"type": "final"}}},
            "r": {"initial": "r1", "states": {"r1": {"on": {"y": "r2"}}, "r2": {"type": "final"}}},
        }},
        "end": {"type": "final"},
    }}  # fmt: skip
    machine = Machine(from_json(data))
    machine.send("x")
    assert machine.state == ("end",)
    assert Raise("y") == Raise("y")


def test_the_standard_library_is_enough():
    """`python -S -c "import spellwork.machine"`: no third-party package, and the rest says what is missing."""
    source = str(Path(spellwork.__file__).parents[1])
    code = (
        "import spellwork.machine as m, spellwork, sys\n"
        "assert m.Machine(m.from_text('A(x) => A')).send('x')\n"
        "assert not {'msgspec', 'apsw', 'click', 'rich'} & set(sys.modules)\n"
        "try: spellwork.Engine\n"
        "except ModuleNotFoundError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env={"PYTHONPATH": source}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout == "spellwork.Engine needs the package 'msgspec', which is not installed\n", done.stderr
