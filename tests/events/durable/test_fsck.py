"""fsck of topics: silent over all that publishers, consumers and sweepers leave, and precise about what refers to nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from spellwork.clock import SystemClock
from spellwork.engine.fsck import check
from spellwork.engine.quarantine import quarantine
from spellwork.events.durable import Retention, deletion, open_topics
from spellwork.events.durable.fsck import check_topics
from spellwork.events.durable.keys import Spaces, event_key, log_key, newest_key, row_key, rows_of, touched_key
from spellwork.events.durable.reading import Swept
from spellwork.events.durable.record import Record, pack_record
from spellwork.events.durable.rows import Claim, GroupRow, Member, Pending, Progress, pack_row
from spellwork.store import Batch, Store, open_store
from spellwork.store.fsck import Finding
from spellwork.testing import VirtualClock

NEWEST = 8
LANE = row_key(Spaces.LANES, "orders", "mail", 0)


def offset(number: int) -> bytes:
    return number.to_bytes(8, "big")


@contextlib.asynccontextmanager
async def filled(folder: Path) -> AsyncIterator[Store]:
    """Topics with all there can be: letters, dead and revived; ids; one topic trimmed, one compacted and trimmed."""
    clock = VirtualClock()
    url = f"sqlite:{folder / 'store.db'}"
    async with open_topics(url, clock=clock, sweep_every=None) as topics:
        orders = await topics.topic("orders", type=int, dedup=60, partitions=2)
        await orders.publish_many(range(1, NEWEST + 1), id=str)
        async with orders.consume("mail", max_attempts=1, lease=1000) as consumer:
            for _ in range(4):
                await (await asyncio.wait_for(anext(consumer), 5)).nack(reason="no")
        await topics.replay("orders", "mail", 1)
        trimmed = await topics.topic("trimmed", type=int, retention=Retention(count=3))
        await trimmed.publish_many(range(10))
        both = await topics.topic("both", type=int, retention=Retention(count=6), compact=True)
        await both.publish_many(range(20), key=lambda n: f"k{n % 4}")
        await topics.sweep()
        await both.publish_many(range(3), key=str)
        await topics.topic("empty", type=int)
    store = open_store(url)
    yield store
    await store.close()


async def found(store: Store) -> list[Finding]:
    return await store.read(lambda reader: list(check_topics(reader)))


async def test_what_topics_leave_is_sound(tmp_path: Path) -> None:
    """Trimmed, compacted, forgotten, dead, revived: nothing of that is damage, and every keyspace has a name."""
    async with filled(tmp_path) as store:
        assert await found(store) == []
        report = await store.examine(check)
        assert report.findings == []
        assert not report.unknown
        assert {
            "topics",
            "events",
            "groups",
            "lanes",
            "dead letters",
            "dead letters to deliver again",
            "event ids",
        } <= report.rows.keys()


def put(key: bytes, value: bytes) -> Callable[[Batch], Batch]:
    return lambda batch: batch.put(key, value)


def lose(*keys: bytes) -> Callable[[Batch], Batch]:
    def change(batch: Batch) -> Batch:
        for key in keys:
            batch.delete(key)
        return batch

    return change


def progress(position: int, *pending: Pending) -> Callable[[Batch], Batch]:
    return put(LANE, pack_row(Progress(position, list(pending))))


RECORD = pack_record(Record("id", 0, b"\x01"))
CASES: dict[str, tuple[Callable[[Batch], Batch], str, str]] = {
    "options": (put(row_key(Spaces.TOPICS, "orders"), b"\xc1"), "unreadable", "options of topic orders"),
    "an event is gone": (lose(event_key("orders", 5)), "missing", "topic orders, event 5: it is missing"),
    "the first one is gone": (lose(event_key("orders", 1)), "missing", "topic orders, event 1: it is missing"),
    "the last one is gone": (lose(event_key("orders", NEWEST)), "missing", f"topic orders, event {NEWEST}: it is missing"),
    "one is gone behind the sweeper": (lose(event_key("trimmed", 9)), "missing", "topic trimmed, event 9"),
    "all of it is gone": (lose(*(event_key("trimmed", n) for n in range(8, 11))), "missing", "topic trimmed, event 8"),
    "one behind the newest": (put(event_key("orders", 12), b""), "dangling", "an event at offset 12: the newest event is 8"),
    "a trimmed one": (put(event_key("trimmed", 2), RECORD), "stale", "topic trimmed, event 2: it was trimmed, and is there"),
    "an event's bytes": (put(event_key("orders", 3), b"\xc1"), "unreadable", "topic orders, event 3"),
    "an event's key": (put(log_key("orders") + b"abc", b"\xc1"), "unreadable", "the key of an event"),
    "the newest offset": (put(newest_key("orders"), b"\xff" * 9), "unreadable", "its newest offset cannot be read"),
    "the newest offset is small": (put(newest_key("orders"), offset(6)), "dangling", "an event at offset 7: the newest event is 6"),
    "the newest offset is gone": (lose(newest_key("orders")), "missing", "topic orders: its newest offset is missing"),
    "nobody is told": (lose(newest_key("orders")), "missing", "topic orders: nobody is told"),
    "the newest offset of an early build": (
        lambda batch: batch.delete(newest_key("orders")).put(log_key("orders"), b"\xff" * 9),
        "unreadable",
        "its newest offset cannot be read",
    ),
    "a group's news": (put(touched_key("orders", "mail"), b"\xff"), "unreadable", "its news cannot be read"),
    "the sweeper's row": (put(row_key(Spaces.SWEPT, "trimmed"), b"\xc1"), "unreadable", "how far its sweeper is cannot be read"),
    "a sweeper ahead": (put(row_key(Spaces.SWEPT, "both"), pack_row(Swept(1, 99))), "dangling", "its sweeper is at offset 99"),
    "a group's row": (put(row_key(Spaces.GROUPS, "orders", "mail"), b"\xc1"), "unreadable", "group mail of topic orders"),
    "a group's start": (
        put(row_key(Spaces.GROUPS, "orders", "mail"), pack_row(GroupRow(2, 70, 0))), "dangling", "the beginning of group mail",
    ),
    "a group is gone": (lose(row_key(Spaces.GROUPS, "orders", "mail")), "dangling", "there is none, and it has lanes"),
    "a lane too many": (put(row_key(Spaces.LANES, "orders", "mail", 2), pack_row(Progress(0))), "dangling", "it has 2 lanes"),
    "a lane's bytes": (put(LANE, b"\x01"), "unreadable", "group mail of topic orders, lanes"),
    "a lane's key": (put(LANE[:-3], pack_row(Progress(0))), "unreadable", "a key of its lanes"),
    "a lane ahead": (progress(9), "dangling", "lane 0 of group mail at offset 9: the newest event is 8"),
    "a lane has an event ahead": (progress(2, Pending(11)), "dangling", "lane 0 of group mail at offset 11"),
    "a lane revives nothing": (progress(2, Pending(2, revived=True)), "missing", "the dead letter 2 that it delivers again"),
    "a claim's bytes": (put(row_key(Spaces.CLAIMS, "orders", "mail", 0), b"\xc1"), "unreadable", "claims"),
    "a claim of no lane": (put(row_key(Spaces.CLAIMS, "orders", "mail", 5), pack_row(Claim())), "dangling", "it has 2 lanes"),
    "a consumer's bytes": (put(row_key(Spaces.MEMBERS, "orders", "mail", b"me"), b"\xc1"), "unreadable", "consumers"),
    "a consumer of no group": (
        put(row_key(Spaces.MEMBERS, "orders", "none", b"me"), pack_row(Member("me", "m", 1, "", 1.0))), "stale", "consumers",
    ),
    "a letter's bytes": (put(row_key(Spaces.DEAD, "orders", "mail", 2), b"\xc1"), "unreadable", "dead letters"),
    "a letter of no group": (put(row_key(Spaces.DEAD, "orders", "none", 2), b"\xc1"), "dangling", "there is none, and it has dead"),
    "a letter ahead": (
put(row_key(Spaces.REVIVED, "orders", "mail", 14), RECORD), "dangling", "dead letters to deliver again at offset 14",
    ),
    "a revived one's bytes": (put(row_key(Spaces.REVIVED, "orders", "mail", 1), b"\xc1"), "unreadable", "to deliver again"),
    "an id's bytes": (put(row_key(Spaces.IDS, "orders", b"1"), b"short"), "unreadable", "an event id"),
    "an id ahead": (put(row_key(Spaces.IDS, "orders", b"x"), offset(5) + offset(99)), "dangling", "an event id at offset 99"),
    "an id for ever": (put(row_key(Spaces.IDS, "orders", b"x"), offset(5) + offset(1)), "missing", "in the index of those"),
    "an expiry's key": (put(row_key(Spaces.EXPIRIES, "orders", b"abc"), b""), "unreadable", "it forgets an event id"),
    "a key's newest": (put(row_key(Spaces.NEWEST, "both", b"k1"), b"1"), "unreadable", "the newest event of a key"),
    "a key's newest ahead": (put(row_key(Spaces.NEWEST, "both", b"k1"), offset(50)), "dangling", "newest event of a key at offset"),
    "a name": (put(bytes((Spaces.MEMBERS,)) + b"\xff\xfe\0g\0x", b""), "unreadable", "a key of its consumers"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
async def test_what_refers_to_nothing_is_named_and_noted(tmp_path: Path, case: str) -> None:
    """Each is found by what it says; a quarantine notes it, and leaves every row of the topics as it was."""
    async with filled(tmp_path) as store:
        change, kind, words = CASES[case]
        await store.commit(change(Batch()))
        findings = await found(store)
        assert any(finding.kind == kind and words in finding.message for finding in findings), findings
        before = await store.scan(b"\x30", b"\x40")
        outcome = await quarantine(store, SystemClock())
        assert outcome.report.damage == []
        assert await store.scan(b"\x30", b"\x40") == before


async def test_a_gap_without_an_end_is_named_in_a_few_findings(tmp_path: Path) -> None:
    """A newest offset that has run away does not drown everything else."""
    async with filled(tmp_path) as store:
        await store.commit(Batch().put(newest_key("orders"), offset(1 << 40)))
        findings = await found(store)
        assert len(findings) < 100
        assert any("behind it)" in finding.message for finding in findings)
        assert msgspec.json.encode([finding.message for finding in findings])


async def test_a_topic_that_was_never_declared_is_checked(tmp_path: Path) -> None:
    """Whoever publishes inside another batch need not declare it."""
    async with filled(tmp_path) as store:
        await store.commit(Batch().append(log_key("loose"), RECORD, counter=newest_key("loose")))
        assert await found(store) == []
        await store.commit(Batch().delete_range(*rows_of(Spaces.LOG, "loose")))
        assert [finding.message for finding in await found(store)] == ["topic loose, event 1: it is missing"]


async def test_a_drop_that_was_interrupted_leaves_a_whole_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its last commit, the group has its lanes, and the dead letters that they deliver again."""

    class Killed(Exception):
        pass

    url = f"sqlite:{tmp_path / 'store.db'}"
    async with open_topics(url, sweep_every=None) as topics:
        orders = await topics.topic("orders", type=int)
        await orders.publish_many(range(4))
        for attempts in (1, 2):
            async with orders.consume("mail", max_attempts=attempts, lease=1000) as consumer:
                await (await asyncio.wait_for(anext(consumer), 5)).nack(reason="no", delay=100)
            if attempts == 1:
                await topics.replay("orders", "mail", 1)
        commit = deletion._commit

        async def last(store: Store, batch: Batch, *names) -> None:
            if row_key(Spaces.GROUPS, "orders", "mail") in batch.rows:
                raise Killed
            await commit(store, batch, *names)

        monkeypatch.setattr(deletion, "_commit", last)
        with pytest.raises(Killed):
            await topics.delete("orders", force=True)
        assert await topics.store.scan(*rows_of(Spaces.REVIVED, "orders", "mail"))
        assert await found(topics.store) == []
        monkeypatch.undo()
        await topics.delete("orders", force=True)
        assert await topics.store.scan(*rows_of(Spaces.REVIVED, "orders", "mail")) == []
        assert await found(topics.store) == []


async def test_who_publishes_while_a_topic_is_deleted_keeps_ids_that_are_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A delete that is given up leaves no id without its entry in the index of those that are forgotten."""

    class Killed(Exception):
        pass

    async with open_topics(f"sqlite:{tmp_path / 'store.db'}", sweep_every=None) as topics:
        orders = await topics.topic("orders", type=int, dedup=60)
        await orders.publish_many(range(4), id=str)
        commit, scan = topics.store.commit, topics.store.scan

        async def late(start: bytes, end: bytes, **options) -> list[tuple[bytes, bytes]]:
            if start == row_key(Spaces.EXPIRIES, "orders"):
                monkeypatch.setattr(topics.store, "scan", scan)
                await orders.publish(4, id="4")
            return await scan(start, end, **options)

        async def killed(batch: Batch) -> int:
            if row_key(Spaces.SWEPT, "orders") in batch.rows:
                raise Killed
            return await commit(batch)

        monkeypatch.setattr(topics.store, "scan", late)
        monkeypatch.setattr(topics.store, "commit", killed)
        with pytest.raises(Killed):
            await topics.delete("orders", force=True)
        monkeypatch.undo()
        assert await found(topics.store) == []
