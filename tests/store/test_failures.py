"""What fails and goes on: a full disk, a failed sync, and everybody whose work was built on what is not there."""

from __future__ import annotations

import asyncio
import functools
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spellwork.errors import Conflict, StoreError, StoreFailed, StoreFull
from spellwork.store import Batch, Keyspace, Store
from spellwork.store.patience import Patience
from spellwork.store.rocksdb import RocksBackend
from spellwork.testing.chaos import disk
from tests.store.faulty import MAKERS, WRITES, Faulty, broken, full, store_over

PLAIN = Keyspace("plain", 0x40)


@pytest.fixture(params=list(MAKERS))
def made(request, tmp_path: Path):
    """Makes a fresh backend of each kind."""
    count = 0

    def make():
        nonlocal count
        count += 1
        place = tmp_path / str(count)
        place.mkdir()
        return MAKERS[request.param](place)

    return make


def batches() -> list[tuple[Batch, dict[bytes, bytes | None]]]:
    """Batches of several kinds, and what the keys are after each."""
    a, b, c = (PLAIN.key(name) for name in (b"a", b"b", b"c"))
    return [
        (Batch().put(a, b"1").put(b, b"1"), {a: b"1", b: b"1"}),
        (Batch().delete_range(a, b + b"\0").put(c, b"2" * 5000), {a: None, b: None, c: b"2" * 5000}),
        (Batch().merge(a, "append", b"3").delete(c), {a: b"3", c: None}),
        (Batch().append(PLAIN.key(b"log"), b"entry"), {PLAIN.key(b"log") + (1).to_bytes(8, "big"): b"entry"}),
        # what is known of the counter from the first one, or from this one before it failed, must not pass a number over
        (Batch().append(PLAIN.key(b"log"), b"next"), {PLAIN.key(b"log") + (2).to_bytes(8, "big"): b"next"}),
        (Batch().append(PLAIN.key(b"log"), b"last"), {PLAIN.key(b"log") + (3).to_bytes(8, "big"): b"last"}),
    ]


async def until_written(store: Store, batch: Batch, expected: dict[bytes, bytes | None]) -> int:
    """Write a batch; after an error look whether it is there, wholly or not at all, and if not, write it again."""
    for tries in range(4):
        try:
            await store.commit(batch)
        except StoreFailed:
            found = {key: await store.get(key) for key in expected}  # reads go on
            if found == expected:
                return tries + 1
            assert not any(value is not None and found[key] == value for key, value in expected.items()), "half a batch"
        else:
            return tries
    raise AssertionError("writes did not resume")


@pytest.mark.parametrize(("step", "error"), [(step, broken) for step in WRITES] + [(step, full) for step in WRITES[:-1]])
async def test_a_fault_at_any_write_is_told_once_and_then_writes_resume(made, step: str, error) -> None:
    """Whatever write of whatever batch fails: a typed error, nothing partial, reads go on, and the next try succeeds."""
    work = batches()
    count = sum(name == step for name in await _steps(made()))
    assert count
    for number in range(1, count + 1):
        seen = 0

        def fails(name: str, _number: int, number: int = number) -> BaseException | None:
            nonlocal seen
            seen += name == step
            return error(step) if name == step and seen == number else None

        backend = Faulty(made(), fails)
        store = store_over(backend)
        final: dict[bytes, bytes | None] = {}
        tries = 0
        for batch, expected in work:
            tries += await until_written(store, batch, expected)
            final.update(expected)
        assert tries == 1
        await store.commit(Batch().put(PLAIN.key(b"last"), b""))
        assert {key: await store.get(key) for key in final} == final
        assert bool(backend.reopened) is (error is broken), "a full disk leaves no doubt, an error of the disk does"
        await store.close()


async def _steps(backend) -> list[str]:
    faulty = Faulty(backend, lambda _name, _number: None)
    store = store_over(faulty)
    for batch, _ in batches():
        await store.commit(batch)
    await store.close()
    return faulty.journal


async def test_after_a_failed_sync_what_writes_is_opened_anew(made) -> None:
    """Nobody knows what the disk holds then, so what writes is opened anew before the next batch, until that succeeds."""
    failing = [True]
    backend = Faulty(made(), lambda name, _number: broken(name) if name == "after" and failing.pop(0) else None)
    failing += [False] * 10
    stuck = [StoreFailed("it cannot be opened"), None]
    reopen = backend.reopen

    def reopening() -> None:
        reopen()
        if (error := stuck.pop(0)) is not None:
            raise error

    backend.reopen = reopening  # type: ignore[method-assign]
    store = store_over(backend)
    with pytest.raises(StoreFailed, match="refused"):
        await store.commit(Batch().put(PLAIN.key(b"a"), b""))
    with pytest.raises(StoreFailed, match="cannot be opened"):
        await store.commit(Batch().put(PLAIN.key(b"b"), b""))
    await store.commit(Batch().put(PLAIN.key(b"c"), b""))
    assert backend.journal == ["begin", "write", "commit", "after", "reopen", "reopen", "begin", "write", "commit", "after"]
    assert await store.get(PLAIN.key(b"b")) is None
    await store.close()


