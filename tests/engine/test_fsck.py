"""fsck: silent over everything that is sound, names what is damaged, and sets aside that and nothing else."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from spellwork import Engine, Signal, Workflow, activity, workflow
from spellwork.clock import SystemClock
from spellwork.engine.fsck import Report, check
from spellwork.engine.ownership import Ownership
from spellwork.engine.quarantine import Outcome, quarantine
from spellwork.errors import Lagged, RowDamaged, RunBlocked, StoreCorrupt, StoreOwned
from spellwork.journal.rows import Keys, active_key, blocked_key, id_key, journal_key, journal_range, receipt_key, run_key
from spellwork.state import StateStore
from spellwork.state.keys import encode_key
from spellwork.state.scopes import DUE, OPERATIONS, Scope
from spellwork.state.scopes import STATE as TREES
from spellwork.store import Batch, Encryption, Keyspace, Store, open_store
from spellwork.store.fsck import ASIDE
from spellwork.store.keyspace import FEED, FEED_FLOOR, META, PARTITIONS, REVISION
from spellwork.store.seal import seal
from spellwork.testing.chaos import corpus

STATE = Keyspace("state", 0x90)
go = Signal[int]("go")
KEY = b"k" * 32


@activity
async def add(a: int, b: int) -> int:
    return a + b


@workflow
async def leaf(n: int) -> int:
    return await add(n, 1)


@workflow
async def parent(n: int) -> int:
    return await leaf(n) + await add(n, 1)


@workflow
async def waits(name: str) -> list[object]:
    total = await add(1, 2)
    await asyncio.sleep(3600 * 24)
    return [name, total, await go.receive()]


@workflow
async def listens(name: str) -> list[object]:
    total = await add(1, 2)
    return [name, total, await go.receive()]


WORKFLOWS: list[Workflow[Any, Any]] = [leaf, parent, waits, listens]


async def opened(path: Path, encryption: Encryption | None = None) -> Store:
    return open_store(f"sqlite:{path}", create=False, encryption=encryption)


async def checked(path: Path, encryption: Encryption | None = None) -> Report:
    store = await opened(path, encryption)
    try:
        return await store.examine(check)
    finally:
        await store.close()


async def cared(path: Path) -> Outcome:
    store = await opened(path)
    try:
        return await quarantine(store, SystemClock())
    finally:
        await store.close()


async def rows_of(path: Path) -> dict[bytes, bytes]:
    store = await opened(path)
    try:
        return dict(await store.scan(b"", b"\xff" * 64, damaged=b"?"))
    finally:
        await store.close()


async def fill(path: Path, encryption: Encryption | None = None) -> None:
    """A store with ended, parked and waiting runs, children, state and mail."""
    async with Engine(f"sqlite:{path}", workflows=WORKFLOWS, encryption=encryption) as engine:
        assert await engine.run(parent, 3, id="family") == 8
        for name in ("one", "two"):
            await engine.start(waits, name, id=f"waits-{name}")
            await engine.start(listens, name, id=f"listens-{name}")
        for n in range(5):
            await engine.store.commit(Batch().put(STATE.key(b"%d" % n), b"value"))
        async with StateStore(engine.store) as state:
            tree = state.tree("tree", dict[str, int])
            await tree.set("lasting", {"a": 1})
            await tree.set(("expiring", 1), {"a": 1}, ttl=3600)
            await state.scope("user", "ada").tree("counts", int).merge("n", "add", 1, id="once")
        while not engine.idle:
            await asyncio.sleep(0.01)


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """Made once; each test takes a copy."""
    path = tmp_path_factory.mktemp("template") / "store.db"
    asyncio.run(fill(path))
    return path


@pytest.fixture
def path(template: Path, tmp_path: Path) -> Path:
    shutil.copy(template, tmp_path / "store.db")
    return tmp_path / "store.db"


def number(path: Path, run_id: str) -> int:
    connection = apsw.Connection(str(path))
    value = connection.execute("SELECT v FROM kv WHERE k = ?", (id_key(run_id),)).get
    connection.close()
    return int.from_bytes(value[:8], "big")


def hurt(path: Path, *keys: bytes) -> None:
    """Flip a bit of the value (or of the seal, where there is none), behind the store's back."""
    connection = apsw.Connection(str(path))
    connection.set_busy_timeout(5_000)  # the store may be open, and write just now
    for key in keys:
        value, sealed = next(connection.execute("SELECT v, r FROM kv WHERE k = ?", (key,)))
        if value:
            value = bytes((value[0] ^ 4,)) + value[1:]
        else:
            sealed = sealed[:-1] + bytes((sealed[-1] ^ 4,))
        connection.execute("UPDATE kv SET v = ?, r = ? WHERE k = ?", (value, sealed, key))
    connection.close()


