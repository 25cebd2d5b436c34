"""Owns deleting: a group, and a topic with all that belongs to it, in bounded steps.
It must never take anything from a consumer that is alive, nor give an offset of a deleted event to another one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from spellwork.clock import Clock
from spellwork.errors import Conflict, RowDamaged, TopicError, TopicNotFound
from spellwork.events.durable.dedup import id_key, id_of_expiry, unpack_id
from spellwork.events.durable.groups import dropped, group_names, require_group
from spellwork.events.durable.keys import (
    Spaces,
    check_name,
    event_key,
    log_key,
    names_of,
    newest_key,
    row_key,
    rows_of,
    touched_key,
)
from spellwork.events.durable.membership import has_ended, runs_here
from spellwork.events.durable.reading import PAGE, Found, Swept, head, page, revision_at, swept
from spellwork.events.durable.rows import Member, Progress, pack_row, unpack_row
from spellwork.events.durable.waiting import brought
from spellwork.store import SEQUENCE_BYTES, Batch, Reader, Store, fingerprint
from spellwork.store.batch import Operator

if TYPE_CHECKING:
    from spellwork.events.durable.topics import Topics

_AT_ONCE = 5000
_NOTHING = fingerprint(())


class _Ground(NamedTuple):
    """A topic before it is deleted. `counter` is the version of the row of its newest offset, None if that is damaged."""

    newest: int
    revision: int
    brought: int | None
    swept: Swept
    version: int
    groups: list[str]
    counter: int | None


async def delete_topic(topics: Topics, topic: str, *, force: bool) -> int:
    """Delete a topic; how many of its offsets were still kept. The face of it is `Topics.delete`."""
    store, clock = topics.store, topics.clock
    await store.read(lambda reader: _require(reader, topic))
    trimmed = (await store.read(lambda reader: swept(reader, topic))).trimmed
    while True:
        ground = await store.read(lambda reader: _ground(reader, topic))
        if not force and ground.brought is not None and ground.brought < ground.newest:
            raise TopicError(
                f"the events of topic {topic} after {ground.brought} were not yet brought to every workflow run or trigger that "
                "waits for them; let an engine run until they are, or delete with force",
                topic=topic,
            )
        for group in ground.groups:
            with contextlib.suppress(TopicNotFound):  # somebody else was faster
                await _drop(store, clock, topic, group)
        await _clear(store, *rows_of(Spaces.NEWEST, topic))
        try:
            ground = await _trim(store, topic, ground)
            # before the topic is gone, or a new one of its name would take their events for known
            await _forget_ids(store, topic, ground.newest)
            await store.commit(_end(topic, ground))
        except Conflict:
            continue  # it is swept, or has a group again
        break
    # what a deletion of before it went by steps has left
    await _clear(store, event_key(topic, 1), event_key(topic, ground.newest + 1))
    await _forget_news(store, topic)
    return ground.newest - trimmed


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
    counter = _version(reader, newest_key(topic))
    return _Ground(newest, revision, brought(reader, topic), state, version, groups, counter)


def _end(topic: str, ground: _Ground) -> Batch:
    """What makes a topic one that was never declared, whose events up to now are gone. Its offsets go on: cursors outlive it."""
    state = Swept(ground.newest, ground.newest, ground.revision, ground.swept.deletions + 1)
    key = row_key(Spaces.SWEPT, topic)
    batch = Batch().put(key, pack_row(state)).require_version(key, ground.version)
    batch.delete(row_key(Spaces.TOPICS, topic))
    if ground.counter is None:
        batch.put(newest_key(topic), _number(ground.newest)).require_damaged(newest_key(topic))
    else:
        batch.merge(newest_key(topic), _touch, b"")
    for space in (Spaces.GROUPS, Spaces.MEMBERS):
        batch.require_unchanged(*rows_of(space, topic), _NOTHING)
    return batch.delete_range(*rows_of(Spaces.NEWEST, topic))


def _touch(old: bytes | None, _operand: bytes) -> bytes:
    """Write a row again as it is, which is news."""
    return old or b""


async def _trim(store: Store, topic: str, ground: _Ground) -> _Ground:
    """Delete the events in steps, each together with their ids: what is broken off is a topic that was trimmed, and knows the ids
    of all that it still has. Who reads it hears from the first step on that it is deleted.
    """
    key, state, version = row_key(Spaces.SWEPT, topic), ground.swept, ground.version
    if state.trimmed < ground.newest:
        state = msgspec.structs.replace(state, deletions=state.deletions + 1)
    while (after := state.trimmed) < ground.newest:
        found, has_ids = await store.read(lambda reader: _next(reader, topic, after))
        upto = min(found[-1].offset, ground.newest) if len(found) == min(_AT_ONCE, PAGE) else ground.newest
        batch = Batch().delete_range(event_key(topic, after + 1), event_key(topic, upto + 1))
        gone = [each for each in found if each.offset <= upto]
        for each in gone if has_ids else ():
            if each.record is not None:
                batch.merge(id_key(topic, each.record.id), _unless_after(upto), b"")
        revision = max([state.revision, *(each.revision for each in gone)])
        state = msgspec.structs.replace(state, trimmed=upto, compacted=max(upto, state.compacted), revision=revision)
        version = await store.commit(batch.put(key, pack_row(state)).require_version(key, version))
    return ground._replace(swept=state, version=version)


def _next(reader: Reader, topic: str, after: int) -> tuple[list[Found], bool]:
    return page(reader, topic, after, min(_AT_ONCE, PAGE)), bool(reader.scan(*rows_of(Spaces.IDS, topic), limit=1, damaged=b""))


def _unless_after(newest: int) -> Operator:
    """Forget an id, unless it is that of a later event."""

    def drop(old: bytes | None, _operand: bytes) -> bytes | None:
        return old if unpack_id(old)[1] > newest else None

    return drop


async def _forget_ids(store: Store, topic: str, newest: int) -> None:
    """Forget the ids of events up to `newest`, in steps. Those behind it are the new topic's, which knows their ids."""
    (start, end), (due, last) = rows_of(Spaces.IDS, topic), rows_of(Spaces.EXPIRIES, topic)
    drop = _unless_after(newest)
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

    def look(reader: Reader) -> tuple[bool, int, list[tuple[bytes, int | None]]]:
        rows = [(key, _version(reader, key)) for key, _ in reader.scan(*rows_of(Spaces.TOUCHED, topic), damaged=b"")]
        newest = head(reader, topic)
        idle = newest == swept(reader, topic).trimmed and not group_names(reader, topic)
        return idle and not reader.scan(*rows_of(Spaces.TOPICS, topic)), newest, rows

    idle, newest, rows = await store.read(look)
    if idle:
        batch = Batch().require_absent(row_key(Spaces.TOPICS, topic))
        batch.require_unchanged(*rows_of(Spaces.GROUPS, topic), _NOTHING)
        for key, version in rows:
            batch.delete(key)
            if key == newest_key(topic):  # its offsets go on; without that row, the number is there already, and may be a later one
                batch.put(log_key(topic), _number(newest))
            if version is None:
                batch.require_damaged(key)
            else:
                batch.require_version(key, version)
        try:
            await store.commit(batch)
        except Conflict:
            return  # it is used again


