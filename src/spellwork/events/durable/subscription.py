"""Owns following all topics that match a pattern, from a durable cursor, in the order of the commits.
It must never hand out an event before what was committed earlier.
"""

from __future__ import annotations

import datetime as dt
import heapq
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from spellwork.codec import Shape
from spellwork.errors import DefinitionError, Lagged
from spellwork.events.durable.decoded import event_of
from spellwork.events.durable.keys import Spaces, matcher, names_of, space_range
from spellwork.events.durable.reading import (
    BEYOND,
    PAGE,
    Found,
    Swept,
    before_revision,
    before_time,
    page,
    swept,
    topics_with_events,
)
from spellwork.events.event import Event
from spellwork.instant import microseconds_of
from spellwork.store import Reader

if TYPE_CHECKING:
    from spellwork.events.durable.topics import Topics


LAST = "\U0010ffff"
"""Behind the name of every topic."""
_RUNS = ("workflow", "machine")
_LEAST = 16
"""So many events of a log are read at a time at least, however many topics share a page."""


class Cursor(msgspec.Struct, frozen=True, array_like=True, order=True):
    """A place among the events of all topics: behind one event. Survives as `bytes(cursor)` and `Cursor.of(data)`.

    Events are ordered by the revision of their commit; those of one commit by topic and offset.
    """

    revision: int = 0
    topic: str = ""
    offset: int = 0

    def __bytes__(self) -> bytes:
        return msgspec.msgpack.encode(self)

    @classmethod
    def of(cls, data: bytes) -> Cursor:
        """The cursor of its bytes; raises `DefinitionError`."""
        try:
            return msgspec.msgpack.decode(data, type=cls)
        except (msgspec.MsgspecError, ValueError) as error:
            raise DefinitionError(f"{data!r} is no cursor of events: {error}") from error


class Seen(NamedTuple):
    """An event, the revision of the commit that brought it, and the cursor to go on behind it."""

    event: Event[Any]
    revision: int
    cursor: Cursor


