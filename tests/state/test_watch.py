"""Watch: every committed change once, in order, resumable, across processes, and exact about what is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from spellwork.errors import Lagged, PayloadError, StoreClosed
from spellwork.state import StateChange, StateStore, Tree, open_store
from spellwork.store.committer import FEED_RETAINED


async def told(tree: Tree, count: int, **options) -> list[StateChange]:
    """The next `count` changes."""
    found = []
    async with contextlib.aclosing(tree.watch(**options)) as changes:
        async for change in changes:
            found.append(change)
            if len(found) == count:
                break
    return found


async def test_changes_come_typed_and_in_order(url: str) -> None:
    """Sets with their values, deletes, and clears with what they cleared; other trees' changes don't come."""
    async with open_store(url) as store:
        t, other = store.tree("t", list[int]), store.tree("t2", int)
        first = await t.set(("a", 1), [1])
        await other.set("x", 1)
        second = await t.delete(("a", 1))
        third = await t.clear(("a",))
        fourth = await t.clear()
        assert await told(t, 4, since=0) == [
            StateChange(first, "t", ("a", 1), [1], "set", first),
            StateChange(second, "t", ("a", 1), None, "delete", second),
            StateChange(third, "t", ("a",), None, "clear", third),
            StateChange(fourth, "t", None, None, "clear", fourth),
        ]
        fifth = await store.scope("global").clear()
        assert [change.revision for change in await told(t, 2, since=third)] == [fourth, fifth]


async def test_a_prefix_selects(url: str) -> None:
    """Keys that begin with it, and clears that touch them; an element that begins with the same letters is another one."""
    async with open_store(url) as store:
        t = store.tree("t", int)
        for key in (("a", 1), ("ab", 2), ("a\0b", 3), "a", ("a",), ("a", "x", "y")):
            await t.set(key, 0)
        await t.clear(("ab",))
        await t.clear()
        keys = [(change.kind, change.key) for change in await told(t, 4, prefix=("a",), since=0)]
        assert keys == [("set", ("a", 1)), ("set", ("a",)), ("set", ("a", "x", "y")), ("clear", None)]


async def test_read_then_watch_has_no_gap(url: str) -> None:
    """From the revision of a snapshot or of a versioned read, a watch tells exactly what it doesn't have."""
    async with open_store(url) as store:
        t = store.tree("t", int)
        writing = asyncio.ensure_future(_count_up(t, 60))
        await asyncio.sleep(0.01)
        async with store.snapshot() as snapshot:
            model: dict = dict(await snapshot[t].scan())
        at = (await t.get_versioned("k")).revision
        assert at >= snapshot.revision
        await writing
        last = await t.set("last", 1)
        async with contextlib.aclosing(t.watch(since=snapshot.revision)) as changes:
            async for change in changes:
                assert change.key not in model
                model[change.key] = change.value
                if change.revision == last:
                    break
        assert model == dict(await t.scan())


async def _count_up(t: Tree[int], count: int) -> None:
    for i in range(count):
        await t.set(i, i)


async def test_a_revision_that_was_told_in_part_comes_again_whole(url: str) -> None:
    """`resume` names the revision only behind its last change, so a reader that stops in its middle loses nothing."""
    async with open_store(url) as store:
        t = store.tree("t", int)
        await store.batch().put(t, "a", 1).put(t, "b", 2).commit()
        second = await store.batch().put(t, "c", 3).put(t, "d", 4).commit()
        seen: dict = {}
        since = 0
        for _ in range(20):
            (change,) = await told(t, 1, since=since)
            seen[change.key] = change.value
            again = await told(t, 2, since=since)
            assert [c.resume for c in again] == [since, again[1].revision]
            since = again[1].resume
            seen[again[1].key] = again[1].value
            if since == second:
                break
        assert seen == {"a": 1, "b": 2, "c": 3, "d": 4}


async def test_a_value_that_does_not_fit_stops_the_watch(url: str) -> None:
    """PayloadError names tree, key and revision; the watch can go on behind it."""
    async with open_store(url) as store:
        revision = await store.tree("t", str).set("k", "x")
        await store.tree("t", int).set("n", 1)
        with pytest.raises(PayloadError, match="tree t, key 'k'") as caught:
            await told(store.tree("t", int), 1, since=0)
        assert caught.value.revision == revision  # type: ignore[attr-defined]
        assert [c.value for c in await told(store.tree("t", int), 1, since=revision)] == [1]


async def test_who_falls_behind_is_told_exactly_how_far() -> None:
    """Past what is retained, Lagged has the number of revisions that are gone; from the first retained one all come."""
    async with open_store("memory:", max_pending=100_000) as store:
        t = store.tree("t", int)
        for _ in range(13):
            await asyncio.gather(*(t.set("k", i) for i in range(1000)))
        newest = await store.revision()
        with pytest.raises(Lagged) as caught:
            await told(t, 1, since=5)
        first = (await told(t, 1, since=5 + caught.value.missed))[0]
        assert first.revision == 5 + caught.value.missed + 1
        with pytest.raises(Lagged):
            await told(t, 1, since=5 + caught.value.missed - 1)
        assert newest - first.revision + 1 >= FEED_RETAINED


