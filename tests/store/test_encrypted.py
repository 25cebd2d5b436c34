"""Encryption at rest: nothing is readable without the key, nothing can be moved, and keys are changed while work goes on."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from spellwork import Engine, workflow
from spellwork.errors import (
    DefinitionError,
    KeyMissing,
    KeyRefused,
    NotEncrypted,
    RowDamaged,
    StoreCorrupt,
    StoreUnavailable,
    UsageError,
)
from spellwork.store import Batch, Encryption, Keyspace, Store, contents, copy_store, open_store
from spellwork.store.encrypted import EncryptedBackend, ListedKey, encrypted, listed, pack
from spellwork.store.keyring import Keyring
from spellwork.store.keyspace import BACKEND_ROWS, KEYS, REVISION
from spellwork.store.opening import open_backend
from spellwork.store.rotation import encrypt_copy, key_uses, rotate
from spellwork.store.seal import seal
from spellwork.store.sqlite import SqliteBackend
from spellwork.testing import StoreConformance

PLAIN = Keyspace("plain", 0x40)
WATCHED = Keyspace("watched", 0x90)
CANARY = b"canary-7f3a91-do-not-store"
OLD, NEW, OTHER = (bytes((n,)) * 32 for n in (1, 2, 3))


class TestEncryptedMemory(StoreConformance):
    durable = False

    def open(self, place: Path) -> Store:
        return open_store("memory:", encryption=Encryption(OLD))


class TestEncryptedSqlite(StoreConformance):
    shared = True

    def open(self, place: Path) -> Store:
        return open_store(f"sqlite:{place / 'store.db'}", encryption=Encryption(NEW, OLD))


def key(name: str, keyspace: Keyspace = PLAIN) -> bytes:
    return keyspace.key(name.encode())


def everything(place: Path) -> bytes:
    """Every byte of every file below a folder."""
    return b"".join(path.read_bytes() for path in place.rglob("*") if path.is_file())


@pytest.fixture(params=["memory", "sqlite", "lmdb", "rocksdb"])
def url(request, tmp_path: Path) -> str:
    """Each backend."""
    return "memory:" if request.param == "memory" else f"{request.param}:{tmp_path / 'store'}"


async def test_encrypted_store_agrees_with_a_dict(url: str) -> None:
    """Random batches, merges, scans and versions give through encryption what a dict gives."""
    rng = random.Random(3)
    store, model = open_store(url, encryption=Encryption(OLD)), dict[bytes, bytes]()
    names = [PLAIN.key(rng.randbytes(rng.randint(0, 3))) for _ in range(40)]
    for _ in range(60):
        batch = Batch()
        for name in rng.sample(names, 3):
            if rng.random() < 0.3:
                batch.delete(name)
                model.pop(name, None)
            else:
                model[name] = rng.randbytes(rng.choice((0, 5, 3000)))
                batch.put(name, model[name])
        await store.commit(batch)
        low, high = sorted(rng.choice(names) for _ in range(2))
        expected = sorted((k, v) for k, v in model.items() if low <= k < high)
        assert await store.scan(low, high) == expected
        assert await store.scan(low, high, reverse=True, limit=4, damaged=b"") == expected[::-1][:4]
    await store.commit(Batch().merge(key("merged"), "append", b"a"))
    revision = await store.commit(Batch().merge(key("merged"), "append", b"b").append(key("log"), b"first"))
    rows = await store.read(lambda reader: reader.rows(*PLAIN.range(b"merged")))
    assert rows == [(key("merged"), b"ab", revision)]
    async with store.snapshot() as view:
        await store.commit(Batch().delete(key("merged")))
        assert await view.get(key("merged")) == b"ab"
    await store.close()


async def test_nothing_that_was_written_can_be_read_on_the_disk(tmp_path: Path) -> None:
    """Values, the change feed and what was overwritten are nowhere in the files, while open and afterwards."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    for encryption, found in ((None, True), (Encryption(OLD), False)):
        (tmp_path / "store.db").unlink(missing_ok=True)
        store = open_store(url, encryption=encryption)
        await store.commit(Batch().put(key("a"), CANARY).put(key("b", WATCHED), CANARY).append(key("log"), CANARY))
        await store.commit(Batch().put(key("a"), b"gone").delete(key("b", WATCHED)))
        assert (CANARY in everything(tmp_path)) is found
        await store.close()
        assert (CANARY in everything(tmp_path)) is found