def stored(path: Path) -> list[bytes]:
    connection = apsw.Connection(str(path))
    found = [key for (key,) in connection.execute("SELECT k FROM kv ORDER BY k")]
    connection.close()
    return found


def lose(path: Path, *keys: bytes) -> None:
    connection = apsw.Connection(str(path))
    for key in keys:
        connection.execute("DELETE FROM kv WHERE k = ?", (key,))
        assert connection.changes() == 1
    connection.close()


def put(path: Path, key: bytes, value: bytes, version: int = 1) -> None:
    """A row that is whole and means nonsense."""
    connection = apsw.Connection(str(path))
    connection.execute("INSERT OR REPLACE INTO kv VALUES(?, ?, ?)", (key, value, seal(key, value, version)))
    connection.close()


def tree_row(key: Any) -> bytes:
    return Scope().tree("tree") + encode_key(key)


# Nothing is found where nothing is wrong


async def test_sound_stores_have_no_findings(path: Path) -> None:
    """Ended, waiting and sleeping runs, children, state: not a remark, and what is counted is there."""
    report = await checked(path)
    assert report.findings == []
    assert report.rows["runs"] == report.rows["ids"] == 6
    assert (report.rows["state"], report.rows["expiries"], report.rows["merges done"]) == (3, 2, 1)
    assert report.unknown == {0x90: 5}


@pytest.mark.slow
async def test_a_running_engine_is_checked_without_a_finding(tmp_path: Path) -> None:
    """Over every shape of workflow, while it works, and as a kill leaves it, at any moment."""
    path = tmp_path / "live.db"
    names = ["sequence", "fan_out", "nested", "retries", "continued"]
    seen = []

    async def look(engine: Engine) -> None:
        while True:
            report = await engine.store.examine(check)
            assert report.damage == []
            seen.append(len(report.runs))
            await asyncio.sleep(0.01)

    async with Engine(f"sqlite:{path}", workflows=corpus.WORKFLOWS) as engine:
        looking = asyncio.ensure_future(look(engine))
        await corpus.drive(engine, names, lambda _line: None)
        crashed = {suffix: Path(f"{path}{suffix}").read_bytes() for suffix in ("", "-wal")}
        looking.cancel()
        assert max(seen) > 0, "it looked while there was something to see"
    for suffix, content in crashed.items():
        (tmp_path / f"crashed.db{suffix}").write_bytes(content)
    assert (await checked(tmp_path / "crashed.db")).damage == []


async def test_encrypted_stores_are_checked_through_their_key(tmp_path: Path) -> None:
    """Every reference is seen, and a value that was moved to another key is damage."""
    path = tmp_path / "store.db"
    await fill(path, Encryption(KEY))
    report = await checked(path, Encryption(KEY))
    assert (report.findings, report.rows["runs"]) == ([], 6)
    connection = apsw.Connection(str(path))
    value = connection.execute("SELECT v FROM kv WHERE k = ?", (STATE.key(b"1"),)).get
    connection.close()
    put(path, STATE.key(b"2"), value)
    (finding,) = (await checked(path, Encryption(KEY))).findings
    assert (finding.kind, finding.key) == ("damaged", STATE.key(b"2"))


# Each damage is named


def _journal(run_id: str, position: int) -> Callable[[Path], bytes]:
    return lambda path: journal_key(number(path, run_id), position)


DAMAGES: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "entry": (_journal("waits-one", 1), "waits-one"),
    "first entry": (_journal("listens-one", 0), "listens-one"),
    "entry of an ended run": (_journal("family", 1), ""),
    "row of a run": (lambda path: run_key(number(path, "waits-one")), "waits-one"),
    "row of an ended run": (lambda path: run_key(number(path, "family")), "family"),
    "address": (lambda path: id_key("waits-two"), ""),
    "value of an unknown keyspace": (lambda _path: STATE.key(b"3"), ""),
    "value of a tree": (lambda _path: tree_row("lasting"), ""),
}


