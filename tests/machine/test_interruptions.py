"""What comes in the way of a step: failures, full queues, stops, timers that are due meanwhile, and restarts."""

import asyncio
import json
import threading
from collections.abc import Callable

import pytest

from spellwork.errors import QueueFull, SnapshotMismatch, UsageError
from spellwork.machine import AsyncMachine, Cancel, ChartBuilder, LockedMachine, Machine, Raise, Send, VirtualTime


async def rest():
    """Let everything that can run on the loop do so."""
    for _ in range(20):
        await asyncio.sleep(0)


def restored(machine, **options):
    """The machine after a restart."""
    return Machine.restore(machine.chart, json.loads(json.dumps(machine.snapshot())), **options)


def test_a_step_that_overfills_the_queue_leaves_the_machine_where_it_was():
    """Neither the state nor a part of what was sent stays, and later events are judged in the old state."""
    built = ChartBuilder("m").initial("a")
    built.state("a").on("ping", "c").on("go", "b", do=[Send("x"), Send("y")])
    built.state("b").on("x").on("y").on("ping", "b")
    built.state("c").on("back", "a")
    machine = Machine(built.build(), limit=1)
    machine.send("ping")
    machine.send("back")
    with pytest.raises(QueueFull, match="sends x, y to its own machine"):
        machine.send("go")
    assert machine.state == ("a",)
    assert machine.run() == 0
    machine.send("ping")
    assert machine.state == ("c",)


def test_a_child_that_fails_to_start_does_not_tear_its_parent():
    """The parent's step stands, its timers run, and its next event is judged in the state that it is in."""

    def fail():
        raise OSError("no disk")

    child = ChartBuilder("child").initial("w")
    child.state("w").on_entry(fail)
    built = ChartBuilder("m").initial("a")
    built.state("a").on("ping", "a").on("go", "b")
    built.state("b").invoke(child.build(), id="c").after(5, "late").on("ping", "b2")
    built.state("b2")
    built.state("late")
    machine = Machine(built.build())
    machine.send("ping")
    with pytest.raises(OSError, match="no disk"):
        machine.send("go")
    assert machine.state == ("b",)
    other = restored(machine)
    machine.send("ping")
    assert machine.state == ("b2",)
    other.advance(5)
    assert other.state == ("late",)


def test_stopping_from_an_action_ends_the_machine_after_the_step():
    """A stop is not undone by the step that asks for it."""
    told: list[str] = []
    machine: Machine
    built = ChartBuilder("m").initial("a")
    built.state("a").on("go", "b", do=lambda: machine.stop()).on_exit(lambda: told.append("exit a"))
    built.state("b").on_exit(lambda: told.append("exit b"))
    machine = Machine(built.build())
    machine.send("go")
    assert (machine.running, told) == (False, ["exit a", "exit b"])


def test_a_parent_may_stop_a_child_that_is_in_the_middle_of_a_step():
    """The child tells its parent something that makes it leave: the child ends with its exit actions, once."""
    told = []
    child = ChartBuilder("child").initial("w")
    child.state("w").after(1, "w2", do=Send("bye", target="#_parent"))
    child.state("w2").on_exit(lambda: told.append("left")).after(5, "w3")
    child.state("w3").on_entry(lambda: told.append("undead"))
    built = ChartBuilder("m").initial("busy")
    built.state("busy").invoke(child.build(), id="c").on("bye", "idle")
    built.state("idle")
    machine = Machine(built.build())
    assert machine._host is not None
    born = machine._host.children["c"]
    machine.advance(10)
    assert (machine.state, told, born.configuration.running) == (("idle",), ["left"], False)


async def test_a_failed_step_does_not_swallow_a_timer():
    """What came from a timer while the action ran is still there when the action has failed."""
    clock, gate = VirtualTime(), asyncio.Event()

    async def fail():
        await gate.wait()
        raise OSError("net")

    built = ChartBuilder("m").initial("a")
    built.state("a").after(5, "late").on("go", "a", do=fail)
    built.state("late")
    async with AsyncMachine(built.build(), clock=clock) as machine:
        sending = asyncio.create_task(machine.send("go"))
        await rest()
        clock.advance(5)
        gate.set()
        with pytest.raises(OSError, match="net"):
            await sending
        await rest()
        assert machine.state == ("late",)


async def test_a_timer_of_a_state_that_was_left_never_fires_in_its_next_life():
    """The time is up while a slow reset leaves and enters the state; its new timer has its whole delay."""
    clock, gate = VirtualTime(), asyncio.Event()
    built = ChartBuilder("m").initial("a")
    built.state("a").after(5, "late").on("reset", "a", do=gate.wait)
    built.state("late")
    async with AsyncMachine(built.build(), clock=clock) as machine:
        sending = asyncio.create_task(machine.send("reset"))
        await rest()
        clock.advance(5)
        gate.set()
        await sending
        await rest()
        assert machine.state == ("a",)
        clock.advance(5)
        await rest()
        assert machine.state == ("late",)


