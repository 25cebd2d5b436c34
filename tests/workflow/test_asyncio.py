"""asyncio itself, durable: each shape gives its result, and its journal replays to the same commands."""

from __future__ import annotations

import asyncio
import datetime as dt

import pytest

from spellwork import (
    ActivityFailed,
    Retry,
    RunCancelled,
    RunFailed,
    Signal,
    activity,
    continue_as_new,
    info,
    now,
    patched,
    random,
    rng,
    start_child,
    uuid4,
    workflow,
)
from spellwork.testing import TestEngine, check_replay


@activity
async def echo(x: int) -> int:
    return x


@activity
async def slowly(x: int) -> int:
    for _ in range(x):
        await asyncio.sleep(0)
    return x


@activity(retry=Retry(max_attempts=1))
async def fails(message: str) -> None:
    raise ValueError(message)


@workflow
async def sleeping() -> int:
    started = now()
    await asyncio.sleep(30 * 86400)
    return (now() - started).days


@workflow
async def gathering() -> list[int]:
    return await asyncio.gather(*(slowly(i) for i in (5, 1, 3)))


@workflow
async def grouped() -> int:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(echo(i)) for i in range(4)]
    return sum(task.result() for task in tasks)


@workflow
async def group_fails() -> str:
    said = "nothing"
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(1000))
            group.create_task(fails("one"))
    except* ValueError as errors:
        said = str(errors.exceptions[0])
    return said


@workflow
async def timing_out() -> str:
    try:
        async with asyncio.timeout(5):
            await asyncio.Event().wait()
    except TimeoutError:
        return "late"
    return "in time"


@workflow
async def waiting_for() -> list[str]:
    said = [str(await asyncio.wait_for(echo(1), 10))]
    try:
        await asyncio.wait_for(asyncio.sleep(100), 1)
    except TimeoutError:
        said.append("late")
    return said


@workflow
async def waiting() -> list[int]:
    tasks = [asyncio.create_task(asyncio.sleep(i, i)) for i in (3, 1, 2)]
    done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    first = [task.result() for task in done]
    for task in rest:
        task.cancel()
    return [*first, len(rest)]


@workflow
async def as_they_come() -> list[int]:
    out = []
    for each in asyncio.as_completed([slowly(4), slowly(0), slowly(2)]):
        value = await each
        out.append(await echo(value))
    return out


@workflow
async def shielded() -> list[str]:
    said: list[str] = []

    async def inner() -> None:
        await asyncio.sleep(2)
        said.append("inner ended")

    task = asyncio.create_task(inner())
    try:
        async with asyncio.timeout(1):
            await asyncio.shield(task)
    except TimeoutError:
        said.append("timed out")
    await task
    return said


@workflow
async def queueing() -> list[int]:
    queue: asyncio.Queue[int] = asyncio.Queue(2)
    got: list[int] = []

    async def produce() -> None:
        for i in range(5):
            await queue.put(await echo(i))

    async def consume() -> None:
        for _ in range(5):
            got.append(await queue.get())

    await asyncio.gather(produce(), consume())
    return got


@workflow
async def locking() -> list[str]:
    lock, limit, log = asyncio.Lock(), asyncio.Semaphore(2), []

    async def one(name: str) -> None:
        async with limit, lock:
            log.append(f"{name} in")
            await echo(1)
            log.append(f"{name} out")

    await asyncio.gather(one("a"), one("b"), one("c"))
    return log


@workflow
async def chances() -> list[str]:
    picks = [f"{random():.12f}", uuid4().hex, rng().choice("abcdef"), str(rng().randint(1, 10**9))]
    await echo(len(picks))
    return [*picks, f"{random():.12f}", info().run_id]


@workflow
async def catching() -> str:
    try:
        await fails("boom")
    except ValueError as error:
        return f"{error} {error.__notes__[1]}"
    return "no"


@workflow
async def double(n: int) -> int:
    return 2 * await echo(n)


@workflow
async def breaking(n: int) -> int:
    raise LookupError(f"child {n}")


@workflow
async def parents() -> list[int | str]:
    child = await start_child(double, 4, id="kid")
    out: list[int | str] = [await double(3), await child, child.id]
    try:
        await breaking(1)
    except RunFailed as error:
        out.append(f"{type(error.__cause__).__name__}")
    return out


@workflow
async def counting(left: int, total: int = 0) -> int:
    total += await echo(left)
    if left:
        continue_as_new(left - 1, total=total)
    return total


