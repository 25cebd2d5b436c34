"""Owns the conformance kit of stores: laws that hold on every backend, one test each, and a comparison with a plain dict.
It must never know which backend it runs on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

from spellwork.clock import SystemClock
from spellwork.errors import Conflict, Fenced, MergeRefused, StoreError
from spellwork.store import Backend, Batch, Change, Durability, Store, fingerprint
from spellwork.store.committer import AS_IT_IS
from spellwork.store.keyspace import PARTITIONS
from spellwork.testing.laws import LawBroken
from spellwork.testing.store_model import compare

_PLAIN, _WATCHED = b"\x40", b"\x90"
_END = b"\x41"
_SHORT = (b"", b"\0", b"\0\0", b"\0\xff", b"a", b"a\0", b"ab", b"\xfe", b"\xff", b"\xff" * 3)
_AWKWARD = (*_SHORT, b"a" * 600, b"a" * 600 + b"\0", b"a" * 601)
_PATIENCE = 5.0
_MANY = AS_IT_IS + 100
_ONE = (1).to_bytes(8, "big", signed=True)


class StoreConformance:
    """The laws of a store, as tests for pytest: derive from it, say how yours is opened, and each law is run on it.

        class TestMine(StoreConformance):
            def open(self, place: Path) -> Store:
                return open_store(f"mine:{place / 'store'}")

    `open` gives a `Store`, or a `Backend` to make one of; called again after a close, with the same folder, it gives the same
    store. It is called on a running event loop. `durable` is False for one that forgets what it held when it is closed; `shared` is
    True where a second `open` works beside the first, as another process would. `examples` is how many sequences of random steps
    are compared with a dict (this needs hypothesis), `shrink` whether the shortest one that shows a fault is looked for. A broken
    law raises `LawBroken`.
    """

    durable = True
    shared = False
    examples = 12
    shrink = True

    def open(self, place: Path) -> Store | Backend:
        """Open the store in this folder."""
        raise NotImplementedError("say how your store is opened: def open(self, place): ...")

    def store(self, place: Path) -> Store:
        """The store over what `open` gives."""
        opened = self.open(place)
        if isinstance(opened, Store):
            return opened
        level = "memory" if opened.inline else "full"
        return Store("conformance:", opened, Durability.parse(level), SystemClock())

    def laws(self) -> list[str]:
        """The names of the tests."""
        return [name for name in dir(self) if name.startswith("test_")]

    def check(self, place: Path) -> None:
        """Every law, each in a folder of its own, without pytest; raises the first `LawBroken`."""
        for name in self.laws():
            folder = place / name
            folder.mkdir(parents=True)
            getattr(self, name)(folder)

    def _hold(self, place: Path, law: Callable[[Store], Awaitable[None]]) -> None:
        async def run() -> None:
            store = self.store(place)
            try:
                await law(store)
            finally:
                await store.close()

        _run(run())

    # What is written

    def test_a_batch_applies_as_a_whole(self, tmp_path: Path) -> None:
        """Puts and deletes are there together, the last word on a key counts, empty values are values, revisions grow."""

        async def law(store: Store) -> None:
            first = await store.commit(Batch().put(b"\x40a", b"1").put(b"\x40b", b"").put(b"\x40a", b"3"))
            expect(await _all(store), [(b"\x40a", b"3"), (b"\x40b", b"")], "after a batch of puts")
            second = await store.commit(Batch().delete(b"\x40b").delete(b"\x40never").put(b"\x40c", b"\0" * 70_000))
            expect(await _all(store), [(b"\x40a", b"3"), (b"\x40c", b"\0" * 70_000)], "after a delete")
            expect(await store.get(b"\x40b"), None, "a key that was deleted")
            expect(second > first > 0, True, "revisions grow")
            expect(await store.revision(), second, "the newest revision")

        self._hold(tmp_path, law)

    def test_batches_of_a_group_apply_in_their_order(self, tmp_path: Path) -> None:
        """Range deletes take what came before them and nothing after, also among batches that ride on one sync."""

        async def law(store: Store) -> None:
            await asyncio.gather(
                *map(
                    store.commit,
                    (
                        Batch().put(b"\x40a", b"1").put(b"\x40m", b"1").put(b"\x40z", b"1"),
                        Batch().delete_range(b"\x40a", b"\x40z").put(b"\x40b", b"2"),
                        Batch().put(b"\x40a", b"3").delete(b"\x40b").put(b"\x40c", b"3"),
                        Batch().delete_range(b"\x40c", b"\x40c").delete_range(b"\x40d", b"\x40c").merge(b"\x40m", "append", b"4"),
                    ),
                )
            )
            left = [(b"\x40a", b"3"), (b"\x40c", b"3"), (b"\x40m", b"4"), (b"\x40z", b"1")]
            expect(await _all(store), left, "four batches of one group")
            await store.commit(Batch().delete_range(b"\x40a", b"\x40c"))
            expect(await _all(store), left[1:], "the end of a range is not in it")

        self._hold(tmp_path, law)

    def test_large_batches_apply_like_small_ones(self, tmp_path: Path) -> None:
        """Also in a group with others: the order counts, deletes delete, and watchers and later requirements see the rows."""

        async def law(store: Store) -> None:
            keys = [b"\x40k%03d" % number for number in range(_MANY)]
            watched = b"\x90k"
            since, last, *_ = await asyncio.gather(
                store.commit(Batch().put(keys[0], b"0").put(keys[1], b"0").put(keys[2], b"0")),
                store.commit(Batch().put_all((key, b"1") for key in keys).delete(keys[1]).put(watched, b"1")),
                store.commit(Batch().put(keys[2], b"2").delete(keys[3]).merge(keys[4], "append", b"2")),
            )
            expected = {key: b"1" for key in keys if key not in (keys[1], keys[3])} | {keys[2]: b"2", keys[4]: b"12"}
            expect(await _all(store), sorted(expected.items()), "a large batch among others")
            expect(await _watched(store, since, 1), [Change(last, watched, b"1")], "what watchers saw")
            epoch = PARTITIONS.key(b"\0\7")
            await store.commit(Batch().put(epoch, (3).to_bytes(8, "big")).require_epoch(7, 0))
            moved = Batch().put_all((key, b"3") for key in keys).put(epoch, (4).to_bytes(8, "big")).require_epoch(7, 3)
            late = Batch().put(keys[0], b"late").require_epoch(7, 3)
            _, refused = await asyncio.gather(store.commit(moved), store.commit(late), return_exceptions=True)
            expect(type(refused), Fenced, "what an owner got that a large batch of its group has replaced")
            expect(await _all(store), [(key, b"3") for key in keys], "a large batch that replaces an owner")

        self._hold(tmp_path, law)

    def test_requirements_hold_or_nothing_happens(self, tmp_path: Path) -> None:
        """absent, version and epoch are checked against the state before; who is refused leaves no trace and hurts nobody."""

        async def law(store: Store) -> None:
            version = await store.commit(Batch().put(b"\x40a", b"1").put(PARTITIONS.key(b"\0\7"), (3).to_bytes(8, "big")))
            tries = [
                (Batch().put(b"\x40x", b"").require_absent(b"\x40a"), Conflict),
                (Batch().put(b"\x40y", b"").require_version(b"\x40a", version), int),
                (Batch().delete_range(_PLAIN, _END).require_version(b"\x40a", version + 1), Conflict),
                (Batch().put(b"\x40n", b"").require_version(b"\x40never", 0), int),
                (Batch().put(b"\x40p", b"").require_epoch(7, 3), int),
                (Batch().put(b"\x40q", b"").require_epoch(7, 2), Fenced),
                (Batch().put(b"\x40f", b"").require_absent(b"\x40f"), int),
                (Batch().put(b"\x40f", b"").require_absent(b"\x40f"), Conflict),
                (Batch().put(b"\x40g", b"").merge(b"\x40a", _refuses, b""), MergeRefused),
            ]
            found = await asyncio.gather(*(store.commit(batch) for batch, _ in tries), return_exceptions=True)
            expect([type(outcome) for outcome in found], [kind for _, kind in tries], "outcomes")
            expect([key for key, _ in await _all(store)], [b"\x40a", b"\x40f", b"\x40n", b"\x40p", b"\x40y"], "what was written")

        self._hold(tmp_path, law)

    def test_merges_and_appends_are_exact(self, tmp_path: Path) -> None:
        """Concurrent merges all count; appends get numbers without gaps, in the order of the commits, and none if refused."""

        async def law(store: Store) -> None:
            batches = [Batch().merge(b"\x40n", "add", _ONE).append(b"\x40log", b"%d" % i) for i in range(60)]
            for batch in batches:
                batch.append(b"\x40log", b"!")
            refused = Batch().append(b"\x40log", b"never").require_absent(b"\x40n")
            await store.commit(batches[0])
            await asyncio.gather(*map(store.commit, [*batches[1:30], refused, *batches[30:]]), return_exceptions=True)
            expect(await store.get(b"\x40n"), (60).to_bytes(8, "big"), "sixty merges of one")
            expect(sorted(n for batch in batches for n in batch.sequences), list(range(1, 121)), "numbers of the log")
            for i, batch in enumerate(batches):
                key = b"\x40log" + batch.sequences[0].to_bytes(8, "big")
                expect(await store.get(key), b"%d" % i, "an entry under its number")
            counted = [Batch().append(b"\x40log", b"", counter=b"\x40number") for _ in range(3)]
            await asyncio.gather(store.commit(counted[0]), store.commit(Batch().delete(b"\x40number")), store.commit(counted[1]))
            await store.commit(counted[2])
            expect([batch.sequences for batch in counted], [[121], [121], [122]], "numbers of a log whose counter was deleted")

        self._hold(tmp_path, law)

    def test_a_range_that_changed_is_noticed(self, tmp_path: Path) -> None:
        """A put, a delete, a new key and a range delete change the range, also within one group; others do not."""

        async def law(store: Store) -> None:
            start, end = b"\x40a", b"\x40c"
            await store.commit(Batch().put(b"\x40a", b"1").put(b"\x40b", b"2").put(b"\x40c", b"3"))
            changes = (
                Batch().put(b"\x40a", b"1"), Batch().delete(b"\x40b"), Batch().put(b"\x40bb", b""),
                Batch().delete_range(b"\x40bb", b"\x40bc"), Batch().delete_range(start, end),
            )  # fmt: skip
            for change in changes:
                seen = await _fingerprint(store, start, end)
                relied = Batch().put(b"\x40z", b"").require_unchanged(start, end, seen)
                found = await asyncio.gather(store.commit(change), store.commit(relied), return_exceptions=True)
                expect(type(found[1]), Conflict, "a batch that relied on a range which changed")
            seen = await _fingerprint(store, start, end)
            await store.commit(Batch().put(end, b"4").put(b"\x40Z", b""))
            await store.commit(Batch().put(b"\x40b", b"").require_unchanged(start, end, seen))

        self._hold(tmp_path, law)

    # What is read

    def test_scans_are_in_the_order_of_bytes(self, tmp_path: Path) -> None:
        """Any bytes are keys; scans are bounded, limited and reversed exactly."""

        async def law(store: Store) -> None:
            keys = sorted(_PLAIN + name for name in _AWKWARD)
            outside = [b"\x3f" + b"\xff" * 4, b"\x41"]
            batch = Batch()
            for number, key in enumerate([*reversed(keys), *outside]):
                batch.put(key, b"%d" % number)
            await store.commit(batch)
            for start in keys:
                for end in (*keys, _END):
                    expected = [key for key in keys if start <= key < end]
                    for limit in (None, 0, 1, 3):
                        found = await store.scan(start, end, limit=limit)
                        expect([key for key, _ in found], expected[:limit], f"scan {start!r} to {end!r}, limit {limit}")
                        found = await store.scan(start, end, limit=limit, reverse=True)
                        expect(
                            [key for key, _ in found], expected[::-1][:limit], f"reverse scan {start!r} to {end!r}, limit {limit}"
                        )
            for number, key in enumerate(reversed(keys)):
                expect(await store.get(key), b"%d" % number, f"the value of {key!r}")

        self._hold(tmp_path, law)

    def test_rows_come_with_the_revisions_that_wrote_them(self, tmp_path: Path) -> None:
        """A key's version is the revision of its newest batch, and 0 when it is not there."""

        async def law(store: Store) -> None:
            versions = {name: await store.commit(Batch().put(name, b"x")) for name in (b"\x40a", b"\x40b", b"\x40c")}
            versions[b"\x40b"] = await store.commit(Batch().put(b"\x40b", b"x"))
            await store.commit(Batch().delete(b"\x40c"))
            rows = [(b"\x40a", b"x", versions[b"\x40a"]), (b"\x40b", b"x", versions[b"\x40b"])]
            expect(await store.read(lambda reader: reader.rows(_PLAIN, _END)), rows, "rows")
            expect(await store.read(lambda reader: reader.rows(_PLAIN, _END, reverse=True, limit=1)), rows[1:], "the last row")
            expect(await store.read(lambda reader: reader.version(b"\x40b")), versions[b"\x40b"], "a version")
            expect(await store.read(lambda reader: reader.version(b"\x40c")), 0, "the version of a key that is gone")

        self._hold(tmp_path, law)

    def test_a_snapshot_stays_as_it_was(self, tmp_path: Path) -> None:
        """What is put, deleted or deleted in a range after a snapshot was taken is not seen through it, nor by another one."""

        async def law(store: Store) -> None:
            await store.commit(Batch().put(b"\x40a", b"1").put(b"\x40b", b"1"))
            async with store.snapshot() as first:
                await store.commit(Batch().put(b"\x40a", b"2").delete(b"\x40b").put(b"\x40c", b"2"))
                async with store.snapshot() as second:
                    await store.commit(Batch().delete_range(_PLAIN, _END))
                    expect(await first.scan(_PLAIN, _END), [(b"\x40a", b"1"), (b"\x40b", b"1")], "the first snapshot")
                    expect(await second.scan(_PLAIN, _END), [(b"\x40a", b"2"), (b"\x40c", b"2")], "the second snapshot")
                    expect(await store.scan(_PLAIN, _END), [], "the store beside its snapshots")
                expect(await first.get(b"\x40b"), b"1", "the first snapshot, after the second was closed")
                expect(await first.get(b"\x40c"), None, "what came later")
            expect(await store.get(b"\x40a"), None, "the store after its snapshots")

        self._hold(tmp_path, law)

    def test_a_read_is_one_moment(self, tmp_path: Path) -> None:
        """A query sees all of a batch or nothing of it, whatever is committed meanwhile."""

        async def law(store: Store) -> None:
            async def write() -> None:
                for number in range(40):
                    await store.commit(Batch().put(b"\x40a", b"%d" % number).put(b"\x40b", b"%d" % number))

            writing = asyncio.ensure_future(write())
            while not writing.done():
                one, other = await store.read(lambda reader: (reader.get(b"\x40a"), reader.scan(b"\x40b", b"\x40c")))
                expect([value for _, value in other], [] if one is None else [one], "two keys at one moment")
                await asyncio.sleep(0)
            await writing

        self._hold(tmp_path, law)

    def test_watchers_see_each_change_once_and_resume(self, tmp_path: Path) -> None:
        """Committed changes come in the order of revisions, from where one asks on; refused batches and other keys do not."""

        async def law(store: Store) -> None:
            begin = await store.revision()
            revisions = []
            for number in range(5):
                revisions.append(await store.commit(Batch().put(b"\x90k%d" % number, b"%d" % number).put(b"\x40k", b"")))
                try:
                    await store.commit(Batch().put(b"\x90k", b"refused").require_absent(b"\x90k0"))
                except Conflict:
                    continue
            revisions.append(await store.commit(Batch().delete(b"\x90k0")))
            revisions.append(await store.commit(Batch().delete_range(b"\x90k1", b"\x90k2")))
            seen = await _watched(store, begin, 7)
            expect([change.revision for change in seen], revisions, "revisions")
            expect([change.value for change in seen], [b"0", b"1", b"2", b"3", b"4", None, None], "values")
            expect((seen[6].key, seen[6].end), (b"\x90k1", b"\x90k2"), "a range")
            expect(await _watched(store, revisions[2], 4), seen[3:], "a watch that resumes")
            waiting = asyncio.ensure_future(_watched(store, revisions[-1], 1))
            await asyncio.sleep(0)
            last = await store.commit(Batch().put(b"\x90k9", b"9"))
            expect(await waiting, [Change(last, b"\x90k9", b"9")], "a watch that waits")

        self._hold(tmp_path, law)

    # The backend alone

    def test_a_transaction_sees_itself_and_can_be_taken_back(self, tmp_path: Path) -> None:
        """Inside a transaction its own writes are seen, outside they are not, and after a rollback they never were."""

        async def law(store: Store) -> None:
            await store.commit(Batch().put(b"\x40a", b"1").put(b"\x40b", b"1").put(b"\x40c", b"1"))
            before = await store.read(lambda reader: reader.rows(_PLAIN, _END))
            revision = await store.revision()
            found = await store_thread(store, _inside)
            expect(found, [(b"\x40a", revision + 2), (b"\x40d", revision + 1)], "versions inside a transaction")
            expect(await store.read(lambda reader: reader.rows(_PLAIN, _END)), before, "after a rollback")
            await store.commit(Batch().merge(b"\x40a", "append", b"2"))
            expect(await _all(store), [(b"\x40a", b"12"), (b"\x40b", b"1"), (b"\x40c", b"1")], "the next transaction")
            expect(await store.revision(), revision + 1, "the revision after a rollback")

        self._hold(tmp_path, law)

    def test_its_own_commits_do_not_ring_the_bell(self, tmp_path: Path) -> None:
        """The bell tells of other processes, and an owner that heard its own commits would never rest."""

        async def law(store: Store) -> None:
            backend = cast("Any", store)._backend
            before = backend.doorbell()
            for number in range(5):
                await store.commit(Batch().put(b"\x40a", b"%d" % number))
                expect(backend.doorbell(), before, "the bell")

        self._hold(tmp_path, law)

    # Reopening, and others

    def test_a_store_that_was_closed_is_as_it_was(self, tmp_path: Path) -> None:
        """Rows, versions, the revision, logs and the change feed go on where they were."""
        if not self.durable:
            return

        async def run() -> None:
            store = self.store(tmp_path)
            await store.commit(Batch().put(b"\x40" + b"k" * 600, b"long").put(b"\x90w", b"1").append(b"\x40log", b"1"))
            last = await store.commit(Batch().put(b"\x40b", b"2").delete(b"\x40never"))
            rows = await store.read(lambda reader: reader.rows(b"\x40", b"\xff"))
            await store.close()
            again = self.store(tmp_path)
            try:
                expect(await again.read(lambda reader: reader.rows(b"\x40", b"\xff")), rows, "rows after reopening")
                expect(await again.revision(), last, "the revision after reopening")
                expect([change.key for change in await _watched(again, 0, 1, b"\x90")], [b"\x90w"], "the feed after reopening")
                appended = Batch().append(b"\x40log", b"2").require_version(b"\x40b", last)
                expect(await again.commit(appended) > last, True, "revisions go on growing")
                expect(appended.sequences, [2], "a log goes on")
            finally:
                await again.close()

        _run(run())

    def test_another_process_is_heard_and_not_overwritten(self, tmp_path: Path) -> None:
        """What another one commits rings the bell, is seen at once, and counts for requirements and merges."""
        if not self.shared:
            return

        async def run() -> None:
            here, there = self.store(tmp_path), self.store(tmp_path)
            try:
                await here.commit(Batch().merge(b"\x40n", "add", _ONE).put(PARTITIONS.key(b"\0\1"), (1).to_bytes(8, "big")))
                await here.commit(Batch().require_epoch(1, 1))
                waiting = asyncio.ensure_future(_watched(here, await here.revision(), 1))
                await asyncio.sleep(0.05)
                await there.commit(Batch().put(b"\x90k", b"from there").put(PARTITIONS.key(b"\0\1"), (2).to_bytes(8, "big")))
                expect([change.value for change in await waiting], [b"from there"], "what is heard")
                try:
                    await here.commit(Batch().require_epoch(1, 1))
                except Fenced:
                    await asyncio.gather(*(each.commit(Batch().merge(b"\x40n", "add", _ONE)) for each in [here, there] * 20))
                    expect(await here.get(b"\x40n"), (41).to_bytes(8, "big"), "merges of two processes")
                else:
                    raise LawBroken("an owner that another process has replaced could still write")
            finally:
                await here.close()
                await there.close()

        _run(run())

    def test_it_agrees_with_a_dict(self, tmp_path: Path) -> None:
        """Random batches, groups, scans, snapshots and reopenings give what a sorted dict gives. Needs hypothesis."""
        compare(self.store, tmp_path, examples=self.examples, durable=self.durable, shrink=self.shrink)


