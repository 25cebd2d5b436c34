"""Actors: each message once and in order, lives that begin anew, failures that somebody hears of, and ends that wait."""

import asyncio
import contextlib
import gc
import logging
import tracemalloc
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spellwork.errors import (
    ActorError,
    ActorFailed,
    ActorStopped,
    AskTimeout,
    DefinitionError,
    InvalidTransition,
    LinkBroken,
    MailboxFull,
    UsageError,
)
from spellwork.machine import (
    ActorSystem,
    AsyncMachine,
    ChartBuilder,
    Down,
    Machine,
    Mailbox,
    Send,
    Supervision,
    VirtualTime,
    current_actor,
)


class Boom(Exception):
    """What fails in these tests."""


def fails_on(bad, told):
    """A receiver that writes down what it gets, and fails on one message."""

    def receive(message):
        if message == bad:
            raise Boom(message)
        told.append(message)
        return message

    return receive


async def rest():
    """Let everything that can run on the loop do so."""
    for _ in range(30):
        await asyncio.sleep(0)


def stop_or_restart(error: BaseException) -> Literal["stop", "restart"]:
    """What the error says."""
    return "stop" if error.args == ("stop",) else "restart"


@contextlib.asynccontextmanager
async def system(**options):
    """A system on virtual time, `with` its clock."""
    clock = VirtualTime()
    async with ActorSystem(clock=clock, **options) as made:
        yield made, clock


async def test_a_function_answers_one_message_at_a_time():
    """A message is handled when the one before has been, however long that takes."""
    log: list[str] = []
    gate = asyncio.Event()

    async def receive(message):
        log.append(f"begin {message}")
        await gate.wait()
        log.append(f"end {message}")
        return message * 2

    async with system() as (actors, _):
        actor = actors.spawn(receive)
        asks = [asyncio.create_task(actor.ask(n, timeout=None)) for n in (1, 2)]
        await rest()
        assert log == ["begin 1"]
        assert actor.waiting == 1
        gate.set()
        assert await asyncio.gather(*asks) == [2, 4]
    assert log == ["begin 1", "end 1", "begin 2", "end 2"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.integers(0, 3)), max_size=30),
    st.sampled_from(["restart", "resume"]),
    st.sampled_from(["one-for-one", "all-for-one"]),
)
def test_messages_are_handled_once_in_order_and_none_is_lost(plan, directive, strategy):
    """Whoever sends, whatever fails and is begun anew: all but the messages that failed arrive, once, in order by sender."""

    async def main():
        told: dict[int, list[Any]] = {0: [], 1: [], 2: []}
        clock = VirtualTime()
        supervision = Supervision(directive, strategy=strategy, max_restarts=1000, delay=1)
        async with ActorSystem(clock=clock, supervision=supervision) as actors:

            def receiver(number):
                async def receive(message):
                    _, _, bad, pauses = message
                    for _ in range(pauses):
                        await asyncio.sleep(0)
                    if bad:
                        raise Boom(message)
                    told[number].append(message)

                return receive

            targets = [actors.spawn(receiver(n)) for n in range(3)]

            async def sender(name):
                for serial, (to, bad, pauses) in enumerate(plan):
                    targets[to].send((name, serial, bad, pauses))
                    for _ in range(pauses):
                        await asyncio.sleep(0)

            await asyncio.gather(*(sender(name) for name in "ab"))
            while any(each.waiting for each in targets) or len(actors._tasks):
                await actors.idle()
                clock.advance(1000)
        for name in "ab":
            for number in range(3):
                got = [message for message in told[number] if message[0] == name]
                assert got == [(name, s, bad, p) for s, (to, bad, p) in enumerate(plan) if to == number and not bad]

    asyncio.run(main())


async def test_a_restart_begins_a_new_life_with_the_same_mailbox():
    """`fresh` is called again, what waited is handled, and only the message that failed is gone."""
    lives: list[Any] = []

    def fresh(actor):
        count: list[Any] = []
        lives.append(count)
        return fails_on("bad", count)

    async with system() as (actors, clock):
        actor = actors.spawn(fresh=fresh)
        for message in ("a", "bad", "b", "c"):
            actor.send(message)
        await actors.idle()
        assert lives == [["a"]]
        assert actor.waiting == 2
        clock.advance(0.1)
        await actors.idle()
        assert lives == [["a"], ["b", "c"]]