@pytest.mark.parametrize("case", DAMAGES)
async def test_a_damaged_row_is_named_and_only_it_is_set_aside(path: Path, case: str) -> None:
    """The finding has run, number and position; afterwards the check is quiet, and every other row is as it was."""
    key_of, hurt_run = DAMAGES[case]
    key = key_of(path)
    before = await rows_of(path)
    hurt(path, key)
    report = await checked(path)
    assert [finding.key for finding in report.damage] == [key]
    assert report.damage[0].kind == "damaged"
    if key[0] == Keys.JOURNAL:
        assert report.damage[0].position == int.from_bytes(key[9:], "big")
    assert await rows_of(path) == before | {key: b"?"}  # the check has written nothing

    outcome = await cared(path)
    assert outcome.done
    assert outcome.report.damage == []
    assert (await checked(path)).damage == []
    after = await rows_of(path)
    changed = {k for k in before.keys() | after.keys() if before.get(k) != after.get(k)} - {REVISION, ASIDE.key(key)}
    hurt_number = number(path, hurt_run) if hurt_run else 0
    theirs = {key, run_key(hurt_number)} | {k for k in changed if k[0] in (Keys.ACTIVE, Keys.BLOCKED, Keys.TIMERS)}
    assert {k for k in changed if k[0] not in (PARTITIONS.prefix, FEED.prefix)} <= theirs
    assert sum(k[0] == FEED.prefix for k in changed) == (key[0] >= 0x80)  # watchers are told of a value that is gone
    assert all(k[-8:] == hurt_number.to_bytes(8, "big") for k in theirs - {key})

    async with Engine(f"sqlite:{path}", workflows=WORKFLOWS) as engine:
        for run_id in ("listens-two", "listens-one"):
            if run_id == hurt_run:
                with pytest.raises(RunBlocked):
                    await (await engine.get(run_id)).result(2)
                continue
            run = await engine.get(run_id)
            await run.signal(go, 7)
            assert await run.result(5) == [run_id[8:], 3, 7]


async def test_what_is_set_aside_keeps_its_bytes(path: Path) -> None:
    """Under its own key in the keyspace of what was set aside, with the reason."""
    hurt(path, STATE.key(b"3"))
    await cared(path)
    store = await opened(path)
    found = await store.get(ASIDE.key(STATE.key(b"3")))
    assert found is not None
    assert b"ralue" in found  # "value" with the flipped bit
    assert await store.get(STATE.key(b"3")) is None
    await store.close()


async def test_a_run_whose_journal_is_damaged_waits_until_it_is_restored(path: Path) -> None:
    """It is quarantined with a reason; with the entry back, resume goes on."""
    key = journal_key(number(path, "listens-one"), 1)
    whole = (await rows_of(path))[key]
    hurt(path, key)
    await cared(path)
    async with Engine(f"sqlite:{path}", workflows=WORKFLOWS) as engine:
        run = await engine.get("listens-one")
        status = await run.status()
        assert status.status == "quarantined"
        assert "fsck found its journal damaged" in status.reason
        with pytest.raises(StoreCorrupt):
            await run.resume()
    put(path, key, whole)
    async with Engine(f"sqlite:{path}", workflows=WORKFLOWS) as engine:
        run = await engine.get("listens-one")
        await run.resume()
        await run.signal(go, 7)
        assert await run.result(5) == ["one", 3, 7]


