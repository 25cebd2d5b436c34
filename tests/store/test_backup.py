"""Backups: a chain gives back the store to the byte, a flipped bit is found, and an interruption leaves nothing half made."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spellwork.errors import BackupDamaged, KeyMissing, RowDamaged, StoreMissing, StoreTooNew, StoreUnavailable, UsageError
from spellwork.store import Batch, Encryption, Keyspace, Row, Store, open_store, turn
from spellwork.store.backup import Manifest, create_backup, list_backups, restore_backup, verify_backup
from spellwork.store.backup import blocks as blocks_module
from spellwork.store.backup import manifest as manifest_module
from spellwork.store.durable import alone
from spellwork.store.keyspace import BACKEND_ROWS, LAYOUT
from spellwork.store.opening import open_backend
from spellwork.store.rotation import rotate
from spellwork.supervision import attempt

PLAIN = Keyspace("plain", 0x40)
WATCHED = Keyspace("watched", 0x90)
OLD, NEW = (bytes((n,)) * 32 for n in (1, 2))


def key(name: str, keyspace: Keyspace = PLAIN) -> bytes:
    return keyspace.key(name.encode())


def held(reader) -> list[Row]:
    """All rows but those that a backend keeps for itself."""
    return [row for row in reader.rows(b"", b"\xff" * 64) if row[0] not in BACKEND_ROWS]


def looked_at(url: str, look: Callable[[Any], Any]) -> Any:
    _, backend = open_backend(url, create=False)
    reader = backend.reader()
    try:
        return look(reader)
    finally:
        reader.dispose()
        backend.close()


def rows_at(url: str) -> list[Row]:
    """Every row of a store as the medium has it."""
    found: list[Row] = looked_at(url, held)
    return found


def own_notes(url: str) -> list[bytes | None]:
    """What a backend keeps for itself."""
    found: list[bytes | None] = looked_at(url, lambda reader: [reader.get(row) for row in BACKEND_ROWS])
    return found


async def backed_up(store: Store, place: Path, *, full: bool = False) -> tuple[Manifest, list[Row]]:
    """A backup of an open store, and the rows it had."""

    def make(reader) -> tuple[Manifest, list[Row]]:
        return create_backup(reader, place, created=1, full=full), [
            row for row in reader.rows(b"", b"\xff" * 64) if row[0] not in BACKEND_ROWS
        ]

    return await store.examine(make, raw=True)


@pytest.fixture
def backups(tmp_path: Path) -> Path:
    return tmp_path / "backups"


async def three(url: str, place: Path) -> list[list[Row]]:
    """A full backup and two increments, with puts, changes, deletes and a range delete in between."""
    store, found = open_store(url), []
    first = [Batch().put(key(f"{n:03}"), b"%d" % n * 20).put(key("last", WATCHED), b"%d" % n) for n in range(300)]
    await asyncio.gather(*map(store.commit, first))
    found.append((await backed_up(store, place))[1])
    await store.commit(Batch().delete_range(key("100"), key("150")).delete(key("007")).put(key("008"), b"changed"))
    found.append((await backed_up(store, place))[1])
    await store.commit(Batch().put(key("120"), b"back again").delete(key("200")))
    found.append((await backed_up(store, place))[1])
    await store.close()
    return found


async def test_each_backup_of_a_chain_gives_back_its_rows(tmp_path: Path, backups: Path) -> None:
    """Keys, values and versions are the same; deletes are carried; the restored store goes on."""
    wanted = await three(f"sqlite:{tmp_path / 'store.db'}", backups)
    for number, rows in enumerate(wanted, start=1):
        url = f"sqlite:{tmp_path / f'restored-{number}.db'}"
        manifest = restore_backup(backups, url, number=number)
        assert rows_at(url) == rows
        assert (manifest.number, manifest.rows) == (number, len(rows))
    store = open_store(f"sqlite:{tmp_path / 'restored-3.db'}", create=False)
    assert await store.commit(Batch().put(key("new"), b"1")) == 303
    await store.close()
    assert rows_at(f"sqlite:{tmp_path / 'store.db'}") == wanted[2]


@pytest.mark.parametrize("scheme", ["sqlite", "lmdb", "rocksdb"])
@pytest.mark.parametrize("target", ["sqlite", "lmdb", "rocksdb"])
async def test_a_backup_of_any_backend_is_restored_on_any_other(tmp_path: Path, backups: Path, scheme: str, target: str) -> None:
    """Keys, values and versions are the same; an encrypted store stays encrypted; restoring again moves the first one aside."""
    url, restored = f"{scheme}:{tmp_path / 'source'}", f"{target}:{tmp_path / 'restored'}"
    store = open_store(url, encryption=Encryption(OLD))
    await store.commit(Batch().put(key("a"), b"1").put(key("gone"), b"2"))
    await backed_up(store, backups)
    await store.commit(Batch().delete(key("gone")).put(key("b", WATCHED), b"3"))
    _, rows = await backed_up(store, backups)
    await store.close()
    for _ in range(2):
        restore_backup(backups, restored, replace=True)
        assert rows_at(restored) == rows
    assert (tmp_path / "restored.replaced-1").exists()
    open_backend(f"{target}:{tmp_path / 'new'}")[1].close()
    assert own_notes(restored) == own_notes(f"{target}:{tmp_path / 'new'}")
    store = open_store(restored, encryption=Encryption(OLD))
    assert await store.scan(*PLAIN.range()) == [(key("a"), b"1")]
    assert await store.commit(Batch().put(key("c"), b"4")) > 2
    await store.close()


async def test_increments_hold_what_changed(tmp_path: Path, backups: Path) -> None:
    """The list tells kind, base, revisions, and how many rows came and went."""
    await three(f"sqlite:{tmp_path / 'store.db'}", backups)
    first, second, third = list_backups(backups)
    assert (first.kind, first.base, first.since, first.revision, first.stored) == ("full", None, 0, 300, first.rows)
    # the changed row, the newest revision, the entry of the feed
    assert (second.kind, second.base, second.since, second.revision) == ("incremental", 1, 300, 301)
    assert (second.stored, second.deleted) == (2, 51)
    assert (third.base, third.stored, third.deleted) == (2, 2, 1)
    assert third.files["rows"].bytes < first.files["rows"].bytes / 30
    assert [path.name for path in sorted(backups.iterdir())][1:] == [first.name, second.name, third.name]
    store = open_store(f"sqlite:{tmp_path / 'store.db'}")
    assert (await backed_up(store, backups, full=True))[0].kind == "full"
    await store.close()


BATCHES = st.lists(
    st.lists(
        st.tuples(st.sampled_from(["put", "delete", "range", "rewrite"]), st.integers(0, 9), st.binary(max_size=30)),
        min_size=1,
        max_size=5,
    ),
    min_size=1,
    max_size=12,
)


def batch_of(steps: list[tuple[str, int, bytes]]) -> Batch:
    batch = Batch()
    for kind, n, value in steps:
        match kind:
            case "put":
                batch.put(key(f"{n}", WATCHED if n % 2 else PLAIN), value)
            case "delete":
                batch.delete(key(f"{n}", WATCHED if n % 2 else PLAIN))
            case "range":
                batch.delete_range(key(f"{n}"), key("9"))
            case "rewrite":
                batch.rewrite(key(f"{n}"))
    return batch


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(batches=BATCHES, when=st.sets(st.integers(0, 11), max_size=4), encrypt=st.booleans())
def test_law_a_chain_equals_its_source(batches: list[list[tuple[str, int, bytes]]], when: set[int], encrypt: bool) -> None:
    """Whatever was written and whenever it was backed up: each backup gives back exactly what the store was then."""

    async def law(place: Path) -> None:
        store = open_store("memory:", encryption=Encryption(OLD) if encrypt else None)
        wanted = []
        for number, steps in enumerate(batches):
            await store.commit(batch_of(steps))
            if number in when:
                wanted.append((await backed_up(store, place / "backups"))[1])
        wanted.append((await backed_up(store, place / "backups"))[1])
        await store.close()
        for number, rows in enumerate(wanted, start=1):
            url = f"sqlite:{place / f'{number}.db'}"
            restore_backup(place / "backups", url, number=number)
            assert rows_at(url) == rows

    with tempfile.TemporaryDirectory() as place:
        asyncio.run(law(Path(place)))


async def test_backup_is_one_moment_beside_writers(tmp_path: Path, backups: Path) -> None:
    """Two rows that are always equal are equal in the backup, though they change while it is made."""
    store = open_store(f"sqlite:{tmp_path / 'store.db'}")
    await store.commit(Batch().put(key("a"), b"0").put(key("z"), b"0"))
    for n in range(3000):
        store.submit(Batch().put(key(f"m{n}"), b"x" * 50), lambda _outcome: None)
    stop = asyncio.Event()

    async def write() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            await store.commit(Batch().put(key("a"), b"%d" % n).put(key("z"), b"%d" % n))

    writing = asyncio.ensure_future(write())
    for _ in range(3):
        await backed_up(store, backups)
    stop.set()
    await writing
    await store.close()
    for manifest in list_backups(backups):
        url = f"sqlite:{tmp_path / f'{manifest.number}.db'}"
        restore_backup(backups, url, number=manifest.number)
        found = {row[0]: row[1] for row in rows_at(url)}
        assert found[key("a")] == found[key("z")]


async def test_any_flipped_bit_is_found(tmp_path: Path, backups: Path) -> None:
    """Each byte of small backups is flipped, cut off or doubled: verify says so, and restore leaves nothing."""
    store = open_store(f"sqlite:{tmp_path / 'store.db'}")
    await store.commit(Batch().put(key("a"), b"1"))
    await backed_up(store, backups)
    await store.commit(Batch().put(key("a"), b"2"))
    await backed_up(store, backups)
    await store.close()
    verify_backup(backups)
    rng = random.Random(5)
    files = [path for path in backups.rglob("*") if path.is_file() and path.name != ".lock"]
    assert len(files) == 6
    for path in files:
        whole = path.read_bytes()
        for place in range(0, len(whole), 1 if len(whole) < 150 else 3):
            hurt = bytearray(whole)
            kind = rng.choice(["flip", "flip", "cut", "more"])
            if kind == "flip":
                hurt[place] ^= 1 << rng.randrange(8)
            elif kind == "cut":
                del hurt[place:]
            else:
                hurt += hurt[place:]
            path.write_bytes(hurt)
            with pytest.raises((BackupDamaged, StoreTooNew)):
                verify_backup(backups)
        if not str(path).endswith("r1/index"):  # only an increment would need that one
            with pytest.raises((BackupDamaged, StoreTooNew)):
                restore_backup(backups, f"sqlite:{tmp_path / 'restored.db'}")
        assert not list(tmp_path.glob("restored*"))
        path.write_bytes(whole)
    verify_backup(backups)


async def test_a_chain_with_a_hole_is_refused(tmp_path: Path, backups: Path) -> None:
    """A base that is missing, or another one of the same number, is named; a number that is not there is StoreMissing."""
    await three(f"sqlite:{tmp_path / 'store.db'}", backups)
    first, second, _ = list_backups(backups)
    with pytest.raises(StoreMissing, match="no backup 9"):
        verify_backup(backups, 9)
    shutil.copytree(backups, tmp_path / "others")
    shutil.rmtree(backups / second.name)
    with pytest.raises(BackupDamaged, match="builds on backup 2, which is not there"):
        verify_backup(backups)
    assert verify_backup(backups, 1) == first
    store = open_store("memory:")
    await backed_up(store, tmp_path / "empty")
    await store.close()
    other = list_backups(tmp_path / "empty")[0]
    shutil.rmtree(tmp_path / "others" / first.name)
    shutil.copytree(tmp_path / "empty" / other.name, tmp_path / "others" / other.name)
    with pytest.raises(BackupDamaged, match="builds on another backup 1"):
        verify_backup(tmp_path / "others", 3)
    with pytest.raises(StoreMissing):
        list_backups(tmp_path / "nowhere")


async def test_a_backup_under_another_number_is_noticed(tmp_path: Path, backups: Path) -> None:
    """A link of the chain that was moved behind the others would be taken for the newest."""
    await three(f"sqlite:{tmp_path / 'store.db'}", backups)
    second = list_backups(backups)[1]
    (backups / second.name).rename(backups / second.name.replace("000002", "000004"))
    with pytest.raises(BackupDamaged, match="belongs in a folder named 000002"):
        verify_backup(backups)
    with pytest.raises(BackupDamaged, match="builds on backup 2"):
        verify_backup(backups, 3)


async def test_no_increment_is_built_on_a_damaged_index(tmp_path: Path, backups: Path) -> None:
    """What it says of rows at its end, too, is compared with its digest; there is no new backup, and a full one can be made."""
    store = open_store(f"sqlite:{tmp_path / 'store.db'}")
    await store.commit(Batch().put(key("a"), b"1").put(key("z"), b"1"))
    first, _ = await backed_up(store, backups)
    index = backups / first.name / "index"
    whole = index.read_bytes()
    await store.commit(Batch().delete(key("z")))
    second, _ = await backed_up(store, backups)
    assert second.deleted == 1
    shutil.rmtree(backups / second.name)
    for hurt in (whole[:-1] + bytes((whole[-1] ^ 1,)), whole + whole, whole[:-1], b""):
        index.write_bytes(hurt)
        with pytest.raises(BackupDamaged, match="index is damaged"):
            await backed_up(store, backups)
        assert list_backups(backups) == [first]
    assert (await backed_up(store, backups, full=True))[0].number == 2
    await store.close()


async def test_newer_backups_are_told_from_damaged_ones(tmp_path: Path, backups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manifest of a later form asks for a newer Spellwork."""
    store = open_store("memory:")
    manifest, _ = await backed_up(store, backups)
    await store.close()
    monkeypatch.setattr(manifest_module, "FORMAT", 0)
    with pytest.raises(StoreTooNew):
        verify_backup(backups, manifest.number)


