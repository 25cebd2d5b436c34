"""Owns the check of durable topics: their rows, and what of it refers to something else.
It must never decode a payload, nor call a topic damaged for what a consumer or a sweeper that was killed leaves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator

from spellwork.errors import RowDamaged, StoreCorrupt
from spellwork.events.durable.dedup import unpack_id
from spellwork.events.durable.keys import Spaces, event_key, log_key, names_of, newest_key, row_key, space_range
from spellwork.events.durable.options import unpack_options
from spellwork.events.durable.reading import Swept, head, swept
from spellwork.events.durable.record import unpack_record
from spellwork.events.durable.rows import Claim, DeadRow, GroupRow, Member, Progress, unpack_row
from spellwork.store import SEQUENCE_BYTES, Reader
from spellwork.store.fsck import Finding, Seen, examined

SPACES = {
    Spaces.TOPICS: "topics",
    Spaces.LOG: "events",
    Spaces.TOUCHED: "news of topics",
    Spaces.GROUPS: "groups",
    Spaces.LANES: "lanes",
    Spaces.CLAIMS: "claims",
    Spaces.MEMBERS: "consumers",
    Spaces.DEAD: "dead letters",
    Spaces.REVIVED: "dead letters to deliver again",
    Spaces.IDS: "event ids",
    Spaces.EXPIRIES: "expiries of event ids",
    Spaces.NEWEST: "newest events of keys",
    Spaces.SWEPT: "progress of sweepers",
}
"""The keyspaces and what lies in them."""

_OF_GROUPS = (Spaces.LANES, Spaces.CLAIMS, Spaces.MEMBERS, Spaces.DEAD, Spaces.REVIVED)
_KINDS: dict[int, type] = {
    Spaces.LANES: Progress,
    Spaces.CLAIMS: Claim,
    Spaces.MEMBERS: Member,
    Spaces.DEAD: DeadRow,
}
_NUMBERED = (Spaces.LANES, Spaces.CLAIMS, Spaces.DEAD, Spaces.REVIVED)
_MOST_GAPS = 20
_ID_BYTES = 16


def check_topics(reader: Reader) -> Iterator[Finding]:
    """Findings in the keyspaces of topics; damaged rows are left to who checks the checksums."""
    return _Check(reader).run()


class _Check:
    def __init__(self, reader: Reader):
        self._reader = reader
        self._heads: dict[str, int | None] = {}
        self._swept: dict[str, Swept | None] = {}
        self._groups: dict[tuple[str, str], GroupRow | None] = {}
        self._logged: set[str] = set()

    def run(self) -> Iterator[Finding]:
        """Each keyspace, those first that others refer to."""
        yield from self._topics()
        yield from self._sweepers()
        yield from self._logs()
        yield from self._news()
        yield from self._read_groups()
        for space in _OF_GROUPS:
            for row in self._rows(space):
                yield from self._of_group(space, row)
        yield from self._memory()

    def _rows(self, space: int) -> Iterator[Seen]:
        return examined(self._reader, *space_range(space))

    def _head(self, topic: str) -> int | None:
        """The newest offset of a topic; None if nobody can know it, which is a finding of its own."""
        if topic not in self._heads:
            self._heads[topic] = None
            with contextlib.suppress(RowDamaged, StoreCorrupt):
                self._heads[topic] = head(self._reader, topic)
        return self._heads[topic]

    def _sweeper(self, topic: str) -> Swept | None:
        if topic not in self._swept:
            self._swept[topic] = None
            with contextlib.suppress(RowDamaged, StoreCorrupt):
                self._swept[topic] = swept(self._reader, topic)
        return self._swept[topic]

    def _trimmed(self, topic: str) -> int:
        state = self._sweeper(topic)
        return 0 if state is None else state.trimmed

    def _beyond(self, topic: str, offset: int, what: str, key: bytes) -> Iterator[Finding]:
        """What speaks of an event that has not been: the next one to come would be passed over, or taken for another."""
        newest = self._head(topic)
        if newest is not None and offset > newest:
            yield _dangling(f"topic {topic}, {what} at offset {offset}: the newest event is {newest}", key)

    # Topics and their logs

    def _topics(self) -> Iterator[Finding]:
        for row in self._rows(Spaces.TOPICS):
            if row.value is None:
                continue
            try:
                unpack_options(names_of(row.key)[0], row.value)
            except StoreCorrupt as error:
                yield _unreadable(str(error), row.key)

    def _sweepers(self) -> Iterator[Finding]:
        for row in self._rows(Spaces.SWEPT):
            topic = _topic(row.key)
            state = self._sweeper(topic)
            if row.value is None:
                continue
            if state is None:
                yield _unreadable(f"topic {topic}: how far its sweeper is cannot be read", row.key)
            else:
                yield from self._beyond(topic, max(state.trimmed, state.compacted), "how far its sweeper is", row.key)

    def _news(self) -> Iterator[Finding]:
        """What tells of news, and the logs of which that is all there is."""
        for row in self._rows(Spaces.TOUCHED):
            topic, group = _names(row.key)
            if group:
                if row.value:
                    yield _unreadable(f"{_group((topic, group))}: its news cannot be read", row.key)
                continue
            yield from self._newest(topic, row)
            if topic not in self._logged:
                yield from self._end_of_log(log_key(topic), self._trimmed(topic), 0)

    def _newest(self, topic: str, row: Seen) -> Iterator[Finding]:
        if row.value and self._head(topic) is None:
            yield _unreadable(f"topic {topic}: its newest offset cannot be read", row.key)

    def _logs(self) -> Iterator[Finding]:
        """Each log from its first event to its newest."""
        log, before, events = b"", 0, 0
        for row in self._rows(Spaces.LOG):
            topic = _topic(row.key)
            start = row.key[: row.key.index(b"\0") + 1] if b"\0" in row.key else row.key
            if start != log:
                yield from self._end_of_log(log, before, events)
                log, before, events = start, self._trimmed(topic), 0
            if row.key == log:
                yield from self._newest(topic, row)
            elif len(row.key) != len(log) + SEQUENCE_BYTES:
                yield _unreadable(f"topic {topic}: the key of an event cannot be read", row.key)
            else:
                events += 1
                before = yield from self._event(topic, row, before)
        yield from self._end_of_log(log, before, events)

    def _event(self, topic: str, row: Seen, before: int) -> Generator[Finding, None, int]:
        """Findings of an event behind `before`; returns its offset."""
        offset, state = int.from_bytes(row.key[-SEQUENCE_BYTES:], "big"), self._sweeper(topic)
        if state is not None and offset <= state.trimmed:
            yield Finding(kind="stale", message=f"topic {topic}, event {offset}: it was trimmed, and is there", key=row.key)
            return before
        yield from self._gap(topic, before, offset)
        yield from self._beyond(topic, offset, "an event", row.key)
        if row.value is not None:
            try:
                unpack_record(row.key, row.value)
            except RowDamaged as error:
                yield _unreadable(f"topic {topic}, event {offset}: {error}", row.key)
        return offset

    def _gap(self, topic: str, before: int, offset: int) -> Iterator[Finding]:
        """The events between two that follow each other, unless the log was compacted there."""
        state = self._sweeper(topic)
        if state is None:
            return
        first = max(before, state.compacted) + 1
        for number in range(first, min(offset, first + _MOST_GAPS)):
            more = f" (and {offset - number - 1} behind it)" if number == first + _MOST_GAPS - 1 < offset - 1 else ""
            message = f"topic {topic}, event {number}: it is missing{more}"
            yield Finding(kind="missing", message=message, key=event_key(topic, number))

    def _end_of_log(self, log: bytes, last: int, events: int) -> Iterator[Finding]:
        if not log:
            return
        topic = _topic(log)
        self._logged.add(topic)
        newest = self._head(topic)
        if newest is not None:
            yield from self._gap(topic, last, newest + 1)
        if events and newest == 0:
            yield Finding(kind="missing", message=f"topic {topic}: its newest offset is missing", key=newest_key(topic))
        if events and not self._is_there(newest_key(topic)):
            yield Finding(kind="missing", message=f"topic {topic}: nobody is told of its events", key=newest_key(topic))

    def _is_there(self, key: bytes) -> bool:
        return bool(self._reader.scan(key, key + b"\0", damaged=b""))

    # Groups

    def _read_groups(self) -> Iterator[Finding]:
        for row in self._rows(Spaces.GROUPS):
            names = _names(row.key)
            self._groups[names] = None
            if row.value is None:
                continue
            try:
                group = self._groups[names] = unpack_row(GroupRow, row.key, row.value)
            except StoreCorrupt as error:
                yield _unreadable(f"{_group(names)}: {error}", row.key)
            else:
                yield from self._beyond(names[0], group.start, f"the beginning of group {names[1]}", row.key)

    def _of_group(self, space: int, row: Seen) -> Iterator[Finding]:
        """Findings in a row of a group: what it belongs to, what it says, where it points."""
        names, what = _names(row.key), SPACES[space]
        rest = row.key[len(row_key(space, *names)) :]
        if (space in _NUMBERED and len(rest) != SEQUENCE_BYTES) or not rest:
            yield _unreadable(f"{_group(names)}: a key of its {what} cannot be read", row.key)
            return
        if names not in self._groups:
            # a consumer may join a group that is dropped at that moment; what it has of events, it has from the group
            kind = "stale" if space in (Spaces.CLAIMS, Spaces.MEMBERS) else "dangling"
            yield Finding(kind=kind, message=f"{_group(names)}: there is none, and it has {what}", key=row.key)
            return
        if row.value is None:
            return
        number = int.from_bytes(rest, "big") if space in _NUMBERED else 0
        try:
            found = unpack_record(row.key, row.value) if space == Spaces.REVIVED else unpack_row(_KINDS[space], row.key, row.value)
        except (RowDamaged, StoreCorrupt) as error:
            yield _unreadable(f"{_group(names)}, {what}: {error}", row.key)
            return
        group = self._groups[names]
        if space in (Spaces.LANES, Spaces.CLAIMS):
            if group is not None and number >= group.partitions:
                yield _dangling(f"{_group(names)}, {what}: it has {group.partitions} lanes, this is number {number}", row.key)
        elif space != Spaces.MEMBERS:
            yield from self._beyond(names[0], number, f"group {names[1]}, {what}", row.key)
        if isinstance(found, Progress):
            yield from self._progress(names, number, found, row.key)

    def _progress(self, names: tuple[str, str], lane: int, progress: Progress, key: bytes) -> Iterator[Finding]:
        topic, group = names
        furthest = max([progress.position, *(pending.offset for pending in progress.pending)])
        yield from self._beyond(topic, furthest, f"lane {lane} of group {group}", key)
        for pending in progress.pending:
            letter = row_key(Spaces.REVIVED, topic, group, pending.offset)
            if pending.revived and not self._is_there(letter):
                message = f"{_group(names)}, lane {lane}: the dead letter {pending.offset} that it delivers again is missing"
                yield Finding(kind="missing", message=message, key=letter)

    # What is remembered of events

    def _memory(self) -> Iterator[Finding]:
        for row in self._rows(Spaces.IDS):
            if row.value is not None:
                yield from self._id(_topic(row.key), row.key, row.value)
        for row in self._rows(Spaces.EXPIRIES):
            if len(row.key) <= len(row_key(Spaces.EXPIRIES, _topic(row.key))) + SEQUENCE_BYTES:
                yield _unreadable(f"topic {_topic(row.key)}: a moment at which it forgets an event id cannot be read", row.key)
        for row in self._rows(Spaces.NEWEST):
            topic = _topic(row.key)
            if row.value is not None and len(row.value) != SEQUENCE_BYTES:
                yield _unreadable(f"topic {topic}: the newest event of a key cannot be read", row.key)
            elif row.value is not None:
                yield from self._beyond(topic, int.from_bytes(row.value, "big"), "the newest event of a key", row.key)

    def _id(self, topic: str, key: bytes, value: bytes) -> Iterator[Finding]:
        if len(value) != _ID_BYTES:
            yield _unreadable(f"topic {topic}: what is known of an event id cannot be read", key)
            return
        expiry, offset = unpack_id(value)
        yield from self._beyond(topic, offset, "an event id", key)
        index = row_key(Spaces.EXPIRIES, topic, expiry, key[len(row_key(Spaces.IDS, topic)) :])
        if not self._is_there(index):
            message = f"topic {topic}: an event id is missing in the index of those that are forgotten"
            yield Finding(kind="missing", message=message, key=index)


def _names(key: bytes) -> tuple[str, str]:
    try:
        return names_of(key)
    except StoreCorrupt:
        return key[1:].hex(), ""


def _topic(key: bytes) -> str:
    return _names(key)[0]


def _group(names: tuple[str, str]) -> str:
    return f"group {names[1]} of topic {names[0]}"


def _unreadable(message: str, key: bytes) -> Finding:
    return Finding(kind="unreadable", message=message, key=key)


def _dangling(message: str, key: bytes) -> Finding:
    return Finding(kind="dangling", message=message, key=key)
