"""Damage at rest on LMDB and RocksDB: it is told, or it was harmless; what it did not hit can be read."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import apsw
import lmdb
import pytest
import rocksdict

from spellwork.errors import RowDamaged, StoreCorrupt, StoreError, StoreMissing, StoreTooNew, StoreUnavailable
from spellwork.store import Batch, Store, open_store
from spellwork.store.keyspace import FORMAT, LAYOUT, REVISION
from spellwork.store.lmdb import LmdbBackend
from spellwork.store.longkeys import LongKeys
from spellwork.store.rocksdb import RocksBackend
from spellwork.store.seal import SEAL_BYTES, is_whole, names_its_row, seal, seal_rows, version_of, whole_pairs
from spellwork.store.sqlite import SqliteBackend

ONE, TWO = b"\x40one", b"\x40two"


async def filled(url: str, count: int = 40) -> dict[bytes, bytes]:
    """A closed store, and what it holds."""
    store = open_store(url)
    model = {b"\x40%03d" % n: random.Random(n).randbytes(n * 11) for n in range(count)}
    for key, value in model.items():
        await store.commit(Batch().put(key, value))
    await store.close()
    return model


async def test_a_damaged_value_in_lmdb_is_named(tmp_path: Path) -> None:
    """Its key is told, its neighbours are read, and only a batch that needs it is refused."""
    path = tmp_path / "store"
    store = open_store(f"lmdb:{path}")
    await store.commit(Batch().put(ONE, b"value-one").put(TWO, b"2").put(b"\x40" + b"k" * 700, b"value-long"))
    await store.close()
    data = path.read_bytes()
    path.write_bytes(data.replace(b"value-one", b"value-0ne").replace(b"value-long", b"value-l0ng"))
    store = open_store(f"lmdb:{path}")
    for read in (store.get(ONE), store.scan(ONE, TWO), store.get(b"\x40" + b"k" * 700)):
        with pytest.raises(RowDamaged):
            await read
    assert await store.scan(ONE, b"\x41", damaged=b"?") == [(ONE, b"?"), (TWO, b"2")]
    bad, good = await asyncio.gather(
        store.commit(Batch().put(TWO, b"3").require_version(ONE, 1)), store.commit(Batch().put(TWO, b"4")), return_exceptions=True
    )
    assert isinstance(bad, RowDamaged)
    assert isinstance(good, int)
    await store.close()


async def test_a_counter_that_is_damaged_while_it_is_remembered_is_found_damaged(tmp_path: Path) -> None:
    """By who says that it is, such as the deletion of a topic: what the writer remembers of it is not the row."""
    path, log, counter = tmp_path / "store", b"\x40log", b"\x40the-counter"
    store = open_store(f"lmdb:{path}")
    await store.commit(Batch().append(log, b"1", counter=counter))
    with path.open("r+b") as file:
        data, at = file.read(), -1
        while (at := data.find(counter, at + 1)) >= 0:
            file.seek(at + len(counter) + SEAL_BYTES)
            file.write(b"\xff")
    with pytest.raises(RowDamaged):
        await store.get(counter)
    await store.commit(Batch().require_damaged(counter).put(counter, b"\0" * 7 + b"\5"))
    batch = Batch().append(log, b"6", counter=counter)
    await store.commit(batch)
    assert batch.sequences == [6]
    await store.close()


@pytest.mark.parametrize("scheme", ["lmdb", "rocksdb"])
@pytest.mark.slow
def test_flipped_bits_and_cut_files_are_told_or_harmless(tmp_path: Path, scheme: str) -> None:
    """After each of many damages a process reads what was written, or is told; it neither dies nor reads anything else."""
    command = [sys.executable, "-m", "tests.store.damager", scheme, str(tmp_path), "50"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    told, harmless = map(int, done.stdout.split()[-2:])
    assert told + harmless == 50
    assert told >= 10


async def crashed(place: Path, *, durability: str = "full") -> Path:
    """A RocksDB folder as a killed process leaves it: twenty commits in its log."""
    store = open_store(f"rocksdb:{place / 'live'}", durability=durability)
    for number in range(20):
        await store.commit(Batch().put(ONE, bytes((number,)) * 300).put(TWO, bytes((number,))))
    shutil.copytree(place / "live", place / "crashed")
    await store.close()
    return place / "crashed"


def log_of(folder: Path) -> Path:
    return max(folder.glob("*.log"), key=lambda log: log.stat().st_size)


async def newest(folder: Path, durability: str = "full") -> int:
    store = open_store(f"rocksdb:{folder}", durability=durability, create=False)
    try:
        return (await store.get(TWO) or b"\xff")[0]
    finally:
        await store.close()


async def test_a_log_damaged_in_the_middle_is_refused(tmp_path: Path) -> None:
    """RocksDB would forget the commits behind the damage; a store is refused instead, unless it is opened as relaxed."""
    folder = await crashed(tmp_path)
    data = bytearray(log_of(folder).read_bytes())
    data[len(data) // 2] ^= 1
    log_of(folder).write_bytes(data)
    for _ in range(2):  # looking changes nothing
        with pytest.raises(StoreCorrupt, match=r"later commits lie behind.*relaxed"):
            await newest(folder)
    assert await newest(folder, "relaxed") in (8, 9, 10)


@pytest.mark.parametrize("how", ["cut", "torn", "flipped"])
async def test_a_torn_end_of_the_log_is_what_a_crash_leaves(tmp_path: Path, how: str) -> None:
    """The last commit never happened then, and the store opens with the one before."""
    folder = await crashed(tmp_path)
    data = bytearray(log_of(folder).read_bytes().rstrip(b"\0"))
    if how == "cut":
        del data[-30:]
    elif how == "torn":
        data[-200:-40] = bytes(160)
    else:
        data[-30] ^= 1
    log_of(folder).write_bytes(data)
    assert await newest(folder) == 18


async def test_gaps_in_the_log_of_a_relaxed_store_are_no_damage(tmp_path: Path) -> None:
    """What was written without syncs may be lost out of order on a power cut."""
    folder = await crashed(tmp_path, durability="relaxed")
    data = bytearray(log_of(folder).read_bytes())
    data[len(data) * 2 // 3] ^= 1
    log_of(folder).write_bytes(data)
    assert await newest(folder) in (12, 13)


async def _refused(url: str, kind: type[StoreError], words: str, **options: bool) -> None:
    with pytest.raises(kind, match=words):
        open_store(url, **options)  # type: ignore[arg-type]


async def test_what_is_no_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    """Other files, other applications' databases, missing stores, newer formats: a typed error each, nothing written."""
    text = tmp_path / "text"
    text.write_bytes(b"not a database at all " * 500)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "letter.txt").write_text("dear")
    empty = tmp_path / "empty"
    empty.mkdir()
    with lmdb.open(str(tmp_path / "theirs"), subdir=False) as env, env.begin(write=True) as txn:
        txn.put(b"k", b"v")
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    theirs = rocksdict.Rdict(str(tmp_path / "theirs-too"), options)
    theirs[b"k"] = b"v"
    theirs.close()
    await _refused(f"lmdb:{text}", StoreCorrupt, "no LMDB file")
    await _refused(f"lmdb:{folder}", StoreUnavailable, "is a directory")
    await _refused(f"lmdb:{tmp_path / 'theirs'}", StoreCorrupt, "another application")
    await _refused(f"lmdb:{tmp_path / 'no' / 'folder'}", StoreUnavailable, "does not exist")
    await _refused(f"rocksdb:{text}", StoreUnavailable, "is a file")
    await _refused(f"rocksdb:{folder}", StoreUnavailable, "other things")
    await _refused(f"rocksdb:{tmp_path / 'theirs-too'}", StoreCorrupt, "another application")
    for scheme in ("lmdb", "rocksdb"):
        await _refused(f"{scheme}:{tmp_path / 'none'}", StoreMissing, "no store", create=False)
    await _refused(f"rocksdb:{empty}", StoreMissing, "is empty", create=False)
    assert text.read_bytes().startswith(b"not a database")
    assert [file.name for file in folder.iterdir()] == ["letter.txt"]
    assert not (tmp_path / "none").exists()
    newer = seal_rows([(FORMAT, b"%d" % (LAYOUT + 1), 0)])[0]
    with lmdb.open(str(tmp_path / "newer"), subdir=False) as env, env.begin(write=True) as txn:
        txn.put(*newer)
    await _refused(f"lmdb:{tmp_path / 'newer'}", StoreTooNew, "newer Spellwork")