SHAPES = [
    (sleeping, (), 30),
    (gathering, (), [5, 1, 3]),
    (grouped, (), 6),
    (group_fails, (), "one"),
    (timing_out, (), "late"),
    (waiting_for, (), ["1", "late"]),
    (waiting, (), [1, 2]),
    (as_they_come, (), [0, 2, 4]),
    (shielded, (), ["timed out", "inner ended"]),
    (queueing, (), [0, 1, 2, 3, 4]),
    (locking, (), ["a in", "a out", "b in", "b out", "c in", "c out"]),
    (catching, (), "boom activity fails failed"),
    (parents, (), [6, 8, "kid", "LookupError"]),
    (counting, (3,), 6),
]


@pytest.mark.parametrize(("shape", "args", "expected"), SHAPES, ids=lambda v: getattr(v, "name", ""))
async def test_shape_gives_its_result_and_replays(shape, args, expected) -> None:
    """What a workflow does with asyncio is the same the first time and on replay."""
    async with TestEngine(workflows=[entry[0] for entry in SHAPES] + [double, breaking]) as engine:
        assert await engine.run(shape, *args, id="r") == expected
        await check_replay(engine, "r")


@pytest.mark.parametrize(("shape", "args", "expected"), SHAPES, ids=lambda v: getattr(v, "name", ""))
async def test_every_prefix_of_a_journal_replays(shape, args, expected) -> None:
    """Law: replay is prefix-closed and a fixed point: from any prefix, the code asks for exactly what came next."""
    from spellwork.engine import rows
    from spellwork.journal import ErrorRegistry
    from spellwork.workflow import Execution

    async with TestEngine(workflows=[entry[0] for entry in SHAPES] + [double, breaking]) as engine:
        await engine.run(shape, *args, id="r")
        info_ = await (await engine.get("r")).status()
        entries = await engine.store.read(lambda reader: rows.read_entries(reader, info_.number))
        for length in range(1, len(entries) + 1):
            execution = Execution(info_.number, shape, engine.codec, ErrorRegistry())
            execution.replay(entries[:length])
            assert execution.position == length
            assert execution.finished == (length >= len(entries) - 1)
            execution.close()


async def test_randomness_is_the_runs_own_and_replays() -> None:
    """Random numbers and ids differ between runs and stay the same when a run is replayed."""
    async with TestEngine(workflows=[chances]) as engine:
        first = await engine.run(chances, id="one")
        second = await engine.run(chances, id="two")
        assert first[:5] != second[:5]
        assert first[5] == "one"
        await check_replay(engine, "one")


async def test_cancellation_unwinds_and_is_final() -> None:
    """cancel() raises CancelledError at the await; finally runs activities; the run ends cancelled."""
    cleaned: list[int] = []

    @activity
    async def clean(n: int) -> None:
        cleaned.append(n)

    @workflow
    async def careful() -> None:
        try:
            await asyncio.sleep(10**6)
        finally:
            await asyncio.shield(clean(1))
            await clean(2)

    async with TestEngine(workflows=[careful]) as engine:
        run = await engine.start(careful)
        await engine.settle()
        await run.cancel("enough")
        with pytest.raises(RunCancelled, match="enough"):
            await run.result()
        assert cleaned == [1, 2]
        await check_replay(engine, run.id)


async def test_child_is_cancelled_with_its_parent() -> None:
    """The parent-close policies: cancel, terminate and abandon."""
    never = Signal[int]("never")

    @workflow
    async def waits() -> int:
        return await never.receive()

    @workflow
    async def parent() -> None:
        await start_child(waits, id="cancel")
        await start_child(waits, id="terminate", parent_close="terminate")
        await start_child(waits, id="abandon", parent_close="abandon")

    async with TestEngine(workflows=[waits, parent]) as engine:
        await engine.run(parent)
        await engine.settle()
        states = {info.id: info.status.value for info in await engine.list(workflow="waits")}
        assert states == {"cancel": "cancelled", "terminate": "terminated", "abandon": "running"}


