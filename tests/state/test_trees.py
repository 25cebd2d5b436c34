"""Trees of values: what is set is read, by one key or by many, in order; and what does not fit is refused before it is written."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import msgspec
import pytest

from spellwork.codec import Codec, Limits
from spellwork.errors import Conflict, DefinitionError, PayloadError, StoreBusy, StoreClosed
from spellwork.state import StateStore, Tree, Versioned, open_store
from spellwork.store import Batch
from spellwork.store import open_store as open_low_level


@dataclasses.dataclass
class Note:
    text: str
    stars: int = 0


async def test_what_is_set_is_read(url: str) -> None:
    """Values come back as the type that the tree is annotated with, and a deleted or missing one as None or the default."""
    async with open_store(url) as store:
        notes, raw, any_ = store.tree("notes", Note), store.tree("raw", bytes), store.tree("any")
        await notes.set("a", Note("first", 3))
        await raw.set("a", b"\x00\xc1\x01")
        await any_.set("a", {"set": {1, 2}, "tuple": (1, None)})
        assert await notes.get("a") == Note("first", 3)
        assert await raw.get("a") == b"\x00\xc1\x01"
        assert await any_.get("a") == {"set": {1, 2}, "tuple": (1, None)}
        assert await notes.exists("a")
        await notes.delete("a")
        await notes.delete("never")
        assert await notes.get("a") is None
        assert await notes.get("a", Note("none")) == Note("none")
        assert not await notes.exists("a")
    if url != "memory:":
        async with open_store(url, create=False) as store:
            assert await store.tree("raw", bytes).get("a") == b"\x00\xc1\x01"


async def test_many_keys_are_read_as_of_one_moment(url: str) -> None:
    """get_many leaves out what is not there; scan and count select by prefix, range, direction, limit and cursor."""
    async with open_store(url) as store:
        tree = store.tree("t", int)
        batch = store.batch()
        for i in range(5):
            batch.put(tree, ("a", i), i).put(tree, ("b", i), 10 + i)
        await batch.put(tree, "a", -1).commit()
        assert await tree.get_many([("a", 1), ("a", 9), "a"]) == {("a", 1): 1, "a": -1}
        assert [value for _, value in await tree.scan(prefix=("a",))] == [0, 1, 2, 3, 4]
        assert [value for _, value in await tree.scan(start=("a", 3), stop=("b", 2))] == [3, 4, 10, 11]
        assert [value for _, value in await tree.scan(prefix=("a",), reverse=True, limit=2)] == [4, 3]
        assert [value for _, value in await tree.scan(prefix=("a",), after=("a", 2))] == [3, 4]
        assert [value for _, value in await tree.scan(prefix=("a",), after=("a", 2), reverse=True)] == [1, 0]
        assert await tree.scan(start=("b",), stop=("a",)) == []
        assert await tree.scan(limit=0) == []
        assert await tree.count() == 11
        assert await tree.count(prefix=("b",)) == 5
        with pytest.raises(DefinitionError, match="either prefix="):
            tree.scan(prefix="a", start="b")
        with pytest.raises(DefinitionError, match="limit="):
            tree.scan(limit=-1)


async def test_a_long_scan_comes_in_pages(url: str) -> None:
    """`async for` goes through more than one page in both directions, and stops at its limit."""
    async with open_store(url) as store:
        tree = store.tree("t", int)
        batch = store.batch()
        for i in range(1203):
            batch.put(tree, i, i)
        await batch.commit()
        assert [value async for _, value in tree.scan()] == list(range(1203))
        assert [value async for _, value in tree.scan(reverse=True)] == list(reversed(range(1203)))
        assert [value async for _, value in tree.scan(start=3, limit=1001)] == list(range(3, 1004))


async def test_trees_do_not_meet(url: str) -> None:
    """Equal keys of different trees and scopes are different keys; clearing one leaves the others."""
    async with open_store(url) as store:
        places: list = [store, store.scope("user", "u"), store.scope("user", "u2"), store.scope("session", "u")]
        trees = [place.tree(name, int) for place in places for name in ("t", "t2")]
        for number, tree in enumerate(trees):
            await tree.set("k", number)
        assert [await tree.get("k") for tree in trees] == list(range(8))
        assert [(str(found.scope), found.name) for found in await store.trees()] == [
            ("global", "t"), ("global", "t2"), ("user:u", "t"), ("user:u", "t2"), ("user:u2", "t"), ("user:u2", "t2"),
            ("session:u", "t"), ("session:u", "t2"),
        ]  # fmt: skip
        await store.scope("user", "u").clear()
        assert [await tree.get("k") for tree in trees] == [0, 1, None, None, 4, 5, 6, 7]
        await store.tree("t", int).clear()
        assert [await tree.get("k") for tree in trees] == [None, 1, None, None, 4, 5, 6, 7]
        assert await store.scope("user", "u").trees() == []
        assert await store.scope("session", "u").trees() == ["t", "t2"]


async def test_compare_and_set(url: str) -> None:
    """A write that names a version, or absence, is refused if that is not what there is."""
    async with open_store(url) as store:
        tree = store.tree("t", int)
        first = await tree.set("k", 1, if_absent=True)
        with pytest.raises(Conflict, match=r"tree t, key 'k' has version \d+, not no value"):
            await tree.set("k", 2, if_absent=True)
        assert await tree.get_versioned("k") == Versioned(1, first, first)
        second = await tree.set("k", 2, if_version=first)
        with pytest.raises(Conflict):
            await tree.set("k", 3, if_version=first)
        with pytest.raises(Conflict):
            await tree.delete("k", if_version=first)
        assert await tree.get("k") == 2
        await tree.delete("k", if_version=second)
        assert (await tree.get_versioned("k"))[:2] == (None, 0)
        await tree.set("k", 4, if_version=0)
        with pytest.raises(DefinitionError):
            await tree.set("k", 4, if_version=5, if_absent=True)


async def test_one_of_many_who_compare_and_set_wins(url: str) -> None:
    """Of ten that want to be first, one is."""
    async with open_store(url) as store:
        tree = store.tree("t", int)
        outcomes = await asyncio.gather(*(tree.set("k", i, if_absent=True) for i in range(10)), return_exceptions=True)
        assert sum(isinstance(outcome, int) for outcome in outcomes) == 1
        assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 9


async def test_what_does_not_fit_is_refused_before_it_is_written(url: str) -> None:
    """A value of another type, one beyond the codec's limits and one that can't be stored raise PayloadError with tree and key."""
    async with open_store(url, codec=Codec(limits=Limits(size=100))) as store:
        numbers, any_ = store.tree("numbers", int), store.scope("user", "u").tree("any")
        cases: list[tuple[Tree, object]] = [(numbers, "x"), (any_, "x" * 101), (any_, object())]
        cases += [(store.tree("bare", dict), [1]), (store.tree("bare", list), {"a": 1})]
        for tree, value in cases:
            with pytest.raises(PayloadError, match=rf"tree {tree.rows}, key 'k': "):
                await tree.set("k", value)
        assert await store.revision() == 0


async def test_what_is_stored_must_fit_when_it_is_read(url: str) -> None:
    """Under another annotation the read raises PayloadError that names tree and key; the others are not concerned."""
    async with open_store(url) as store:
        await store.tree("t", str).set(("k", 1), "text")
        await store.tree("t", int).set("n", 1)
        with pytest.raises(PayloadError, match=r"tree t, key \('k', 1\): .*expected int") as caught:
            await store.tree("t", int).get(("k", 1))
        assert (caught.value.tree, caught.value.key) == ("t", ("k", 1))  # type: ignore[attr-defined]
        with pytest.raises(PayloadError, match=r"key \('k', 1\)"):
            await store.tree("t", int).scan()
        assert await store.tree("t", int).get("n") == 1


async def test_batches_are_atomic_over_trees(url: str) -> None:
    """The last word on a key counts, also behind a clear or a merge; one merge that doesn't fit refuses all of it."""
    async with open_store(url) as store:
        a, b = store.tree("a", int), store.tree("b", str)
        await store.batch().put(a, "k", 1).put(b, "k", "x").put(b, "gone", "y").commit()
        revision = await store.batch().put(a, "z", 1).clear(a).merge(a, "k", "add", 5).delete(b, "gone").commit()
        assert await a.scan() == [("k", 5)]
        assert await b.scan() == [("k", "x")]
        await store.batch().merge(a, "k", "add", 5).put(a, "k", 2).merge(a, "k", "add", 1).commit()
        assert await a.get("k") == 3
        with pytest.raises(Exception, match="add needs numbers"):
            await store.batch().put(a, "k", 9).merge(b, "k", "add", 1).commit()
        assert await a.get("k") == 3
        assert revision < await store.revision()