async def test_children_that_the_end_of_a_life_makes_end_with_it():
    """Whatever is spawned while a life is cleaned up is no part of the next one."""
    async with system(supervision=Supervision(delay=1)) as (actors, clock):
        made: list[Any] = []

        def fresh(actor):
            actor.on_end(lambda: made.append(actor.spawn(print)) if not made else None)
            return fails_on("bad", [])

        actor = actors.spawn(fresh=fresh)
        actor.send("bad")
        await actors.idle()
        assert (len(made), made[0].running, actor.children) == (1, False, ())
        clock.advance(1)
        await actors.idle()
        assert (actor.alive, actor.children) == (True, ())


async def test_back_off_grows_and_gives_up_within_the_window():
    """Restarts wait 1, 2, 4 and 5 seconds; the one after `max_restarts` is escalated; a quiet window forgets."""
    begun: list[Any] = []
    clock = VirtualTime()
    plan = Supervision(delay=1, factor=2, max_delay=5, max_restarts=4, window=100)
    with pytest.raises(ActorFailed, match="nothing above it") as caught:
        async with ActorSystem(clock=clock, supervision=plan) as actors:

            def fresh():
                begun.append(clock.now)
                return fails_on("bad", [])

            actor = actors.spawn(fresh=fresh, name="w")
            actor.send("bad")
            await actors.idle()
            clock.advance(1)
            await actors.idle()
            clock.advance(200)
            assert begun == [0, 1]
            begun.clear()
            for pause in (1, 2, 4, 5):
                now = clock.now
                actor.send("bad")
                await actors.idle()
                clock.advance(pause - 0.001)
                await actors.idle()
                assert not begun
                clock.advance(0.001)
                await actors.idle()
                assert begun == [pytest.approx(now + pause)]
                begun.clear()
            actor.send("bad")
            await actors.idle()
    assert isinstance(caught.value.__cause__, Boom)
    assert "restarted 4 times within 100 s" in caught.value.__cause__.__notes__[0]
    assert caught.value.actor == "actors/w"


async def test_all_for_one_ends_newest_first_and_begins_oldest_first():
    """Siblings share a restart; a message under way is finished before, and what waits is handled after."""
    told: list[Any] = []

    def lives(name):
        def fresh(actor):
            told.append(f"begin {name}")
            actor.on_end(lambda: told.append(f"end {name}"))
            return fails_on("bad", told)

        return fresh

    async with system(supervision=Supervision(strategy="all-for-one", delay=1)) as (actors, clock):
        a, b, c = (actors.spawn(fresh=lives(name)) for name in "abc")
        await actors.idle()
        told.clear()
        b.send("bad")
        b.send("b2")
        await actors.idle()
        for actor, message in ((c, "c1"), (a, "a1")):
            actor.send(message)
        await actors.idle()
        assert told == ["end c", "end b", "end a"]
        told.clear()
        clock.advance(1)
        await actors.idle()
        assert told == ["begin a", "a1", "begin b", "b2", "begin c", "c1"]


async def test_a_sibling_that_fails_to_begin_makes_all_begin_anew():
    """A restart of all is not over before each of them is there; it waits longer each time."""
    told: list[str] = []
    broken = [2]

    def fresh_b():
        told.append("b")
        if len(told) > 2 and broken[0]:
            broken[0] -= 1
            raise Boom("no disk")
        return fails_on("bad", told)

    async with system(supervision=Supervision(strategy="all-for-one", delay=1)) as (actors, clock):

        def fresh_a():
            told.append("a")
            return fails_on("bad", told)

        a = actors.spawn(fresh=fresh_a)
        actors.spawn(fresh=fresh_b)
        await actors.idle()
        a.send("bad")
        for seconds in (1, 2, 4):
            await actors.idle()
            clock.advance(seconds)
        await actors.idle()
        assert told == ["a", "b"] * 4
        assert await a.ask("x") == "x"


async def test_resume_goes_on_in_the_old_life_and_stop_ends_it():
    """What `decide` says for each error is done."""
    lives: list[Any] = []

    def receive_of(actor):
        lives.append([])
        mine = lives[-1]

        def receive(message):
            if isinstance(message, Exception):
                raise message
            mine.append(message)

        return receive

    decide: dict[Any, Any] = {ValueError: "resume", KeyError: "stop"}
    async with system(supervision=Supervision(decide=lambda error: decide[type(error)])) as (actors, _):
        actor = actors.spawn(fresh=receive_of)
        for message in (1, ValueError("x"), 2):
            actor.send(message)
        await actors.idle()
        assert lives == [[1, 2]]
        actor.send(KeyError("y"))
        assert isinstance(await actor.ended(), KeyError)
        with pytest.raises(ActorStopped):
            actor.send(3)


