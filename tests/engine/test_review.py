"""What a reader of the code found: each was quiet, and wrong for whoever came across it."""

from __future__ import annotations

import asyncio
import contextvars
import datetime as dt
import gc
import math
import os
from pathlib import Path
from typing import Any

import pytest

from spellwork import Engine, Retry, Signal, activity, continue_as_new, now, start_child, workflow
from spellwork.engine.errands import Errands
from spellwork.engine.loading import Loader
from spellwork.engine.options import check_options
from spellwork.errors import (
    ActivityFailed,
    DefinitionError,
    ForbiddenInWorkflow,
    InternalError,
    NonDeterminismError,
    RunCancelled,
    RunFailed,
    RunNotFound,
)
from spellwork.journal.rows import Keys
from spellwork.store import Batch
from spellwork.testing import TestEngine

go = Signal[int]("go")
VARIABLE: contextvars.ContextVar[int] = contextvars.ContextVar("variable")


@activity(executor="process")
def in_process() -> int:
    return os.getpid()


@workflow
async def kid() -> int:
    return await go.receive()


# Activities and their options


async def test_options_are_for_one_call() -> None:
    """The activity itself, which everybody shares, keeps its limits and its retries."""
    tries = []

    @activity(retry=Retry(max_attempts=2, initial=0))
    async def flaky() -> None:
        tries.append(1)
        raise OSError("no")

    once = flaky.options(retry=Retry(max_attempts=1), timeout=dt.timedelta(seconds=5))
    assert once is not flaky
    assert (flaky.timeout, flaky.retry.max_attempts) == (None, 2)
    assert (once.timeout, once.retry.max_attempts, once.name) == (5.0, 1, "flaky")
    assert once.options(timeout=1).declared is flaky

    @workflow
    async def calls() -> int:
        counts = []
        for each in (once, flaky):
            before = len(tries)
            try:
                await each()
            except (OSError, ActivityFailed):
                counts.append(len(tries) - before)
        return counts[0] * 10 + counts[1]

    async with TestEngine(workflows=[calls]) as engine:
        assert await engine.run(calls) == 12


async def test_an_activity_with_options_runs_in_a_process_too() -> None:
    """What goes to the worker is the activity that its module has."""

    @workflow
    async def computes() -> int:
        return await in_process.options(timeout=60)()

    async with Engine(workflows=[computes], processes=1) as engine:
        assert await engine.run(computes) != os.getpid()


@pytest.mark.parametrize("options", [{"retry": 5}, {"timeout": math.nan}, {"timeout": math.inf}, {"timeout": "1"}, {"speed": 1}])
def test_options_are_checked(options: dict[str, Any]) -> None:
    """As they are where the activity is declared."""
    with pytest.raises(DefinitionError):
        in_process.options(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"initial": math.inf}, {"initial": math.nan}, {"initial": dt.timedelta.max}, {"initial": -1}, {"maximum": math.nan},
        {"maximum": math.inf}, {"backoff": math.nan}, {"backoff": math.inf}, {"jitter": math.nan}, {"max_attempts": 2.5},
        {"max_attempts": True}, {"initial": 10**400}, {"backoff": "2"}, {"jitter": "0"}, {"maximum": None},
    ],
)  # fmt: skip
def test_a_retry_whose_waits_have_no_end_is_refused(options: dict[str, Any]) -> None:
    """Else the first failure would take the engine down, each time that it is opened."""
    with pytest.raises(DefinitionError):
        Retry(**options)


def test_waits_end_at_the_maximum_and_are_spread_by_jitter() -> None:
    """Before attempt k+1: `initial * backoff ** (k - 1)`, at most `maximum`, and 20 % more or less with a jitter of 0.2."""
    policy = Retry(max_attempts=0, initial=1, backoff=10, maximum=30, jitter=0)
    assert [policy.wait_after(k, OSError(), 0.9) for k in (1, 2, 3, 500)] == [1, 10, 30, 30]
    spread = Retry(initial=10, jitter=0.2)
    assert [spread.wait_after(1, OSError(), s) for s in (0.0, 0.5)] == [8.0, 10.0]
    assert 11.9 < (spread.wait_after(1, OSError(), 0.999) or 0) < 12.0


