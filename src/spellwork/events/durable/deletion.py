"""Owns deleting: a group, and a topic with all that belongs to it, in bounded steps.
It must never take anything from a consumer that is alive, nor give an offset of a deleted event to another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, NamedTuple

from spellwork.clock import Clock
from spellwork.errors import Conflict, RowDamaged, TopicError, TopicNotFound
from spellwork.events.durable.dedup import id_of_expiry, unpack_id
from spellwork.events.durable.groups import group_names, require_group
from spellwork.events.durable.keys import Spaces, check_name, event_key, names_of, row_key, rows_of, touched_key
from spellwork.events.durable.membership import has_ended, runs_here
from spellwork.events.durable.reading import Swept, head, revision_at, swept
from spellwork.events.durable.rows import Member, pack_row, unpack_row
from spellwork.events.durable.waiting import brought
from spellwork.store import Batch, Reader, Store, fingerprint

if TYPE_CHECKING:
    from spellwork.events.durable.topics import Topics

_AT_ONCE = 5000
_NOTHING = fingerprint(())


class _Ground(NamedTuple):
    """A topic before it is deleted."""

    newest: int
    revision: int
    brought: int | None
    swept: Swept
    version: int
    groups: list[str]


async def delete_topic(topics: Topics, topic: str, *, force: bool) -> int:
    """Delete a topic; how many of its offsets were still kept. The face of it is `Topics.delete`."""
    store, clock = topics.store, topics.clock
    await store.read(lambda reader: _require(reader, topic))
    while True:
        ground = await store.read(lambda reader: _ground(reader, topic))
        if not force and ground.brought is not None and ground.brought < ground.newest:
            raise TopicError(
                f"the events of topic {topic} after {ground.brought} were not yet brought to every workflow run or trigger that "
                "waits for them; let an engine run until they are, or delete with force",
                topic=topic,
            )
        for group in ground.groups:
            await _drop(store, clock, topic, group)
        await _clear(store, *rows_of(Spaces.NEWEST, topic))
        # before the topic is gone, or a new one of its name would take their events for known
        await _forget_ids(store, topic, ground.newest)
        try:
            await store.commit(_end(topic, ground))
        except Conflict:
            continue  # it is swept, or has a group again
        break
    # from here on nobody sees what is left, and whoever asks again deletes it
    await _clear(store, event_key(topic, 1), event_key(topic, ground.newest + 1))
    await _forget_news(store, topic)
    return ground.newest - ground.swept.trimmed


def _require(reader: Reader, topic: str) -> None:
    known = reader.scan(*rows_of(Spaces.TOPICS, check_name(topic)), limit=1, damaged=b"")
    if not known and not reader.scan(*rows_of(Spaces.TOUCHED, topic), limit=1, damaged=b""):
        raise TopicNotFound(f"there is no topic {topic}; `spellwork events topics` lists those there are", topic=topic)


def _ground(reader: Reader, topic: str) -> _Ground:
    newest = head(reader, topic)
    state, version = swept(reader, topic), reader.version(row_key(Spaces.SWEPT, topic))
    revision = max(revision_at(reader, topic, newest), state.revision)
    # a consumer may have joined a group that was dropped just then: its row must go, too, or the topic never ends
    members = {names_of(key)[1] for key, _ in reader.scan(*rows_of(Spaces.MEMBERS, topic), damaged=b"")}
    groups = sorted(members.union(group_names(reader, topic)))
    return _Ground(newest, revision, brought(reader, topic), state, version, groups)


def _end(topic: str, ground: _Ground) -> Batch:
    """What makes a topic one that was never declared, whose events up to now are gone. Its offsets go on: cursors outlive it."""
    state = Swept(ground.newest, ground.newest, ground.revision, ground.swept.deletions + 1)
    key = row_key(Spaces.SWEPT, topic)
    batch = Batch().put(key, pack_row(state)).require_version(key, ground.version)
    batch.delete(row_key(Spaces.TOPICS, topic)).put(touched_key(topic), b"")
    for space in (Spaces.GROUPS, Spaces.MEMBERS):
        batch.require_unchanged(*rows_of(space, topic), _NOTHING)
    return batch.delete_range(*rows_of(Spaces.NEWEST, topic))


async def _forget_ids(store: Store, topic: str, newest: int) -> None:
    """Forget the ids of events up to `newest`, in steps. Those behind it are the new topic's, which knows their ids."""
    (start, end), (due, last) = rows_of(Spaces.IDS, topic), rows_of(Spaces.EXPIRIES, topic)

    def drop(old: bytes | None, _operand: bytes) -> bytes | None:
        return old if unpack_id(old)[1] > newest else None

    # what comes behind a page that is not full is new: a publisher that does not rest would be followed for ever
    full = True
    while full and (rows := await store.scan(start, end, limit=_AT_ONCE, damaged=b"")):
        full, batch = len(rows) == _AT_ONCE, Batch()
        for key, data in rows:
            if not data:
                batch.delete(key)
            elif unpack_id(data)[1] <= newest:
                batch.merge(key, drop, b"")
        if batch.rows or batch.merges:
            await store.commit(batch)
        start = rows[-1][0] + b"\0"

    def orphans(reader: Reader) -> tuple[list[bytes], bytes]:
        keys = [key for key, _ in reader.scan(due, last, limit=_AT_ONCE, damaged=b"")]
        unknown = [key for key in keys if not unpack_id(_value(reader, id_of_expiry(key)))[1]]
        return unknown, keys[-1] + b"\0" if len(keys) == _AT_ONCE else b""

    while True:
        gone, upto = await store.read(orphans)
        batch = Batch()
        for key in gone:
            batch.delete(key)
        if gone:
            await store.commit(batch)
        if not upto:
            return
        due = upto


