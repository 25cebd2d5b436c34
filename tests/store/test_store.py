"""The store's contract, the same on every backend: batches, requirements, snapshots, merges, the change feed, durability."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from spellwork.errors import (
    Conflict,
    Fenced,
    Lagged,
    MergeRefused,
    StoreClosed,
    StoreError,
    StoreFailed,
    StoreUnavailable,
    UsageError,
)
from spellwork.store import Batch, Durability, Keyspace, Reader, Store, fingerprint, open_store
from spellwork.store.committer import FEED_RETAINED
from spellwork.store.keyspace import PARTITIONS, successor
from spellwork.store.sqlite import SqliteBackend

PLAIN = Keyspace("plain", 0x40)
WATCHED = Keyspace("watched", 0x90)
ONE = (1).to_bytes(8, "big", signed=True)


@pytest.fixture(params=["memory", "sqlite", "lmdb", "rocksdb"])
def url(request, tmp_path: Path) -> str:
    """Each backend."""
    return "memory:" if request.param == "memory" else f"{request.param}:{tmp_path / 'store.db'}"


def key(name: str, keyspace: Keyspace = PLAIN) -> bytes:
    return keyspace.key(name.encode())


async def test_batches_apply_as_a_whole_and_get_increasing_revisions(url: str) -> None:
    """Puts and deletes of a batch are visible together, the last word on a key counts, and revisions grow."""
    store = open_store(url)
    first = await store.commit(Batch().put(key("a"), b"1").put(key("b"), b"2").put(key("a"), b"3"))
    second = await store.commit(Batch().delete(key("b")).put(key("c"), b""))
    assert second > first
    assert await store.scan(*PLAIN.range()) == [(key("a"), b"3"), (key("c"), b"")]
    assert await store.revision() == second
    await store.close()


async def test_range_delete_behind_another_batch_of_its_group_keeps_its_puts(url: str) -> None:
    """A batch with a range delete that rides on the sync of others writes its own puts and merges as well."""
    store = open_store(url)
    await asyncio.gather(
        store.commit(Batch().put(key("a"), b"1")),
        store.commit(Batch().delete_range(key("a"), key("b")).put(key("c"), b"2").merge(key("n"), "add", ONE)),
    )
    assert await store.scan(*PLAIN.range()) == [(key("c"), b"2"), (key("n"), ONE)]
    await store.close()


async def test_requirements_hold_or_nothing_happens(url: str) -> None:
    """absent, version and epoch are checked; a conflict fails its own batch and no neighbour."""
    store = open_store(url)
    version = await store.commit(Batch().put(key("a"), b"1"))
    fenced = PARTITIONS.key((7).to_bytes(2, "big"))
    await store.commit(Batch().put(fenced, (3).to_bytes(8, "big") + b"owner"))
    outcomes = await asyncio.gather(
        store.commit(Batch().put(key("x"), b"").require_absent(key("a"))),
        store.commit(Batch().put(key("y"), b"").require_version(key("a"), version)),
        store.commit(Batch().put(key("z"), b"").require_version(key("a"), version + 1)),
        store.commit(Batch().put(key("new"), b"").require_version(key("never"), 0)),
        store.commit(Batch().put(key("p"), b"").require_epoch(7, 3)),
        store.commit(Batch().put(key("q"), b"").require_epoch(7, 2)),
        store.commit(Batch().put(key("first"), b"").require_absent(key("first"))),
        store.commit(Batch().put(key("first"), b"").require_absent(key("first"))),
        return_exceptions=True,
    )
    kinds = [type(outcome).__name__ for outcome in outcomes]
    assert kinds == ["Conflict", "int", "Conflict", "int", "int", "Fenced", "int", "Conflict"]
    assert [k for k, _ in await store.scan(*PLAIN.range())] == [key(n) for n in ("a", "first", "new", "p", "y")]
    assert isinstance(outcomes[5], Fenced)
    assert outcomes[5].partition == 7
    await store.close()


async def test_merges_are_exact_under_concurrency(url: str) -> None:
    """Many concurrent additions add up; append and max do what they say; an unknown operator is refused at once."""
    store = open_store(url)
    await asyncio.gather(*(store.commit(Batch().merge(key("n"), "add", ONE)) for _ in range(500)))
    assert int.from_bytes(await store.get(key("n")) or b"", "big", signed=True) == 500
    await store.commit(Batch().merge(key("s"), "append", b"a").merge(key("s"), "append", b"b"))
    await store.commit(Batch().merge(key("m"), "max", ONE))
    await store.commit(Batch().merge(key("m"), "max", (-5).to_bytes(8, "big", signed=True)))
    assert await store.get(key("s")) == b"ab"
    assert await store.get(key("m")) == ONE
    with pytest.raises(ValueError, match="unknown merge operator"):
        Batch().merge(key("n"), "sub", ONE)
    await store.close()


async def test_store_agrees_with_a_dict(url: str) -> None:
    """Random batches, scans in both directions, limits and range deletes give what a sorted dict gives."""
    rng = random.Random(7)
    store, model = open_store(url), dict[bytes, bytes]()
    names = [bytes(rng.randbytes(rng.randint(0, 3))) for _ in range(60)]
    for _ in range(150):
        batch = Batch()
        if rng.random() < 0.2:
            low, high = sorted(PLAIN.key(rng.choice(names)) for _ in range(2))
            batch.delete_range(low, high)
            model = {k: v for k, v in model.items() if not low <= k < high}
        for _ in range(rng.randint(1, 6)):
            k = PLAIN.key(rng.choice(names))
            if rng.random() < 0.3:
                batch.delete(k)
                model.pop(k, None)
            else:
                model[k] = rng.randbytes(rng.choice((0, 5, 3000)))
                batch.put(k, model[k])
        await store.commit(batch)
        low, high = sorted(PLAIN.key(rng.choice(names)) for _ in range(2))
        expected = sorted((k, v) for k, v in model.items() if low <= k < high)
        assert await store.scan(low, high) == expected
        assert await store.scan(low, high, reverse=True, limit=4) == expected[::-1][:4]
        assert await store.scan(low, high, limit=3) == expected[:3]
    await store.close()


async def test_snapshots_stay_as_they_were(url: str) -> None:
    """What is committed after a snapshot was taken is not seen through it."""
    store = open_store(url)
    await store.commit(Batch().put(key("a"), b"1"))
    async with store.snapshot() as snapshot:
        await store.commit(Batch().put(key("a"), b"2").put(key("b"), b"3"))
        assert await snapshot.get(key("a")) == b"1"
        assert await snapshot.scan(*PLAIN.range()) == [(key("a"), b"1")]
    assert await store.get(key("a")) == b"2"
    await store.close()


async def test_watchers_see_committed_changes_in_order_and_resume(url: str) -> None:
    """A watcher gets every change under its prefix once, in order, from the revision it names; others' changes not at all."""
    store = open_store(url)
    start = await store.revision()
    for i in range(5):
        await store.commit(Batch().put(WATCHED.key(b"k%d" % i), b"%d" % i).put(key("unwatched"), b""))
    await store.commit(Batch().delete(WATCHED.key(b"k0")))
    await store.commit(Batch().delete_range(*WATCHED.range(b"k1")))
    seen = []
    async for change in store.watch(WATCHED.key(b"k"), since=start):
        seen.append(change)
        if len(seen) == 7:
            break
    assert [change.value for change in seen] == [b"0", b"1", b"2", b"3", b"4", None, None]
    assert [c.revision for c in seen] == sorted(c.revision for c in seen)
    assert seen[6].end == successor(WATCHED.key(b"k1"))
    async for change in store.watch(WATCHED.key(b"k3"), since=start):
        assert change.value == b"3"
        break
    with pytest.raises(ValueError, match="only keyspaces"):
        await anext(store.watch(PLAIN.key()))
    await store.close()