# The engine's options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"partitions": 0}, "partitions must be 1 to 1024, not 0"),
        ({"partitions": 2.5}, "partitions must be 1 to 1024"),
        ({"max_partitions": 0}, "client=True"),
        ({"max_partitions": -1}, "max_partitions must be at least 1"),
        ({"processes": 0}, "processes must be at least 1"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"lease": math.nan}, "lease must be more than 0"),
        ({"lease": 0}, "lease must be more than 0"),
        ({"grace": math.nan}, "grace must be 0 to"),
        ({"grace": -1, "cache": -1}, "cache must be at least 0, not -1; grace"),
    ],
)
def test_options_out_of_bounds_are_refused(options: dict[str, Any], message: str) -> None:
    """When the engine is made, not when something is run; all that are wrong are named."""
    with pytest.raises(DefinitionError, match=message):
        Engine(**options)


def test_every_count_has_bounds() -> None:
    """What is given is what is checked."""
    check_options({"partitions": 1024, "threads": 1, "cache": 0, "max_recoveries": 3}, {"processes": None}, lease=0.5, grace=0)


async def test_sleeping_for_ever_is_a_long_timer() -> None:
    """As long as there is a date for; it can be cancelled like any other."""

    @workflow
    async def waits(seconds: float) -> int:
        return await asyncio.wait_for(go.receive(), seconds)

    async with TestEngine(workflows=[waits]) as engine:
        for seconds in (math.inf, 1.8446744073708e13):
            run = await engine.start(waits, seconds)
            await run.signal(go, 7)
            assert await run.result() == 7


# The guard


async def test_a_module_is_not_harmless_for_the_beginning_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`tokenizer_flow` is no part of `tokenize`: its workflows may not read files either."""
    (tmp_path / "tokenizer_flow.py").write_text(
        "from spellwork import workflow\n\n@workflow\nasync def reads(path: str) -> str:\n    return open(path).read()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    reads = __import__("tokenizer_flow").reads
    async with TestEngine(workflows=[reads]) as engine:
        with pytest.raises(RunFailed) as caught:
            await engine.run(reads, __file__)
    assert isinstance(caught.value.__cause__, ForbiddenInWorkflow)


# Loading


async def test_a_replay_that_fails_runs_no_clean_up_later(tmp_path: Path) -> None:
    """The code that it leaves is dropped at once, not by the garbage collector, which would run its `finally` as plain code."""
    refunds = []

    @activity
    async def pay(way: str) -> str:
        return way

    @activity
    async def refund() -> None:
        refunds.append(1)

    def paying(way: str) -> Any:
        @workflow(name="paying")
        async def paying() -> None:
            try:
                await pay(way)
                await go.receive()
            finally:
                await refund()

        return paying

    url, first, second = f"sqlite:{tmp_path / 'store.db'}", paying("card"), paying("cash")
    async with Engine(url, workflows=[first]) as engine:
        run = await engine.start(first, id="order")
        while len(await run.history()) < 2:
            await asyncio.sleep(0.01)
    async with Engine(url, workflows=[second]) as engine:
        run = await engine.get("order")
        with pytest.raises(NonDeterminismError):
            await run.query("anything")
        gc.collect()
        await asyncio.sleep(0.05)
    assert not refunds


async def test_a_blocked_run_is_written_once_for_each_reason(tmp_path: Path) -> None:
    """Not at each look at what waits for it: two owners would wake each other by that for ever."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    async with Engine(url, workflows=[kid], partitions=2) as engine:
        for n in range(6):
            await engine.start(kid, id=f"kid-{n}")
    async with Engine(url, max_partitions=1) as one, Engine(url, max_partitions=1) as other:
        assert (one.owned, other.owned) == (1, 1)
        async with Engine(url, client=True) as client:
            for n in range(6):
                await (await client.get(f"kid-{n}")).signal(go, n)
        await asyncio.sleep(0.3)
        before = await one.store.revision()
        await asyncio.sleep(1.0)
        assert await one.store.revision() - before < 10
    async with Engine(url, workflows=[kid]) as engine:
        assert [await (await engine.get(f"kid-{n}")).result(5) for n in range(6)] == list(range(6))