async def _forget_news(store: Store, topic: str) -> None:
    """Let nobody look for news of a topic any more, unless there are some, or a group again."""

    def look(reader: Reader) -> tuple[bool, list[tuple[bytes, int | None]]]:
        rows = [(key, _version(reader, key)) for key, _ in reader.scan(*rows_of(Spaces.TOUCHED, topic), damaged=b"")]
        idle = head(reader, topic) == swept(reader, topic).trimmed and not group_names(reader, topic)
        return idle and not reader.scan(*rows_of(Spaces.TOPICS, topic)), rows

    idle, rows = await store.read(look)
    if idle:
        batch = Batch().require_absent(row_key(Spaces.TOPICS, topic))
        batch.require_unchanged(*rows_of(Spaces.GROUPS, topic), _NOTHING)
        for key, version in rows:
            batch.delete(key)
            if version is None:
                batch.require_damaged(key)
            else:
                batch.require_version(key, version)
        try:
            await store.commit(batch)
        except Conflict:
            return  # it is used again


def _value(reader: Reader, key: bytes) -> bytes | None:
    try:
        return reader.get(key)
    except RowDamaged:
        return None


def _version(reader: Reader, key: bytes) -> int | None:
    try:
        return reader.version(key)
    except RowDamaged:
        return None


async def _clear(store: Store, start: bytes, end: bytes) -> None:
    """Delete a range in steps: a commit that deletes a million rows makes every writer of the store wait."""
    async for upto in _steps(store, start, end):
        await store.commit(Batch().delete_range(start, upto))


async def _steps(store: Store, start: bytes, end: bytes, *, rest: bool = True) -> AsyncIterator[bytes]:
    """Up to where to delete next; without `rest`, what is left at last is for another batch."""
    while len(rows := await store.scan(start, end, limit=_AT_ONCE, damaged=b"")) >= (1 if rest else _AT_ONCE):
        yield rows[-1][0] + b"\0"


async def drop_group(store: Store, clock: Clock, topic: str, group: str) -> None:
    """Delete the rows of a group; raises `TopicNotFound`, and `TopicError` while it has members."""
    await store.read(lambda reader: require_group(reader, topic, group))
    await _drop(store, clock, topic, group)


async def _drop(store: Store, clock: Clock, topic: str, group: str) -> None:
    members = rows_of(Spaces.MEMBERS, topic, group)

    def look(reader: Reader) -> tuple[bytes, list[Member]]:
        rows = reader.rows(*members)
        lives = [unpack_row(Member, key, data) for key, data, _ in rows]
        return fingerprint((key, version) for key, _, version in rows), [each for each in lives if not has_ended(each)]

    seen, left = await store.read(look)
    if left and not any(runs_here(each) for each in left):
        # of other machines one knows only whether they show life; whoever does has another row after a lease
        await _pause(clock, max(each.lease for each in left))
        before, (seen, left) = seen, await store.read(look)
        left = left if seen != before else []
    if left:
        raise TopicError(f"group {group} of topic {topic} has consumers; stop them first", topic=topic)
    for space in (Spaces.DEAD, Spaces.REVIVED):
        # a group that keeps its lanes because this is interrupted keeps its letters too, as far as one commit can take them
        async for upto in _steps(store, *rows_of(space, topic, group), rest=False):
            await _commit(store, Batch().delete_range(rows_of(space, topic, group)[0], upto), topic, group, seen)
    batch = Batch().delete(row_key(Spaces.GROUPS, topic, group)).put(touched_key(topic, group), b"")
    for space in (Spaces.LANES, Spaces.CLAIMS, Spaces.MEMBERS, Spaces.DEAD, Spaces.REVIVED):
        batch.delete_range(*rows_of(space, topic, group))
    await _commit(store, batch, topic, group, seen)


async def _commit(store: Store, batch: Batch, topic: str, group: str, seen: bytes) -> None:
    try:
        await store.commit(batch.require_unchanged(*rows_of(Spaces.MEMBERS, topic, group), seen))
    except Conflict as error:
        raise TopicError(f"group {group} of topic {topic} has just got a consumer; stop it first", topic=topic) from error


async def _pause(clock: Clock, length: float) -> None:
    over = asyncio.Event()
    clock.call_later(length, over.set)
    await over.wait()
