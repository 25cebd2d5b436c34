"""Several processes on one store: whose changes are heard, who may write, and who is told that he may not."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from spellwork.errors import StoreUnavailable
from spellwork.store import Batch, Encryption, open_store
from spellwork.store.lmdb import LmdbBackend
from spellwork.testing.chaos.tracer import missing
from tests.store.faulty import store_over

ONE = (1).to_bytes(8, "big", signed=True)
COUNTER, CHANGED = b"\x40n", b"\x90k"


class Other:
    """Another process on the store; see tests/store/other.py for what it obeys."""

    def __init__(self, url: str):
        self._process: Any = subprocess.Popen(
            [sys.executable, "-m", "tests.store.other", url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid

    async def __aenter__(self) -> Other:
        assert await self.hear() == "open"
        return self

    async def __aexit__(self, *_) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            stream.close()

    def tell(self, line: str) -> None:
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    async def hear(self) -> str:
        return (await asyncio.wait_for(asyncio.to_thread(self._process.stdout.readline), 30)).strip()

    async def ask(self, line: str) -> str:
        self.tell(line)
        return await self.hear()


@pytest.fixture(params=["sqlite", "lmdb"])
def url(request, tmp_path: Path) -> str:
    return f"{request.param}:{tmp_path / 'store'}"


async def test_changes_of_another_process_are_heard_in_order(url: str) -> None:
    """A watcher gets what another process commits, soon, and the store's own commits do not ring for it."""
    store = open_store(url)
    rings = []
    store.on_change(lambda: rings.append(1), foreign_only=True)
    async with Other(url) as other:
        watch: Any = store.watch(CHANGED, since=await store.revision())
        for number in range(10):
            waiting = asyncio.ensure_future(anext(watch))
            await asyncio.sleep(0)
            assert await other.ask(f"put {number}") == "ok"
            change = await asyncio.wait_for(waiting, 2)
            assert change.value == str(number).encode()
        await watch.aclose()
        await asyncio.sleep(0.2)
        heard = len(rings)
        assert heard >= 1
        for _ in range(5):
            await store.commit(Batch().put(CHANGED, b"mine"))
        await asyncio.sleep(0.2)
        assert len(rings) == heard
    await store.close()


async def test_a_watcher_that_hears_nothing_looks_less_often_until_it_does(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks are what an idle watcher costs: they become rare, and frequent again with the first change of another process."""
    monkeypatch.setattr("spellwork.store.store._WATCH_EVERY", 0.001)
    monkeypatch.setattr("spellwork.store.store._QUIET_EVERY", 5.0)
    monkeypatch.setattr("spellwork.store.store._QUIET_AFTER", 0.2)
    store = open_store(url)
    looks: list[int] = []
    look = store._backend.doorbell

    def counted() -> int:
        looks.append(1)
        return look()

    monkeypatch.setattr(store._backend, "doorbell", counted)
    rung = asyncio.Event()
    store.on_change(rung.set, calm=True)
    await asyncio.sleep(0.6)
    assert len(looks) >= 3
    looks.clear()
    await asyncio.sleep(0.2)
    assert not looks
    async with Other(url) as other:
        rung.clear()
        assert await other.ask("put 1") == "ok"
        await asyncio.wait_for(rung.wait(), 15)
        looks.clear()
        await asyncio.sleep(0.1)
        assert len(looks) >= 3
    await store.close()


async def test_nobody_looks_for_other_processes_where_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rocksdb: store is its process's own: watching costs nothing between commits, encrypted or not, and hears of each."""
    for name, encryption in (("plain", None), ("sealed", Encryption(b"k" * 32))):
        store = open_store(f"rocksdb:{tmp_path / name}", encryption=encryption)
        looks: list[int] = []
        monkeypatch.setattr(store._backend, "doorbell", lambda looks=looks: len(looks.append(1) or looks))
        watch: Any = store.watch(CHANGED, since=0)
        waiting = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0.1)
        await store.commit(Batch().put(CHANGED, b"1"))
        assert (await asyncio.wait_for(waiting, 5)).value == b"1"
        assert looks == []
        await watch.aclose()
        await store.close()


async def test_the_bell_never_rings_before_the_commit_can_be_read(tmp_path: Path) -> None:
    """LMDB shows a commit that is still being synced in its numbers, but not to readers: whoever was woken then would sleep on."""
    backend = LmdbBackend(str(tmp_path / "store"))
    async with Other(f"lmdb:{tmp_path / 'store'}") as other:
        other.tell("count 0.7")
        until, heard = asyncio.get_running_loop().time() + 0.6, set()
        while asyncio.get_running_loop().time() < until:
            bell = backend.doorbell()
            view = backend.view()
            assert bell <= view.id()
            backend.end_view(view)
            heard.add(bell)
        await other.hear()
    assert len(heard) > 3
    backend.close()


@pytest.mark.slow
async def test_two_processes_count_exactly_and_neither_starves(url: str) -> None:
    """Both add in a loop, by merges and by checked versions: the sum is exact, and each gets its turn."""
    store = open_store(url)
    await store.commit(Batch())
    async with Other(url) as other:
        other.tell("count 1.5")
        loop = asyncio.get_running_loop()
        until, mine = loop.time() + 1.5, 0
        while loop.time() < until:
            await store.commit(Batch().merge(COUNTER, "add", ONE))
            mine += 1
        theirs = int(await other.hear())
    assert int.from_bytes(await store.get(COUNTER) or b"", "big") == mine + theirs
    assert min(mine, theirs) * 6 > max(mine, theirs), (mine, theirs)
    await store.close()


