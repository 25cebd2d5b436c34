"""The promises of the design, each under the circumstance in which a careless engine breaks it."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any, cast

import apsw
import msgspec
import pytest

from spellwork import Engine, Retry, RunCancelled, Signal, Workflow, activity, activity_context, now, start_child, update, workflow
from spellwork.engine.desk import Desk
from spellwork.engine.messages import AskCancel
from spellwork.engine.ownership import Ownership, read_claims
from spellwork.errors import RunBlocked, RunFinished, StoreCorrupt
from spellwork.journal import entries as e
from spellwork.journal import pack_entry, unpack_entry
from spellwork.journal.rows import Keys, active_key, journal_key
from spellwork.store import Batch, open_store
from spellwork.testing import TestEngine, laws

go = Signal[int]("go")


def slow_disk(point: str) -> None:
    """A probe: whatever is told before its group is written is told 10 ms too early."""
    if point == "commit.before":
        time.sleep(0.01)


def durable(path: Path, kind: type[Any]) -> int:
    """How many entries of this kind are in the file, as another process would see it."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        rows = connection.execute(
            "SELECT k, v FROM kv WHERE k >= ? AND k < ?", (bytes((Keys.JOURNAL,)), bytes((Keys.JOURNAL + 1,)))
        )
        return sum(isinstance(unpack_entry(key, frame), kind) for key, frame in rows)
    finally:
        connection.close()


async def test_a_batch_is_acknowledged_after_it_is_durable(tmp_path: Path) -> None:
    """Whoever is told of a commit finds it in the file."""
    path = tmp_path / "store.db"
    store = open_store(f"sqlite:{path}", probe=slow_disk)
    told: list[bool] = []

    def look(_outcome: object) -> None:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        told.append(connection.execute("SELECT 1 FROM kv WHERE k = ?", (b"\x90key",)).fetchone() is not None)
        connection.close()

    store.submit(Batch().put(b"\x90key", b"value"), look)
    await store.commit(Batch())
    await store.close()
    assert told == [True]


async def test_nothing_leaves_the_process_before_what_it_rests_on_is_durable(tmp_path: Path) -> None:
    """Activities, answers to signals and updates, and results come after the entries that they are based on."""
    path = tmp_path / "store.db"
    seen: list[tuple[int, int]] = []

    @activity
    async def effect(n: int) -> int:
        seen.append((n, durable(path, e.StepCompleted)))
        return n

    @workflow
    async def steps() -> int:
        @update
        async def put(value: int) -> int:
            return value

        for n in range(4):
            await effect(n)
        return await go.receive()

    async with Engine(f"sqlite:{path}", workflows=[steps], probe=slow_disk) as engine:
        run = await engine.start(steps)
        assert durable(path, e.Started) == 1
        assert await run.update("put", 1) == 1
        assert durable(path, e.UpdateCompleted) == 1
        async with asyncio.timeout(10):
            while len(seen) < 4:
                await asyncio.sleep(0.001)
        waiting = asyncio.create_task(run.result())
        await run.signal(go, 7)
        assert durable(path, e.SignalReceived) == 1
        assert await asyncio.wait_for(waiting, 10) == 7
        assert durable(path, e.Completed) == 1
    assert all(n <= committed for n, committed in seen), seen


async def test_no_timer_fires_early() -> None:
    """Timers that are due close to each other fire each at its own time, in memory and in the store."""
    woke: dict[int, float] = {}

    @activity
    async def note(ms: int) -> None:
        woke[ms] = engine.clock.monotonic()

    @workflow
    async def sleeper(ms: int) -> None:
        await asyncio.sleep(ms / 1000)
        await note(ms)

    for cache in (256, 0):
        woke.clear()
        async with TestEngine(workflows=[sleeper], cache=cache) as engine:
            began = engine.clock.monotonic()
            runs = [await engine.start(sleeper, ms) for ms in range(1, 40)]
            await asyncio.gather(*(run.result() for run in runs))
        assert [ms for ms, at in sorted(woke.items()) if at - began < ms / 1000 - 1e-6] == []