async def test_what_decide_can_not_say_is_escalated():
    """An error in it does not hide the failure."""
    decide: dict[Any, Any] = {}
    with pytest.raises(ActorFailed) as caught:
        async with ActorSystem(supervision=Supervision(decide=lambda error: decide[error])) as actors:
            actors.spawn(fails_on("bad", [])).send("bad")
            await asyncio.Event().wait()
    assert isinstance(caught.value.__cause__, Boom)
    assert "decide() gave no directive" in caught.value.__cause__.__notes__[0]


async def test_an_escalated_failure_is_the_parents():
    """The parent begins anew, with new children; the old ones ended with its life."""
    told: list[Any] = []

    def parent(actor):
        told.append("begin parent")
        child = actor.spawn(fresh=lambda me: me.on_end(lambda: told.append("end child")) or fails_on("bad", told), name="child")
        return lambda message: child.send(message) and None

    async with system(supervision=Supervision(delay=0)) as (actors, _):
        actor = actors.spawn(fresh=parent, supervision=Supervision("escalate"))
        for message in ("x", "bad", "y"):
            actor.send(message)
        await actors.idle()
        actor.send("z")
        await actors.idle()
        assert told == ["begin parent", "x", "end child", "begin parent", "z"]
        assert [child.path for child in actor.children] == [f"{actor.path}/child"]


async def test_a_parent_that_is_resumed_lets_its_child_go_on():
    """What was escalated and then judged harmless stops nobody."""
    told: list[Any] = []
    async with system(supervision=Supervision("resume")) as (actors, _):
        parent = actors.spawn(lambda message, actor: None, supervision=Supervision("escalate"))
        child = parent.spawn(fails_on("bad", told))
        for message in ("a", "bad", "b"):
            child.send(message)
        await actors.idle()
        assert told == ["a", "b"]


async def test_the_root_interrupts_its_body_and_raises():
    """A body that waits for something else hears of a failure at once, and every other actor has ended in good order."""
    ended: list[Any] = []
    with pytest.raises(ActorFailed, match="actors/bad failed") as caught:
        async with ActorSystem(supervision=Supervision("escalate")) as actors:
            actors.spawn(fresh=lambda me: me.on_end(lambda: ended.append("good")) or print, name="good")
            actors.spawn(fails_on("bad", []), name="bad").send("bad")
            await asyncio.Event().wait()
    assert isinstance(caught.value.__cause__, Boom)
    assert ended == ["good"]
    current = asyncio.current_task()
    assert current is not None
    assert current.cancelling() == 0


async def test_the_root_may_log_instead(caplog):
    """Only the topmost actor that failed ends."""
    async with system(supervision=Supervision("escalate"), on_error="log") as (actors, _):
        bad, good = actors.spawn(fails_on("bad", [])), actors.spawn(fails_on("bad", []))
        bad.send("bad")
        assert isinstance(await bad.ended(), Boom)
        assert await good.ask("x") == "x"
        assert not actors._family._escalated, "who has ended must not be kept"
    assert [record.levelname for record in caplog.records if "nothing above it" in record.message] == ["ERROR"]


async def test_every_failure_is_logged(caplog):
    """With the actor, the error and what is done about it."""
    async with system() as (actors, _):
        actors.spawn(fails_on("bad", []), name="w").send("bad")
        await actors.idle()
    found = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.getMessage() for record in found] == ["actors/w failed: Boom('bad'); restart"]


async def test_a_stop_waits_for_children_and_tells_who_waits():
    """Children end first, newest first; messages that were not handled are refused to their askers."""
    told: list[Any] = []
    gate = asyncio.Event()

    def fresh(name):
        def made(actor):
            actor.on_end(lambda: told.append(name))

            async def receive(message):
                await gate.wait()
                told.append(f"{name} {message}")

            return receive

        return made

    async with system() as (actors, _):
        parent = actors.spawn(fresh=fresh("parent"))
        await actors.idle()
        first, second = parent.spawn(fresh=fresh("first")), parent.spawn(fresh=fresh("second"))
        grandchild = first.spawn(fresh=fresh("grandchild"))
        second.send("m1")
        lost = asyncio.create_task(second.ask("m2"))
        await rest()
        stopping = asyncio.create_task(parent.stop())
        await rest()
        assert told == []
        assert not stopping.done()
        gate.set()
        await stopping
        assert told == ["second m1", "second", "grandchild", "first", "parent"]
        assert not any(actor.running for actor in (parent, first, second, grandchild))
        with pytest.raises(ActorStopped):
            await lost
        assert actors.actors == ()