async def test_an_engine_that_cannot_take_up_what_it_started_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug behind the commit of a start must not leave its caller waiting for ever."""

    def adopt(*_args: Any) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(Loader, "adopt", adopt)
    async with Engine(workflows=[kid]) as engine:
        run = await asyncio.wait_for(engine.start(kid), 5)
        with pytest.raises(InternalError, match="a bug"):
            await run.result(5)


# Closing and keeping alive


async def test_grace_is_not_spent_on_steps_that_wait_for_their_retry(tmp_path: Path) -> None:
    """Nor does closing fail when no worker is left, as after an activity that changed its context."""

    @activity(retry=Retry(max_attempts=0, initial=600, jitter=0))
    async def fails() -> None:
        VARIABLE.set(1)
        raise OSError("no")

    @workflow
    async def retries() -> None:
        await fails()

    url = f"sqlite:{tmp_path / 'store.db'}"
    for _ in range(2):
        async with Engine(url, workflows=[retries], grace=60) as engine:
            run = await engine.start(retries, id="a")
            while len(await run.history()) < 2:
                await asyncio.sleep(0.01)
            closing = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - closing < 30


async def test_whatever_fails_while_closing_the_store_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else this very process would be named as its owner when it opens it again."""
    url = f"sqlite:{tmp_path / 'store.db'}"

    async def breaks(_grace: float) -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        async with Engine(url, workflows=[kid]) as engine:
            monkeypatch.setattr(engine._host, "close", breaks)
    async with Engine(url, workflows=[kid]) as engine:
        assert engine.owned == 4


async def test_a_broken_engine_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It has no partitions any more, and does not look for others."""
    async with Engine(f"sqlite:{tmp_path / 'store.db'}", workflows=[kid], lease=0.3) as engine:
        engine._broken(KeyError("a bug"))
        await asyncio.sleep(0.5)
        assert engine.owned == 0
    assert [record.message for record in caplog.records].count("the engine is broken") == 1


async def test_an_engine_whose_sign_of_life_breaks_stops(tmp_path: Path) -> None:
    """Others take its partitions, and it must not seem to go on."""

    async def breaks(_lost: Any) -> None:
        raise KeyError("a bug")

    async with Engine(f"sqlite:{tmp_path / 'store.db'}", workflows=[kid], lease=0.3) as engine:
        run = await engine.start(kid)
        engine._ownership.renew = breaks  # type: ignore[method-assign, assignment]
        with pytest.raises(InternalError, match="a bug"):
            await run.result(5)


async def test_replies_that_nobody_fetched_are_forgotten(tmp_path: Path) -> None:
    """Those of askers that were killed; a day is enough for the others."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    replies = (bytes((Keys.REPLIES,)), bytes((Keys.REPLIES + 1,)))
    async with Engine(url, workflows=[kid]) as engine:
        recent = engine._clock.now() - 3600 * 1_000_000
        for moment in (recent, recent - 86_400 * 1_000_000):
            await engine.store.commit(Batch().put(replies[0] + moment.to_bytes(8, "big") + bytes(8), b""))
        await engine._mail.forget_replies()
        left = await engine.store.scan(*replies)
        assert [key[1:9] for key, _ in left] == [recent.to_bytes(8, "big")]


# Children