async def test_watcher_that_falls_behind_is_told_how_far() -> None:
    """Beyond what the feed retains, watch() raises Lagged with the number of missed revisions."""
    store = open_store("memory:")
    for i in range(FEED_RETAINED + 2500):
        store.submit(Batch().put(WATCHED.key(b"k"), b"%d" % i), lambda _outcome: None)
        if i % 100 == 0:
            await asyncio.sleep(0)
    await store.commit(Batch().put(WATCHED.key(b"k"), b"last"))
    with pytest.raises(Lagged) as caught:
        await anext(store.watch(WATCHED.key(), since=1))
    assert caught.value.missed > 1000
    await store.close()


async def test_changes_of_another_process_ring_the_bell(tmp_path: Path) -> None:
    """A watcher in one store sees what another store on the same file commits."""
    url = f"sqlite:{tmp_path / 'store.db'}"  # LMDB opens a file once a process: tests/store/test_processes.py has two
    here, there = open_store(url), open_store(url)
    watching = asyncio.ensure_future(anext(here.watch(WATCHED.key(), since=0)))
    await asyncio.sleep(0)
    await there.commit(Batch().put(WATCHED.key(b"x"), b"from there"))
    assert (await asyncio.wait_for(watching, 5)).value == b"from there"
    await here.close()
    await there.close()