async def test_a_stop_may_drain_first():
    """With `drain`, what waits is handled, and nothing more is taken."""
    told: list[Any] = []
    async with system() as (actors, _):
        actor = actors.spawn(fails_on("bad", told))
        actor.send(1)
        actor.send(2)
        stopping = asyncio.create_task(actor.stop(drain=True))
        await asyncio.sleep(0)
        with pytest.raises(ActorStopped):
            actor.send(3)
        await stopping
        assert told == [1, 2]


async def test_a_stop_from_inside_only_asks():
    """An actor, or one below it, does not wait for its own end."""
    told: list[Any] = []

    async def child(message, actor):
        await actor.parent.stop()
        told.append("asked")

    async def alone(message, actor):
        await actor.stop()
        told.append("asked too")

    async with system() as (actors, _):
        parent = actors.spawn(lambda message: None)
        parent.spawn(child).send("x")
        await parent.ended()
        other = actors.spawn(alone)
        other.send("x")
        await other.ended()
    assert told == ["asked", "asked too"]


async def test_grace_cancels_what_hangs():
    """After `grace` seconds the message under way is cancelled, and the end goes on with what is to be cleaned up."""
    told: list[Any] = []

    def fresh(actor):
        actor.on_end(lambda: told.append("cleaned"))

        async def receive(message):
            try:
                await asyncio.Event().wait()
            finally:
                told.append("cancelled")

        return receive

    async with system() as (actors, clock):
        actor = actors.spawn(fresh=fresh)
        actor.send("x")
        await rest()
        stopping = asyncio.create_task(actor.stop(grace=5))
        await rest()
        clock.advance(4.9)
        await rest()
        assert told == []
        clock.advance(0.1)
        await stopping
        assert told == ["cancelled", "cleaned"]


async def test_a_close_that_is_interrupted_leaves_nothing_behind():
    """Whoever cancels the end of a system gets it at once; no task stays."""

    async def hang(message):
        await asyncio.Event().wait()

    asked: list[asyncio.Task[Any]] = []

    async def body():
        async with ActorSystem() as actors:
            actors.spawn(hang).send("x")
            actor = actors.spawn(hang).spawn(hang)
            asked.extend(asyncio.create_task(actor.ask(n, timeout=None)) for n in range(2))
            await rest()

    task = asyncio.create_task(body())
    for _ in range(3):
        await rest()
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [type(each) for each in await asyncio.gather(*asked, return_exceptions=True)] == [ActorStopped] * 2
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_close_that_was_given_up_can_be_closed_again():
    """Who waited with a timeout for the end has all actors ended at once, and leaving the system does not wait for them."""

    async def hang(message):
        await asyncio.Event().wait()

    async with asyncio.timeout(5), ActorSystem() as actors:
        actor = actors.spawn(hang)
        below = actor.spawn(hang)
        for each in (actor, below):
            each.send("x")
        await rest()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await actors.close()
        assert (actors.actors, actor.children, below.running) == ((), (), False)
        await actors.close()


async def test_the_error_of_a_body_passes_and_all_ends():
    """A body that raises ends its actors, too, and an outer cancellation stays one."""
    with pytest.raises(Boom):
        async with ActorSystem() as actors:
            actor = actors.spawn(print)
            raise Boom
    assert not actor.running
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001), ActorSystem() as actors:
            actors.spawn(print)
            await asyncio.Event().wait()


async def test_mailboxes_are_bounded():
    """Each way of overflowing does what it says, and an asker whose message is dropped hears of it."""
    gate = asyncio.Event()

    async def run(overflow):
        told: list[Any] = []

        async def receive(message):
            await gate.wait()
            told.append(message)

        actor = actors.spawn(receive, mailbox=Mailbox(2, overflow))
        actor.send(0)
        await rest()
        taken = []
        asked = asyncio.create_task(actor.ask(1, timeout=None))
        await asyncio.sleep(0)
        for message in (2, 3):
            try:
                taken.append(actor.send(message))
            except MailboxFull as error:
                taken.append(f"{error.limit} full")
        gate.set()
        answer = (await asyncio.gather(asked, return_exceptions=True))[0]
        await actors.idle()
        gate.clear()
        return told, taken, type(answer).__name__, actor.dropped

    async with system() as (actors, _):
        assert await run("refuse") == ([0, 1, 2], [True, "2 full"], "NoneType", 0)
        assert await run("drop-newest") == ([0, 1, 2], [True, False], "NoneType", 1)
        assert await run("drop-oldest") == ([0, 2, 3], [True, True], "MailboxFull", 1)


