"""Damage at rest: each row is sealed, the log is judged before it is believed, and the whole store is looked at when it opens."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import apsw
import pytest

from spellwork import Engine
from spellwork.errors import Conflict, RowDamaged, StoreCorrupt
from spellwork.store import Batch, Keyspace, open_store
from spellwork.store import sqlite as backend_module
from spellwork.store.seal import is_whole, seal
from spellwork.testing.chaos import corpus

PLAIN = Keyspace("plain", 0x40)
ONE, TWO = PLAIN.key(b"one"), PLAIN.key(b"two")


async def crashed(place: Path, commits: int = 5, durability: str = "full") -> Path:
    """The files of a store as a killed process leaves them."""
    (place / "live").mkdir()
    (place / "crashed").mkdir()
    store = open_store(f"sqlite:{place / 'live' / 'store.db'}", durability=durability)
    for number in range(commits):
        await store.commit(Batch().put(ONE, bytes((number,)) * 3000).put(TWO, bytes((number,))))
    for suffix in ("", "-wal", "-shm"):
        shutil.copy(place / "live" / f"store.db{suffix}", place / "crashed" / f"store.db{suffix}")
    await store.close()
    return place / "crashed" / "store.db"


def edit(path: Path, sql: str, *bindings: object) -> None:
    """Change a closed store behind its back."""
    connection = apsw.Connection(str(path))
    connection.execute(sql, bindings)
    connection.close()


async def reads(path: Path, key: bytes, durability: str = "full") -> bytes | None:
    """What a fresh opening reads."""
    store = open_store(f"sqlite:{path}", create=False, durability=durability)
    try:
        return await store.get(key)
    finally:
        await store.close()


@pytest.mark.parametrize("part", ["key", "value", "version"])
def test_seal_covers_key_value_and_version(part: str) -> None:
    """A change of any bit of key, value or version breaks the seal."""
    key, value, sealed = ONE, b"value", seal(ONE, b"value", 7)
    assert is_whole(key, value, sealed)
    for bit in range(8 * len({"key": key, "value": value, "version": sealed}[part])):
        flipped = [bytearray(key), bytearray(value), bytearray(sealed)]
        flipped[("key", "value", "version").index(part)][bit // 8] ^= 1 << bit % 8
        assert not is_whole(*map(bytes, flipped))


async def test_damaged_value_is_named_and_its_neighbours_are_not_concerned(tmp_path: Path) -> None:
    """Reading a damaged row raises RowDamaged with its key; others read on, and a batch that needs it fails alone."""
    path = tmp_path / "store.db"
    store = open_store(f"sqlite:{path}")
    await store.commit(Batch().put(ONE, b"1").put(TWO, b"2"))
    await store.close()
    edit(path, "UPDATE kv SET v = ? WHERE k = ?", b"9", ONE)
    store = open_store(f"sqlite:{path}")
    for read in (store.get(ONE), store.scan(*PLAIN.range())):
        with pytest.raises(RowDamaged, match=ONE.hex()) as caught:
            await read
        assert caught.value.key == ONE
    assert await store.scan(*PLAIN.range(), damaged=b"?") == [(ONE, b"?"), (TWO, b"2")]
    assert await store.get(TWO) == b"2"
    bad, good = await asyncio.gather(
        store.commit(Batch().put(TWO, b"3").require_version(ONE, 1)), store.commit(Batch().put(TWO, b"4")), return_exceptions=True
    )
    assert isinstance(bad, RowDamaged)
    assert isinstance(good, int)
    with pytest.raises((Conflict, RowDamaged)):
        await store.commit(Batch().put(TWO, b"5").require_absent(ONE))
    assert await store.get(TWO) == b"4"
    await store.close()


async def test_row_under_another_key_is_refused_when_the_store_opens(tmp_path: Path) -> None:
    """A row whose key changed cannot be found by who looks for it, so the store is refused."""
    path = tmp_path / "store.db"
    store = open_store(f"sqlite:{path}")
    await store.commit(Batch().put(ONE, b"1"))
    await store.close()
    edit(path, "UPDATE kv SET k = ? WHERE k = ?", PLAIN.key(b"onf"), ONE)
    with pytest.raises(StoreCorrupt, match="own keys"):
        open_store(f"sqlite:{path}")


async def test_large_store_is_looked_at_beside_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where looking takes long it happens after opening, and an engine that finds damage stops with its name."""
    path = tmp_path / "store.db"
    async with Engine(f"sqlite:{path}", workflows=corpus.WORKFLOWS) as engine:
        await engine.run(corpus.sequence, 2)
    edit(path, "UPDATE kv SET k = ? WHERE k = ?", PLAIN.key(b"x"), b"\x12" + (await _an_id(path)))
    monkeypatch.setattr(backend_module, "_CHECKED_AT_ONCE", 0)
    async with Engine(f"sqlite:{path}", workflows=corpus.WORKFLOWS) as engine:
        with pytest.raises(StoreCorrupt, match="own keys"):
            await _until_it_stops(engine)