@pytest.mark.parametrize("scheme", ["sqlite", "lmdb", "rocksdb"])
@pytest.mark.parametrize("earlier", range(1, LAYOUT))
async def test_a_store_of_an_earlier_layout_is_marked_when_it_is_opened(tmp_path: Path, scheme: str, earlier: int) -> None:
    """An earlier Spellwork, which would misread what is written now, says that it is too new for it."""
    url, path = f"{scheme}:{tmp_path / 'store'}", str(tmp_path / "store")

    def mark(number: int | None = None) -> int:
        row = None if number is None else seal_rows([(FORMAT, b"%d" % number, 0)])[0]
        if scheme == "sqlite":
            with contextlib.closing(apsw.Connection(path)) as connection:
                if number is not None:
                    connection.execute(f"PRAGMA user_version={number}")
                return int(connection.pragma("user_version"))
        if scheme == "lmdb":
            with lmdb.open(path, subdir=False) as env, env.begin(write=row is not None) as txn:
                if row:
                    txn.put(*row)
                return int(bytes(txn.get(FORMAT) or b"")[SEAL_BYTES:])
        database = rocksdict.Rdict(path, rocksdict.Options(raw_mode=True))
        if row:
            database[row[0]] = row[1]
        found = int((database.get(FORMAT) or b"")[SEAL_BYTES:])
        database.close()
        return found

    store: Store = open_store(url)
    await store.commit(Batch().put(ONE, b"1"))
    await store.close()
    assert mark() == LAYOUT
    mark(earlier)
    store = open_store(url)
    assert await store.get(ONE) == b"1"
    await store.close()
    assert mark() == LAYOUT
    mark(LAYOUT + 1)
    with pytest.raises(StoreTooNew):
        open_store(url)