async def test_watchers_read_through_encryption(url: str) -> None:
    """The change feed gives the values."""
    store = open_store(url, encryption=Encryption(OLD))
    await store.commit(Batch().put(key("a", WATCHED), b"1"))
    async for change in store.watch(WATCHED.key(), since=0):
        assert (change.key, change.value) == (key("a", WATCHED), b"1")
        break
    await store.close()


async def test_a_store_is_opened_with_its_key_or_not_at_all(tmp_path: Path) -> None:
    """No key, a wrong key and a key for a plain store are three typed refusals, and nothing was written."""
    secret, plain = f"sqlite:{tmp_path / 'secret.db'}", f"sqlite:{tmp_path / 'plain.db'}"
    for url, encryption in ((secret, Encryption(OLD)), (plain, None)):
        store = open_store(url, encryption=encryption)
        await store.commit(Batch().put(key("a"), b"1"))
        await store.close()
    before = everything(tmp_path)
    with pytest.raises(KeyMissing, match=r"is encrypted .* no key was given: pass encryption="):
        open_store(secret)
    with pytest.raises(KeyRefused, match="opens nothing of this store"):
        open_store(secret, encryption=Encryption(OTHER))
    with pytest.raises(NotEncrypted, match="spellwork key encrypt NEW"):
        open_store(plain, encryption=Encryption(OLD))
    assert everything(tmp_path) == before
    backend = SqliteBackend(str(tmp_path / "plain.db"))
    with pytest.raises(NotEncrypted):
        encrypted(backend, Encryption(OLD))
    backend.begin(sync=True)  # no transaction was left open
    backend.rollback()
    backend.close()
    for url, encryption in ((secret, Encryption(OLD)), (plain, None)):
        store = open_store(url, encryption=encryption)
        assert await store.get(key("a")) == b"1"
        await store.close()


async def test_engine_takes_the_keys(tmp_path: Path) -> None:
    """Runs live encrypted, and an engine without the key is refused."""

    @workflow
    async def shout(text: str) -> str:
        return text.upper()

    url = f"sqlite:{tmp_path / 'store.db'}"
    async with Engine(url, workflows=[shout], encryption=Encryption(OLD)) as engine:
        assert await engine.run(shout, CANARY.decode(), id="one") == CANARY.decode().upper()
        assert CANARY not in everything(tmp_path)
        assert CANARY.upper() not in everything(tmp_path)
    with pytest.raises(KeyMissing):
        async with Engine(url, workflows=[shout]):
            pass
    async with Engine(url, workflows=[shout], encryption=Encryption(OLD)) as engine:
        assert await (await engine.get("one")).result() == CANARY.decode().upper()


def rewritten(path: Path, change) -> None:
    """Change the rows of a closed store behind its back, with seals that are right again."""
    connection = apsw.Connection(str(path))
    rows = {bytes(k): bytes(v) for k, v in connection.execute("SELECT k, v FROM kv")}
    for name, value in change(rows).items():
        sealed = connection.execute("SELECT r FROM kv WHERE k = ?", (name,)).get
        connection.execute(
            "UPDATE kv SET v = ?, r = ? WHERE k = ?", (value, seal(name, value, int.from_bytes(sealed[:8], "big")), name)
        )
    connection.close()


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: {key("a"): rows[key("b")], key("b"): rows[key("a")]},
        lambda rows: {name: rows[name][:-1] + bytes((rows[name][-1] ^ 1,)) for name in (key("a"), key("b"))},
        lambda rows: {name: rows[name][:20] + bytes((rows[name][20] ^ 1,)) + rows[name][21:] for name in (key("a"), key("b"))},
        lambda rows: dict.fromkeys((key("a"), key("b")), b"plain"),
        lambda rows: dict.fromkeys((key("a"), key("b")), b""),
    ],
    ids=["transplanted", "tag", "nonce", "plain", "empty"],
)
async def test_what_was_moved_or_changed_is_damaged(tmp_path: Path, change) -> None:
    """A value under another key, a changed one and a plain one are RowDamaged, even where the checksum was made right again."""
    store = open_store(f"sqlite:{tmp_path / 'store.db'}", encryption=Encryption(OLD))
    await store.commit(Batch().put(key("a"), b"1").put(key("b"), b"2").put(key("c"), b"3"))
    await store.close()
    rewritten(tmp_path / "store.db", change)
    store = open_store(f"sqlite:{tmp_path / 'store.db'}", encryption=Encryption(OLD))
    for name in ("a", "b"):
        with pytest.raises(RowDamaged) as caught:
            await store.get(key(name))
        assert caught.value.key == key(name)
    hurt = [(key("a"), b"?"), (key("b"), b"?"), (key("c"), b"3")]
    assert await store.scan(*PLAIN.range(), damaged=b"?") == hurt
    await store.close()