async def test_a_timer_of_a_lost_life_does_not_fire_for_the_run_that_was_loaded_anew() -> None:
    """Its partition was lost and taken again: what the same process remembers of the run's earlier life is not due now."""

    @workflow
    async def sleeps() -> float:
        began = now()
        await asyncio.sleep(60)
        return (now() - began).total_seconds()

    async with TestEngine(workflows=[sleeps]) as engine:
        run = await engine.start(sleeps)
        await engine.advance(1)
        live = next(iter(engine._host.runs.values()))
        (n,) = live.execution.pending
        engine._host.timers.add(engine.clock.now() + 2_000_000, live.number, n)
        assert await run.result() == 60


async def test_a_clock_that_is_set_back_while_a_run_is_loaded_loses_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The timer that was due is not any more: it is looked for again when it is."""

    @workflow
    async def sleeps() -> str:
        await asyncio.sleep(60)
        return "awake"

    async with TestEngine(workflows=[sleeps], cache=0) as engine:
        run = await engine.start(sleeps)
        await engine.settle()
        load = engine._host.loader.load

        async def set_back(number: int, **options: bool) -> Any:
            monkeypatch.setattr(engine._host.loader, "load", load)
            live = await load(number, **options)
            engine.clock._now -= 10_000_000
            return live

        monkeypatch.setattr(engine._host.loader, "load", set_back)
        assert await asyncio.wait_for(run.result(), 20) == "awake"


async def test_a_run_that_one_timer_wakes_leaves_the_others_asleep() -> None:
    """A run comes back into memory for the timer that is due; those that are not keep their moment."""
    woke: list[tuple[int, float]] = []

    @activity
    async def note(seconds: int) -> None:
        woke.append((seconds, engine.clock.monotonic()))

    @workflow
    async def sleeper() -> None:
        async def nap(seconds: int) -> None:
            await asyncio.sleep(seconds)
            await note(seconds)

        await asyncio.gather(nap(2), nap(60), nap(3600))

    async with TestEngine(workflows=[sleeper], cache=0) as engine:
        began = engine.clock.monotonic()
        await engine.run(sleeper)
    assert [(seconds, round(at - began)) for seconds, at in woke] == [(2, 2), (60, 60), (3600, 3600)]


async def test_time_never_runs_backwards_in_a_journal() -> None:
    """The wall clock goes back an hour in the middle of a run: the times of its entries, and its now(), do not."""

    @activity
    async def turn_back() -> None:
        engine.clock._now -= 3_600_000_000

    @workflow
    async def looks() -> bool:
        before = now()
        await turn_back()
        await asyncio.sleep(1)
        return now() >= before

    async with TestEngine(workflows=[looks]) as engine:
        run = await engine.start(looks, id="r")
        await asyncio.sleep(0)
        assert await run.result() is True
        await laws.check_laws(engine, "r")


class _Hands:
    """A clock whose wall time and whose monotonic time are set apart."""

    longest_wait = float("inf")

    def __init__(self) -> None:
        self.wall, self.steady, self.drawn = 1_700_000_000_000_000, 100.0, 0

    def now(self) -> int:
        return self.wall

    def monotonic(self) -> float:
        return self.steady

    def entropy(self, size: int) -> bytes:
        self.drawn += 1
        return self.drawn.to_bytes(size, "big")

    def call_later(self, seconds: float, callback: Any) -> Any:
        return asyncio.get_running_loop().call_later(seconds, callback)


async def test_an_owner_is_replaced_after_its_lease_by_the_observers_steady_clock_and_not_before() -> None:
    """Neither a second look nor a wall clock that jumps ten years makes a living owner's lease run out."""
    clock = _Hands()
    store = open_store("memory:")
    first, second = Ownership(store, clock, 10.0), Ownership(store, clock, 10.0)
    first.me = msgspec.structs.replace(first.me, machine="elsewhere")
    assert await first.claim(1, 1) == [0]
    epoch = (await store.read(lambda reader: read_claims(reader, 1)))[0].epoch
    for wall, steady in ((0, 0.0), (0, 5.0), (10 * 365 * 86400 * 1_000_000, 4.0)):
        clock.wall += wall
        clock.steady += steady
        assert await second.claim(1, 1) == []
    await first.renew(lambda _index: None)
    clock.steady += 9.0
    assert await second.claim(1, 1) == [], "a sign of life begins a new lease"
    clock.steady += 9.0
    assert await second.claim(1, 1) == []
    clock.steady += 1.0
    assert await second.claim(1, 1) == [0]
    assert (await store.read(lambda reader: read_claims(reader, 1)))[0].epoch > epoch
    lost: list[int] = []
    await first.renew(lost.append)
    assert lost == [0], "the one that was replaced is told"
    first.close()
    second.close()
    await store.close()


