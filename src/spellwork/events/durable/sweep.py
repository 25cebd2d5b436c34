"""Owns what is deleted in the course of time: events beyond retention, older events of a key, ids whose window is over.
It must never delete what a group has not finished, or a run or trigger that waits was not brought, unless the topic is declared so.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import msgspec

from spellwork.errors import Conflict
from spellwork.events.durable.dedup import forget
from spellwork.events.durable.groups import slowest
from spellwork.events.durable.keys import Spaces, event_key, events_after, offset_of, row_key, rows_of, short
from spellwork.events.durable.options import Options, unpack_options
from spellwork.events.durable.reading import PAGE, Found, Swept, head, page, revision_at, swept
from spellwork.events.durable.rows import pack_row
from spellwork.events.durable.waiting import brought
from spellwork.store import SEQUENCE_BYTES, Batch, Reader

if TYPE_CHECKING:
    from spellwork.events.durable.topics import Topics

_IDS_AT_ONCE = 1000
_TRIM_AT_ONCE = 5000


@dataclasses.dataclass(slots=True)
class Sweeping:
    """What a sweep has done: events trimmed by retention, events that compaction has removed, ids forgotten."""

    trimmed: int = 0
    compacted: int = 0
    forgotten: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class _Ground:
    """A topic before it is swept. `bound`: the last offset that may go."""

    options: Options
    swept: Swept
    version: int
    newest: int
    bound: int


class Sweeper:
    """Sweeps the topics of a store. Several processes may do it at once: each step is taken by one of them."""

    def __init__(self, topics: Topics):
        self._topics = topics
        self._store = topics.store
        self._pages: dict[str, list[tuple[int, int]]] = {}

    async def sweep(self, topic: str, done: Sweeping) -> None:
        """Sweep one topic."""
        ground = await self._store.read(lambda reader: _ground(reader, topic))
        try:
            if ground.options.limited:
                ground = await self._trim(topic, ground, done)
            if ground.options.compact:
                await self._compact(topic, ground, done)
        except Conflict:
            return  # another process sweeps it
        await self._forget(topic, done)

    async def _trim(self, topic: str, ground: _Ground, done: Sweeping) -> _Ground:
        options, to = ground.options, 0
        if options.keep_count is not None:
            to = max(to, ground.newest - options.keep_count)
        if options.keep_bytes is not None:
            to = max(to, await self._too_big(topic, ground, options.keep_bytes))
        if options.keep_age is not None:
            to = max(to, await self._too_old(topic, ground, to, self._topics.clock.now() - options.keep_age))
        to = min(to, ground.bound)
        while (at := ground.swept.trimmed) < to:
            # in steps: a commit that deletes a million events makes every writer of the store wait
            upto = min(at + _TRIM_AT_ONCE, to)
            batch = Batch().delete_range(event_key(topic, at + 1), event_key(topic, upto + 1))
            if options.compact:
                await self._drop_newest(batch, topic, at, upto)
            revision = await self._store.read(lambda reader: revision_at(reader, topic, upto))  # noqa: B023 - called before
            state = msgspec.structs.replace(
                ground.swept,
                trimmed=upto,
                compacted=max(upto, ground.swept.compacted),
                revision=max(revision, ground.swept.revision),
            )
            version = await self._store.commit(_step(batch, topic, ground, state))
            ground = dataclasses.replace(ground, swept=state, version=version)
            done.trimmed += upto - at
        return ground

    async def _page(self, topic: str, after: int) -> list[Found]:
        return await self._store.read(lambda reader: page(reader, topic, after))

    async def _too_old(self, topic: str, ground: _Ground, after: int, time: int) -> int:
        """The last offset before the first event that is young enough."""
        after = max(after, ground.swept.trimmed)
        while after < ground.bound:
            found = await self._page(topic, after)
            for each in found:
                if each.record is not None and each.record.time >= time:
                    return after
                after = each.offset
            if len(found) < PAGE:
                break
        return after

    async def _too_big(self, topic: str, ground: _Ground, most: int) -> int:
        """The offset up to which the events must go so that the others have at most `most` bytes."""
        # What lies in whole pages is remembered by the page: a sweep reads only what has come since the one before.
        pages = [] if ground.options.compact else self._pages.get(topic, [])
        pages = [(last, size) for last, size in pages if last > ground.swept.trimmed]
        after = pages[-1][0] if pages else ground.swept.trimmed
        while True:
            newest = await self._sizes(topic, after)
            if len(newest) < PAGE:
                break
            after = newest[-1][0]
            pages.append((after, sum(size for _, size in newest)))
        self._pages[topic] = pages
        too_big, left = _too_big(newest, most)
        for index in reversed(range(len(pages))):
            last, size = pages[index]
            if too_big:
                break
            if size <= left:
                left -= size
                continue
            # in this page the limit is: what of it may stay? Of the oldest one, a part may have gone already.
            before = pages[index - 1][0] if index else ground.swept.trimmed
            rows = await self._sizes(topic, before)
            too_big, left = _too_big([each for each in rows if each[0] <= last], left)
        return too_big

    async def _sizes(self, topic: str, after: int) -> list[tuple[int, int]]:
        rows = await self._store.read(lambda reader: reader.scan(*events_after(topic, after), limit=PAGE, damaged=b""))
        return [(offset_of(key), len(key) + len(data)) for key, data in rows]

    async def _drop_newest(self, batch: Batch, topic: str, after: int, to: int) -> None:
        while after < to:
            found = await self._page(topic, after)
            for each in found:
                if each.record is not None and each.record.key is not None and each.offset <= to:
                    batch.merge(_newest_key(topic, each.record.key), _unless_newer, each.offset.to_bytes(SEQUENCE_BYTES, "big"))
            if len(found) < PAGE:
                return
            after = found[-1].offset

    async def _compact(self, topic: str, ground: _Ground, done: Sweeping) -> None:
        """Go over what has come since, and remove the event before each one of its key."""
        state, version = ground.swept, ground.version
        while state.compacted < ground.bound:
            after = state.compacted
            found, known = await self._store.read(lambda reader: _with_newest(reader, topic, after, ground.bound))  # noqa: B023
            batch, removed = Batch(), 0
            for each in found:
                if each.record is None or each.record.key is None:
                    continue
                key = _newest_key(topic, each.record.key)
                if known.get(key):
                    batch.delete(event_key(topic, known[key]))
                    removed += 1
                known[key] = each.offset
                batch.put(key, each.offset.to_bytes(SEQUENCE_BYTES, "big"))
            state = msgspec.structs.replace(state, compacted=found[-1].offset if len(found) == PAGE else ground.bound)
            ground = dataclasses.replace(ground, version=version)
            version = await self._store.commit(_step(batch, topic, ground, state))
            done.compacted += removed

    async def _forget(self, topic: str, done: Sweeping) -> None:
        now = self._topics.clock.now()
        start, _ = rows_of(Spaces.EXPIRIES, topic)
        while True:
            due = await self._store.scan(start, row_key(Spaces.EXPIRIES, topic, now), limit=_IDS_AT_ONCE)
            if due:
                batch = Batch()
                for key, _ in due:
                    forget(batch, key, now)
                await self._store.commit(batch)
                done.forgotten += len(due)
            if len(due) < _IDS_AT_ONCE:
                return


def _ground(reader: Reader, topic: str) -> _Ground:
    options, key = unpack_options(topic, reader.get(row_key(Spaces.TOPICS, topic))), row_key(Spaces.SWEPT, topic)
    newest = head(reader, topic)
    bound = newest
    if not options.beyond_groups and (options.limited or options.compact):
        done = (slowest(reader, topic), brought(reader, topic))
        bound = min((each for each in done if each is not None), default=newest)
    return _Ground(options, swept(reader, topic), reader.version(key), newest, bound)


def _too_big(sizes: list[tuple[int, int]], most: int) -> tuple[int, int]:
    """The offset of the last event that must go so that those behind it have at most `most` bytes (0: none), and what is left."""
    for offset, size in reversed(sizes):
        if size > most:
            return offset, most
        most -= size
    return 0, most


def _step(batch: Batch, topic: str, ground: _Ground, state: Swept) -> Batch:
    key = row_key(Spaces.SWEPT, topic)
    return batch.put(key, pack_row(state)).require_version(key, ground.version)


def _newest_key(topic: str, key: str) -> bytes:
    return row_key(Spaces.NEWEST, topic, short(key))


def _with_newest(reader: Reader, topic: str, after: int, bound: int) -> tuple[list[Found], dict[bytes, int]]:
    found = [each for each in page(reader, topic, after) if each.offset <= bound]
    keys = {_newest_key(topic, each.record.key) for each in found if each.record is not None and each.record.key is not None}
    return found, {key: int.from_bytes(reader.get(key) or b"", "big") for key in keys}


def _unless_newer(old: bytes | None, operand: bytes) -> bytes | None:
    return None if old == operand else old