async def test_a_row_of_a_run_is_rebuilt_from_its_journal(path: Path) -> None:
    """Damaged or lost: an ended run is ended again with its result, one that waits is quarantined and can be resumed."""
    hurt(path, run_key(number(path, "family")))
    lose(path, run_key(number(path, "listens-one")), id_key("listens-two"))
    kinds = {finding.kind for finding in (await checked(path)).damage}
    assert kinds == {"damaged", "missing", "dangling"}
    outcome = await cared(path)
    assert outcome.report.damage == []
    async with Engine(f"sqlite:{path}", workflows=WORKFLOWS) as engine:
        assert await (await engine.get("family")).result(2) == 8
        run = await engine.get("listens-one")
        assert (await run.status()).status == "quarantined"
        await run.resume()
        for run_id in ("listens-one", "listens-two"):
            run = await engine.get(run_id)
            await run.signal(go, 7)
            assert await run.result(5) == [run_id[8:], 3, 7]


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (lambda p: lose(p, _journal("family", 1)(p)), "missing", "position 1: the entry is missing"),
        (lambda p: lose(p, id_key("waits-one")), "missing", "cannot be found by its id"),
        (lambda p: lose(p, run_key(number(p, "waits-one"))), "dangling", "has no row"),
        (lambda p: put(p, id_key("waits-one"), b"short"), "unreadable", "the address of run waits-one"),
        (lambda p: put(p, id_key("ghost"), (77).to_bytes(8, "big") + b"\0\0"), "dangling", "run ghost is said to have number 77"),
        (lambda p: put(p, run_key(99), b"\xc1"), "unreadable", "run number 99"),
        (lambda p: put(p, bytes((Keys.INBOX,)) + b"\0\0" + b"x" * 16, b"\xc1"), "unreadable", "a message in an inbox"),
        (lambda p: put(p, bytes((Keys.REPLIES,)) + b"x" * 16, b"\xc1"), "unreadable", "a reply"),
        (lambda p: put(p, bytes((Keys.TIMERS,)) + b"\0\0short", b""), "unreadable", "a key in the index timers"),
        (lambda p: put(p, FEED.key((9999).to_bytes(8, "big")), b""), "unreadable", "an entry for revision 9999"),
        (lambda p: put(p, STATE.key(b"x"), b"", version=99999), "unreadable", "has version 99999"),
        (lambda p: put(p, run_key(number(p, "waits-one")), b"\x90"), "unreadable", "run number"),
        (lambda p: put(p, tree_row("bad"), b"\x00\xc1"), "unreadable", "tree tree (global), key"),
        (lambda p: put(p, tree_row("bad"), b"\x07x"), "unreadable", "no form that is known"),
        (lambda p: put(p, tree_row("bad")[:-4] + b"\x44", b"\x00\xc0"), "unreadable", "state, "),
        (lambda p: put(p, TREES.key(b"\x09"), b""), "unreadable", "names no scope and tree"),
        (lambda p: put(p, DUE.key(b"12345678x"), b""), "unreadable", "belongs to nothing"),
        (lambda p: put(p, OPERATIONS.key(b"x" * 20), b""), "unreadable", "the mark of a merge"),
        (lambda p: put(p, receipt_key(5, 1), b"nonsense"), "unreadable", "receipt of command 1"),
        (lambda p: lose(p, next(k for k in stored(p) if k[0] == DUE.prefix and k[9] == 0x80)), "missing", "missing in the index"),
        (lambda p: put(p, journal_key(123, 0), b"nonsense"), "missing", "run number 123 has no row"),
    ],
)  # fmt: skip
async def test_references_that_lead_nowhere_are_named_and_dealt_with(path: Path, change, kind: str, words: str) -> None:
    """Each is found by what it says, and a quarantine leaves nothing that is not set aside."""
    change(path)
    report = await checked(path)
    assert any(finding.kind == kind and words in finding.message for finding in report.damage), report.damage
    outcome = await cared(path)
    left = [finding for finding in outcome.report.damage if "has version 99999" not in finding.message]
    assert left == []


async def test_stale_rows_of_indexes_are_no_damage_and_are_removed(path: Path) -> None:
    """An ended run in the index of active ones, and one of timers: engines pass over them, a quarantine removes them."""
    ended = number(path, "family")
    partition = next(k for k in await rows_of(path) if k[0] == Keys.ACTIVE or k[0] == Keys.TIMERS)[1:3]
    for key in (bytes((Keys.ACTIVE,)) + partition + ended.to_bytes(8, "big"), bytes((Keys.ACTIVE,)) + partition + b"\0" * 8):
        put(path, key, b"")
    report = await checked(path)
    assert [finding.kind for finding in report.findings] == ["stale", "stale"]
    assert report.damage == []
    assert (await cared(path)).report.findings == []


async def test_indexes_are_rebuilt(path: Path) -> None:
    """A damaged row of a timer's index keeps its run from no wake-up, and a blocked run is found again."""
    timers = [k for k in await rows_of(path) if k[0] == Keys.TIMERS]
    assert len(timers) == 2
    hurt(path, timers[0])
    assert (await cared(path)).report.findings == []
    assert (await rows_of(path))[timers[0]] == b""

    entry = journal_key(number(path, "waits-one"), 1)
    hurt(path, entry)
    await cared(path)
    index = [k for k in await rows_of(path) if k[0] == Keys.BLOCKED]
    lose(path, *index)
    assert [finding.kind for finding in (await checked(path)).damage] == ["missing"]
    assert (await cared(path)).report.damage == []
    assert [k for k in await rows_of(path) if k[0] == Keys.BLOCKED] == index
    assert active_key(int.from_bytes(index[0][1:3], "big"), number(path, "waits-one")) not in await rows_of(path)
    assert blocked_key(int.from_bytes(index[0][1:3], "big"), number(path, "waits-one")) in index