async def test_put_waits_for_room_in_turn():
    """Back-pressure: nothing is refused or lost; who gives up waiting takes nobody's place; an end tells who still waits."""
    told: list[Any] = []
    gate = asyncio.Event()

    async def receive(message):
        await gate.wait()
        told.append(message)

    async with system() as (actors, _):
        actor = actors.spawn(receive, mailbox=Mailbox(1))
        puts = [asyncio.create_task(actor.put(n)) for n in range(6)]
        await rest()
        assert [put.done() for put in puts] == [True, True, False, False, False, False]
        puts[2].cancel()
        gate.set()
        await asyncio.gather(*puts, return_exceptions=True)
        await actors.idle()
        assert told == [0, 1, 3, 4, 5]
        gate.clear()
        late = [asyncio.create_task(actor.put(n)) for n in range(3)]
        await rest()
        ending = asyncio.create_task(actor.stop())
        gate.set()
        await ending
        assert [type(each) for each in await asyncio.gather(*late, return_exceptions=True)] == [
            type(None),
            type(None),
            ActorStopped,
        ]


async def test_asking():
    """An answer, an error that is also the supervisor's, no answer in time, and what would wait for ever."""

    async def receive(message, actor):
        if message == "hang":
            await asyncio.Event().wait()
        if message == "self":
            await actor.ask("x")
        if message == "bad":
            raise Boom
        return message

    async with system(supervision=Supervision("resume")) as (actors, clock):
        actor = actors.spawn(receive)
        assert await actor.ask("x") == "x"
        with pytest.raises(Boom):
            await actor.ask("bad")
        with pytest.raises(UsageError, match="asks itself"):
            await actor.ask("self")
        asking = asyncio.create_task(actor.ask("hang", timeout=2))
        await rest()
        clock.advance(2)
        with pytest.raises(AskTimeout, match="no answer to 'hang' within 2 s") as caught:
            await asking
        assert isinstance(caught.value, TimeoutError)
        await actor.stop(grace=0)
        with pytest.raises(ActorStopped):
            await actor.ask("x")


async def test_monitors_hear_of_ends_and_not_of_restarts():
    """A `Down` message with the reason, once, and at once for one that has ended already."""
    told: list[Any] = []
    async with system(supervision=Supervision(decide=lambda e: "stop" if e.args == ("stop",) else "restart", delay=0)) as (
        actors,
        _,
    ):
        watcher = actors.spawn(told.append, mailbox=Mailbox(1))

        def receive(message):
            raise Boom(message)

        first, second = actors.spawn(receive), actors.spawn(receive)
        for _ in range(2):
            watcher.monitor(first)
            watcher.monitor(second)
        first.send("restart")
        await actors.idle()
        assert told == []
        first.send("stop")
        await actors.idle()
        assert [(type(down), down.actor, down.error.args) for down in told] == [(Down, first, ("stop",))]
        watcher.unmonitor(second)
        await second.stop()
        await actors.idle()
        assert len(told) == 1
        watcher.monitor(second)
        await actors.idle()
        assert told[1] == Down(second, None)
        lasting = actors.spawn(print)
        watcher.monitor(lasting)
        await watcher.stop()
        assert not lasting._watchers  # nobody is kept for the sake of one that has ended


async def test_links_share_failures():
    """If one ends by a failure the other fails, too; a stop concerns nobody; an undone link is none."""
    lives: list[Any] = []

    def fresh(actor):
        lives.append(actor.name)
        return fails_on("bad", [])

    decide: dict[Any, Any] = {Boom: "stop", LinkBroken: "restart"}
    async with system(supervision=Supervision(decide=lambda error: decide[type(error)], delay=0)) as (actors, _):
        a, b, c, d = (actors.spawn(fresh=fresh, name=name) for name in "abcd")
        a.link(b)
        c.link(b)
        d.link(b)
        d.unlink(b)
        await actors.idle()
        await c.stop()
        await actors.idle()
        assert lives == ["a", "b", "c", "d"]
        b.send("bad")
        await actors.idle()
        assert lives == ["a", "b", "c", "d", "a"]
        with pytest.raises(UsageError):
            a.link(a)
        d.link(b)
        await actors.idle()
        assert lives[5:] == ["d"]


