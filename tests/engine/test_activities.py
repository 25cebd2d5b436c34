"""Activities: attempts, limits, executors, and what they may know of themselves."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import cast

import pytest

from spellwork import (
    ActivityTimeout,
    Engine,
    PayloadError,
    Retry,
    RunFailed,
    UpdateRejected,
    activity,
    activity_context,
    heartbeat,
    query,
    update,
    workflow,
)
from spellwork.errors import DefinitionError, QueryFailed, UsageError
from spellwork.testing import TestEngine, check_replay


@activity(executor="process")
def in_process(n: int) -> int:
    return os.getpid() + 0 * n


@workflow
async def computes() -> int:
    return await in_process(1)


async def test_attempts_back_off_and_share_an_idempotency_key() -> None:
    """A failing activity is tried again with growing waits and one key, and not slept for after the last attempt."""
    seen: list[tuple[int, str, int]] = []

    @activity(retry=Retry(max_attempts=4, initial=10, backoff=2, jitter=0))
    async def flaky() -> str:
        context = activity_context()
        seen.append((context.attempt, context.idempotency_key, engine.clock.now() // 1_000_000))
        raise OSError(f"try {context.attempt}")

    @workflow
    async def tries() -> None:
        await flaky()

    async with TestEngine(workflows=[tries]) as engine:
        began = engine.clock.now() // 1_000_000
        with pytest.raises(RunFailed) as caught:
            await engine.run(tries)
        assert isinstance(caught.value.__cause__, OSError)
        assert [attempt for attempt, _, _ in seen] == [1, 2, 3, 4]
        assert len({key for _, key, _ in seen}) == 1
        assert [at - began for _, _, at in seen] == [0, 10, 30, 70]
        assert engine.clock.now() // 1_000_000 - began == 70


async def test_attempts_survive_a_restart(tmp_path) -> None:
    """The count of attempts is durable: a new process goes on with the next one."""
    seen: list[int] = []

    @activity(retry=Retry(max_attempts=3, initial=100, jitter=0))
    async def flaky() -> int:
        seen.append(activity_context().attempt)
        if activity_context().attempt < 3:
            raise OSError("no")
        return activity_context().attempt

    @workflow
    async def tries() -> int:
        return await flaky()

    url = f"sqlite:{tmp_path / 'store.db'}"
    async with TestEngine(url, workflows=[tries]) as engine:
        await engine.start(tries, id="r")
        await engine.settle()
    async with TestEngine(url, workflows=[tries]) as engine:
        assert await (await engine.get("r")).result() == 3
    assert seen == [1, 2, 3]


async def test_non_retryable_errors_are_final() -> None:
    """An error of a class in non_retryable is not tried again."""
    calls: list[int] = []

    @activity(retry=Retry(max_attempts=5, non_retryable=(KeyError,)))
    async def hopeless() -> None:
        calls.append(1)
        raise KeyError("gone")

    @workflow
    async def tries() -> str:
        try:
            await hopeless()
        except KeyError as error:
            return str(error)
        return ""

    async with TestEngine(workflows=[tries]) as engine:
        assert await engine.run(tries) == "'gone'"
    assert calls == [1]


async def test_timeout_names_activity_and_limit_and_late_results_are_ignored() -> None:
    """A thread that outlives its limit fails the step at the limit; what it returns later changes nothing."""
    release = threading.Event()

    @activity(timeout=0.05, retry=Retry(max_attempts=1))
    def stuck() -> str:
        release.wait(10)
        return "late"

    @workflow
    async def tries() -> list[object]:
        try:
            await stuck()
        except ActivityTimeout as error:
            return [error.activity, error.limit, error.seconds]
        return []

    async with Engine(workflows=[tries]) as engine:
        run = await engine.start(tries)
        assert await run.result(5) == ["stuck", "timeout", 0.05]
        release.set()
        assert [event.kind for event in await run.history()] == ["Started", "StepFailed", "Completed"]


async def test_schedule_timeout_bounds_all_attempts() -> None:
    """No retry begins that would end beyond schedule_timeout."""
    calls: list[int] = []

    @activity(schedule_timeout=100, retry=Retry(max_attempts=0, initial=40, backoff=1, jitter=0))
    async def never() -> None:
        calls.append(1)
        raise OSError("no")

    @workflow
    async def tries() -> None:
        await never()

    async with TestEngine(workflows=[tries]) as engine:
        with pytest.raises(RunFailed):
            await engine.run(tries)
    assert len(calls) == 3


async def test_heartbeats_keep_an_activity_alive_and_reach_the_next_attempt() -> None:
    """Silence beyond heartbeat_timeout fails the attempt; the next one sees what the last heartbeat said."""
    said: list[object] = []

    @activity(heartbeat_timeout=5, retry=Retry(max_attempts=2, initial=1))
    async def beats() -> str:
        said.append(activity_context().last_heartbeat)
        heartbeat({"at": len(said)})
        if len(said) == 1:
            await engine_sleep.wait()
        return "done"

    @workflow
    async def tries() -> str:
        return await beats()

    async with TestEngine(workflows=[tries]) as engine:
        engine_sleep = asyncio.Event()
        run = await engine.start(tries)
        for _ in range(50):
            await asyncio.sleep(0)
        engine.clock.advance(6)
        assert await run.result() == "done"
    assert said == [None, {"at": 1}]


async def test_plain_functions_run_in_threads_and_cpu_bound_ones_in_processes() -> None:
    """executor="thread" leaves the loop free, executor="process" leaves the process."""

    @activity
    def in_thread() -> str:
        return threading.current_thread().name

    @workflow
    async def threads() -> list[str]:
        return await asyncio.gather(*(in_thread() for _ in range(3)))

    async with Engine(workflows=[threads, computes]) as engine:
        assert all(name.startswith("spellwork-activity") for name in await engine.run(threads))
        assert await engine.run(computes) != os.getpid()


async def test_exit_in_an_activity_is_a_failure_and_not_the_end_of_the_process() -> None:
    """SystemExit in an activity fails the step; the worker lives."""

    @activity(retry=Retry(max_attempts=1))
    async def leaves() -> None:
        raise SystemExit(3)

    @workflow
    async def tries() -> None:
        await leaves()

    async with TestEngine(workflows=[tries]) as engine:
        with pytest.raises(RunFailed, match="SystemExit"):
            await engine.run(tries)


async def test_results_that_do_not_fit_are_refused_before_they_are_written() -> None:
    """A result of the wrong type fails the step with the path; what is journaled always decodes."""

    @activity
    async def lies() -> list[int]:
        return [1, "two"]  # type: ignore[list-item]

    @workflow
    async def tries() -> str:
        try:
            await lies()
        except PayloadError as error:
            return f"{error.path}"
        return "?"

    async with TestEngine(workflows=[tries]) as engine:
        assert await engine.run(tries) == "$[1]"


async def test_context_does_not_leak_between_activities() -> None:
    """A context variable that one activity leaves set is not seen by the next."""
    import contextvars

    leak: contextvars.ContextVar[str] = contextvars.ContextVar("leak", default="clean")

    @activity
    async def sets(n: int) -> str:
        before = leak.get()
        leak.set(f"dirty {n}")
        return before

    @workflow
    async def many() -> list[str]:
        return [await sets(i) for i in range(5)]

    async with TestEngine(workflows=[many]) as engine:
        assert await engine.run(many) == ["clean"] * 5


async def test_cancelled_step_stops_its_activity() -> None:
    """A workflow that stops waiting for a step cancels the activity behind it."""
    stopped: list[str] = []

    @activity
    async def long() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            stopped.append("cancelled")
            raise

    @workflow
    async def impatient() -> str:
        task = asyncio.create_task(long())
        await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.sleep(0.02)
        return "left"

    async with Engine(workflows=[impatient]) as engine:
        assert await engine.run(impatient) == "left"
    assert stopped == ["cancelled"]


async def test_queries_look_and_updates_change() -> None:
    """A query answers without a trace; an update is validated, durable, answered once per id; a rejected one leaves nothing."""

    @workflow
    async def cart() -> list[str]:
        items: list[str] = []
        closed = asyncio.Event()

        @query
        def size() -> int:
            return len(items)

        @query
        def meddles() -> int:
            asyncio.get_running_loop().create_task(asyncio.sleep(1))
            return 0

        @update
        async def add(item: str) -> int:
            await asyncio.sleep(1)
            items.append(item)
            return len(items)

        @add.validator
        def check(item: str) -> None:
            if not item:
                raise ValueError("an item needs a name")

        @update
        def close() -> str:
            closed.set()
            return "closed"

        await closed.wait()
        return items

    async with TestEngine(workflows=[cart]) as engine:
        run = await engine.start(cart)
        await engine.settle()
        engine.clock.may_jump = lambda: engine.idle
        assert await run.update("add", "pen", id="u1") == 1
        assert await run.update("add", "pen", id="u1") == 1
        assert await run.query("size") == 1
        before = len(await run.history())
        with pytest.raises(UpdateRejected, match="needs a name"):
            await run.update("add", "")
        with pytest.raises(UpdateRejected, match="has no update 'nope'; it has: add, close"):
            await run.update("nope")
        with pytest.raises(QueryFailed, match="has no query"):
            await run.query("nope")
        assert len(await run.history()) == before
        assert await run.update("close") == "closed"
        assert await run.result() == ["pen"]


@pytest.mark.parametrize("call", [lambda: activity_context(), lambda: heartbeat(1)])
def test_activity_verbs_outside_an_activity_say_so(call) -> None:
    """activity_context() and heartbeat() raise UsageError anywhere else."""
    with pytest.raises(UsageError, match="outside a running activity"):
        call()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"executor": "gpu"}, "executor='gpu' is unknown"),
        ({"executor": "async"}, "a plain function cannot run"),
        ({"timeout": 0}, "timeout must be more than 0"),
        ({"retry": "x"}, "retry"),
    ],
)
def test_bad_declarations_are_refused_when_they_are_made(options, message: str) -> None:
    """A wrong option of @activity is a DefinitionError at once, not a surprise at run time."""
    with pytest.raises(DefinitionError, match=message):

        @activity(**options)
        def plain() -> None: ...


def test_calling_an_activity_outside_a_workflow_just_runs_it() -> None:
    """Outside a workflow an activity is the function that it was."""

    @activity
    def add(a: int, b: int) -> int:
        return a + b

    assert cast(object, add(1, 2)) == 3


async def test_queries_cannot_change_a_run() -> None:
    """A query works on a copy: tasks, resolved futures and changed variables leave the run as it was, and it replays."""

    @workflow
    async def counts() -> int:
        n = 0
        tasks: list[asyncio.Future[None]] = []
        done = asyncio.Event()

        @query
        def sneaky() -> int:
            nonlocal n
            n += 1
            return n

        @query
        def starts_a_task() -> None:
            tasks.append(asyncio.ensure_future(asyncio.sleep(1)))

        @query
        def wakes() -> None:
            done.set()

        @update
        async def finish() -> int:
            done.set()
            return n

        await done.wait()
        return n

    async with TestEngine(workflows=[counts]) as engine:
        run = await engine.start(counts, id="r")
        await engine.settle()
        assert [await run.query("sneaky") for _ in range(3)] == [1, 1, 1]
        for name in ("starts_a_task", "wakes"):
            with pytest.raises(QueryFailed, match="change"):
                await run.query(name)
        assert await run.update("finish") == 0
        assert await run.result() == 0
        assert await run.query("sneaky") == 1, "a finished run still answers"
        await check_replay(engine, "r")


async def test_time_moves_through_everything_that_becomes_due() -> None:
    """advance() fires timers in order and lets what follows each of them happen, however many there are."""

    @activity
    async def note(day: int) -> int:
        return day

    @workflow
    async def daily() -> list[int]:
        days = []
        for day in range(5):
            await asyncio.sleep(86400)
            days.append(await note(day))
        return days

    async with TestEngine(workflows=[daily], fakes={note: lambda day: day * 10}) as engine:
        run = await engine.start(daily)
        await engine.advance(3 * 86400)
        assert len(await run.history()) == 7
        engine.clock.may_jump = lambda: False
        with pytest.raises(TimeoutError, match="has not ended within"):
            await run.result(0.01)
        await engine.advance(2 * 86400)
        assert await run.result() == [0, 10, 20, 30, 40]


async def test_validators_cannot_change_a_run() -> None:
    """A validator that wakes something is refused, the update with it, and the run goes on unharmed."""

    @workflow
    async def careless() -> str:
        done = asyncio.Event()

        @update
        async def finish() -> str:
            done.set()
            return "finished"

        @finish.validator
        def check() -> None:
            done.set()

        @update
        def really() -> str:
            done.set()
            return "really"

        await done.wait()
        return "ended"

    async with TestEngine(workflows=[careless]) as engine:
        run = await engine.start(careless, id="r")
        await engine.settle()
        with pytest.raises(UpdateRejected, match="must only look"):
            await run.update("finish")
        await engine.settle()
        assert (await run.status()).status == "running"
        assert await run.update("really") == "really"
        assert await run.result() == "ended"
        await check_replay(engine, "r")


async def test_wrong_number_of_arguments_fails_at_the_call() -> None:
    """An activity that is called with arguments it does not take fails at once, and is not retried."""

    @activity
    async def one(n: int) -> int:
        return n

    @workflow
    async def tries() -> str:
        try:
            await one()  # type: ignore[call-arg]
        except TypeError as error:
            return str(error)
        return ""

    async with TestEngine(workflows=[tries]) as engine:
        run = await engine.start(tries)
        assert await run.result() == "activity one(n: 'int') -> 'int': missing a required argument: 'n'"
        assert [event.kind for event in await run.history()] == ["Started", "Completed"]


async def test_failures_say_where_they_were_raised() -> None:
    """RunFailed, its cause and the history name file, line and function of the user's code: the activity's first."""

    @activity(retry=Retry(max_attempts=1))
    async def breaks() -> None:
        dict[str, int]()["answer"]

    @workflow
    async def tries() -> None:
        await breaks()

    async with TestEngine(workflows=[tries]) as engine:
        run = await engine.start(tries)
        with pytest.raises(
            RunFailed, match=r"KeyError: 'answer' \(.*test_activities.py:\d+ in breaks, by way of .*:\d+ in tries\)"
        ) as caught:
            await run.result()
        assert "test_activities.py" in str(getattr(caught.value.__cause__, "__notes__", ""))
        failed = next(event for event in await run.history() if event.kind == "StepFailed")
        assert "in breaks" in failed.data["failure"]["where"]