async def test_marks_of_what_was_done_stay_in_place(path: Path) -> None:
    """A merge whose mark is damaged is refused rather than done twice, and a moment of expiry is rebuilt from its key."""
    mark = next(key for key in stored(path) if key[0] == OPERATIONS.prefix)
    due = next(key for key in stored(path) if key[0] == DUE.prefix)
    hurt(path, mark, due)
    assert (await cared(path)).report.damage == []
    store = await opened(path)
    async with StateStore(store) as state:
        counts = state.scope("user", "ada").tree("counts", int)
        with pytest.raises(RowDamaged):
            await counts.merge("n", "add", 1, id="once")
        assert await counts.get("n") == 1
    assert await store.get(due) == b""
    await store.close()


async def test_a_run_whose_receipt_is_damaged_is_quarantined(path: Path) -> None:
    """Its transaction may have been committed: it must not be done again."""
    key = receipt_key(number(path, "listens-one"), 3)
    put(path, key, b"receipt")
    hurt(path, key)
    assert (await cared(path)).report.damage == []
    async with Engine(f"sqlite:{path}", workflows=WORKFLOWS) as engine:
        assert (await (await engine.get("listens-one")).status()).status == "quarantined"
        with pytest.raises(StoreCorrupt):
            await (await engine.get("listens-one")).resume()


async def test_a_lost_change_is_told_to_watchers(path: Path) -> None:
    """A damaged entry of the feed makes those behind it Lagged, and those after it go on."""
    feed = [k for k in await rows_of(path) if k[0] == FEED.prefix]
    hurt(path, feed[1])
    await cared(path)
    store = await opened(path)
    assert [k for k in await rows_of(path) if k[0] == FEED.prefix] == feed[2:]
    with pytest.raises(Lagged):
        async for _ in store.watch(STATE.key(), since=0):
            pass
    async for change in store.watch(STATE.key(), since=int.from_bytes(feed[1][1:], "big")):
        assert change.key == STATE.key(b"2")
        break
    await store.close()
    hurt(path, FEED_FLOOR)
    assert (await cared(path)).report.damage == []


async def test_a_lost_partition_gets_an_epoch_above_all_earlier_ones(path: Path) -> None:
    """The old owner, were it still there, is fenced."""
    key = PARTITIONS.key((2).to_bytes(2, "big"))
    epoch = int.from_bytes((await rows_of(path))[key][:8], "big")
    hurt(path, key)
    outcome = await cared(path)
    assert any("partition 2: a new epoch" in line for line in outcome.done)
    assert int.from_bytes((await rows_of(path))[key][:8], "big") > epoch + 10


async def test_settings_are_left_for_a_backup(path: Path) -> None:
    """What the store cannot do without is named and not removed."""
    hurt(path, META.key(b"session"))
    outcome = await cared(path)
    assert [finding.key for finding in outcome.report.damage] == [META.key(b"session")]


async def test_nothing_is_set_aside_while_an_engine_lives(path: Path) -> None:
    """Checking is allowed, writing is not; the engine's runs go on."""
    hurt(path, STATE.key(b"3"))
    async with Engine(f"sqlite:{path}", workflows=WORKFLOWS) as engine:
        assert len((await checked(path)).damage) == 1
        with pytest.raises(StoreOwned, match="stop it before anything is set aside"):
            await cared(path)
        run = await engine.get("listens-one")
        await run.signal(go, 7)
        assert await run.result(5) == ["one", 3, 7]
    assert len((await checked(path)).damage) == 1


async def test_a_row_that_was_written_anew_is_not_touched(path: Path) -> None:
    """Between look and deed somebody has mended it: the quarantine leaves it alone."""
    from spellwork.engine import quarantine as module

    hurt(path, STATE.key(b"3"))
    store = await opened(path)
    report = await store.examine(check)
    await store.commit(Batch().put(STATE.key(b"3"), b"mended"))
    owner = Ownership(store, SystemClock(), 10.0)
    assert await module._Quarantine(store, SystemClock(), owner, report).run() == []
    assert await store.get(STATE.key(b"3")) == b"mended"
    owner.close()
    await store.close()


def test_journal_range_is_of_one_run() -> None:
    """What is checked as one journal is one."""
    assert journal_range(7)[1] == journal_range(8)[0]