def light(do=None, on_exit=None):
    """A chart with a timer."""
    built = ChartBuilder("light").initial("off")
    built.state("off").on("press", "on")
    on = built.state("on").after(10, "off", do=do).on("press", "off").on("dim", "dimmed")
    if on_exit is not None:
        on.on_exit(on_exit)
    built.final("dimmed")
    return built.build()


async def test_a_chart_is_an_actor():
    """Events in turn; the answer is the state; what it does not handle is told to the asker and is no failure."""
    async with system(supervision=Supervision("escalate")) as (actors, clock):
        actor = actors.spawn(light())
        assert await actor.ask("press") == ("on",)
        with pytest.raises(InvalidTransition, match="does not handle 'nix'"):
            await actor.ask("nix")
        clock.advance(10)
        await actors.idle()
        assert await actor.ask("press") == ("on",)
        actor.send("dim")
        assert await actor.ended() is None


async def test_a_timer_of_a_machine_waits_its_turn_and_ends_with_its_life():
    """Due while a message is under way it comes after it; withdrawn meanwhile, or of an old life, it never comes."""
    told: list[Any] = []
    async with system(supervision=Supervision(delay=0)) as (actors, clock):
        actor = actors.spawn(light(do=lambda: told.append("timer")))
        await actor.ask("press")
        actor.send("press")
        clock.advance(10)  # due, but "press" was there before, and leaves the state
        await actors.idle()
        assert told == []
        await actor.ask("press")
        actor.send("nix")  # a failure: a new life
        await actors.idle()
        clock.advance(10)
        await actors.idle()
        assert told == []
        assert await actor.ask("press") == ("on",)


async def test_a_function_sets_timers_of_its_life():
    """Withdrawn while it waited for its turn, or set by a life that has ended, one never comes; otherwise it does, once."""
    told, pending = [], []

    def receive(message, actor):
        if message == "set":
            pending.append(actor.timers.call_later(5, lambda: told.append("late")))
        elif message == "cancel":
            pending[-1].cancel()
        else:
            raise Boom

    async with system(supervision=Supervision(delay=0)) as (actors, clock):
        actor = actors.spawn(receive)
        await actor.ask("set")
        actor.send("cancel")
        clock.advance(5)  # due, but "cancel" was there before
        await actors.idle()
        assert told == []
        await actor.ask("set")
        actor.send("bad")
        await actors.idle()
        clock.advance(10)
        await actors.idle()
        assert told == []
        await actor.ask("set")
        clock.advance(10)
        await actors.idle()
        assert told == ["late"]


async def test_a_step_that_a_timer_caused_fails_under_supervision():
    """Nobody waits for it, and it isn't lost, in either kind of machine."""

    def fail():
        raise Boom

    async def fail_later():
        await asyncio.sleep(0)
        raise Boom

    for action in (fail, fail_later):
        clock = VirtualTime()
        with pytest.raises(ActorFailed) as caught:
            async with ActorSystem(clock=clock, supervision=Supervision("escalate")) as actors:
                actor = actors.spawn(light(do=action))
                await actor.ask("press")
                clock.advance(10)
                await asyncio.Event().wait()
        assert isinstance(caught.value.__cause__, Boom)


async def test_an_actor_ends_with_its_machine_whatever_ended_that():
    """A child that is done at once ends a machine to which nobody ever sent anything, and `idle` waits for both."""
    worked = []

    async def work():
        await asyncio.sleep(0)
        worked.append(True)

    child = ChartBuilder("child").initial("w")
    child.state("w").on_entry(work).always("end")
    child.final("end")
    built = ChartBuilder("m").initial("busy")
    built.state("busy").invoke(child.build(), id="c").on("done.invoke.c", "over").on("never", do=work)
    built.final("over")
    async with system() as (actors, _):
        actor = actors.spawn(built.build())
        await actors.idle()
        assert worked == [True]
        assert not actor.running