@pytest.mark.parametrize(("policy", "status"), [("cancel", "cancelled"), ("terminate", "terminated"), ("abandon", "running")])
async def test_a_child_whose_start_nobody_awaited_is_closed_with_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: Any, status: str
) -> None:
    """Also when the process dies between the start of the child and whatever comes after: the word for it is in the same store."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    committed = asyncio.Event()
    start = Errands._start_child

    @workflow
    async def parent() -> None:
        starting = asyncio.create_task(start_child(kid, id="kid", parent_close=policy))
        await asyncio.sleep(0.05)  # asked for, and not answered
        del starting

    async def unanswered(self: Errands, live: Any, command: Any) -> None:
        append = self._host.append
        monkeypatch.setattr(self._host, "append", lambda *_: None)
        await start(self, live, command)
        monkeypatch.setattr(self._host, "append", append)
        committed.set()

    monkeypatch.setattr(Errands, "_start_child", unanswered)
    async with Engine(url, workflows=[parent, kid]) as engine:
        await (await engine.start(parent, id="parent")).result(5)
        await committed.wait()
    monkeypatch.undo()
    async with Engine(url, workflows=[parent, kid]) as engine:
        child = await engine.get("kid")
        for _ in range(200):
            if (await child.status()).status == status:
                break
            await asyncio.sleep(0.02)
        assert (await child.status()).status == status


async def test_the_end_of_a_parent_closes_no_run_that_only_has_the_name(tmp_path: Path) -> None:
    """It would have been its child's id: the run that has it must not be cancelled for that."""

    @workflow
    async def parent() -> None:
        asyncio.create_task(start_child(kid, id="taken"))  # noqa: RUF006 - nobody waits for it
        await asyncio.sleep(0)

    async with Engine(f"sqlite:{tmp_path / 'store.db'}", workflows=[parent, kid]) as engine:
        other = await engine.start(kid, id="taken")
        await engine.run(parent)
        await asyncio.sleep(0.1)
        await other.signal(go, 3)
        assert await other.result(5) == 3


@pytest.mark.parametrize("how", ["continued", "completed"])
async def test_a_cancellation_on_its_way_outlives_the_run_that_asked_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A crash between the end of the run and the arrival at the child loses nothing: it is in the batch of the end."""

    @workflow
    async def parent(again: bool) -> None:
        if again:
            child = await start_child(kid, id="its-child", parent_close="abandon")
            child.cancel("not needed")
            if how == "continued":
                continue_as_new(False)

    def dies(_self: Errands, _live: Any, _command: Any) -> None:
        """What a kill at this moment leaves of it."""

    async with Engine(f"sqlite:{tmp_path / 'store.db'}", workflows=[parent, kid]) as engine:
        monkeypatch.setattr(Errands, "cancel_child", dies)
        await engine.run(parent, True)
        child = await engine.get("its-child")
        with pytest.raises(RunCancelled, match="not needed"):
            await child.result(5)


async def test_a_parent_that_ended_first_starts_no_child(tmp_path: Path) -> None:
    """It would be closed at once; one that is to outlive its parent is started."""

    @workflow
    async def parent(policy: str) -> None:
        asyncio.create_task(start_child(kid, id=policy, parent_close=policy))  # type: ignore[arg-type] # noqa: RUF006
        await asyncio.sleep(0)

    async with Engine(f"sqlite:{tmp_path / 'store.db'}", workflows=[parent, kid]) as engine:
        for policy in ("cancel", "terminate", "abandon"):
            await engine.run(parent, policy)
        await asyncio.sleep(0.1)
        assert (await (await engine.get("abandon")).status()).status == "running"
        for policy in ("cancel", "terminate"):
            with pytest.raises(RunNotFound):
                await engine.get(policy)


async def test_now_is_exact_to_the_microsecond() -> None:
    """The time of the newest entry, as it is stored."""

    @workflow
    async def tells() -> int:
        return now().microsecond

    async with TestEngine(workflows=[tells]) as engine:
        run = await engine.start(tells)
        assert await run.result() == (await run.history())[0].at.microsecond