async def test_two_writers_on_one_file_share_it_fairly(tmp_path: Path) -> None:
    """Beside a writer that commits in a loop another one gets its turn, and no update of either is lost."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    here, there = open_store(url), open_store(url)
    stop = False

    async def hammer() -> int:
        count = 0
        while not stop:
            await here.commit(Batch().merge(key("n"), "add", ONE))
            count += 1
        return count

    hammering = asyncio.ensure_future(hammer())
    for _ in range(30):
        await asyncio.wait_for(there.commit(Batch().merge(key("n"), "add", ONE)), 5)
    stop = True
    total = await hammering + 30
    assert int.from_bytes(await here.get(key("n")) or b"", "big") == total
    await here.close()
    await there.close()


@pytest.mark.parametrize(("level", "synced"), [("full", "each"), ("batched(20)", "some"), ("relaxed", "none")])
async def test_durability_levels_differ_in_syncs(tmp_path: Path, level: str, synced: str) -> None:
    """Full syncs each group, batched at most every so often, relaxed leaves it to the checkpoint."""
    store = open_store(f"sqlite:{tmp_path / 'store.db'}", durability=level)
    for i in range(50):
        await store.commit(Batch().put(key(str(i)), b"x"))
    assert (store.stats.syncs == 50) is (synced == "each")
    await store.close()
    assert {"each": store.stats.syncs == 50, "some": 1 <= store.stats.syncs < 50, "none": store.stats.syncs == 0}[synced]
    again = open_store(f"sqlite:{tmp_path / 'store.db'}")
    assert len(await again.scan(*PLAIN.range())) == 50
    await again.close()


@pytest.mark.parametrize("bad", ["", "fast", "batched", "batched(0)", "batched(x)"])
def test_unknown_durability_is_refused(bad: str) -> None:
    """A level that does not exist is refused with those that do."""
    with pytest.raises(ValueError, match="unknown durability"):
        Durability.parse(bad)


async def test_durability_must_fit_the_store(tmp_path: Path) -> None:
    """A memory: store cannot promise durability, and a file is not memory."""
    with pytest.raises(ValueError, match="use sqlite:PATH"):
        open_store("memory:", durability="full")
    with pytest.raises(ValueError, match="relaxed"):
        open_store(f"sqlite:{tmp_path / 'x.db'}", durability="memory")


async def test_sqlite_is_pinned_to_wal_and_full(tmp_path: Path) -> None:
    """The journal mode and the level of durability are set, not hoped for."""
    backend = SqliteBackend(str(tmp_path / "store.db"))
    assert backend.pragmas() == {"journal_mode": "wal", "synchronous": 2, "fullfsync": 1, "wal_autocheckpoint": 16000}
    backend.close()


async def test_a_new_file_that_another_process_is_writing_to_is_waited_for(tmp_path: Path) -> None:
    """Two processes may make a store at once; SQLite refuses one of them the change to a log without any waiting."""
    path = tmp_path / "new.db"
    other = apsw.Connection(str(path))
    other.execute("BEGIN IMMEDIATE").fetchall()
    path.touch()
    waiting = asyncio.create_task(asyncio.to_thread(SqliteBackend, str(path)))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    other.execute("COMMIT").fetchall()
    (await waiting).close()
    other.close()


async def test_old_sqlite_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SQLite with the WAL-reset bug is refused with what to install."""
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.51.2")
    with pytest.raises(StoreUnavailable, match=r"3\.51\.2 can corrupt"):
        SqliteBackend(str(tmp_path / "store.db"))


class _Breaks(SqliteBackend):
    """A disk that refuses the third commit."""

    left = 3

    def commit(self, revision: int) -> None:
        self.left -= 1
        if not self.left:
            raise StoreFailed("the disk refused")
        super().commit(revision)