async def test_a_machine_whose_last_step_failed_is_over_all_the_same():
    """What its final step sends has nobody to go to: judged harmless, the actor ends, for its machine has."""
    built = ChartBuilder("m").initial("a")
    built.state("a").on("go", "b", do=Send("hello", target="#_parent"))
    built.final("b")
    async with system(supervision=Supervision("resume")) as (actors, _):
        actor = actors.spawn(built.build())
        actor.send("go")
        assert await actor.ended() is None


async def test_machines_that_one_makes_oneself():
    """`fresh` gives each life its machine, of either kind; its exit actions run at the end of the life."""
    told: list[Any] = []
    async with system() as (actors, clock):
        chart = light(on_exit=lambda: told.append("left"))
        for kind in (Machine, AsyncMachine):
            actor = actors.spawn(fresh=lambda me, kind=kind: kind(chart, clock=me.timers))
            assert await actor.ask("press") == ("on",)
            clock.advance(10)
            await actors.idle()
            assert await actor.ask("press") == ("on",)
            told.clear()
            await actor.stop()
            assert told == ["left"]


async def test_a_machine_tells_its_parent_actor():
    """`#_parent` is the actor above; without one that is a failure, not silence."""
    told: list[Any] = []
    built = ChartBuilder("child").initial("a")
    built.state("a").on("go", "b", do=Send("hello", 7, target="#_parent"))
    built.final("b")
    chart = built.build()
    async with system() as (actors, _):
        parent = actors.spawn(lambda message: told.append((message.name, message.data)))
        child = parent.spawn(chart)
        child.send("go")
        await child.ended()
        await actors.idle()
        assert told == [("hello", 7)]
    with pytest.raises(ActorFailed, match="no parent"):
        async with system(supervision=Supervision("escalate")) as (actors, _):
            actors.spawn(chart).send("go")
            await asyncio.Event().wait()


async def test_the_current_actor_is_known_to_actions():
    """An action of a machine can find its actor; elsewhere there is none."""
    told: list[Any] = []
    built = ChartBuilder("m").initial("a")
    built.state("a").on("go", "a", do=lambda: told.append(current_actor()))
    async with system() as (actors, _):
        actor = actors.spawn(built.build())
        await actor.ask("go")
        assert told == [actor]
    with pytest.raises(UsageError):
        current_actor()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Mailbox(0),
        lambda: Mailbox(1, "explode"),  # type: ignore[arg-type]
        lambda: Supervision("ignore"),  # type: ignore[arg-type]
        lambda: Supervision(strategy="some-for-one"),  # type: ignore[arg-type]
        lambda: Supervision(window=0),
        lambda: Supervision(delay=2, max_delay=1),
        lambda: ActorSystem(on_error="hide"),  # type: ignore[arg-type]
    ],
)
def test_options_that_mean_nothing_are_refused(wrong):
    """When they are given."""
    with pytest.raises(DefinitionError):
        wrong()


async def test_actors_that_can_not_be():
    """No behaviour, two, one of no kind, a name that is taken, a system that is closed or was never started."""
    with pytest.raises(UsageError):
        ActorSystem().spawn(print)
    with pytest.raises(ActorFailed, match="an actor needs a Chart"):
        async with ActorSystem(supervision=Supervision("escalate")) as actors:
            wrong: tuple[dict[str, Any], ...] = ({}, {"receive": print, "fresh": print})
            for options in wrong:
                with pytest.raises(DefinitionError, match="give one of them"):
                    actors.spawn(**options)
            actors.spawn(print, name="a")
            with pytest.raises(DefinitionError, match="actors/a is there already"):
                actors.spawn(print, name="a")
            actors.spawn(fresh=lambda: 7)
            await asyncio.Event().wait()
    with pytest.raises(ActorStopped):
        actors.spawn(print)


@pytest.mark.slow
async def test_idle_actors_are_cheap():
    """Less than 10 KB for one with a machine and a timer, so 10,000 take less than 100 MB; and not one task."""
    chart = light()
    async with ActorSystem(clock=VirtualTime()) as actors:
        warm = actors.spawn(chart)
        await warm.ask("press")
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        made = [actors.spawn(chart) for _ in range(2_000)]
        for actor in made:
            actor.send("press")
        await actors.idle()
        used = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        assert len(asyncio.all_tasks()) == 1
        assert used / len(made) < 10_000


async def test_a_cancelled_message_is_an_error_for_its_asker():
    """Not a cancellation of its own; the actor goes on as its supervisor says."""

    async def receive(message):
        if message == "bad":
            raise asyncio.CancelledError
        return message

    async with system(supervision=Supervision("resume")) as (actors, _):
        actor = actors.spawn(receive)
        with pytest.raises(ActorError, match="was cancelled"):
            await actor.ask("bad")
        assert await actor.ask("x") == "x"


