"""Rare interleavings and odd user code, each of which once lost something, hung, or took the engine down."""

from __future__ import annotations

import asyncio
import decimal
import logging
from pathlib import Path

import pytest

from spellwork import (
    Engine,
    Retry,
    RunFailed,
    RunTerminated,
    Signal,
    activity,
    start_child,
    update,
    workflow,
)
from spellwork.testing import TestEngine, check_replay

go = Signal[int]("go")


@activity
async def echo(x: int) -> int:
    return x


@activity
def next_of_nothing() -> int:
    return next(iter([]))


class Odd(Exception):
    """An error that cannot be made from its arguments."""

    def __init__(self, a: int, *, b: int):
        super().__init__(a)
        self.b = b

    def __str__(self) -> str:
        raise KeyError("broken")


@workflow
async def simple() -> int:
    return await echo(7)


@workflow
async def waits() -> int:
    return await go.receive()


async def test_failures_of_any_shape_stay_in_their_run() -> None:
    """Exception groups, errors that cannot be rebuilt, StopIteration, BaseExceptions: the run fails, the engine goes on."""

    @activity(retry=Retry(max_attempts=1))
    async def grouped() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(odd.fn())

    @activity(retry=Retry(max_attempts=1))
    async def odd() -> None:
        raise Odd(1, b=2)

    @activity(retry=Retry(max_attempts=1))
    async def base() -> None:
        raise type("Mine", (BaseException,), {})("mine")

    @workflow
    async def calls(which: int) -> str:
        try:
            await (grouped(), odd(), base(), next_of_nothing.options(retry=Retry(max_attempts=1))())[which]
        except Exception as error:  # noqa: BLE001 - any of them
            return type(error).__name__
        return "nothing"

    async with Engine(workflows=[calls, simple], errors=[Odd]) as engine:
        with pytest.warns(RuntimeWarning, match="never awaited"):
            kinds = [await (await engine.start(calls, i)).result(5) for i in range(4)]
        assert kinds == ["ActivityFailed", "Odd", "ActivityFailed", "RuntimeError"]
        assert await (await engine.start(simple)).result(5) == 7


async def test_a_failing_task_group_in_a_workflow_fails_its_run_alone() -> None:
    """A workflow that ends with an ExceptionGroup is RunFailed, also when it is asked again."""

    @workflow
    async def group() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fails())

    async def fails() -> None:
        raise ValueError("x")

    async with TestEngine(workflows=[group, simple]) as engine:
        for _ in range(2):
            with pytest.raises(RunFailed, match="ExceptionGroup"):
                await engine.run(group, id="g")
        assert await engine.run(simple) == 7


async def test_raising_callbacks_are_logged_as_asyncio_does(caplog: pytest.LogCaptureFixture) -> None:
    """A done-callback or call_later callback that raises is logged; the run goes on."""

    @workflow
    async def careless() -> str:
        task = asyncio.ensure_future(echo(1))
        task.add_done_callback(lambda _task: 1 / 0)
        await task
        await echo(2)
        return "done"

    with caplog.at_level(logging.ERROR):
        async with TestEngine(workflows=[careless]) as engine:
            assert await engine.run(careless) == "done"
    assert "a callback raised" in caplog.text


async def test_clean_up_that_raises_on_eviction_hurts_nobody() -> None:
    """A finally block that raises while its run leaves memory does not keep the others of the group from being told."""

    @workflow
    async def angry() -> int:
        try:
            return await go.receive()
        finally:
            raise AssertionError("not now")

    async with TestEngine(workflows=[angry, simple], cache=0) as engine:
        results = await asyncio.gather(
            *(engine.start(angry, id=f"a{i}") for i in range(5)), *(engine.run(simple) for _ in range(10))
        )
        assert results[5:] == [7] * 10


async def test_code_that_swallows_everything_can_still_be_dropped() -> None:
    """`while True: try ... except BaseException: continue` does not keep an engine from closing."""

    @workflow
    async def stubborn() -> None:
        while True:
            try:
                await echo(1)
                await go.receive()
            except BaseException:  # noqa: BLE001 - the mistake under test
                continue

    async with TestEngine(workflows=[stubborn]) as engine:
        await engine.start(stubborn)
        await engine.settle()
        assert engine.loaded == 1


async def test_async_generators_are_closed_by_their_own_loop() -> None:
    """Evicting a run in the middle of an async generator does not run its clean-up on the host's loop."""
    touched: list[int] = []

    @activity
    async def touch() -> None:
        touched.append(1)

    @workflow
    async def streams() -> int:
        async def numbers():
            try:
                yield 1
                yield 2
            finally:
                await touch()

        async for _ in numbers():
            await go.receive()
        return 0

    async with TestEngine(workflows=[streams], cache=0) as engine:
        await engine.start(streams)
        await engine.settle()
        assert engine.loaded == 0
        await asyncio.sleep(0)
        assert touched == []


async def test_what_an_activity_does_to_its_arguments_does_not_reach_the_workflow() -> None:
    """Activities get copies: the first run and the replay see the same values."""

    @activity
    async def enrich(data: dict[str, int]) -> int:
        data["extra"] = 1
        return len(data)

    @workflow
    async def mutates() -> list[int]:
        data = {"a": 1}
        return [await enrich(data), await enrich(data), len(data)]

    async with TestEngine(workflows=[mutates]) as engine:
        assert await engine.run(mutates, id="m") == [2, 2, 1]
        await check_replay(engine, "m")