async def test_a_child_whose_state_is_left_at_once_never_begins():
    """It was invoked, but the loop had no time for it before its state was left."""
    told = []
    child = ChartBuilder("child").initial("w")
    child.state("w").on_entry(lambda: told.append("begun"))
    built = ChartBuilder("m").initial("idle")
    built.state("idle").on("go", "busy")
    built.state("busy").invoke(child.build(), id="c").on("stop", "idle")
    async with AsyncMachine(built.build()) as machine:
        await machine.send("go")
        await machine.send("stop")
        await rest()
        assert told == []


@pytest.mark.parametrize("data", [0, False, "", "external", 0.0])
def test_false_payloads_and_results_survive_a_restart(data):
    """Zero is not nothing."""
    built = ChartBuilder("m").initial("a")
    built.state("a").defer("x").on("go", "b")
    built.state("b").on("x", "end")
    built.final("end", lambda context, event: event.data)
    machine = Machine(built.build())
    machine.send("x", data)
    back = restored(machine)
    back.send("go")
    again = restored(back)
    for result in (back.result, again.result):
        assert result == data
        assert type(result) is type(data)


def test_posted_events_survive_a_restart():
    """What waits in the queue is in the snapshot, with its priority."""
    order = []
    built = ChartBuilder("m").initial("a")
    built.state("a").on("*", do=lambda context, event: order.append(event.name))
    machine = Machine(built.build())
    machine.post("one")
    machine.post("urgent", priority=5)
    assert restored(machine).run() == 2
    assert order == ["urgent", "one"]


@pytest.mark.parametrize("states", [["a"], ["b", "c"], ["p1"], ["a1", "b"], []])
def test_a_snapshot_of_half_a_configuration_is_refused(states):
    """A state that has children or regions now, or two states at once, would leave a machine that can't move."""
    built = ChartBuilder("m").initial("a")
    built.state("a").initial("a1").on("x", "b").on("y", "p").state("a1")
    built.state("b").on("x", "c")
    built.state("c")
    regions = built.parallel("p")
    regions.state("p1")
    regions.state("p2")
    with pytest.raises(SnapshotMismatch):
        Machine.restore(built.build(), {"chart": "m", "states": states})


def test_a_restored_machine_keeps_its_session_to_itself():
    """A child that starts after a restart gets another session, so the two can reach each other."""
    child = ChartBuilder("child").initial("w")
    child.state("w").after(1, "w2", do=Send("hi", target="#_scxml_session-1"))
    child.state("w2")
    built = ChartBuilder("m").initial("idle")
    built.state("idle").on("go", "busy")
    built.state("busy").invoke("child", id="c").on("hi", "got")
    built.state("got")
    charts = {"child": child.build()}
    back = restored(Machine(built.build(), charts=charts), charts=charts)
    back.send("go")
    back.advance(1)
    assert back.state == ("got",)


async def test_the_error_of_a_child_reaches_whoever_closes_its_parent():
    """An action of a child failed while nobody sent anything: it isn't lost."""

    async def fail():
        raise OSError("child")

    child = ChartBuilder("child").initial("w")
    child.state("w").on_entry(fail)
    built = ChartBuilder("m").initial("busy")
    built.state("busy").invoke(child.build(), id="c")
    machine = AsyncMachine(built.build())
    await machine.start()
    with pytest.raises(OSError, match="child"):
        await machine.close()


async def test_a_machine_starts_once():
    """Entering a chart twice would leave the timers and children of the first time behind."""
    entered = []
    built = ChartBuilder("m").initial("a")
    built.state("a").on_entry(lambda: entered.append("a"))
    async with AsyncMachine(built.build()) as machine:
        with pytest.raises(UsageError, match="started already"):
            await machine.start()
    assert entered == ["a"]


def test_a_delayed_event_is_cancelled_by_a_number_too():
    """Ids are compared as text."""
    built = ChartBuilder("m").initial("a")
    built.state("a").on("go", do=Send("late", delay=5, id=5)).on("no", do=Cancel(5)).on("late", "b")
    built.state("b")
    machine = Machine(built.build())
    machine.send("go")
    machine.send("no")
    machine.advance(5)
    assert machine.state == ("a",)