async def test_nobody_waits_for_an_end_that_waits_for_him():
    """An actor that would wait for its own end, or for one above it, is told so."""
    async with system(supervision=Supervision("resume")) as (actors, _):
        parent = actors.spawn(lambda message: None)
        child = parent.spawn(lambda message, actor: actor.parent.ended(), supervision=Supervision("resume"))
        with pytest.raises(UsageError, match="use monitor"):
            await child.ask("x")
        closing = actors.spawn(lambda message: actors.close())
        with pytest.raises(UsageError, match="leave `async with`"):
            await closing.ask("x")
        idling = actors.spawn(lambda message: actors.idle())
        with pytest.raises(UsageError, match="from outside"):
            await idling.ask("x")


async def test_what_fails_at_the_end_of_a_life_is_logged_and_the_rest_is_done(caplog):
    """Each part of the end gets its turn, the machine's exit actions first."""
    told = []

    def fail(what):
        told.append(what)
        raise Boom(what)

    def fresh(actor):
        actor.on_end(lambda: fail("first"))
        actor.on_end(lambda: told.append("second"))
        return Machine(light(on_exit=lambda: fail("exit")), clock=actor.timers)

    async with system() as (actors, clock):
        actor = actors.spawn(fresh=fresh)
        await actor.ask("press")
        assert await actor.stop() is None
        assert told == ["exit", "second", "first"]
        clock.advance(100)
    assert [record.args[1].args for record in caplog.records] == [("exit",), ("first",)]


OPERATIONS = st.sampled_from(
    ["send", "send", "send", "bad", "bad", "ask", "stop", "drain", "spawn", "link", "monitor", "advance", "yield", "yield", "put"]
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(OPERATIONS, st.integers(0, 9), st.integers(0, 9)), max_size=40),
    st.lists(st.sampled_from(["restart", "restart", "resume", "stop", "escalate"]), min_size=4, max_size=4),
    st.sampled_from(["one-for-one", "all-for-one"]),
)
def test_whatever_happens_everything_ends_and_every_asker_hears(operations, directives, strategy):
    """Stops, failures, links and restarts at any moment: no message twice, no asker left waiting, no task left over."""

    async def main():
        clock, number = VirtualTime(), 0
        told: list[int] = []

        def fresh(actor):
            async def receive(message):
                if isinstance(message, Down):
                    return
                await asyncio.sleep(0)
                if message[1] == "bad":
                    raise Boom(message)
                told.append(message[0])

            actor.on_end(lambda: asyncio.sleep(0))
            return receive

        def plan(n):
            return Supervision(directives[n % 4], strategy=strategy, delay=n % 3, max_restarts=3, window=20)

        asks = []
        async with asyncio.timeout(20), ActorSystem(clock=clock, supervision=plan(0), on_error="log") as actors:
            made = [actors.spawn(fresh=fresh, supervision=plan(n)) for n in range(3)]
            for verb, one, two in operations:
                actor, other = made[one % len(made)], made[two % len(made)]
                number += 1
                with contextlib.suppress(ActorStopped, UsageError):
                    match verb:
                        case "send" | "bad":
                            actor.send((number, verb))
                        case "ask":
                            asks.append(asyncio.create_task(actor.ask((number, "ask"), timeout=50)))
                        case "put":
                            asks.append(asyncio.create_task(actor.put((number, "put"))))
                        case "stop" | "drain":
                            asks.append(asyncio.create_task(actor.stop(drain=verb == "drain")))
                        case "spawn":
                            made.append(actor.spawn(fresh=fresh, supervision=plan(two)))
                        case "link":
                            actor.link(other)
                        case "monitor":
                            actor.monitor(other)
                        case "advance":
                            clock.advance(one)
                        case "yield":
                            for _ in range(one):
                                await asyncio.sleep(0)
        for _ in range(100):
            clock.advance(1)  # what nobody answered runs into its time
            await asyncio.sleep(0)
        answers = await asyncio.wait_for(asyncio.gather(*asks, return_exceptions=True), 5)
        assert not [each for each in answers if each is not None and not isinstance(each, (ActorError, Boom))]
        assert len(told) == len(set(told))
        assert not any(actor.running or not actor._over for actor in made)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
