"""Values with a time to live: gone for readers at their time, deleted soon after, told to watchers as expired."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from pathlib import Path

import pytest

from spellwork.errors import Conflict, DefinitionError, MergeRefused
from spellwork.state import StateStore, open_store
from spellwork.state.scopes import DUE, OPERATIONS, STATE
from spellwork.store import Batch
from spellwork.testing import VirtualClock


async def rows_of(store: StateStore, *keyspaces) -> list[int]:
    """How many rows each keyspace has."""
    return [len(await store.low.scan(*keyspace.range())) for keyspace in keyspaces]


async def settled(store: StateStore, *expected: int) -> None:
    """Wait until the sweeper has left so many values, hints and operations."""
    for _ in range(2000):
        if await rows_of(store, STATE, DUE, OPERATIONS) == list(expected):
            return
        await asyncio.sleep(0.001)
    assert await rows_of(store, STATE, DUE, OPERATIONS) == list(expected)


async def test_an_expired_value_is_invisible_at_once(url: str) -> None:
    """At its time it is gone from every way of reading, whether it was swept or not."""
    clock = VirtualClock()
    async with open_store(url, clock=clock, sweep=False) as store:
        tree = store.tree("t", int)
        await tree.set("a", 1, ttl=10)
        await tree.set("b", 2, ttl=dt.timedelta(seconds=20))
        await tree.set("c", 3)
        clock.advance(9.999)
        assert await tree.scan() == [("a", 1), ("b", 2), ("c", 3)]
        clock.advance(0.001)
        assert await tree.get("a") is None
        assert not await tree.exists("a")
        assert (await tree.get_versioned("a")).version == 0
        assert await tree.get_many(["a", "b"]) == {"b": 2}
        assert await tree.scan(limit=2) == [("b", 2), ("c", 3)]
        assert await tree.scan(limit=2, reverse=True) == [("c", 3), ("b", 2)]
        assert await tree.count() == 2
        async with store.snapshot() as snapshot:
            assert await snapshot[tree].count() == 2
        async with store.transaction() as tx:
            assert await tx[tree].scan(limit=1) == [("b", 2)]
        assert await rows_of(store, STATE, DUE) == [3, 2]


async def test_the_sweeper_deletes_soon_after(url: str) -> None:
    """It wakes at the due time, deletes value and hint, and leaves what was written anew or made to stay."""
    clock = VirtualClock()
    async with open_store(url, clock=clock) as store:
        tree = store.tree("t", int)
        await tree.set("gone", 1, ttl=10)
        await tree.set("kept", 1, ttl=10)
        await tree.set("kept", 2)
        await tree.set("longer", 1, ttl=10)
        await tree.set("longer", 2, ttl=30)
        await tree.set("deleted", 1, ttl=10)
        await tree.delete("deleted")
        await settled(store, 3, 5, 0)
        clock.advance(10)
        await settled(store, 2, 1, 0)
        assert await tree.scan() == [("kept", 2), ("longer", 2)]
        clock.advance(20)
        await settled(store, 1, 0, 0)


async def test_watchers_are_told_of_expiry(url: str) -> None:
    """A swept value comes as `expired`, in order with everything else, and once."""
    clock = VirtualClock()
    async with open_store(url, clock=clock, sweep=False) as store:
        tree = store.tree("t", int)
        start = await store.revision()
        await tree.set("a", 1, ttl=10)
        await tree.set("b", 2, ttl=10)
        clock.advance(10)
        assert await store.sweeper.sweep() == 2
        assert await store.sweeper.sweep() == 0
        await tree.delete("a")
        told = []
        async with contextlib.aclosing(tree.watch(since=start)) as changes:
            async for change in changes:
                told.append((change.kind, change.key, change.value))
                if change.kind == "delete":
                    break
        assert told == [("set", "a", 1), ("set", "b", 2), ("expired", "a", None), ("expired", "b", None), ("delete", "a", None)]
        async with contextlib.aclosing(tree.watch(prefix="b", since=start)) as changes:
            assert [(await anext(changes)).kind for _ in range(2)] == ["set", "expired"]


async def test_the_sweeper_never_deletes_what_was_written_since_it_looked(url: str) -> None:
    """A value that is set between the sweeper's look and its commit stays; the others of its batch go."""
    clock = VirtualClock()
    async with open_store(url, clock=clock, sweep=False) as store:
        tree = store.tree("t", int)
        for i in range(8):
            await tree.set(i, i, ttl=10)
        clock.advance(10)
        low, commit = store.low, store.low.commit
        raced = False

        async def racing(batch: Batch) -> int:
            nonlocal raced
            if not raced:
                raced = True
                await tree.set(5, 50)
            return await commit(batch)

        low.commit = racing  # type: ignore[method-assign]
        assert await store.sweeper.sweep() == 7
        assert await tree.scan() == [(5, 50)]
        await store.sweeper.sweep()
        assert await rows_of(store, STATE, DUE) == [1, 0]