def test_stopping_from_an_action_that_then_fails_ends_the_machine_at_once():
    """The step leaves no trace but the stop, which does not wait for another event."""
    told: list[str] = []
    machine: Machine

    def stop_and_fail():
        machine.stop()
        raise OSError("net")

    built = ChartBuilder("m").initial("a")
    built.state("a").on("go", do=stop_and_fail).on_exit(lambda: told.append("exit a"))
    for event in (("go", None), ("go", 1)):
        machine = Machine(built.build())
        with pytest.raises(OSError, match="net"):
            machine.send(*event)
        assert (machine.running, machine.state) == (False, ("a",))
    assert told == ["exit a", "exit a"]


async def test_an_action_may_send_from_tasks_of_its_own():
    """Inside `gather`, the event waits for the end of the step, as it does from the action itself; it deadlocked once."""
    order: list[str] = []
    machine: AsyncMachine

    async def fan_out():
        assert all(await asyncio.gather(machine.send("x"), machine.send("y")))
        order.append("out")

    built = ChartBuilder("m").initial("a")
    built.state("a").on("go", "b", do=fan_out)
    built.state("b").on("x", do=lambda: order.append("x")).on("y", do=lambda: order.append("y"))
    async with asyncio.timeout(5), AsyncMachine(built.build()) as machine:
        await machine.send("go")
        assert order == ["out", "x", "y"]


async def test_a_task_that_outlives_its_step_waits_like_anybody():
    """Its step is over, so it sends from outside."""
    gate, sent = asyncio.Event(), []
    machine: AsyncMachine

    async def later():
        await gate.wait()
        sent.append(await machine.send("nix"))

    built = ChartBuilder("m", strict=False).initial("a")
    tasks = []
    built.state("a").on("go", "a", do=lambda: tasks.append(asyncio.create_task(later())))
    async with AsyncMachine(built.build()) as machine:
        await machine.send("go")
        gate.set()
        await tasks[0]
        assert sent == [False]


async def test_an_action_can_not_close_its_own_machine():
    """It would wait for its own end; `stop` is what it means."""
    machine: AsyncMachine
    built = ChartBuilder("m").initial("a")
    built.state("a").on("go", "a", do=lambda: machine.close())
    async with asyncio.timeout(5), AsyncMachine(built.build()) as machine:
        with pytest.raises(UsageError, match=r"call stop\(\)"):
            await machine.send("go")


def test_raised_events_are_deferred_too():
    """One that is raised where it is deferred comes back when it is not any more, at the start as well; `done` never waits."""
    order = []

    def told(context, event):
        order.append(event.name)

    built = ChartBuilder("m").initial("a")
    built.state("a").defer("x", "done").on("raise", do=Raise("x")).on("go", "b")
    built.state("b").on("x", do=told)
    machine = Machine(built.build())
    machine.send("raise")
    assert (order, machine.configuration.deferred[0].name) == ([], "x")
    restored(machine).send("go")
    assert order == ["x"]
    began = ChartBuilder("n").initial("a")
    began.state("a").defer("x").on_entry(Raise("x")).always("b")
    began.state("b").on("x", "c")
    began.state("c")
    assert Machine(began.build()).state == ("c",)


def test_timers_of_a_shared_machine_hold_its_lock():
    """A clock with a thread of its own never delivers in the middle of a step, nor what was withdrawn meanwhile."""
    calls: list[Callable[[], None]] = []
    owned: list[bool] = []

    class Clock:
        def call_later(self, seconds, callback):
            calls.append(callback)
            return self

        def cancel(self):
            """Too late: the thread is about to call."""

    entered, gate = threading.Event(), threading.Event()
    order = []

    def slow():
        order.append("begin")
        entered.set()
        gate.wait(5)
        order.append("end")

    built = ChartBuilder("m").initial("a")

    def timer_action():
        order.append("timer")
        owned.append(machine._lock._is_owned())  # type: ignore[attr-defined]

    machine: LockedMachine
    built.state("a").after(1, do=timer_action).on("work", do=slow).on("leave", "b", do=slow)
    built.state("b")
    machine = LockedMachine(Machine(built.build(), clock=Clock()))
    for event, expected in (("work", ["begin", "end", "timer"]), ("leave", ["begin", "end"])):
        entered.clear()
        gate.clear()
        order.clear()
        if event == "leave":
            machine = LockedMachine(Machine(built.build(), clock=Clock()))
        sender = threading.Thread(target=machine.send, args=(event,))
        sender.start()
        assert entered.wait(5)
        timer = threading.Thread(target=calls[-1])
        timer.start()
        timer.join(0.05)
        assert order == ["begin"]
        gate.set()
        sender.join(5)
        timer.join(5)
        assert order == expected
    machine = LockedMachine(Machine(built.build(), clock=Clock()))
    calls[-1]()
    assert owned == [True, True]
