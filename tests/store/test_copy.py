"""Copying between backends: everything arrives as it was, and nothing is written over anything."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from spellwork import Engine
from spellwork.errors import StoreCorrupt, StoreNotEmpty, UsageError
from spellwork.store import Batch, Store, contents, copy_store, open_store
from spellwork.testing.chaos import corpus

SCHEMES = ("memory", "sqlite", "lmdb", "rocksdb")


def url_of(scheme: str, place: Path) -> str:
    return "memory:" if scheme == "memory" else f"{scheme}:{place / scheme}"


async def filled(store: Store) -> int:
    """Rows of all kinds, some deleted, some written without syncs before."""
    for number in range(50):
        batch = Batch().put(b"\x40%d" % number, b"x" * number * 40).put(b"\x90%d" % (number % 7), b"%d" % number)
        await store.commit(batch.append(b"\x41log", b"%d" % number))
    await store.commit(Batch().delete_range(b"\x401", b"\x402").put(b"\x40" + b"k" * 700, b"").put(b"\x40\0\xff", b"\0"))
    return await store.commit(Batch().delete(b"\x90" + b"3"))


@pytest.mark.parametrize(("source", "target"), list(itertools.permutations(SCHEMES, 2)))
async def test_a_copy_holds_the_same_and_goes_on(tmp_path: Path, source: str, target: str) -> None:
    """Digest, versions, revision, logs and the feed are equal on both, whatever the backends; watchers and writers go on."""
    durability = None if source == "memory" else "relaxed"
    there, here = open_store(url_of(source, tmp_path), durability=durability), open_store(url_of(target, tmp_path))
    last = await filled(there)
    heard: list[int] = []
    copied = await copy_store(there, here, heard.append)
    assert copied == await contents(there) == await contents(here)
    assert copied.revision == last
    assert heard[-1] == copied.rows - 1
    if target != "memory":
        await here.close()
        here = open_store(url_of(target, tmp_path), create=False)
        assert await contents(here) == copied
    everything = [await store.read(lambda reader: reader.rows(b"\x40", b"\xff")) for store in (there, here)]
    assert everything[0] == everything[1]
    change = await anext(here.watch(b"\x90", since=last - 1))
    assert (change.revision, change.key, change.value) == (last, b"\x903", None)
    appended = Batch().append(b"\x41log", b"next").require_version(b"\x40" + b"k" * 700, last - 1)
    assert await here.commit(appended) == last + 1
    assert appended.sequences == [51]
    assert (await contents(here)).digest != copied.digest
    await there.close()
    await here.close()


async def test_a_store_that_holds_anything_is_not_written_to(tmp_path: Path) -> None:
    """A target with a single row is refused as it is; so is one whose copy was broken off."""
    there, here = open_store(f"sqlite:{tmp_path / 'a'}"), open_store(f"lmdb:{tmp_path / 'b'}")
    await filled(there)
    await here.commit(Batch().put(b"\x40mine", b"1"))
    before = await contents(here)
    with pytest.raises(StoreNotEmpty, match="new store"):
        await copy_store(there, here)
    assert await contents(here) == before

    class Interrupted(Exception):
        pass

    def stop(_rows: int) -> None:
        raise Interrupted

    partial = open_store(f"rocksdb:{tmp_path / 'c'}")
    with pytest.raises(Interrupted):
        await copy_store(there, partial, stop)
    assert await partial.revision() == 0
    with pytest.raises(StoreNotEmpty):
        await copy_store(there, partial)
    for store in (there, here, partial):
        await store.close()


async def test_a_copy_that_differs_is_not_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written is read back, and one wrong byte or version is told."""
    there = open_store("memory:")
    await filled(there)
    changes = (lambda k, v, r: (k, v, r + 1), lambda k, v, r: (k, v + b"!", r), lambda k, v, r: (k + b"!", v, r))
    for number, change in enumerate(changes):
        here = open_store(f"sqlite:{tmp_path / str(number)}")
        load = here.load

        async def wrong(rows, revision, load=load, change=change):
            await load([change(*rows[0]), *rows[1:]] if len(rows) > 1 else rows, revision)

        monkeypatch.setattr(here, "load", wrong)
        with pytest.raises(StoreCorrupt, match="does not hold what"):
            await copy_store(there, here)
        await here.close()
    await there.close()