async def test_a_store_that_went_back_is_noticed(url: str) -> None:
    """A watch that resumes at a revision that the store has not reached raises Lagged: it is another store, or an older one."""
    async with open_store(url) as store:
        await store.tree("t", int).set("k", 1)
        with pytest.raises(Lagged, match="restored or made anew"):
            await told(store.tree("t", int), 1, since=7)


def child(place: Path, code: str, *arguments: object, **options) -> subprocess.Popen:
    """A process that runs `code` after some imports."""
    head = "import asyncio, os, sys, time\nfrom spellwork.state import *\nfrom spellwork.testing import CrashAt\n"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", head + textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, cwd=place, env=environment, stdout=subprocess.PIPE, text=True, **options)


WRITER = """
    async def main(url, first, count):
        async with open_store(url, durability="relaxed") as store:
            t = store.tree("t", int)
            at = await t.get("n", 0)
            while at < count:
                many = min(7, count - at)
                async with store.transaction() as tx:
                    for i in range(at, at + many):
                        await tx[t].set("n", i + 1)
                        await tx[t].set(("item", i % 50), i)
                try:
                    async with store.transaction() as tx:
                        await tx[t].set("rolled back", at)
                        raise ValueError
                except ValueError:
                    pass
                at += many
                print(at, flush=True)
    asyncio.run(main(sys.argv[1], 0, int(sys.argv[2])))
"""


async def follow(store: StateStore, count: int, pause: float, reconnect: int) -> None:
    """Watch a writer to its end, slowly or over many connections: what is told adds up to what was written, revision by revision.

    Each revision sets "n" to how many items there have been, and up to seven items.
    """
    t = store.tree("t", int)
    since = n = items = 0
    told_already: set[tuple[int, object]] = set()
    while n < count:
        left = reconnect
        try:
            async with contextlib.aclosing(t.watch(since=since)) as changes:
                async for change in changes:
                    assert change.kind == "set"
                    assert (change.revision, change.key) not in told_already
                    told_already.add((change.revision, change.key))
                    if change.key == "n":
                        assert n < (change.value or 0) <= n + 7
                        n = change.value or 0
                    else:
                        assert isinstance(change.key, tuple)
                        items += 1
                    left -= 1
                    since = change.resume
                    if since == change.revision and (left <= 0 or n == count):
                        break
                    if left % 100 == 0:
                        await asyncio.sleep(pause)
        except Lagged as lagged:
            async with store.snapshot() as snapshot:
                first_kept = since + lagged.missed + 1
                assert first_kept <= snapshot.revision - FEED_RETAINED + 1000
                since, n = snapshot.revision, await snapshot[t].get("n", 0)
                items = n
    assert items == n == count