async def test_writes_are_functions_on_a_batch(url: str) -> None:
    """`put_into` and `delete_into` add to anybody's batch, next to rows of their own."""
    low = open_low_level(url)
    async with StateStore(low) as store:
        tree = store.tree("t", Note)
        batch = Batch().put(b"\x40mine", b"")
        tree.put_into(batch, "k", Note("x"))
        tree.put_into(batch, "l", Note("y"))
        tree.delete_into(batch, "l")
        revision = await low.commit(batch)
        assert await tree.get_versioned("k") == Versioned(Note("x"), revision, revision)
        assert not await tree.exists("l")
    assert await low.get(b"\x40mine") == b""  # leaving the store leaves open what it did not open
    await low.close()


async def test_a_closed_store_says_so(url: str) -> None:
    """Reads and writes raise StoreClosed."""
    async with open_store(url) as store:
        tree = store.tree("t", int)
        await tree.set("k", 1)
    with pytest.raises(StoreClosed):
        await tree.get("k")
    with pytest.raises(StoreClosed):
        await tree.set("k", 2)


async def test_a_snapshot_stays_as_it_is(url: str) -> None:
    """What is written after a snapshot was taken is not seen in it, in no tree."""
    async with open_store(url) as store:
        a, b = store.tree("a", int), store.tree("b", int)
        revision = await store.batch().put(a, "k", 1).put(b, "k", 1).commit()
        async with store.snapshot() as snapshot:
            await store.batch().put(a, "k", 2).delete(b, "k").put(b, "l", 1).commit()
            assert snapshot.revision == revision
            assert await snapshot[a].get_versioned("k") == Versioned(1, revision, revision)
            assert await snapshot[b].scan() == [("k", 1)]
        assert await a.get("k") == 2