async def test_a_child_is_the_same_child_for_every_replay_of_its_parent() -> None:
    """A parent that is replayed before it knows that its child exists asks for the same child."""

    @workflow
    async def kid() -> int:
        return await go.receive()

    @workflow
    async def parent() -> int:
        child = await start_child(kid)
        return await child

    async with TestEngine(workflows=[kid, parent]) as engine:
        await engine.start(parent, id="p")
        await engine.settle()
        journal = (await laws.journals(engine, "p"))[0]
        asked = []
        for _ in range(2):
            replay = laws.Replay(journal)
            replay.replay(journal.entries[:1])
            asked += [laws.told(command) for command in replay.outbox]
            replay.close()
        assert asked[0] == asked[1]
        assert asked[0][4] == "p.1"


@pytest.mark.parametrize("seconds", [0, 5])
async def test_an_end_that_is_known_is_final(seconds: int) -> None:
    """A cancellation that was accepted ends the run as cancelled; one that came too late is refused and changes nothing."""

    @activity
    async def same(x: int) -> int:
        return x

    @workflow
    async def sleeps() -> int:
        await asyncio.sleep(seconds)
        return await same(1)

    async with TestEngine(workflows=[sleeps]) as engine:
        run = await engine.start(sleeps)
        await engine.advance(1)
        if seconds:
            await run.cancel("enough")
            with pytest.raises(RunCancelled, match="enough"):
                await run.result()
        else:
            with pytest.raises(RunFinished):
                await run.cancel("enough")
            assert await run.result() == 1


async def test_a_child_may_end_before_its_parent_knows_that_it_started(monkeypatch) -> None:
    """The news of a start is late and that of the end is early: the parent gets both, in their order."""
    real = Desk.start

    async def late(self: Desk, message: Any, partition: Any, extra: Any = None) -> Any:
        row = await real(self, message, partition, extra)
        for _ in range(100 if message.parent is not None else 0):
            await asyncio.sleep(0)
        return row

    monkeypatch.setattr(Desk, "start", late)

    @workflow
    async def kid(x: int) -> int:
        return x

    @workflow
    async def parent() -> int:
        return await kid(7)

    async with TestEngine(workflows=[kid, parent]) as engine:
        run = await engine.start(parent, id="p")
        assert await run.result(5) == 7
        kinds = [event.kind for event in await run.history()]
    assert kinds == ["Started", "ChildStarted", "ChildEnded", "Completed"]


async def test_run_numbers_are_never_used_twice(tmp_path: Path) -> None:
    """What one engine has written the next one does not write over."""

    @workflow
    async def says(word: str) -> str:
        return word

    words = ["one", "two", "three"]
    for i, word in enumerate(words):
        async with Engine(f"sqlite:{tmp_path / 'store.db'}", workflows=[says]) as engine:
            assert await engine.run(says, word, id=word) == word
            assert [await (await engine.get(each)).result() for each in words[: i + 1]] == words[: i + 1]
            assert len({info.number for info in await engine.list()}) == i + 1