async def test_damage_below_is_told_from_damage_above(tmp_path: Path) -> None:
    """A row whose checksum is broken stands as damaged in a scan, too."""
    store = open_store(f"sqlite:{tmp_path / 'store.db'}", encryption=Encryption(OLD))
    await store.commit(Batch().put(key("a"), b"1"))
    await store.close()
    connection = apsw.Connection(str(tmp_path / "store.db"))
    connection.execute("UPDATE kv SET v = x'00' WHERE k = ?", (key("a"),))
    connection.close()
    store = open_store(f"sqlite:{tmp_path / 'store.db'}", encryption=Encryption(OLD))
    assert await store.scan(*PLAIN.range(), damaged=b"?") == [(key("a"), b"?")]
    await store.close()


# Keys


def test_keys_come_as_bytes_base64_and_hexadecimal() -> None:
    """The forms mean the same key; a new key is another one each time."""
    text = Encryption.new_key()
    assert text != Encryption.new_key()
    import base64

    raw = base64.b64decode(text)
    forms = [Encryption(form).keyring().current for form in (raw, text, raw.hex(), base64.urlsafe_b64encode(raw).decode())]
    assert len(set(forms)) == 1


@pytest.mark.parametrize("given", ["correct horse battery staple", "", b"short", "00" * 31, 7, "ü" * 44])
def test_what_is_no_key_is_refused(given) -> None:
    """A passphrase or a key of another length is refused, and not shown."""
    with pytest.raises(DefinitionError, match="a passphrase is none") as caught:
        Encryption(given)
    assert "correct" not in str(caught.value)


def test_keys_are_read_when_a_store_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the environment, a file or a function, the first one being the current; none at all is KeyMissing."""
    monkeypatch.setenv("SPELLWORK_KEY", f"{NEW.hex()}, {OLD.hex()}")
    (tmp_path / "keys").write_text(f"{NEW.hex()}\n{OLD.hex()}\n")
    sources = [
        Encryption.from_env(),
        Encryption.from_file(tmp_path / "keys"),
        Encryption.from_callback(lambda: [NEW, OLD]),
        Encryption(NEW, OLD),
    ]
    assert len({tuple(source.keyring().ids.items()) for source in sources}) == 1
    assert not any(part in repr(source) for source in sources for part in (NEW.hex(), repr(NEW)))
    assert Encryption.from_callback(lambda: OLD).keyring().current == Encryption(OLD).keyring().current
    monkeypatch.delenv("SPELLWORK_KEY")
    for missing in (Encryption.from_env(), Encryption.from_file(tmp_path / "nothing"), Encryption.from_callback(list)):
        with pytest.raises(KeyMissing):
            missing.keyring()


def test_an_error_about_keys_holds_none(tmp_path: Path) -> None:
    """Nor does what caused it: reports of errors show that too."""
    (tmp_path / "keys").write_bytes(NEW.hex().encode() + b"\xff")
    with pytest.raises(KeyMissing, match="is no plain text") as caught:
        Encryption.from_file(tmp_path / "keys").keyring()
    chain: list[BaseException | None] = [caught.value]
    while (error := chain[-1]) is not None:
        chain.append(error.__cause__ or (None if error.__suppress_context__ else error.__context__))
    assert NEW.hex() not in repr(chain)


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without cryptography the extra is named."""
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(StoreUnavailable, match=r"pip install 'spellwork\[crypto\]'"):
        Encryption(OLD).keyring()