async def test_an_expired_value_counts_as_absent_for_conditions(url: str) -> None:
    """if_absent succeeds on it, if_version does not; a merge starts anew, without expiry; a transaction sees none."""
    clock = VirtualClock()
    async with open_store(url, clock=clock, sweep=False) as store:
        tree = store.tree("t", int)
        versions = [await tree.set(name, 1, ttl=10) for name in "abc"]
        with pytest.raises(Conflict):
            await tree.set("a", 2, if_absent=True)
        clock.advance(10)
        await tree.set("a", 2, if_absent=True)
        with pytest.raises(Conflict):
            await tree.set("b", 2, if_version=versions[1])
        await tree.merge("c", "add", 5)
        clock.advance(1000)
        assert await tree.scan() == [("a", 2), ("c", 5)]


async def test_a_merge_keeps_the_time_of_expiry(url: str) -> None:
    """Adding to a value does not make it stay."""
    clock = VirtualClock()
    async with open_store(url, clock=clock) as store:
        tree = store.tree("t", int)
        await tree.set("a", 1, ttl=10)
        await tree.merge("a", "add", 5)
        assert await tree.get("a") == 6
        clock.advance(10)
        assert await tree.get("a") is None
        await settled(store, 0, 0, 0)


async def test_ids_of_merges_are_forgotten_after_their_window(url: str) -> None:
    """Within it, a repeated merge returns the revision that did it; after it, the id is free again."""
    clock = VirtualClock()
    async with open_store(url, clock=clock, merge_window=100) as store:
        tree = store.tree("t", int)
        first = await tree.merge("a", "add", 1, id="x")
        clock.advance(99)
        assert await tree.merge("a", "add", 1, id="x") == first
        assert await tree.merge("b", "add", 1, id="x") > first  # an id belongs to its key
        with pytest.raises(Conflict, match="used for another one"):
            await tree.merge("a", "add", 2, id="x")
        with pytest.raises(MergeRefused):
            await tree.merge("a", "append", 2, id="y")
        await settled(store, 2, 2, 2)
        clock.advance(1)
        await settled(store, 2, 1, 1)
        assert await tree.merge("a", "add", 1, id="x") > first
        assert await tree.get("a") == 2


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf"), dt.timedelta(0)])
async def test_a_time_to_live_must_be_one(ttl) -> None:
    """Anything that is no positive, finite time is refused."""
    async with open_store("memory:") as store:
        with pytest.raises(DefinitionError, match="ttl="):
            await store.tree("t", int).set("k", 1, ttl=ttl)
        assert await store.revision() == 0


@pytest.mark.slow
async def test_two_processes_may_sweep(tmp_path: Path) -> None:
    """Of two sweepers on one file, each value is told to watchers as expired once."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    async with open_store(url) as here, open_store(url) as there:
        tree = here.tree("t", int)
        start = await here.revision()
        batch = here.batch()
        for i in range(300):
            batch.put(tree, i, i, ttl=0.05)
        await batch.commit()
        there.sweeper.expect(here.clock.now())
        told = []
        async with contextlib.aclosing(there.tree("t", int).watch(since=start)) as changes:
            async for change in changes:
                told.append(change.kind)
                if len(told) == 600:
                    break
        assert told == ["set"] * 300 + ["expired"] * 300
        await settled(here, 0, 0, 0)


async def test_there_is_one_sweeper_and_it_ends_with_the_store(url: str) -> None:
    """However often the store is entered, no task is left behind when it is closed."""
    before = asyncio.all_tasks()
    store = await open_store(url)
    async with store, store:
        pass
    assert asyncio.all_tasks() == before