async def test_a_backup_has_the_layout_of_its_rows(tmp_path: Path, backups: Path) -> None:
    """So that no Spellwork that would misread the store restores it; those of before are restored, and built on."""
    assert manifest_module.FORMAT == LAYOUT
    store = open_store("memory:")
    await store.commit(Batch().put(key("a"), b"1"))
    first, _ = await backed_up(store, backups)
    before = msgspec.structs.replace(first, format=1)
    (backups / first.name / "manifest.json").write_bytes(manifest_module.packed(before))
    await store.commit(Batch().put(key("b"), b"2"))
    second, _ = await backed_up(store, backups)
    await store.close()
    assert (second.kind, second.format) == ("incremental", LAYOUT)
    restored = f"sqlite:{tmp_path / 'restored.db'}"
    restore_backup(backups, restored)
    store = open_store(restored)
    assert [value for _, value in await store.scan(key("a"), key("c"))] == [b"1", b"2"]
    await store.close()


async def test_encrypted_stores_are_backed_up_as_they_are(tmp_path: Path, backups: Path) -> None:
    """Making and restoring need no key, reading does; rows that a rotation rewrote are in the next increment."""
    url, restored = f"sqlite:{tmp_path / 'store.db'}", f"sqlite:{tmp_path / 'restored.db'}"
    store = open_store(url, encryption=Encryption(OLD))
    await store.commit(Batch().put(key("a"), b"canary-in-a-backup"))
    assert (await backed_up(store, backups))[0].encrypted
    await store.close()
    store = open_store(url, encryption=Encryption(NEW, OLD))
    await rotate(store)
    manifest, _ = await backed_up(store, backups)
    assert (manifest.kind, manifest.encrypted) == ("incremental", True)
    await store.close()
    assert not any(b"canary" in path.read_bytes() for path in backups.rglob("*") if path.is_file())
    restore_backup(backups, restored)
    assert rows_at(restored) == rows_at(url)
    with pytest.raises(KeyMissing):
        open_store(restored)
    store = open_store(restored, encryption=Encryption(NEW))
    with pytest.raises(UsageError, match="raw=True"):
        await store.examine(lambda reader: create_backup(reader, tmp_path / "plain", created=1))
    assert not (tmp_path / "plain").exists()
    await store.close()
    store = open_store(restored, encryption=Encryption(NEW))
    assert await store.get(key("a")) == b"canary-in-a-backup"
    await store.close()