def found_after(reader: Reader, wanted: Callable[[str], bool], cursor: Cursor, limit: int = PAGE) -> list[Found]:
    """The next events of the wanted topics behind a cursor, in order. A damaged one has no record, and its revision is unknown.

    Costs one scan over the names of topics, and reads only logs that have something new, of each little more than is handed out.
    """
    newer = [(topic, newest) for topic, newest in topics_with_events(reader).items() if newest >= cursor.revision and wanted(topic)]
    size = max(limit // max(len(newer), 1), min(limit, _LEAST))
    logs = [_behind(reader, topic, cursor, size, newest) for topic, newest in newer]
    return list(itertools.islice(heapq.merge(*logs, key=place), limit))


def _behind(reader: Reader, topic: str, cursor: Cursor, size: int, newest: int) -> Iterator[Found]:
    """The events of a topic behind a cursor; `size` of them are read at a time, as they are asked for."""
    after = offset_behind(reader, topic, cursor)
    while found := _dated(reader, topic, after, size, newest):
        yield from (each for each in found if place(each) > cursor)
        if len(found) < size and found[-1].revision >= newest:
            return
        after = found[-1].offset


def _trimmed(reader: Reader, wanted: Callable[[str], bool]) -> dict[str, Swept]:
    """What retention has deleted of the wanted topics."""
    names = [names_of(key)[0] for key, _ in reader.scan(*space_range(Spaces.SWEPT), damaged=b"")]
    return {name: swept(reader, name) for name in names if wanted(name)}


def _require_kept(gone: dict[str, Swept], began: dict[str, Swept], cursor: Cursor) -> None:
    """Raise `Lagged` if something behind the cursor is gone that was there, or may have been, when the reader began."""
    for topic, each in gone.items():
        before = began.get(topic, Swept())
        if each.trimmed > before.trimmed and Cursor(each.revision, topic, each.trimmed) > cursor:
            # of another topic than the cursor's, nobody knows any more how many of those that are gone lay behind it
            missed = each.trimmed - max(before.trimmed, cursor.offset if topic == cursor.topic else each.trimmed - 1)
            raise Lagged(
                f"events of topic {topic} up to {each.trimmed} are no longer retained, asked for those after revision "
                f'{cursor.revision}; read on from "earliest"',
                missed=missed,
            )


def place(found: Found) -> Cursor:
    """The cursor behind an event."""
    return Cursor(found.revision, found.topic, found.offset)


def offset_behind(reader: Reader, topic: str, cursor: Cursor) -> int:
    """The last offset of a topic that lies before a cursor."""
    if topic == cursor.topic:
        return cursor.offset
    # of the cursor's own commit, topics up to its own have been handed out, those behind it have not
    return before_revision(reader, topic, cursor.revision if topic < cursor.topic else cursor.revision - 1)


def _dated(reader: Reader, topic: str, after: int, limit: int, newest: int) -> list[Found]:
    """The next events of a topic, at least `limit` if there are so many. `newest` is the revision of its newest.

    A damaged row has lost its revision: it is taken for one of the commit of what lies behind it. (That of what lies before it may
    be the cursor's, and it would be passed over without a word.)
    """
    found = page(reader, topic, after, limit)
    while found and found[-1].record is None and (more := page(reader, topic, found[-1].offset, limit)):
        found += more
    revision = max([newest, *(each.revision for each in found)])
    for index in reversed(range(len(found))):
        if found[index].record is None:
            found[index] = found[index]._replace(revision=revision)
        revision = found[index].revision
    return found


async def follow(
    topics: Topics,
    pattern: str,
    start: Cursor | str | dt.datetime,
    on: bool,
    shape: Shape,
    chosen: Callable[[Found], bool] = lambda _: True,
) -> AsyncIterator[Seen]:
    """The events behind `start` that are chosen; others are not decoded. The faces of it: `Topics.read` and `Topics.timeline`."""
    store = topics.store
    wanted = matcher(pattern)
    if isinstance(start, Cursor) and not all(type(n) is int and 0 <= n < BEYOND for n in (start.revision, start.offset)):
        raise DefinitionError(f"{start!r} is no cursor of events: its numbers are beyond what there can be")

    def begin(reader: Reader) -> tuple[Cursor, dict[str, Swept]]:
        if isinstance(start, Cursor) and start != Cursor():
            return start, {}
        return Cursor() if isinstance(start, Cursor) else _beginning(reader, wanted, start), _trimmed(reader, wanted)

    def look(reader: Reader) -> list[Found]:
        _require_kept(_trimmed(reader, wanted), began, cursor)
        return found_after(reader, wanted, cursor, PAGE)

    with topics.watch.listening(lambda topic, group: not group and wanted(topic)) as news:
        cursor, began = await store.read(begin)
        while True:
            news.clear()
            found = await store.read(look)
            for each in found:
                cursor = place(each)
                if chosen(each):
                    yield Seen(event_of(each, shape), each.revision, cursor)
            if not found:
                if not on:
                    return
                await news.wait()


def told_of(correlation: str) -> Callable[[Found], bool]:
    """Chooses what has a correlation id, the event whose own id it is, and what the run of that id has published.

    A damaged one, too: nobody knows that it is none of these.
    """

    def chosen(found: Found) -> bool:
        record = found.record
        return record is None or correlation in (record.correlation, record.id, run_behind(record.source))

    return chosen


def run_behind(source: str) -> str | None:
    """The id of the run that published; None if none did. Names hold no slash (`Workflow` refuses it), ids may."""
    kind, *name_and_id = source.split("/", 2)
    return name_and_id[1] if kind in _RUNS and len(name_and_id) > 1 else None


def _beginning(reader: Reader, wanted: Callable[[str], bool], start: str | dt.datetime) -> Cursor:
    if start == "earliest":
        return Cursor()
    newest = topics_with_events(reader)
    behind = Cursor(max(newest.values(), default=0), LAST)
    if start == "latest":
        return behind
    if not isinstance(start, dt.datetime):
        raise DefinitionError(f'events are read from "earliest", "latest", a time or a cursor, not {start!r}')
    time = microseconds_of(start)
    firsts = [page(reader, topic, before_time(reader, topic, time), 1) for topic in newest if wanted(topic)]
    return min((Cursor(found[0].revision - 1, LAST) for found in firsts if found), default=behind)