async def test_an_empty_store_is_copied(tmp_path: Path) -> None:
    """Nothing becomes nothing."""
    there, here = open_store("memory:"), open_store(f"sqlite:{tmp_path / 'a'}")
    copied = await copy_store(there, here)
    assert (copied.rows, copied.revision) == (0, 0)
    await there.close()
    await here.close()


@pytest.mark.parametrize("target", ["lmdb", "rocksdb"])
async def test_an_engine_goes_on_in_a_copy(tmp_path: Path, target: str) -> None:
    """Runs of an engine on one backend are there with their results on another, and new ones run."""
    async with Engine(f"sqlite:{tmp_path / 'a'}", workflows=corpus.WORKFLOWS) as engine:
        result = await engine.run(corpus.sequence, 3)
        ids = [info.id for info in await engine.list()]
    there, here = open_store(f"sqlite:{tmp_path / 'a'}"), open_store(f"{target}:{tmp_path / 'b'}")
    await copy_store(there, here)
    await there.close()
    await here.close()
    async with Engine(f"{target}:{tmp_path / 'b'}", workflows=corpus.WORKFLOWS) as engine:
        assert [info.id for info in await engine.list()] == ids
        assert await (await engine.get(ids[0])).result() == result
        assert await engine.run(corpus.sequence, 3) == result


@pytest.mark.parametrize("scheme", ["sqlite", "rocksdb"])
async def test_compacting_gives_room_back(tmp_path: Path, scheme: str) -> None:
    """What deleted rows took is given back, and what is there stays, also while a snapshot is open."""
    store = open_store(f"{scheme}:{tmp_path / 'a'}")
    for number in range(40):
        await store.commit(Batch().put(b"\x40%02d" % number, bytes(range(256)) * 400))
    await store.commit(Batch().put(b"\x41", b"stays"))
    async with store.snapshot() as view:
        await store.commit(Batch().delete_range(b"\x40", b"\x41"))
        assert await view.get(b"\x4001") is not None
    before = store.size()
    await store.compact()
    await store.commit(Batch().put(b"\x42", b"goes on"))
    assert store.size() < before / 4
    assert [key for key, _ in await store.scan(b"\x40", b"\x43")] == [b"\x41", b"\x42"]
    await store.close()


async def test_lmdb_is_compacted_by_copying(tmp_path: Path) -> None:
    """It cannot give pages back under processes that have it open, and says what to do."""
    store = open_store(f"lmdb:{tmp_path / 'a'}")
    with pytest.raises(UsageError, match="copy it"):
        await store.compact()
    await store.close()


@pytest.mark.parametrize("scheme", ["sqlite", "lmdb", "rocksdb"])
async def test_an_encrypted_store_is_copied_and_told_of_like_any_other(tmp_path: Path, scheme: str) -> None:
    """What a backend notes about itself is no part of it, and what it holds has the same checksum with a key and without."""
    from spellwork.store.keyring import Encryption

    key = Encryption(bytes(range(32)))
    plain = open_store(f"sqlite:{tmp_path / 'plain'}", durability="relaxed")
    await filled(plain)
    secret = open_store(f"{scheme}:{tmp_path / 'secret'}", encryption=key)
    rows = await plain.read(lambda reader: reader.rows(b"\x40", b"\xff"))
    for row in rows:
        await secret.commit(Batch().put(row[0], row[1]))
    found = await contents(secret)
    assert found.rows > len(rows)
    assert dict(await secret.scan(b"\x40", b"\x90")) == {row[0]: row[1] for row in rows if row[0] < b"\x90"}
    if scheme != "lmdb":
        await secret.compact()
        assert await contents(secret) == found
    await secret.close()
    await plain.close()