async def test_a_damaged_store_is_not_backed_up_silently(tmp_path: Path, backups: Path) -> None:
    """The damaged row is named, and there is no backup."""
    import apsw

    store = open_store(f"sqlite:{tmp_path / 'store.db'}")
    await store.commit(Batch().put(key("a"), b"1"))
    await store.close()
    connection = apsw.Connection(str(tmp_path / "store.db"))
    connection.execute("UPDATE kv SET v = x'00' WHERE k = ?", (key("a"),))
    connection.close()
    store = open_store(f"sqlite:{tmp_path / 'store.db'}")
    with pytest.raises(RowDamaged):
        await backed_up(store, backups)
    await store.close()
    assert list_backups(backups) == []


async def test_one_backup_at_a_time(tmp_path: Path, backups: Path) -> None:
    """A second process that makes one in the same folder is refused."""
    store = open_store("memory:")
    await backed_up(store, backups)
    with alone(backups / ".lock", "testing"), pytest.raises(StoreUnavailable, match="another process is making a backup"):
        await backed_up(store, backups)
    await store.close()


# Restoring onto what is there


async def test_restore_overwrites_nothing_unless_told(tmp_path: Path, backups: Path) -> None:
    """A store that is there is refused; replaced, it is moved aside and still whole; one in use is not touched."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    wanted = await three(url, backups)
    store = open_store(url)
    await store.commit(Batch().put(key("later"), b"1"))
    with pytest.raises(StoreUnavailable, match="is there already"):
        restore_backup(backups, url)
    with pytest.raises(StoreUnavailable, match="is in use"):
        restore_backup(backups, url, replace=True)
    assert await store.get(key("later")) == b"1"
    await store.close()
    later = rows_at(url)
    for n in (1, 2):
        restore_backup(backups, url, replace=True)
        assert rows_at(url) == wanted[2]
        assert rows_at(f"{url}.replaced-{n}") == (later if n == 1 else wanted[2])
    with alone(tmp_path / "other.db.restore-lock", "testing"), pytest.raises(StoreUnavailable, match="another process is building"):
        restore_backup(backups, f"sqlite:{tmp_path / 'other.db'}")
    for bad in ("memory:", f"sqlite:{tmp_path / 'no' / 'folder.db'}"):
        with pytest.raises(StoreUnavailable):
            restore_backup(backups, bad)


_RESTORES = "import sys; from spellwork.store.backup import restore_backup; restore_backup(sys.argv[1], sys.argv[2], replace=True)"


@pytest.mark.parametrize("scheme", ["sqlite", "lmdb", "rocksdb"])
async def test_a_store_in_use_is_not_replaced(scheme: str, tmp_path: Path, backups: Path) -> None:
    """By its own process or by another one: whoever goes on writing would write to what was moved aside."""
    url = f"{scheme}:{tmp_path / 'store'}"
    store = open_store(url)
    await store.commit(Batch().put(key("a"), b"1"))
    await backed_up(store, backups)
    command = [sys.executable, "-c", _RESTORES, str(backups), url]
    other = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "is in use; stop what uses it first" in other.stderr
    with pytest.raises(StoreUnavailable, match="is in use"):
        restore_backup(backups, url, replace=True)
    await store.commit(Batch().put(key("b"), b"2"))
    await store.close()
    store = open_store(url)
    assert await store.get(key("b")) == b"2"
    await store.close()
    restore_backup(backups, url, replace=True)
    assert key("b") not in [row[0] for row in rows_at(url)]


_DAMAGES = "import sys; file = open(sys.argv[1], 'r+b'); file.write(bytes(100))"


@pytest.mark.parametrize("scheme", ["sqlite", "lmdb"])
async def test_a_damaged_store_in_use_is_not_replaced(scheme: str, tmp_path: Path, backups: Path) -> None:
    """Nobody can open it any more, but who has it open goes on committing to it."""
    url = f"{scheme}:{tmp_path / 'store'}"
    store = open_store(url)
    await store.commit(Batch().put(key("a"), b"1"))
    await backed_up(store, backups)
    # by another process: to close a handle of the file here would drop the locks of this one
    subprocess.run([sys.executable, "-c", _DAMAGES, str(tmp_path / "store")], check=True)
    command = [sys.executable, "-c", _RESTORES, str(backups), url]
    for _ in range(2):  # the look of this process takes no lock from it
        other = subprocess.run(command, check=False, capture_output=True, text=True)
        assert "is in use; stop what uses it first" in other.stderr
        with pytest.raises(StoreUnavailable, match="is in use"):
            restore_backup(backups, url, replace=True)
    await store.close()
    restore_backup(backups, url, replace=True)
    assert key("a") in [row[0] for row in rows_at(url)]


@pytest.mark.parametrize("replace", [False, True])
async def test_a_store_that_begins_while_another_is_restored_there_is_kept(tmp_path: Path, backups: Path, replace: bool) -> None:
    """Building takes long: what began meanwhile is neither overwritten nor moved away under the hands of who uses it."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    store = open_store("memory:")
    await backed_up(store, backups)
    await store.close()
    begun: list[Store] = []

    def begin(point: str) -> None:
        if point == "built":
            begun.append(open_store(url))

    with pytest.raises(StoreUnavailable, match="is in use" if replace else "is there already"):
        restore_backup(backups, url, replace=replace, probe=begin)
    await begun[0].commit(Batch().put(key("mine"), b"1"))
    await begun[0].close()
    assert [row[0] for row in rows_at(url) if row[0] == key("mine")] == [key("mine")]
    assert not list(tmp_path.glob("store.db.*"))