async def _until_it_stops(engine: Engine) -> None:
    while True:
        await asyncio.sleep(0.01)
        await engine.list()


async def _an_id(path: Path) -> bytes:
    store = open_store(f"sqlite:{path}")
    found = await store.scan(b"\x12", b"\x13")
    await store.close()
    return found[0][0][1:]


async def test_log_that_is_damaged_in_the_middle_is_refused(tmp_path: Path) -> None:
    """SQLite would end at the damage and forget the commits behind it; a store is refused instead, unless opened as relaxed."""
    path = await crashed(tmp_path)
    log = path.with_name("store.db-wal")
    path.with_name("store.db-shm").unlink()
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 1
    log.write_bytes(data)
    with pytest.raises(StoreCorrupt, match="later commits lie behind"):
        await reads(path, TWO)
    assert await reads(path, TWO, "relaxed") in (b"\1", b"\2", b"\3")


async def test_a_damaged_salt_ends_no_log(tmp_path: Path) -> None:
    """SQLite takes a frame of another salt for the first of an older log, and no sum covers it: the sums of this log tell."""
    path = await crashed(tmp_path, commits=6)
    wal, index = path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")
    whole, database = wal.read_bytes(), path.read_bytes()
    frames = (len(whole) - 32) // (24 + 4096)
    refused = 0
    for frame in range(frames):
        index.unlink(missing_ok=True)  # as a power cut leaves it
        path.write_bytes(database)
        start = 32 + frame * (24 + 4096)
        wal.write_bytes(
            whole[: start + 8 + frame % 8] + bytes((whole[start + 8 + frame % 8] ^ 16,)) + whole[start + 9 + frame % 8 :]
        )
        try:
            found = await reads(path, TWO)
        except StoreCorrupt:
            refused += 1
        else:
            # only the last commit may be taken for torn: there is nothing behind it
            assert found in (bytes((5,)), bytes((4,)))
            assert frame >= frames - 5
    assert refused >= frames - 5


async def test_old_frames_behind_a_torn_one_are_no_commits_of_this_log(tmp_path: Path) -> None:
    """Torn in its header, a frame may keep the sum of the older log's frame in its place, which the next old one then continues.

    Found by power cuts, seed 2611202900093.
    """
    path = await crashed(tmp_path, commits=6)
    path.with_name("store.db-shm").unlink()
    wal = path.with_name("store.db-wal")
    log, size = bytearray(wal.read_bytes()), 24 + 4096
    ends = [at for at in range(32, len(log), size) if log[at + 4 : at + 8] != bytes(4)]
    torn = ends[-3] + size  # the first frame of the last but one commit
    log[torn + 100] ^= 1
    for at in range(ends[-2] + size, len(log), size):
        log[at + 8] ^= 1
    wal.write_bytes(log)
    assert await reads(path, TWO) in (bytes((3,)), bytes((4,)))


async def test_log_that_is_shorter_than_its_index_is_refused(tmp_path: Path) -> None:
    """The index of a killed process's log tells that its end is missing."""
    path = await crashed(tmp_path)
    log = path.with_name("store.db-wal")
    log.write_bytes(log.read_bytes()[:-4120])
    with pytest.raises(StoreCorrupt, match="pages were committed"):
        await reads(path, TWO)


async def test_torn_end_of_a_log_is_what_a_crash_leaves(tmp_path: Path) -> None:
    """Without an index, a last commit that is cut off never happened, and the store opens with the one before."""
    path = await crashed(tmp_path)
    path.with_name("store.db-shm").unlink()
    log = path.with_name("store.db-wal")
    log.write_bytes(log.read_bytes()[:-100])
    assert await reads(path, TWO) == b"\3"


async def test_gaps_in_the_log_of_a_relaxed_store_are_no_damage(tmp_path: Path) -> None:
    """A store that was ever written without syncs may lose commits out of order on a power cut, and opens all the same."""
    path = await crashed(tmp_path, durability="relaxed")
    path.with_name("store.db-shm").unlink()
    log = path.with_name("store.db-wal")
    data = bytearray(log.read_bytes())
    data[-6000] ^= 1
    log.write_bytes(data)
    assert await reads(path, TWO) in (b"\2", b"\3")


@pytest.mark.parametrize("saved", [True, False])
async def test_torn_header_of_a_log_is_harmless_only_behind_a_checkpoint(tmp_path: Path, saved: bool) -> None:
    """A header that was torn while the log began anew loses nothing; a damaged one before a checkpoint would."""
    path = await crashed(tmp_path)
    log = path.with_name("store.db-wal")
    if saved:
        shutil.copy(tmp_path / "live" / "store.db", path)  # closing it was a checkpoint
    path.with_name("store.db-shm").unlink()
    log.write_bytes(bytes(range(100, 132)) + log.read_bytes()[32:])
    if saved:
        assert await reads(path, TWO) == b"\4"
    else:
        with pytest.raises(StoreCorrupt, match="header is damaged"):
            await reads(path, TWO)