@pytest.mark.parametrize("error", [full, broken])
async def test_what_was_submitted_before_a_failure_was_known_fails_with_it(made, error) -> None:
    """Of a stream of batches that nobody waits for, none behind the one that failed is written; the next stream is."""
    commits = 0

    def fails(name: str, _number: int) -> BaseException | None:
        nonlocal commits
        commits += name == "commit"
        return error(name) if name == "commit" and commits == 3 else None

    store = store_over(Faulty(made(), fails))
    outcomes: dict[int, int | StoreError] = {}
    number = -1
    while not any(isinstance(outcome, StoreError) for outcome in outcomes.values()):
        number += 1
        store.submit(Batch().put(PLAIN.key(b"%05d" % number), b""), functools.partial(outcomes.__setitem__, number))
        await asyncio.sleep(0)
    sent = number + 1
    while len(outcomes) < sent:
        await asyncio.sleep(0.001)
    good = [number for number in range(sent) if isinstance(outcomes[number], int)]
    assert good == list(range(len(good)))
    assert len(good) < sent
    assert store.pending == 0
    await store.commit(Batch().put(PLAIN.key(b"next"), b""))
    assert [key for key, _ in await store.scan(*PLAIN.range())] == [PLAIN.key(b"%05d" % n) for n in good] + [PLAIN.key(b"next")]
    await store.close()


async def test_a_batch_that_was_told_takes_no_more_rows(made) -> None:
    """What is submitted while a failure is told hears of it at once, sealed, so that nobody adds rows to what is not written."""
    left = [True]
    store = store_over(Faulty(made(), lambda name, _number: full(name) if name == "commit" and left and left.pop() else None))
    second, told = Batch().put(PLAIN.key(b"b"), b""), asyncio.get_running_loop().create_future()
    store.submit(
        Batch().put(PLAIN.key(b"a"), b""),
        lambda _outcome: store.submit(second, lambda outcome: told.set_result((outcome, second.sealed))),
    )
    outcome, sealed = await told
    assert isinstance(outcome, StoreFull)
    assert sealed
    await store.commit(Batch().put(PLAIN.key(b"c"), b""))
    assert [key for key, _ in await store.scan(*PLAIN.range())] == [PLAIN.key(b"c")]
    await store.close()


async def test_who_keeps_trying_while_it_fails_hears_of_it_each_time_and_gets_through(made) -> None:
    """Writers that try again at once neither block each other nor keep the store from going on."""
    left = 5
    backend = made()

    def fails(name: str, _number: int) -> BaseException | None:
        nonlocal left
        if name == "write" and left:
            left -= 1
            return full(name)
        return None

    store = store_over(Faulty(backend, fails))

    async def insists(number: int) -> int:
        refused = 0
        while True:
            try:
                await store.commit(Batch().put(PLAIN.key(bytes((number,))), b""))
            except StoreFull:
                refused += 1
            else:
                return refused

    refusals = await asyncio.wait_for(asyncio.gather(*(insists(number) for number in range(20))), 20)
    assert max(refusals) >= 1
    assert len(await store.scan(*PLAIN.range())) == 20
    await store.close()