def _number(offset: int) -> bytes:
    return offset.to_bytes(SEQUENCE_BYTES, "big")


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
    """Delete the rows of a group; raises `TopicNotFound` (also if somebody else was faster), `TopicError` while it has members."""
    await store.read(lambda reader: require_group(reader, topic, group))
    await _drop(store, clock, topic, group)


class _Group(NamedTuple):
    """A group before it is dropped: the version of its row (None if that is damaged), what stands for its members, who lives."""

    made: int | None
    members: bytes
    left: list[Member]


async def _drop(store: Store, clock: Clock, topic: str, group: str) -> None:
    def look(reader: Reader) -> _Group:
        rows = reader.rows(*rows_of(Spaces.MEMBERS, topic, group))
        lives = [unpack_row(Member, key, data) for key, data, _ in rows]
        seen = fingerprint((key, version) for key, _, version in rows)
        return _Group(_version(reader, _row(topic, group)), seen, [each for each in lives if not has_ended(each)])

    ground = await store.read(look)
    if ground.left and not any(runs_here(each) for each in ground.left):
        # of other machines one knows only whether they show life; whoever does has another row after a lease
        await _pause(clock, max(each.lease for each in ground.left))
        now = await store.read(look)
        ground = now._replace(made=ground.made, left=now.left if now.members != ground.members else [])
    if ground.left:
        raise TopicError(f"group {group} of topic {topic} has consumers; stop them first", topic=topic)
    for space in (Spaces.DEAD, Spaces.REVIVED):
        # a group that keeps its lanes because this is interrupted keeps its letters too, as far as one commit can take them
        async for upto in _steps(store, *rows_of(space, topic, group), rest=False):
            batch = Batch().delete_range(rows_of(space, topic, group)[0], upto)
            if space == Spaces.REVIVED:
                batch.put_all(await store.read(lambda reader: _without_letters(reader, topic, group)))
            await _commit(store, batch, topic, group, ground)
    # a note that is gone is news, too; kept, one for each group that ever was would be read at every look for news
    batch = Batch().delete(_row(topic, group)).delete(touched_key(topic, group))
    for space in (Spaces.LANES, Spaces.CLAIMS, Spaces.MEMBERS, Spaces.DEAD, Spaces.REVIVED):
        batch.delete_range(*rows_of(space, topic, group))
    await _commit(store, batch, topic, group, ground)


def _row(topic: str, group: str) -> bytes:
    return row_key(Spaces.GROUPS, topic, group)


def _without_letters(reader: Reader, topic: str, group: str) -> list[tuple[bytes, bytes]]:
    """The lanes that deliver dead letters again, as they are without: a lane must not speak of a letter that is gone."""
    changed = []
    for key, data in reader.scan(*rows_of(Spaces.LANES, topic, group), damaged=b""):
        lane = unpack_row(Progress, key, data) if data else Progress(0)
        kept = [each for each in lane.pending if not each.revived]
        if len(kept) < len(lane.pending):
            changed.append((key, pack_row(Progress(lane.position, kept))))
    return changed


async def _commit(store: Store, batch: Batch, topic: str, group: str, ground: _Group) -> None:
    row = _row(topic, group)
    if ground.made is None:
        batch.require_damaged(row)
    else:
        batch.require_version(row, ground.made)
    try:
        await store.commit(batch.require_unchanged(*rows_of(Spaces.MEMBERS, topic, group), ground.members))
    except Conflict as error:
        if error.key == row:
            raise dropped(topic, group) from error
        raise TopicError(f"group {group} of topic {topic} has just got a consumer; stop it first", topic=topic) from error


async def _pause(clock: Clock, length: float) -> None:
    over = asyncio.Event()
    clock.call_later(length, over.set)
    await over.wait()