async def _watched_through_kills(tmp_path: Path, count: int, kills: int) -> None:
    url = f"sqlite:{tmp_path / 'store.db'}"
    async with open_store(url) as store:
        following = [
            asyncio.ensure_future(follow(store, count, 0.0, 10**9)),
            asyncio.ensure_future(follow(store, count, 0.005, 10**9)),
            asyncio.ensure_future(follow(store, count, 0.0, 37)),
        ]
        for kill in range(kills + 1):
            writer = child(tmp_path, WRITER, url, count)
            assert writer.stdout is not None
            if kill < kills:
                for _ in range(max(count // 7 // (kills + 2), 1)):
                    await asyncio.to_thread(writer.stdout.readline)
                writer.send_signal(signal.SIGKILL)
            await asyncio.to_thread(writer.communicate)
        await asyncio.gather(*following)


@pytest.mark.slow
async def test_no_change_is_missed_or_told_twice_through_kills(tmp_path: Path) -> None:
    """A quick, a slow and a reconnecting reader follow 3,000 changes of a writer that is killed twice; 100,000 in soak."""
    await asyncio.wait_for(_watched_through_kills(tmp_path, 3_000, 2), 100)


@pytest.mark.soak
@pytest.mark.timeout(1200)
async def test_no_change_is_missed_or_told_twice_through_kills_soak(tmp_path: Path) -> None:
    """The same with 100,000 changes and ten kills."""
    await _watched_through_kills(tmp_path, 100_000, 10)


@pytest.mark.slow
async def test_a_watcher_in_another_process_is_quick_and_cheap(tmp_path: Path) -> None:
    """Most changes of another process come within 100 ms; while nothing happens, watching takes next to no time."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    writer_code = """
        async def main(url):
            async with open_store(url) as store:
                t = store.tree("t", float)
                print("ready", flush=True)
                sys.stdin.readline()
                for i in range(30):
                    await t.set("k", time.time())
                    await asyncio.sleep(0.02 + 0.0007 * i)
        asyncio.run(main(sys.argv[1]))
    """
    async with open_store(url) as store:
        t = store.tree("t", float)
        writer = child(tmp_path, writer_code, url, stdin=subprocess.PIPE)
        assert writer.stdout is not None
        await asyncio.to_thread(writer.stdout.readline)
        delays: list[float] = []

        async def watch() -> None:
            async for change in t.watch(since=0):
                delays.append(time.time() - (change.value or 0))
                if len(delays) == 30:
                    return

        watching = asyncio.ensure_future(watch())
        await asyncio.sleep(0.05)
        before, began = time.process_time(), time.monotonic()
        await asyncio.sleep(1.0)  # real idleness is what is measured here
        used = (time.process_time() - before) / (time.monotonic() - began)
        await asyncio.to_thread(writer.communicate, "\n")
        await asyncio.wait_for(watching, 20)
        assert sorted(delays)[len(delays) // 2] < 0.1
        assert used < 0.03  # 0.5 % on a quiet machine, as docs/decisions/0004-state.md has it; a loaded one counts more


CRASHING = """
    async def main(url, point, n):
        async with open_store(url, probe=CrashAt(point, n)) as store:
            a, b = store.tree("a", int), store.scope("user", "u").tree("b", str)
            for i in range(10):
                async with store.transaction() as tx:
                    await tx[a].set(i, i)
                    await tx[a].set("count", (await tx[a].get("count", 0)) + 1)
                    await tx[b].set(i, str(i))
                print(i, flush=True)
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


@pytest.mark.slow
@pytest.mark.parametrize("point", ["commit.before", "commit.sync", "commit.after"])
@pytest.mark.parametrize("n", [1, 4])
async def test_kill_in_a_transaction_leaves_both_trees_or_neither(tmp_path: Path, point: str, n: int) -> None:
    """At each point of a commit: what was acknowledged is there, and each transaction is in both trees or in none."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    process = child(tmp_path, CRASHING, url, point, n)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    acknowledged = len(out.split())
    async with open_store(url, create=False) as store:
        a, b = store.tree("a", int), store.scope("user", "u").tree("b", str)
        kept = await b.count()
        assert kept == (n if point == "commit.after" else n - 1)
        assert acknowledged == n - 1
        assert await b.scan() == [(i, str(i)) for i in range(kept)]
        assert await a.scan(start=0) == [(i, i) for i in range(kept)]
        assert await a.get("count", 0) == kept


COUNTING = """
    async def main(url, tasks, each):
        async with open_store(url) as store:
            t = store.tree("t", int)
            async def add(tx):
                await tx[t].set("tx", await tx[t].get("tx", 0) + 1)
            async def one():
                for _ in range(each):
                    await store.run(add, attempts=200)
                    await t.merge("merge", "add", 1)
            print("ready", flush=True)
            sys.stdin.readline()
            began = time.monotonic()
            await asyncio.gather(*(one() for _ in range(tasks)))
            print(time.monotonic() - began, store.low.stats.conflicts, flush=True)
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
"""


def _counted_by_two(tmp_path: Path, url: str, each: int) -> None:
    """Two processes of four tasks increment side by side; both end, and neither takes twice as long as the other."""
    processes = [child(tmp_path, COUNTING, url, 4, each, stdin=subprocess.PIPE) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    times = [float(process.communicate(timeout=1200)[0].split()[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert max(times) < 2 * min(times) + 1

    async def total() -> list[int | None]:
        async with open_store(url) as store:
            return [await store.tree("t", int).get(name) for name in ("tx", "merge")]

    assert asyncio.run(total()) == [2 * 4 * each, 2 * 4 * each]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["sqlite", "lmdb"])
def test_two_processes_count_exactly(tmp_path: Path, backend: str) -> None:
    """Two processes, 4 tasks each, 60 increments of the same keys through transactions and merges; 10,000 in soak."""
    _counted_by_two(tmp_path, f"{backend}:{tmp_path / 'store.db'}", 60)


@pytest.mark.soak
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("backend", ["sqlite", "lmdb"])
def test_two_processes_count_exactly_soak(tmp_path: Path, backend: str) -> None:
    """Two processes, 4 tasks each, 10,000 increments each."""
    _counted_by_two(tmp_path, f"{backend}:{tmp_path / 'store.db'}", 10_000)


async def test_a_watcher_hears_that_the_store_is_closed(url: str) -> None:
    """Whether it waits or is about to."""
    store = await open_store(url)
    waiting = [asyncio.ensure_future(told(store.tree("t", int), 1)) for _ in range(2)]
    await asyncio.sleep(0.05)
    waiting.append(asyncio.ensure_future(told(store.tree("t", int), 1)))
    await store.close()
    outcomes = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)
    assert [type(outcome) for outcome in outcomes] == [StoreClosed] * 3