async def test_a_folder_whose_making_was_interrupted_is_made_again(tmp_path: Path) -> None:
    """What a process leaves that dies while it makes a store is no obstacle."""
    place = tmp_path / "store"
    place.mkdir()
    (place / "LOCK").touch()
    (place / "rocksdict-config.json").write_text('{"raw')
    store: Store = open_store(f"rocksdb:{place}")
    await store.commit(Batch().put(ONE, b"1"))
    await store.close()
    (place / "rocksdict-config.json").write_text("")
    store = open_store(f"rocksdb:{place}", create=False)
    assert await store.get(ONE) == b"1"
    await store.close()


def test_places_of_long_keys_keep_apart_and_in_order() -> None:
    """A key is its own place up to a length; above it places differ where keys do, and are short enough."""
    keys = LongKeys(40)
    lengths = {len(keys.place(b"k" * n)) for n in range(200)}
    assert max(lengths) == 40
    places = [keys.place(b"k" * n) for n in range(200)]
    assert len(set(places)) == 200
    assert places[:24] == [b"k" * n for n in range(24)]


async def test_scans_of_lmdb_across_short_and_long_keys_are_those_of_a_sorted_map(tmp_path: Path) -> None:
    """Keys on both sides of what LMDB takes, many that begin alike: any range, limit and direction gives what sorting would."""
    rng = random.Random(5)
    stems = [b"\x40" + bytes([byte]) * 470 for byte in b"ab"]
    rows = {
        rng.choice(stems)[: rng.choice((1, 2, 60, 471))]
        + bytes(rng.choices(b"ab\xff\x00", k=rng.choice((0, 1, 22, 23, 24, 40)))): b"%d" % n
        for n in range(400)
    }
    ordered = sorted(rows.items())
    assert {len(key) < 495 for key in rows} == {True, False}
    store: Store = open_store(f"lmdb:{tmp_path / 'store'}")
    await store.commit(Batch().put_all(rows.items()))
    for _ in range(400):
        start, end = (rng.choice([*rows, b"\x40", b"\x41", *stems])[: rng.choice((1, 30, 600))] for _ in range(2))
        limit, backwards = rng.choice((None, 0, 1, 7, 100)), rng.random() < 0.3
        within = [row for row in ordered if start <= row[0] < end]
        expected = (within[::-1] if backwards else within)[:limit]
        assert await store.scan(start, end, reverse=backwards, limit=limit) == expected
    await store.close()


def test_a_damaged_long_key_does_not_stop_a_range_delete_half_way(tmp_path: Path) -> None:
    """Whether it lies in the range is not known: the others go, and it stays for whoever reads it to find."""
    keys, long = LongKeys(511), b"\x40" + b"k" * 600
    with lmdb.open(str(tmp_path / "store"), subdir=False) as env, env.begin(write=True) as txn:
        for place, data in keys.placed(seal_rows([(ONE, b"1", 7), (long, b"2", 7), (b"\x40z", b"3", 7)])):
            txn.put(place, data)
        hurt = bytearray(txn.get(keys.place(long)) or b"")
        hurt[SEAL_BYTES + 100] ^= 1
        txn.put(keys.place(long), bytes(hurt))
        keys.delete_range(txn, b"\x40", b"\x41")
        assert [bytes(place) for place, _ in txn.cursor()] == [keys.place(long)]
        with pytest.raises(RowDamaged):
            keys.scan(txn, b"\x40", b"\x41", reverse=False, limit=None)