def test_who_waited_for_a_lock_that_was_removed_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes must not build one store: a lock file that its owner removed in between is another one."""
    from spellwork.store import durable

    def late(handle: int) -> bool:
        (tmp_path / "lock").unlink()
        return turn.try_lock(handle)

    with monkeypatch.context() as patch:
        patch.setattr(durable, "try_lock", late)
        with pytest.raises(StoreUnavailable, match="another process is testing"), durable.alone(tmp_path / "lock", "testing"):
            pass
    with durable.alone(tmp_path / "lock", "testing"):
        assert (tmp_path / "lock").exists()


def test_a_place_that_can_not_be_written_to_is_a_typed_error(tmp_path: Path, backups: Path) -> None:
    """Names that are too long, and whatever else the system refuses."""
    asyncio.run(three("memory:", backups))
    with pytest.raises(StoreUnavailable, match="could not be built"):
        restore_backup(backups, f"sqlite:{tmp_path / ('x' * 300)}")


async def test_what_a_kill_left_beside_the_place_is_moved_aside_too(tmp_path: Path, backups: Path) -> None:
    """A log without its database must not become the log of the restored one."""
    wanted = await three(f"sqlite:{tmp_path / 'store.db'}", backups)
    (tmp_path / "again.db-wal").write_bytes(b"somebody else's")
    with pytest.raises(StoreUnavailable, match=r"again\.db-wal is there already"):
        restore_backup(backups, f"sqlite:{tmp_path / 'again.db'}")
    restore_backup(backups, f"sqlite:{tmp_path / 'again.db'}", replace=True)
    assert rows_at(f"sqlite:{tmp_path / 'again.db'}") == wanted[2]
    assert (tmp_path / "again.db.replaced-1-wal").read_bytes() == b"somebody else's"


# kill -9


class Sweep:
    """Runs a function in children, the n-th of which dies at its n-th point; ends with one that lived."""

    def __init__(self, work: Callable[[Callable[[str], None]], object]):
        self._work = work
        self.points = 0

    def __iter__(self):
        for n in range(1, 200):
            pid = os.fork()
            if pid == 0:
                left = n

                def die(_point: str) -> None:
                    nonlocal left
                    left -= 1
                    if left == 0:
                        os._exit(9)

                _, error = attempt(self._work, die)
                os._exit(1 if error else 0)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            assert code in (0, 9)
            self.points = n
            yield code == 9
            if code == 0:
                return


@pytest.mark.slow
def test_killed_while_it_is_made_there_is_no_backup_or_a_whole_one(
    tmp_path: Path, backups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every point, in the middle of files too: what is listed verifies, and the next backup succeeds."""
    monkeypatch.setattr(blocks_module, "_RECORDS_AT_MOST", 50)
    url = f"sqlite:{tmp_path / 'store.db'}"
    asyncio.run(three(url, backups))
    source = rows_at(url)

    def make(die: Callable[[str], None]) -> None:
        _, backend = open_backend(url, create=False)
        create_backup(backend.reader(), backups, created=2, full=True, probe=die)

    sweep, whole = Sweep(make), 3
    for killed in sweep:
        there = list_backups(backups)
        assert len(there) in (whole, whole + 1)
        whole = len(there)
        assert killed or whole > 3
        verify_backup(backups)
    assert sweep.points >= 5
    restore_backup(backups, f"sqlite:{tmp_path / 'restored.db'}")
    assert rows_at(f"sqlite:{tmp_path / 'restored.db'}") == source