async def test_signals_are_typed_buffered_deduplicated_and_time_out() -> None:
    """Signals wait for their receiver, come once for one id, in order, and `receive` gives the default after its timeout."""
    numbers = Signal[int]("numbers")

    @workflow
    async def collect() -> list[int | None]:
        await asyncio.sleep(10)
        got: list[int | None] = [await numbers.receive(), await numbers.receive()]
        got.append(await numbers.receive(timeout=dt.timedelta(hours=1)))
        got.append(await numbers.receive(timeout=5, default=-1))
        return got

    async with TestEngine(workflows=[collect]) as engine:
        run = await engine.start(collect)
        await run.signal(numbers, 1, id="x")
        await run.signal(numbers, 1, id="x")
        await run.signal("numbers", 2)
        assert await run.result() == [1, 2, None, -1]
        await check_replay(engine, run.id)


async def test_continuing_carries_unread_signals() -> None:
    """What was sent before continue_as_new and not yet received is received by the next run of the chain."""
    inbox = Signal[str]("inbox")

    @workflow
    async def relay(left: int) -> str:
        word = await inbox.receive()
        if left:
            continue_as_new(left - 1)
        return word

    async with TestEngine(workflows=[relay]) as engine:
        run = await engine.start(relay, 2)
        for word in ("a", "b", "c"):
            await run.signal(inbox, word)
        assert await run.result() == "c"


async def test_patched_tells_old_runs_from_new_ones(tmp_path) -> None:
    """A run that passed the place before the patch keeps the old path; a new run takes the new one; both replay."""
    go = Signal[int]("go")

    @workflow(name="w")
    async def before() -> str:
        await echo(1)
        await go.receive()
        return "old"

    @workflow(name="w")
    async def after() -> str:
        if patched("first"):
            await echo(2)
        await echo(1) if not patched("second") else await echo(3)
        await go.receive()
        return "new" if patched("first") else "old"

    url = f"sqlite:{tmp_path / 'store.db'}"
    async with TestEngine(url, workflows=[before]) as engine:
        await engine.start(before, id="old")
        await engine.settle()
    async with TestEngine(url, workflows=[after]) as engine:
        new = await engine.start(after, id="new")
        old = await engine.get("old")
        for run in (old, new):
            await run.signal(go, 1)
        assert await old.result() == "old"
        assert await new.result() == "new"
        await check_replay(engine, "old")
        await check_replay(engine, "new")


async def test_runs_keep_the_version_they_were_started_with() -> None:
    """Several versions of a workflow are registered at once; new runs take the newest, old ones their own."""
    go = Signal[int]("go")

    @workflow(name="w", version="1")
    async def one() -> int:
        return 1 + await go.receive()

    @workflow(name="w", version="2")
    async def two() -> int:
        return 20 + await go.receive()

    async with TestEngine(workflows=[one, two]) as engine:
        old = await engine.start(one)
        new = await engine.start("w")
        for run in (old, new):
            await run.signal(go, 1)
        assert [await old.result(), await new.result()] == [2, 21]


async def test_unregistered_error_classes_come_back_as_activity_failed() -> None:
    """A class that is not registered is not rebuilt: its name, message and data are."""

    class Strange(Exception):
        pass

    @activity(retry=Retry(max_attempts=1))
    async def odd() -> None:
        raise Strange("how", 3)

    @workflow
    async def sees() -> str:
        try:
            await odd()
        except ActivityFailed as error:
            return f"{error.type.rpartition('.')[2]} {error.data}"
        except Strange as error:
            return f"itself {error.args}"
        return "nothing"

    async with TestEngine(workflows=[sees]) as engine:
        assert await engine.run(sees) == "Strange ['how', 3]"
    async with TestEngine(workflows=[sees], errors=[Strange]) as engine:
        assert await engine.run(sees) == "itself ('how', 3)"


async def test_chain_of_runs_has_children_and_messages_of_its_own() -> None:
    """Each run of a continue_as_new chain starts its own children, and a message with an id that the chain had is ignored."""
    inbox = Signal[int]("inbox")

    @workflow
    async def chain(left: int, total: int = 0) -> int:
        total += await double(left)
        total += await inbox.receive()
        if left:
            continue_as_new(left - 1, total)
        return total

    async with TestEngine(workflows=[chain, double]) as engine:
        run = await engine.start(chain, 1, id="c")
        await run.signal(inbox, 100, id="x")
        await engine.settle()
        await run.signal(inbox, 100, id="x")
        await engine.settle()
        assert (await run.status()).status == "running", "the repeated signal did not count"
        await run.signal(inbox, 1000, id="y")
        assert await run.result() == 2 + 100 + 0 + 1000
        assert {info.id for info in await engine.list(workflow="double")} == {"c.1", "c~1.1"}