async def test_writes_wait_or_are_refused_at_the_limit(url: str) -> None:
    """No more than `max_pending` writes are on their way; the next waits or is refused, and all that are accepted happen."""
    async with open_store(url, max_pending=3) as store:
        tree = store.tree("t", int)
        most = 0

        async def one(i: int) -> None:
            nonlocal most
            await tree.set(i, i)
            most = max(most, store.low.pending)

        await asyncio.gather(*(one(i) for i in range(50)))
        assert await tree.count() == 50
        assert most <= 3
    async with open_store(url, max_pending=3, when_full="refuse") as store:
        tree = store.tree("u", int)
        outcomes = await asyncio.gather(*(tree.set(i, i) for i in range(10)), return_exceptions=True)
        refused = [outcome for outcome in outcomes if isinstance(outcome, StoreBusy)]
        assert len(refused) == 7
        assert refused[0].limit == 3
        assert await tree.count() == 3
        await tree.set("again", 1)


async def test_a_cancelled_write_keeps_its_place_until_it_is_written(tmp_path: Path) -> None:
    """Who gives up waiting does not make room for more than the limit, and the room comes back."""
    async with open_store(f"sqlite:{tmp_path / 'store.db'}", max_pending=1, when_full="refuse") as store:
        tree = store.tree("t", int)
        for i in range(3):
            writing = asyncio.ensure_future(tree.set(i, i))
            await asyncio.sleep(0)
            writing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await writing
            with pytest.raises(StoreBusy):
                await tree.set("x", 1)
            while store.low.pending:
                await asyncio.sleep(0.001)
        await tree.set("x", 1)


@pytest.mark.parametrize(
    "options",
    [{"max_pending": 0}, {"max_pending": True}, {"when_full": "panic"}, {"merge_window": 0}, {"operators": {"add": max}}],
)
async def test_wrong_options_are_refused_and_leave_nothing_open(tmp_path: Path, options: dict) -> None:
    """They raise DefinitionError, and the file can be removed."""
    with pytest.raises(DefinitionError):
        await open_store(f"sqlite:{tmp_path / 'x.db'}", **options)


async def test_statistics_count(url: str) -> None:
    """The store tells its revision, size and commits, a tree its keys, bytes and what will expire."""
    async with open_store(url) as store:
        tree = store.tree("t", str)
        await store.batch().put(tree, "a", "x" * 100).put(tree, "b", "y", ttl=60).commit()
        stats = await store.stats()
        assert (stats.revision, stats.pending, stats.commits.batches) == (1, 0, 1)
        assert stats.bytes > 100
        counted = await tree.stats()
        assert (counted.keys, counted.expiring) == (2, 1)
        assert 100 < counted.bytes < 200


class Point(msgspec.Struct):
    x: int


async def test_structs_are_values(url: str) -> None:
    """Any annotation that the codec knows will do, also a generic one."""
    async with open_store(url) as store:
        tree = store.tree("t", dict[str, list[Point]])
        await tree.set("k", {"a": [Point(1)]})
        assert await tree.get("k") == {"a": [Point(1)]}
        with pytest.raises(PayloadError):
            await tree.set("k", {"a": [Point("x")]})  # type: ignore[arg-type]