async def test_a_workflow_does_not_inherit_the_callers_context() -> None:
    """The precision of decimal (a context variable) of whoever starts a run is not the run's."""

    @workflow
    async def divides() -> str:
        return str(decimal.Decimal(1) / 3)

    with decimal.localcontext() as context:
        context.prec = 5
        async with TestEngine(workflows=[divides]) as engine:
            assert await engine.run(divides, id="d") == "0.3333333333333333333333333333"
    async with TestEngine(workflows=[divides]) as engine:
        await engine.run(divides, id="d")
        await check_replay(engine, "d")


async def test_child_that_ends_while_its_parent_is_blocked_is_not_forgotten(tmp_path: Path) -> None:
    """The end of a child waits in the inbox until its parent's code is back."""

    @workflow(name="parent")
    async def good() -> int:
        await echo(1)
        child = await start_child(waits, id="kid")
        return 1 + await child

    @workflow(name="parent")
    async def bad() -> int:
        await echo(2)
        child = await start_child(waits, id="kid")
        return 1 + await child

    url = f"sqlite:{tmp_path / 'store.db'}"
    async with TestEngine(url, workflows=[good, waits]) as engine:
        await engine.start(good, id="p")
        await engine.settle()
    async with TestEngine(url, workflows=[bad, waits]) as engine:
        kid = await engine.get("kid")
        await kid.signal(go, 5)
        assert await kid.result() == 5
        await engine.settle()
        assert (await (await engine.get("p")).status()).status == "blocked"
    async with TestEngine(url, workflows=[good, waits]) as engine:
        assert await (await engine.get("p")).result() == 6


async def test_terminating_a_blocked_child_tells_its_parent(tmp_path: Path) -> None:
    """A child that can only be ended from its row still ends for its parent."""

    @workflow(name="kid")
    async def kid() -> int:
        return await go.receive()

    @workflow
    async def parent() -> str:
        try:
            await (await start_child(kid, id="k"))
        except RunTerminated as error:
            return error.reason
        return ""

    url = f"sqlite:{tmp_path / 'store.db'}"
    async with TestEngine(url, workflows=[parent, kid]) as engine:
        await engine.start(parent, id="p")
        await engine.settle()
        await (await engine.get("k")).signal("other", 1)
    async with TestEngine(url, workflows=[parent]) as engine:
        await (await engine.get("k")).terminate("given up")
        assert await (await engine.get("p")).result() == "given up"


async def test_a_start_that_nobody_waits_for_any_more_still_runs() -> None:
    """Cancelling engine.start() while it commits leaves a run that runs, and the same id finds it."""
    async with TestEngine(workflows=[simple]) as engine:
        starting = asyncio.ensure_future(engine.start(simple, id="s"))
        await asyncio.sleep(0)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        assert await (await engine.start(simple, id="s")).result() == 7


async def test_two_clients_may_start_the_same_run_at_once(tmp_path: Path) -> None:
    """Both get the run, and no message is left behind."""
    from spellwork.journal.rows import Keys

    url = f"sqlite:{tmp_path / 'store.db'}"
    async with (
        Engine(url, workflows=[simple]) as engine,
        Engine(url, workflows=[simple], client=True) as one,
        Engine(url, workflows=[simple], client=True) as two,
    ):
        for name in "stuvw":
            runs = await asyncio.wait_for(asyncio.gather(one.start(simple, id=name), two.start(simple, id=name)), 10)
            assert [await run.result(5) for run in runs] == [7, 7]
            assert await engine.store.scan(bytes((Keys.INBOX,)), bytes((Keys.INBOX + 1,))) == []


async def test_signals_between_the_runs_of_a_chain_are_not_refused() -> None:
    """While a run goes on as a new one, signals to its id are accepted, all of them."""
    from spellwork import continue_as_new

    @workflow
    async def chain(left: int, total: int = 0) -> int:
        total += await go.receive()
        if left:
            continue_as_new(left - 1, total)
        return total

    async with Engine(workflows=[chain]) as engine:
        run = await engine.start(chain, 49)
        await asyncio.gather(*(run.signal(go, 1) for _ in range(50)))
        assert await run.result(10) == 50


async def test_closing_an_engine_is_no_death(tmp_path: Path) -> None:
    """A run with a long activity is not quarantined for engines that open and close in good order."""

    @activity
    async def long() -> None:
        await asyncio.Event().wait()

    @workflow
    async def slow() -> None:
        await long()

    url = f"sqlite:{tmp_path / 'store.db'}"
    for _ in range(8):
        async with Engine(url, workflows=[slow], max_recoveries=3) as engine:
            run = await engine.start(slow, id="s")
            while engine._host.steps.busy is False:
                await asyncio.sleep(0.001)
            assert (await run.status()).status == "running"


async def test_updates_under_way_keep_their_run_in_memory() -> None:
    """A run with an update that waits is not evicted under its asker."""

    @workflow
    async def answers() -> int:
        @update
        async def ask(x: int) -> int:
            await asyncio.sleep(10)
            return x + 1

        return await go.receive()

    async with TestEngine(workflows=[answers], cache=0) as engine:
        run = await engine.start(answers)
        await engine.settle()
        engine.clock.may_jump = lambda: engine.idle
        assert await run.update("ask", 1) == 2