def test_no_nonce_is_used_twice_under_one_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row has its own nonce; each opening, each fork and each so many rows have their own salt and key."""
    from spellwork.store import keyring as module

    monkeypatch.setattr(module, "_ROWS_A_SALT", 10)
    ring, again = Encryption(OLD).keyring(), Encryption(OLD).keyring()
    sealed = [ring.seal(b"k", b"v") for _ in range(30)]
    assert len({row[13:25] for row in sealed}) == 30
    assert [len({row[5:13] for row in sealed[at : at + 10]}) for at in (0, 10, 20)] == [1, 1, 1]
    assert len({row[5:13] for row in (*sealed, again.seal(b"k", b"v"))}) == 4
    monkeypatch.setattr(os, "getpid", lambda: -1)
    ring = Encryption(OLD).keyring()
    before = ring.seal(b"k", b"v")[5:13]
    monkeypatch.setattr(os, "getpid", lambda: -2)
    assert ring.seal(b"k", b"v")[5:13] != before
    assert all(again.open(b"k", row) == b"v" for row in sealed)


# Rotation


async def filled(url: str, count: int = 1200) -> dict[bytes, bytes]:
    """A store under the old key."""
    store = open_store(url, encryption=Encryption(OLD))
    batch = Batch()
    for n in range(count):
        batch.put(key(f"{n:05}"), b"%d" % n)
    await store.commit(batch.put(key("seen", WATCHED), b"1"))
    found = dict(await store.scan(b"", b"\xff"))
    await store.close()
    return found


async def test_rotation_seals_everything_anew_and_forgets_the_old_key(tmp_path: Path) -> None:
    """Afterwards the new key alone opens the store; values and versions are the same, and no watcher was told."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    await filled(url)
    with pytest.raises(KeyMissing, match="give it as an older key"):
        await _opened_and_closed(url, Encryption(NEW), [(OLD, NEW)])
    store = open_store(url, encryption=Encryption(NEW, OLD))
    before = await store.examine(lambda reader: reader.rows(*PLAIN.range()))
    assert {use.rows for use in await key_uses(store)} == {0, 1202}
    seen: list[int] = []
    assert await rotate(store, seen.append) == 1202
    assert seen[-1] == 1202
    assert len(seen) > 2
    assert await rotate(store) == 0
    assert [use.rows for use in await key_uses(store)] == [1202]
    assert await store.examine(lambda reader: reader.rows(*PLAIN.range())) == before
    changes = [change async for change in _until_now(store)]
    assert [change.key for change in changes] == [key("seen", WATCHED)]
    await store.close()
    store = open_store(url, encryption=Encryption(NEW))
    assert await store.get(key("00007")) == b"7"
    await store.close()
    with pytest.raises(KeyRefused):
        open_store(url, encryption=Encryption(OLD))


async def _opened_and_closed(url: str, encryption: Encryption, first: list[tuple[bytes, bytes]]) -> None:
    for old, new in first:
        await open_store(url, encryption=Encryption(new, old)).close()
    await open_store(url, encryption=encryption).close()


async def _until_now(store):
    async for change in store.watch(WATCHED.key(), since=0):
        yield change
        return