async def test_after_a_failed_sync_the_handle_is_not_used_again(tmp_path: Path) -> None:
    """Once a commit has failed nobody knows what the disk holds: the next batch goes through a connection that was opened anew."""
    path = str(tmp_path / "store.db")
    backend = _Breaks(path)
    store = Store("sqlite:" + path, backend, Durability.parse("full"), _clock())
    await store.commit(Batch().put(key("a"), b""))
    handle = backend._writer
    await store.commit(Batch().put(key("b"), b""))
    assert backend._writer is handle
    with pytest.raises(StoreFailed, match="refused"):
        await store.commit(Batch().put(key("c"), b""))
    assert [k for k, _ in await store.scan(*PLAIN.range())] == [key("a"), key("b")]
    await store.commit(Batch().put(key("d"), b""))
    assert backend._writer is not handle
    assert [k for k, _ in await store.scan(*PLAIN.range())] == [key("a"), key("b"), key("d")]
    await store.close()
    with pytest.raises(StoreError):
        await store.commit(Batch())


async def test_closing_writes_what_is_queued(url: str) -> None:
    """Batches submitted before close() are committed and acknowledged; those after it are refused."""
    store = open_store(url)
    outcomes: list[object] = []
    for i in range(10):
        store.submit(Batch().put(key(str(i)), b""), outcomes.append)
    await store.close()
    assert all(isinstance(outcome, int) for outcome in outcomes)
    assert len(outcomes) == 10
    with pytest.raises(StoreClosed):
        await store.commit(Batch())


async def test_batches_of_one_turn_share_a_sync(tmp_path: Path) -> None:
    """What is submitted side by side travels in one group."""
    store = open_store(f"sqlite:{tmp_path / 'store.db'}")
    before = store.stats.syncs
    await asyncio.gather(*(store.commit(Batch().put(key(str(i)), b"")) for i in range(100)))
    assert store.stats.syncs == before + 1
    await store.close()


def _clock():
    from spellwork.clock import SystemClock

    return SystemClock()


async def test_a_range_delete_in_a_group_takes_what_came_before_it_and_nothing_after(url: str) -> None:
    """Batches that ride on one sync apply in their order, range deletes among puts too."""
    store = open_store(url)
    first, middle, last = Batch().put(b"\x90a", b"1"), Batch().delete_range(b"\x90", b"\x91"), Batch().put(b"\x90b", b"2")
    await asyncio.gather(*(store.commit(batch) for batch in (first, middle, last)))
    assert await store.scan(b"\x90", b"\x91") == [(b"\x90b", b"2")]
    await store.close()


async def test_a_merge_that_fails_refuses_its_batch_and_no_other(url: str) -> None:
    """An operator that raises leaves no trace of its batch, and its neighbours of the same turn are written."""

    def broken(old: bytes | None, operand: bytes) -> bytes:
        raise ArithmeticError("too much")

    def longest(old: bytes | None, operand: bytes) -> bytes | None:
        return max(old or b"", operand, key=len) or None

    store = open_store(url)
    await store.commit(Batch().put(key("a"), b"kept").put(key("gone"), b""))
    outcomes = await asyncio.gather(
        store.commit(Batch().put(key("b"), b"").delete_range(key("a"), key("b")).merge(key("a"), broken, b"")),
        store.commit(Batch().merge(key("a"), longest, b"longer").merge(key("gone"), longest, b"")),
        store.commit(Batch().delete_range(key("a"), key("b")).put(key("c"), b"1").merge(key("c"), "append", b"2")),
        return_exceptions=True,
    )
    assert isinstance(outcomes[0], MergeRefused)
    assert outcomes[0].key == key("a")
    assert isinstance(outcomes[0].__cause__, ArithmeticError)
    assert await store.scan(*PLAIN.range()) == [(key("c"), b"12")]
    await store.close()


async def test_appends_are_numbered_without_gaps_in_the_order_of_commits(url: str) -> None:
    """Concurrent appends get numbers from 1 on, each log its own; a refused batch uses none; reopened it goes on."""
    log, other = key("log"), key("other")

    async def add(store: Store, value: bytes) -> list[int]:
        batch = Batch().append(log, value).append(other, value).append(log, value + b"!")
        await store.commit(batch)
        return batch.sequences

    store = open_store(url)
    with pytest.raises(Conflict):
        await store.commit(Batch().append(log, b"never").require_version(key("none"), 5))
    numbers = await asyncio.gather(*(add(store, str(i).encode()) for i in range(20)))
    assert sorted(n for first, _, second in numbers for n in (first, second)) == list(range(1, 41))
    for i, (first, _, second) in enumerate(numbers):
        assert await store.get(log + first.to_bytes(8, "big")) == str(i).encode()
        assert second == first + 1
    if url != "memory:":
        await store.close()
        store = open_store(url)
    assert await add(store, b"x") == [41, 21, 42]
    await store.close()