async def test_a_killed_writer_gives_the_lock_up(url: str) -> None:
    """A process that dies in the middle of a transaction leaves nothing of it, and the next one writes at once."""
    store = open_store(url)
    await store.commit(Batch().put(b"\x40a", b"1"))
    async with Other(url) as other:
        assert await other.ask("hold") == "holding"
        writing = asyncio.ensure_future(store.commit(Batch().put(b"\x40b", b"1")))
        await asyncio.sleep(0.1)
        assert not writing.done()
        os.kill(other.pid, signal.SIGKILL)
        await asyncio.wait_for(writing, 5)
    assert [key for key, _ in await store.scan(b"\x40", b"\x41")] == [b"\x40a", b"\x40b"]
    await store.close()


async def test_a_reader_that_was_killed_does_not_keep_old_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LMDB keeps what a reader may still see; the slot of one that is gone is given back, so the file stops growing."""
    url = f"lmdb:{tmp_path / 'store'}"
    store = open_store(url)
    await store.commit(Batch().put(b"\x40a", b""))
    async with Other(url) as other:
        assert await other.ask("read") == "reading"
        os.kill(other.pid, signal.SIGKILL)
    monkeypatch.setattr("spellwork.store.lmdb._STALE_EVERY", 20)
    for number in range(30):
        await store.commit(Batch().put(b"\x40a", bytes((number,)) * 20_000))
    before = store.size()
    for number in range(60):
        await store.commit(Batch().put(b"\x40a", bytes((number,)) * 20_000))
    assert store.size() < before * 1.1
    await store.close()


async def test_the_map_grows_here_and_there(tmp_path: Path) -> None:
    """A full map is enlarged with everything of the transaction kept, and a process whose map is smaller takes the new one."""
    path = str(tmp_path / "store")
    store = store_over(LmdbBackend(path, map_size=1 << 16))
    await store.commit(Batch().put(b"\x40a", b"1" * 9_000))
    async with Other(f"lmdb:{path}#65536") as other:
        for number in range(12):
            await asyncio.gather(
                store.commit(Batch().put(b"\x41%d" % number, b"2" * 30_000).merge(b"\x41n", "add", ONE)),
                store.commit(Batch().delete_range(b"\x40", b"\x41").put(b"\x40%d" % number, b"3" * 40_000)),
            )
            assert await other.ask("get 40%02x" % (ord("0") + number % 10)) is not None
            assert await other.ask(f"put {number}") == "ok"
        assert await store.get(CHANGED) == b"11"
        assert int.from_bytes(await store.get(b"\x41n") or b"", "big") == 12
        assert [len(value) for _, value in await store.scan(b"\x40", b"\x42")] == [40_000, *[30_000] * 12, 8]
    await store.close()


async def test_a_snapshot_keeps_the_map_until_it_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one is open a map that must grow waits; then the batch is refused with what to do, and later ones succeed."""
    monkeypatch.setattr("spellwork.store.lmdb._VIEWS_WAIT", 0.2)
    store = store_over(LmdbBackend(str(tmp_path / "store"), map_size=1 << 16))
    await store.commit(Batch().put(b"\x40a", b"1"))
    async with store.snapshot() as snapshot:
        with pytest.raises(StoreUnavailable, match="snapshot"):
            await store.commit(Batch().put(b"\x40b", b"2" * 200_000))
        assert await snapshot.get(b"\x40a") == b"1"
        waiting = asyncio.ensure_future(store.commit(Batch().put(b"\x40c", b"2" * 200_000)))
        await asyncio.sleep(0.05)
    await waiting
    assert [key for key, _ in await store.scan(b"\x40", b"\x41")] == [b"\x40a", b"\x40c"]
    await store.close()


async def test_a_rocksdb_store_belongs_to_one_process(tmp_path: Path) -> None:
    """A second one is told so at once, also within the process, and finds it free when the first has closed."""
    url = f"rocksdb:{tmp_path / 'store'}"
    async with Other(url) as other:
        with pytest.raises(StoreUnavailable, match="belongs to one"):
            open_store(url)
        assert await other.ask("put 1") == "ok"
        other.tell("")
        assert await other.hear() == "closed"
    store = open_store(url)
    with pytest.raises(StoreUnavailable, match="belongs to one"):
        open_store(url)
    assert await store.get(CHANGED) == b"1"
    await store.close()


_COMMITS = """
import asyncio, sys
from spellwork.store import Batch, open_store

async def main(url, level, commits):
    store = open_store(url, durability=level)
    for number in range(commits):
        await store.commit(Batch().put(b"\\x40%d" % number, b"x" * 100))
    await store.close()

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


@pytest.mark.skipif(bool(missing()), reason=missing())
@pytest.mark.parametrize("preset", ["default", "small", "ssd"])
def test_each_preset_of_rocksdb_syncs_once_a_commit(tmp_path: Path, preset: str) -> None:
    """Presets are about memory and speed: what durability rests on is the same, counted where the system is asked."""

    def syncs(level: str, commits: int) -> int:
        url, trace = f"rocksdb:{tmp_path / f'{level}-{commits}'}?preset={preset}", tmp_path / f"trace-{level}-{commits}"
        tracer = ["strace", "-f", "-qq", "-o", str(trace), "-e", "trace=fsync,fdatasync", "-e", "signal=none"]
        subprocess.run([*tracer, sys.executable, "-c", _COMMITS, url, level, str(commits)], check=True, timeout=60)
        return len([line for line in trace.read_text().splitlines() if "sync(" in line])

    assert syncs("full", 40) - syncs("full", 10) == 30
    assert syncs("relaxed", 40) - syncs("relaxed", 10) == 0