async def test_rotation_goes_on_after_an_interruption_and_beside_writers(tmp_path: Path) -> None:
    """Killed in the middle, both keys are still asked for; begun again it ends, and what was written meanwhile is kept."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    await filled(url)

    class Killed(Exception):
        pass

    def kill(rewritten: int) -> None:
        if rewritten > 600:
            raise Killed

    store = open_store(url, encryption=Encryption(NEW, OLD))
    with pytest.raises(Killed):
        await rotate(store, kill)
    await store.close()
    with pytest.raises(KeyMissing):
        open_store(url, encryption=Encryption(NEW))
    store = open_store(url, encryption=Encryption(NEW, OLD))

    async def write() -> None:
        for n in range(0, 1200, 40):
            await store.commit(Batch().put(key(f"{n:05}"), b"new"))

    rewritten, _ = await asyncio.gather(rotate(store), write())
    assert 0 < rewritten < 700
    await store.close()
    store = open_store(url, encryption=Encryption(NEW))
    rows = dict(await store.scan(*PLAIN.range()))
    assert rows == {key(f"{n:05}"): b"new" if n % 40 == 0 else b"%d" % n for n in range(1200)}
    await store.close()


@pytest.mark.parametrize("through", [False, True], ids=["retired", "forgotten"])
@pytest.mark.parametrize("keys", [(OLD,), (OLD, NEW)], ids=["old", "old, new"])
async def test_who_still_seals_with_a_retired_key_is_refused(tmp_path: Path, keys: tuple[bytes, ...], through: bool) -> None:
    """A process that was open with the old key cannot write once a rotation has begun, nor once it is through, however often it
    tries; what it wrote before was rewritten.
    """
    url = f"sqlite:{tmp_path / 'store.db'}"
    late = open_store(url, encryption=Encryption(*keys))
    await late.commit(Batch().put(key("a"), b"1"))
    store = open_store(url, encryption=Encryption(NEW, OLD))

    def interrupt(_rewritten: int) -> None:
        raise InterruptedError

    if through:
        await rotate(store)
    else:
        with pytest.raises(InterruptedError):
            await rotate(store, interrupt)
    for _ in range(3):
        with pytest.raises((KeyRefused, KeyMissing)):
            await late.commit(Batch().put(key("b"), b"2"))
    await late.close()
    await rotate(store)
    assert [use.rows for use in await key_uses(store)] == [1]
    assert await store.get(key("b")) is None
    await store.close()


async def test_a_key_that_is_gone_never_seals_again(tmp_path: Path) -> None:
    """A process that knows both keys and still seals with the old one is refused each time, also once the rotation is through."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    late, store = open_store(url, encryption=Encryption(OLD, NEW)), open_store(url, encryption=Encryption(NEW, OLD))
    await late.commit(Batch().put(key("a"), b"1"))
    await rotate(store)
    for _ in range(3):
        with pytest.raises(KeyRefused, match="was retired by a rotation"):
            await late.commit(Batch().put(key("b"), b"2"))
    assert await late.get(key("a")) == b"1"
    with pytest.raises(KeyRefused, match="was retired by a rotation"):
        open_store(url, encryption=Encryption(OLD, NEW))
    await late.close()
    await rotate(store)
    assert [(use.id, use.retired, use.rows) for use in await key_uses(store)] == [(Keyring([NEW]).current.hex(), False, 1)]
    await store.close()
    with pytest.raises(KeyRefused, match="opens nothing"):
        open_store(url, encryption=Encryption(OLD))
    store = open_store(url, encryption=Encryption(NEW))
    assert await store.scan(*PLAIN.range()) == [(key("a"), b"1")]
    await store.close()