async def test_a_log_may_be_counted_elsewhere(url: str) -> None:
    """The counter goes on from the number that the log's own key has, and whatever else is done to it counts."""
    log, counter = key("log"), key("number")
    seen: list[bytes | None] = []

    async def numbers(*batches: Batch) -> list[list[int]]:
        await asyncio.gather(*map(store.commit, batches))
        return [batch.sequences for batch in batches]

    def append() -> Batch:
        return Batch().append(log, b"x", counter=counter)

    def look(old: bytes | None, _operand: bytes) -> bytes | None:
        seen.append(old)
        return old

    store = open_store(url)
    assert await numbers(Batch().append(log, b"1"), Batch().append(log, b"2")) == [[1], [2]]
    assert await numbers(append(), append().append(log, b"5", counter=counter)) == [[3], [4, 5]]
    assert await store.get(counter) == (5).to_bytes(8, "big")
    assert await store.get(log) == (2).to_bytes(8, "big")
    await store.commit(append().merge(counter, look, b""))
    assert seen == [(5).to_bytes(8, "big")]
    many = [(key(f"many-{n}"), b"") for n in range(300)]
    changes: list[tuple[Callable[[Batch], Batch], int]] = [
        (lambda batch: batch.put(counter, (10).to_bytes(8, "big")), 11),
        (lambda batch: batch.put(counter, b""), 3),
        (lambda batch: batch.put_all(many).put(counter, (30).to_bytes(8, "big")), 31),
        (lambda batch: batch.delete_range(counter, counter + b"\0"), 3),
        (lambda batch: batch.delete(counter), 3),
    ]
    for change, expected in changes:
        assert await numbers(change(Batch()), append()) == [[], [expected]], "in one group"
        await store.commit(change(Batch()))  # the number is remembered by now
        assert await numbers(append()) == [[expected]], "one after the other"
    await store.commit(Batch().merge(counter, "add", (9).to_bytes(8, "big")))
    assert await numbers(append()) == [[expected + 10]]
    await store.close()


async def test_two_who_append_to_a_log_give_no_number_twice(tmp_path: Path) -> None:
    """What one remembers of a counter is nothing once the other has written."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    one, other = open_store(url), open_store(url)
    found = []
    for turn in range(12):
        batch = Batch().append(key("log"), b"%d" % turn)
        await (one if turn % 3 else other).commit(batch)
        found += batch.sequences
    assert found == list(range(1, 13))
    await one.close()
    await other.close()


async def test_a_range_that_changed_refuses_the_batch_that_relied_on_it(url: str) -> None:
    """A put, a delete, and a key that is new or gone within the range are noticed, also within one turn; others are not."""
    store = open_store(url)
    await store.commit(Batch().put(key("a"), b"1").put(key("b"), b"2").put(key("z"), b"3"))
    start, end = key("a"), key("c")

    async def seen() -> bytes:
        return await store.read(lambda reader: fingerprint((k, version) for k, _, version in reader.rows(start, end)))

    for change in (
        Batch().put(key("a"), b"1"),
        Batch().delete(key("b")),
        Batch().put(key("bb"), b""),
        Batch().delete_range(start, end),
    ):
        before = await seen()
        same_turn = await asyncio.gather(
            store.commit(change),
            store.commit(Batch().put(key("z"), b"").require_unchanged(start, end, before)),
            return_exceptions=True,
        )
        assert isinstance(same_turn[1], Conflict)
        with pytest.raises(Conflict):
            await store.commit(Batch().require_unchanged(start, end, before))
    now = await seen()
    await store.commit(Batch().put(key("z"), b"4").put(key("c"), b""))
    await store.commit(Batch().put(key("b"), b"").require_unchanged(start, end, now))
    await store.close()


async def test_rows_come_with_their_versions(url: str) -> None:
    """`rows` gives keys, values and the revisions that wrote them, forwards, backwards and limited."""
    store = open_store(url)
    versions = [await store.commit(Batch().put(key(name), name.encode())) for name in "abc"]
    everything = [(key(name), name.encode(), version) for name, version in zip("abc", versions, strict=True)]
    assert await store.read(lambda reader: reader.rows(*PLAIN.range())) == everything
    assert await store.read(lambda reader: reader.rows(*PLAIN.range(), reverse=True, limit=2)) == everything[:0:-1]
    await store.close()


async def test_closing_a_store_closes_its_snapshots(url: str) -> None:
    """Who still has one is told so in the library's words, leaves its block quietly, and the store can be opened again at once."""
    store = open_store(url)
    await store.commit(Batch().put(key("a"), b"1"))
    async with store.snapshot() as view:
        assert await view.get(key("a")) == b"1"
        await store.close()
        for read in (view.get(key("a")), view.scan(*PLAIN.range()), view.read(lambda reader: reader.version(key("a")))):
            with pytest.raises(StoreClosed):
                await read
    again = open_store(url)
    assert await again.get(key("a")) == (None if url == "memory:" else b"1")
    await again.close()