def expect(found: object, expected: object, what: str) -> None:
    """Raise `LawBroken` unless both are equal."""
    if found != expected:
        raise LawBroken(f"{what}: found {_short(found)}, expected {_short(expected)}")


def _run(work: Coroutine[Any, Any, None]) -> None:
    try:
        asyncio.run(work)
    except StoreError as error:
        raise LawBroken(f"a step that must succeed was refused: {error!r}") from error


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 400 else f"{text[:300]} … ({len(text)} characters)"


def _refuses(_old: bytes | None, _operand: bytes) -> bytes:
    raise ValueError("no")


async def _all(store: Store) -> list[tuple[bytes, bytes]]:
    return await store.scan(_PLAIN, _END)


async def _fingerprint(store: Store, start: bytes, end: bytes) -> bytes:
    return await store.read(lambda reader: fingerprint((key, version) for key, _, version in reader.rows(start, end)))


async def _watched(store: Store, since: int, count: int, prefix: bytes = b"\x90k") -> list[Change]:
    seen: list[Change] = []
    try:
        async with asyncio.timeout(_PATIENCE), aclosing(cast("Any", store.watch(prefix, since))) as changes:
            async for change in changes:
                seen.append(change)
                if len(seen) == count:
                    break
    except TimeoutError:
        raise LawBroken(f"of {count} changes only {len(seen)} came") from None
    return seen


def _inside(backend: Backend) -> list[tuple[bytes, int]]:
    revision, _ = backend.begin(sync=True)
    backend.write([(b"\x40a", b"9", revision + 1), (b"\x40d", b"9", revision + 1)], [b"\x40b"])
    backend.delete_range(b"\x40b", b"\x40d")
    backend.write([(b"\x40a", b"8", revision + 2)], [])
    expect(backend.get(b"\x40a"), (b"8", revision + 2), "a row that was written inside a transaction")
    expect(backend.get(b"\x40b"), None, "a row that was deleted inside a transaction")
    expect(backend.get(b"\x40c"), None, "a row in a range that was deleted inside a transaction")
    found = backend.versions(_PLAIN, _END)
    backend.rollback()
    return found


async def store_thread(store: Store, function: Callable[[Backend], Any]) -> Any:
    """Call a function with the backend where its writes are made; nothing else may be written meanwhile."""
    backend: Backend = cast("Any", store)._backend
    if backend.inline:
        return function(backend)
    return await asyncio.to_thread(function, backend)