@pytest.mark.parametrize("name", ["lmdb", "rocksdb", "sqlite"])
def test_a_transaction_finds_what_it_wrote_itself(tmp_path: Path, name: str) -> None:
    """Written, deleted and cleared in any order within one transaction: it reads, and then has, what came last."""
    rng = random.Random(11)
    place = str(tmp_path / "store")
    backend = {"lmdb": LmdbBackend, "rocksdb": RocksBackend, "sqlite": SqliteBackend}[name](place)
    model: dict[bytes, tuple[bytes, int]] = {}
    keys = [b"\x40%02d" % n for n in range(12)]
    for _ in range(60):
        revision = backend.begin(sync=False)[0] + 1
        for step in range(rng.randrange(1, 5)):
            some = rng.sample(keys, 4)
            if rng.random() < 0.3:
                start, end = sorted(some[:2])
                backend.delete_range(start, end)
                model = {key: row for key, row in model.items() if not start <= key < end}
            written, gone = some[:2], some[2:]
            backend.write([(key, b"%d" % step, revision) for key in written], gone)
            model = {key: row for key, row in model.items() if key not in gone} | dict.fromkeys(written, (b"%d" % step, revision))
            if rng.random() < 0.5:
                assert {key: row for key in keys if (row := backend.get(key)) is not None} == model
                assert backend.versions(b"\x40", b"\x41") == [(key, row[1]) for key, row in sorted(model.items())]
        backend.write([(REVISION, revision.to_bytes(8, "big"), revision)], [])
        backend.commit(revision)
        reader = backend.reader()
        assert reader.rows(b"\x40", b"\x41") == [(key, *row) for key, row in sorted(model.items())]
        reader.dispose()
    backend.close()


def test_a_seal_of_another_length_is_no_seal() -> None:
    """What damage leaves of a row is damaged whatever has become of its parts."""
    whole = seal(b"key", b"value", 7)
    assert is_whole(b"key", b"value", whole)
    for hurt in (b"", whole[:-1], whole + b"\0", None, 3, "text", bytes(16)):
        assert not is_whole(b"key", b"value", hurt)
        assert whole_pairs([(b"key", b"value", hurt)], b"?") == [(b"key", b"?")]
        with pytest.raises(RowDamaged):
            whole_pairs([(b"key", b"value", hurt)], None)
    for key, value in ((b"kez", b"value"), (b"key", b"valuf"), (b"key", "value"), (None, b"value")):
        assert not is_whole(key, value, whole)
        assert whole_pairs([(key, value, whole)], b"?") == [(key, b"?")]


def test_a_seal_of_an_earlier_form_still_counts() -> None:
    """Rows that were sealed with CRC-32 are read, and found when they are damaged."""
    key, value, version = b"key", b"value", 7
    named = zlib.crc32(key)
    earlier = struct.pack(">QII", version, named, zlib.crc32(value, named ^ version))
    assert earlier != seal(key, value, version)
    assert is_whole(key, value, earlier)
    assert whole_pairs([(key, value, earlier)], None) == [(key, value)]
    assert version_of(key, value, earlier) == version
    assert not is_whole(key, b"valuf", earlier)
    assert names_its_row(key, earlier)
    assert not names_its_row(b"kez", earlier)
    for one, other in itertools.combinations(range(8 * len(earlier)), 2):
        hurt = (int.from_bytes(seal(key, value, version), "big") ^ (1 << one) ^ (1 << other)).to_bytes(len(earlier), "big")
        assert not is_whole(key, value, hurt)
    for bit in range(8 * len(earlier)):
        hurt = (int.from_bytes(earlier, "big") ^ (1 << bit)).to_bytes(len(earlier), "big")
        assert not is_whole(key, value, hurt)


def test_what_lmdb_itself_leaves_is_never_taken_for_damage(tmp_path: Path) -> None:
    """Transactions that write, shorten, delete and write again leave files that are opened again, whatever the verifier counts."""
    rng = random.Random(1)
    path = str(tmp_path / "store")
    for trial in range(4):
        backend = LmdbBackend(path)
        for number in range(20):
            revision = backend.begin(sync=False)[0] + 1
            keys = [b"\x40%02d" % rng.randrange(60) for _ in range(8)]
            backend.write([(key, bytes(rng.choice((0, 50, 3_000, 9_000))), revision) for key in keys], keys[:3])
            backend.write([(key, bytes(rng.choice((10, 5_000))), revision) for key in keys[::2]], keys[1::3])
            if number % 5 == trial:
                backend.delete_range(keys[0], b"\x41")
            backend.write([(REVISION, revision.to_bytes(8, "big"), revision)], [])
            backend.commit(revision)
        backend.close()