async def test_a_key_that_is_noted_while_another_one_rotates_is_not_forgotten_before_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody opens the store with a third key between the look at the list and its change: both changes hold."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    await filled(url, 600)
    store = open_store(url, encryption=Encryption(NEW, OLD, OTHER))
    read = store.read

    async def slow(look):
        found = await read(look)
        monkeypatch.undo()
        third = open_store(url, encryption=Encryption(OTHER, NEW, OLD))
        await third.commit(Batch().put(key("third"), b"3"))
        await third.close()
        return found

    monkeypatch.setattr(store, "read", slow)

    def interrupt(_rewritten: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        await rotate(store, interrupt)
    names = {name.hex(): given for given in (OLD, NEW, OTHER) for name in (Encryption(given).keyring().current,)}
    assert {names[use.id]: (use.retired, use.rows > 0) for use in await key_uses(store)} == {
        OLD: (True, True), NEW: (False, True), OTHER: (True, True),
    }  # fmt: skip
    await rotate(store)
    await store.close()
    store = open_store(url, encryption=Encryption(NEW))
    assert await store.get(key("third")) == b"3"
    await store.close()


async def test_a_rotation_forgets_no_key_that_another_one_has_retired_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A third key seals a row where one rotation has been already; a second rotation retires that key, and is killed."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    await filled(url)
    first, second = (open_store(url, encryption=Encryption(NEW, OLD, OTHER)) for _ in range(2))
    commit, rewritten = first.commit, 0

    class Killed(Exception):
        pass

    async def late(batch: Batch) -> int:
        nonlocal rewritten
        rewritten += 1
        if rewritten == 3:  # the first page is through
            third = open_store(url, encryption=Encryption(OTHER, NEW, OLD))
            await third.commit(Batch().put(key("00000"), b"3"))
            await third.close()
            monkeypatch.setattr(second, "read", read)
            with pytest.raises(Killed):
                await rotate(second)
        return await commit(batch)

    pages, reading = 0, second.read

    async def read(look):
        nonlocal pages
        pages += 1
        if pages > 1:
            raise Killed
        return await reading(look)

    monkeypatch.setattr(first, "commit", late)
    await rotate(first)
    await second.close()
    left = {use.id: (use.retired, use.rows) for use in await key_uses(first)}
    assert left == {Keyring([NEW]).current.hex(): (False, 1201), Keyring([OTHER]).current.hex(): (True, 1)}
    assert await rotate(first) == 1
    await first.close()
    store = open_store(url, encryption=Encryption(NEW))
    assert await store.get(key("00000")) == b"3"
    await store.close()


@pytest.mark.parametrize("scheme", ["sqlite", "lmdb"])
async def test_a_key_that_was_retired_seals_nothing_in_a_backend_that_was_opened_again(tmp_path: Path, scheme: str) -> None:
    """Another process may have committed between the last transaction and the new handle."""
    url = f"{scheme}:{tmp_path / 'store'}"
    backend = encrypted(open_backend(url)[1], Encryption(OLD))
    revision, _ = backend.begin(sync=True)
    backend.write([(key("a"), b"1", revision + 1)], [])
    backend.commit(revision + 1)
    subprocess.run([sys.executable, "-c", _ROTATES, url, NEW.hex(), OLD.hex()], check=True)
    backend.reopen()
    with pytest.raises(KeyRefused):
        backend.begin(sync=True)
    backend.rollback()
    backend.close()


_ROTATES = """
import asyncio, sys
from spellwork.store import Encryption, open_store
from spellwork.store.rotation import rotate

async def main():
    store = open_store(sys.argv[1], encryption=Encryption(*sys.argv[2:]))
    await rotate(store)
    await store.close()

asyncio.run(main())
"""


@pytest.mark.parametrize("target", ["lmdb", "rocksdb"])
async def test_what_a_backend_notes_about_itself_is_not_copied(tmp_path: Path, target: str) -> None:
    """An encrypted copy on another backend says of itself what a new store there says."""
    plain = open_store(f"rocksdb:{tmp_path / 'plain'}", durability="relaxed")  # which it notes
    await plain.commit(Batch().put(key("a"), b"1"))
    await plain.close()
    encrypt_copy(f"rocksdb:{tmp_path / 'plain'}", f"{target}:{tmp_path / 'copy'}", Encryption(OLD))
    notes = []
    for name in ("copy", "new"):
        _, backend = open_backend(f"{target}:{tmp_path / name}")
        reader = backend.reader()
        notes.append([reader.get(row) for row in BACKEND_ROWS])
        reader.dispose()
        backend.close()
    assert notes[0] == notes[1]


def test_no_more_openers_are_kept_than_are_of_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that was opened a million times has as many salts; memory is not for all of them."""
    from spellwork.store import keyring as module

    monkeypatch.setattr(module, "_DERIVED_KEPT", 4)
    ring = Encryption(OLD).keyring()
    sealed = [Encryption(OLD).keyring().seal(b"k", b"%d" % n) for n in range(20)]
    assert [ring.open(b"k", row) for row in sealed] == [b"%d" % n for n in range(20)]
    assert len(ring._opened) <= 4


def test_keys_of_one_id_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows tell their key by four bytes; of two keys that share them one would open nothing."""
    from spellwork.store import keyring as module

    monkeypatch.setattr(module, "ID_BYTES", 0)
    with pytest.raises(DefinitionError, match="the same id"):
        Encryption(OLD, NEW).keyring()
    Encryption(OLD, OLD).keyring()


async def test_another_key_of_the_same_id_is_a_wrong_one(tmp_path: Path) -> None:
    """The list of keys holds more of each than its id."""
    await filled(f"sqlite:{tmp_path / 'store.db'}", 3)
    mine = Encryption(OLD).keyring().current
    rewritten(tmp_path / "store.db", lambda rows: {KEYS: pack([ListedKey(mine, b"of another key")])})
    with pytest.raises(KeyRefused, match="opens nothing"):
        open_store(f"sqlite:{tmp_path / 'store.db'}", encryption=Encryption(OLD))


async def test_plain_stores_are_copied_not_converted(tmp_path: Path) -> None:
    """The encrypted copy has the same keys, values and versions, and the plain text is not in it."""
    plain, secret = f"sqlite:{tmp_path / 'plain.db'}", f"sqlite:{tmp_path / 'copy' / 'secret.db'}"
    (tmp_path / "copy").mkdir()
    store = open_store(plain)
    for n in range(5):
        await store.commit(Batch().put(key(f"{n}"), CANARY))
    rows = await store.examine(lambda reader: reader.rows(*PLAIN.range()))
    with pytest.raises(UsageError, match="not encrypted"):
        await rotate(store)
    await store.close()
    await asyncio.to_thread(encrypt_copy, plain, secret, Encryption(OLD))
    assert CANARY not in everything(tmp_path / "copy")
    assert [path.name for path in (tmp_path / "copy").iterdir()] == ["secret.db"]
    store = open_store(secret, encryption=Encryption(OLD))
    assert await store.examine(lambda reader: reader.rows(*PLAIN.range())) == rows
    assert await store.revision() == 5
    await store.close()
    with pytest.raises(StoreUnavailable, match="is there already"):
        encrypt_copy(plain, secret, Encryption(OLD))
    with pytest.raises(KeyMissing):
        encrypt_copy(secret, f"sqlite:{tmp_path / 'third.db'}", Encryption(OLD))


@pytest.mark.parametrize("keys", [(None, OLD), (OLD, None), (OLD, NEW)], ids=["encrypts", "decrypts", "other key"])
async def test_copies_may_be_encrypted_or_not(tmp_path: Path, keys: tuple[bytes | None, bytes | None]) -> None:
    """What both hold is the same, whatever it is sealed with; each needs its own key afterwards, or none."""
    source, target = [Encryption(given) if given else None for given in keys]
    here, there = open_store("memory:", encryption=source), open_store(f"lmdb:{tmp_path / 'copy'}", encryption=target)
    await here.commit(Batch().put(key("a"), CANARY))
    assert await copy_store(here, there) == await contents(here)
    await here.close()
    await there.close()
    assert (CANARY in everything(tmp_path)) is (target is None)
    there = open_store(f"lmdb:{tmp_path / 'copy'}", encryption=target)
    assert await there.get(key("a")) == CANARY
    await there.close()


async def test_the_list_of_keys_cannot_vanish_unnoticed(tmp_path: Path) -> None:
    """A list that cannot be read is StoreCorrupt; rows that were written stay behind a key."""
    path = tmp_path / "store.db"
    await filled(f"sqlite:{path}", 3)
    rewritten(path, lambda rows: {KEYS: b"\x00"})
    with pytest.raises(StoreCorrupt, match="list of the store's keys"):
        open_store(f"sqlite:{path}", encryption=Encryption(OLD))


def test_two_openings_of_a_new_store_agree_on_its_keys(tmp_path: Path) -> None:
    """Both keys are noted when two processes open a new store with different rings."""
    backends = [SqliteBackend(str(tmp_path / "store.db")) for _ in range(2)]
    encrypted(backends[0], Encryption(OLD, NEW))
    second = encrypted(backends[1], Encryption(NEW, OLD))
    assert isinstance(second, EncryptedBackend)
    assert isinstance(second.ring, Keyring)
    reader = backends[0].reader()
    assert [k.id for k in listed(reader.get(KEYS) or b"")] == [Encryption(k).keyring().current for k in (OLD, NEW)]
    assert reader.get(REVISION) == (2).to_bytes(8, "big")
    reader.dispose()
    for backend in backends:
        backend.close()