async def test_a_late_result_of_an_attempt_that_was_given_up_does_not_count() -> None:
    """A thread that outlives its limit returns while its step waits for the next attempt: the next attempt's result counts."""
    release, returned = threading.Event(), threading.Event()

    @activity(timeout=0.05, retry=Retry(max_attempts=2, initial=0.3, jitter=0))
    def stuck() -> str:
        if activity_context().attempt > 1:
            return "second"
        release.wait(10)
        returned.set()
        return "late"

    @workflow
    async def tries() -> str:
        return await stuck()

    async with Engine(workflows=[tries]) as engine:
        run = await engine.start(tries)
        while len(await run.history()) < 2:
            await asyncio.sleep(0.001)
        release.set()
        assert await run.result(10) == "second"
        assert returned.is_set()
        kinds = [event.kind for event in await run.history()]
    assert kinds == ["Started", "AttemptFailed", "StepCompleted", "Completed"]


async def test_what_is_live_is_what_is_replayed() -> None:
    """A step returns what was stored, the first time too: an object that the activity keeps is not shared with the workflow."""
    kept: list[int] = []

    @activity
    async def keep(x: int) -> Any:
        kept.append(x)
        return kept

    @workflow
    async def sums() -> list[int]:
        first = await keep(1)
        await keep(2)
        return [len(first), len(await keep(3))]

    async with TestEngine(workflows=[sums]) as engine:
        assert await engine.run(sums, id="r") == [1, 3]
        await laws.check_laws(engine, "r")


async def test_two_that_claim_a_partition_side_by_side_do_not_both_win_it() -> None:
    """Both find it free; one gets it, the other is refused."""
    store = open_store("memory:")
    owners = [Ownership(store, _Hands(), 10.0) for _ in range(2)]
    won = await asyncio.gather(*(owner.claim(1, 1) for owner in owners))
    assert sorted(won) == [[], [0]]
    for owner in owners:
        owner.close()
    await store.close()


async def test_progress_takes_a_run_off_the_list_of_suspects(tmp_path: Path) -> None:
    """A run that was at work at several crashes counts from zero once it has got on."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    may, stuck = asyncio.Event(), asyncio.Event()

    @activity
    async def works(n: int) -> int:
        if n:
            stuck.set()
            await asyncio.Event().wait()
        await may.wait()
        return n

    @workflow
    async def long() -> None:
        await works(0)
        await works(1)

    async with Engine(url, workflows=[long]) as engine:
        await engine.start(long, id="r")
        row = await engine._router.row("r")
    key = active_key(row.partition, row.number)
    async with Engine(url, workflows=[long], client=True) as engine:
        await engine.store.commit(Batch().put(key, bytes((3,))))
    async with Engine(url, workflows=[long]) as engine:
        while await engine.store.get(key) != bytes((4,)):
            await asyncio.sleep(0.001)
        may.set()
        await asyncio.wait_for(stuck.wait(), 10)
        await engine.store.commit(Batch())
        assert await engine.store.get(key) == b""


def test_a_flipped_letter_and_a_swapped_row_are_refused_by_the_frame() -> None:
    """An entry's checksum covers its key and its form, whatever the store below it checks."""
    key, other = journal_key(1, 2), journal_key(1, 3)
    frame = pack_entry(key, e.SignalReceived(0, "name", b"payload"))
    assert unpack_entry(key, frame) == e.SignalReceived(0, "name", b"payload")
    for where, what in ((other, frame), (key, frame.replace(b"payload", b"pAyload"))):
        with pytest.raises(StoreCorrupt, match="damaged"):
            unpack_entry(where, what)


@workflow
async def echoes(word: str) -> list[Any]:
    return [word, await go.receive(), await go.receive()]