async def test_a_snapshot_that_is_cancelled_while_it_closes_is_let_go(tmp_path: Path) -> None:
    """The store keeps nothing of it for the rest of its own life."""
    store = open_store(f"sqlite:{tmp_path / 'store.db'}")
    blocked = threading.Event()

    async def hold() -> None:
        async with store.snapshot() as view:
            views.append(view)
            reading.append(asyncio.ensure_future(store.read(lambda _reader: blocked.wait(5))))
            await asyncio.sleep(0)  # so that it comes before the end of the view

    views: list[Any] = []
    reading: list[asyncio.Future[bool]] = []
    holding = asyncio.ensure_future(hold())
    while not reading:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.02)
    holding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await holding
    blocked.set()
    assert await reading[0]
    async with asyncio.timeout(5):
        while store._snapshots:
            await asyncio.sleep(0.001)
    assert views[0]._reader is None
    await store.close()


async def test_an_error_of_ones_own_in_a_snapshot_is_not_taken_for_a_closed_store(url: str) -> None:
    """Whatever a query raises comes out as it was."""
    store = open_store(url)

    def query(_reader: object) -> None:
        raise RuntimeError("mine")

    async with store.snapshot() as view:
        with pytest.raises(RuntimeError, match="mine"):
            await view.read(query)
        assert await view.get(key("a")) is None
    await store.close()


async def test_a_closed_store_does_nothing_more(url: str) -> None:
    """Every way in says that it is closed; none of them opens the file once more."""
    store = open_store(url)
    await store.close()
    ways: list[Awaitable[object]] = [
        store.get(key("a")),
        store.commit(Batch().put(key("a"), b"1")),
        store.examine(lambda reader: reader.get(key("a"))),
        store.check_now(),
        store.load([], 0),
        store.snapshot().__aenter__(),
    ]
    for way in ways:
        with pytest.raises(StoreClosed):
            await way


async def test_a_snapshot_that_was_given_up_while_it_was_opened_keeps_nothing(url: str) -> None:
    """It was cancelled before it had its view: an LMDB map can move, a RocksDB folder is free, a SQLite file has no reader."""
    store = open_store(url)

    async def open_and_leave() -> None:
        async with store.snapshot():
            pass

    opening = asyncio.ensure_future(open_and_leave())
    await asyncio.sleep(0)
    opening.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await opening
    await store.commit(Batch().put(key("a"), b"1"))
    assert await store.get(key("a")) == b"1"
    assert not store._snapshots
    await store.close()
    await open_store(url).close()


async def test_a_long_look_and_short_reads_do_not_disturb_each_other(url: str) -> None:
    """They are in threads of their own: each has its own rows, as for a check beside a program."""
    store = open_store(url)
    rows = [(key(f"{n:05}"), b"v%d" % n) for n in range(2000)]
    await store.commit(Batch().put_all(rows))

    def look(reader: Reader) -> int:
        return sum(reader.scan(*PLAIN.range()) != rows for _ in range(30))

    def gets(reader: Reader) -> int:
        return sum(reader.get(name) != value for name, value in rows)

    looked, *got = await asyncio.gather(store.examine(look), store.examine(gets), *(store.read(gets) for _ in range(6)))
    assert (looked, sum(got)) == (0, 0)
    await store.close()


async def test_what_is_no_batch_is_refused_and_hurts_nobody(url: str) -> None:
    """What others commit in the same turn is committed."""
    store = open_store(url)
    wrong: Any = None
    refused, done = await asyncio.gather(store.commit(wrong), store.commit(Batch().put(b"\x40a", b"1")), return_exceptions=True)
    assert isinstance(refused, UsageError)
    assert isinstance(done, int)
    await store.close()