async def test_epochs_of_a_group_that_failed_are_forgotten(made) -> None:
    """The epoch that a batch of a failed group would have set does not let anybody in."""
    from spellwork.errors import Fenced
    from spellwork.store.keyspace import PARTITIONS

    row = PARTITIONS.key((7).to_bytes(2, "big"))
    commits = 0

    def fails(name: str, _number: int) -> BaseException | None:
        nonlocal commits
        commits += name == "commit"
        return full(name) if name == "commit" and commits == 2 else None

    store = store_over(Faulty(made(), fails))
    await store.commit(Batch().put(row, (1).to_bytes(8, "big")))
    outcomes = await asyncio.gather(
        store.commit(Batch().put(row, (2).to_bytes(8, "big"))),
        store.commit(Batch().put(PLAIN.key(b"a"), b"").require_epoch(7, 2)),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [StoreFull, StoreFull]
    with pytest.raises(Fenced):
        await store.commit(Batch().put(PLAIN.key(b"a"), b"").require_epoch(7, 2))
    await store.close()


async def test_a_conflict_is_no_failure(made) -> None:
    """A batch that is refused for what it required stops nobody and opens nothing anew."""
    backend = Faulty(made(), lambda _name, _number: None)
    store = store_over(backend)
    await store.commit(Batch().put(PLAIN.key(b"a"), b""))
    outcomes = await asyncio.gather(
        store.commit(Batch().put(PLAIN.key(b"b"), b"").require_absent(PLAIN.key(b"a"))),
        store.commit(Batch().put(PLAIN.key(b"c"), b"")),
        return_exceptions=True,
    )
    assert isinstance(outcomes[0], Conflict)
    assert isinstance(outcomes[1], int)
    assert not backend.reopened
    await store.close()


async def test_an_owner_may_ask_that_nothing_is_written_after_a_failure(made) -> None:
    """Whoever is ahead of the store in memory, as an engine is, gets the first error for every later batch."""
    backend = Faulty(made(), lambda name, number: full(name) if number == 5 else None)
    store = store_over(backend)
    store.stop_at_failure()
    await store.commit(Batch().put(PLAIN.key(b"a"), b""))
    for _ in range(3):
        with pytest.raises(StoreFull):
            await store.commit(Batch().put(PLAIN.key(b"b"), b""))
    assert backend.journal.count("begin") == 2
    await store.close()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["sqlite", "lmdb", "rocksdb"])
def test_a_full_disk_is_told_reads_go_on_and_writes_resume(tmp_path: Path, scheme: str) -> None:
    """On a small disk of its own, filled to many levels, the same store object goes on when there is room again."""
    wrapper = disk._wrapper() if sys.platform == "linux" else []
    if not wrapper:
        pytest.skip("needs Linux and the right to mount a tmpfs")
    done = subprocess.run(
        [*wrapper, sys.executable, "-m", "tests.store.small_disk", scheme, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "refused" in done.stdout


async def test_readers_of_rocksdb_never_see_what_a_failed_sync_takes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RocksDB shows rows as soon as they are written; ours are seen when they are synced, or not at all."""
    backend = RocksBackend(str(tmp_path / "store"))
    store = store_over(backend)
    await store.commit(Batch().put(PLAIN.key(b"a"), b"1"))

    def write(batch, *, sync: bool) -> None:
        backend._db.write(batch)
        raise StoreFailed("the sync failed")

    monkeypatch.setattr(backend, "_write", write)
    with pytest.raises(StoreFailed):
        await store.commit(Batch().put(PLAIN.key(b"a"), b"2"))
    assert await store.get(PLAIN.key(b"a")) == b"1"
    assert await store.scan(*PLAIN.range()) == [(PLAIN.key(b"a"), b"1")]
    await store.close()


@pytest.mark.parametrize("kind", ["sqlite", "lmdb", "rocksdb"])
async def test_a_loop_that_never_rests_starves_nobody(tmp_path, kind) -> None:
    """Beside a task that spins in short turns, commits and reads are done in good time: without `Patience` they take seconds."""
    store = store_over(MAKERS[kind](tmp_path))
    batch = Batch()
    for number in range(300):
        batch.put(PLAIN.key(b"%05d" % number), b"x" * 60)
    work = asyncio.ensure_future(_written_and_read(store, batch))
    until = time.monotonic() + 20
    while not work.done() and time.monotonic() < until:
        turn = time.monotonic() + 0.0002
        while time.monotonic() < turn:
            pass
        await asyncio.sleep(0)
    assert work.done()
    assert work.result() == [300] * 20
    await store.close()


async def _written_and_read(store: Store, batch: Batch) -> list[int]:
    found = []
    for _ in range(20):
        await store.commit(batch)
        batch.sealed = False
        found.append(len(await store.scan(*PLAIN.range())))
    return found


async def test_the_loop_stands_still_only_while_a_thread_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """A little each few milliseconds, from when something was given to a thread until that is done."""
    works = True
    stood: list[float] = []
    patience = Patience(asyncio.get_running_loop(), lambda: works)
    monkeypatch.setattr("spellwork.store.patience.pause", stood.append)
    await asyncio.sleep(0.01)
    assert not stood
    patience.given()
    await asyncio.sleep(0.1)
    assert 1 <= len(stood) <= 50
    assert set(stood) == {0.0002}
    works = False
    await asyncio.sleep(0.02)
    count = len(stood)
    await asyncio.sleep(0.02)
    assert len(stood) == count