@pytest.mark.parametrize("damage", ["a letter", "a hole"])
async def test_a_damaged_journal_is_named_and_its_neighbours_go_on(tmp_path: Path, damage: str) -> None:
    """A flipped byte that still decodes, and an entry that is missing where replay would not miss it, block their run alone."""
    path = tmp_path / "store.db"
    numbers = {}
    async with Engine(f"sqlite:{path}", workflows=[echoes]) as engine:
        for name in ("ill", "well"):
            run = await engine.start(echoes, "original", id=name)
            numbers[name] = (await run.status()).number
            await run.signal(go, 1)
            await run.signal("other", 2)
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    if damage == "a letter":
        key = journal_key(numbers["ill"], 0)
        frame: Any = connection.execute("SELECT v FROM kv WHERE k = ?", (key,)).get
        assert frame.count(b"original") == 1
        connection.execute("UPDATE kv SET v = ? WHERE k = ?", (frame.replace(b"original", b"Original"), key))
    else:
        connection.execute("DELETE FROM kv WHERE k = ?", (journal_key(numbers["ill"], 1),))
    connection.close()
    async with Engine(f"sqlite:{path}", workflows=[echoes]) as engine:
        ill, well = await engine.get("ill"), await engine.get("well")
        for run in (ill, well):
            await run.signal(go, 3)
        assert await well.result(10) == ["original", 1, 3]
        with pytest.raises(RunBlocked, match=r"damaged|missing"):
            await ill.result(10)


hello = Signal[int]("hello")
pace = {"long": 0.0, "short": 0.0}


@activity
async def takes(name: str) -> None:
    """Still at work when the engine is closed."""
    await asyncio.sleep(pace[name])


@workflow
async def busy() -> None:
    """What the closing waits for."""
    await takes("long")


@workflow
async def hears(count: int) -> list[int]:
    """Hears so many signals."""
    return [await hello.receive() for _ in range(count)]


@workflow
async def tells(count: int) -> list[int]:
    """Sends them, once its step is done."""
    child = await start_child(hears, count)
    await takes("short")
    await asyncio.gather(*(child.signal(hello, number) for number in range(count)))
    found: list[int] = await child.result()
    return found


async def test_what_runs_tell_each_other_while_the_engine_closes_is_not_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A step ends in the grace of the closing, and its run signals another one then: no error for it, and none of the engine."""
    url, runs = f"sqlite:{tmp_path}/store.db", cast("list[Workflow[Any, Any]]", [busy, hears, tells])
    for pace["short"], pace["long"] in ((0.05, 0.3), (0.05, 0.055), (0.01, 0.01)):
        async with Engine(url, workflows=runs, activities=[takes], grace=1.0) as engine:
            await engine.start(busy)
            run = await engine.start(tells, 5)
        async with Engine(url, workflows=runs, activities=[takes]) as engine:
            assert await (await engine.get(run.id)).result(5) == list(range(5))
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize("turns", range(5))
async def test_whoever_waits_for_another_owner_can_be_interrupted(turns: int, tmp_path: Path) -> None:
    """Also in the very moment in which the store rings; closing an engine waits for it."""
    async with Engine(f"sqlite:{tmp_path}/store.db", partitions=2, max_partitions=1) as engine:
        rings: list[Any] = []
        listen = engine.store.on_change

        def listened(ring: Any, **options: Any) -> Any:
            rings.append(ring)
            return listen(ring, **options)

        engine.store.on_change = listened  # type: ignore[method-assign, assignment]
        (other,) = {0, 1} - set(engine._host.partitions)
        asked = asyncio.create_task(engine._mail.ask(AskCancel("nobody", "why not"), other))
        await asyncio.sleep(0.2)
        rings[-1]()
        for _ in range(turns):
            await asyncio.sleep(0)
        asked.cancel()
        done, _ = await asyncio.wait([asked], timeout=2)
        asked.cancel()
        assert done