@pytest.mark.slow
@pytest.mark.parametrize("replace", [False, True])
def test_killed_while_it_is_restored_there_is_nothing_or_a_whole_store(
    tmp_path: Path, backups: Path, replace: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every point: no store, the one before, or the restored one, never a mixture; and restoring again succeeds."""
    from spellwork.store.backup import restoring

    monkeypatch.setattr(restoring, "_ROWS_AT_ONCE", 60)
    wanted = asyncio.run(three(f"sqlite:{tmp_path / 'store.db'}", backups))
    before = wanted[0]
    place = tmp_path / "restored.db"
    url = f"sqlite:{place}"
    if replace:
        restore_backup(backups, url, number=1)
    sweep, seen = Sweep(lambda die: restore_backup(backups, url, replace=replace, probe=die)), set()
    for _ in sweep:
        if place.exists():
            rows = rows_at(url)
            assert rows in (before, wanted[2])
            seen.add("old" if rows == before else "new")
        else:
            seen.add("nothing")
        if not replace:
            place.unlink(missing_ok=True)
    assert sweep.points >= 8
    assert seen == ({"old", "nothing", "new"} if replace else {"nothing", "new"})
    restore_backup(backups, url, replace=True)
    assert rows_at(url) == wanted[2]


async def test_closing_waits_for_a_look_that_was_cancelled(tmp_path: Path) -> None:
    """The thread of a cancelled backup still reads: the store is not closed under it."""
    store = open_store(f"sqlite:{tmp_path / 'store.db'}")
    await store.commit(Batch().put(key("a"), b"1"))
    began, go_on, seen = threading.Event(), threading.Event(), []

    def look(reader) -> None:
        began.set()
        go_on.wait(20)
        seen.append(reader.get(key("a")))

    looking = asyncio.ensure_future(store.examine(look))
    await asyncio.to_thread(began.wait, 20)
    looking.cancel()
    closing = asyncio.ensure_future(store.close())
    await asyncio.sleep(0)
    assert not closing.done()
    go_on.set()
    await closing
    assert seen == [b"1"]
