"""Owns `Topics`: the durable topics of one open store, how they are declared, and what of them is shared in this process.
It must never close a store that it was given.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import itertools
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, TypeVar

from spellwork.clock import Clock, Duration, SystemClock, new_id, seconds
from spellwork.codec import Codec
from spellwork.errors import Conflict, DefinitionError, StoreCorrupt, StoreError, TopicDiffers
from spellwork.events.durable.dead import DeadLetter, dead_letters, settle
from spellwork.events.durable.deletion import delete_topic, drop_group
from spellwork.events.durable.keys import Spaces, check_name, names_of, row_key, rows_of, space_range
from spellwork.events.durable.options import Options, Retention, changed, pack_options, unpack_options
from spellwork.events.durable.outlet import Outlet
from spellwork.events.durable.reading import topics_with_events
from spellwork.events.durable.stats import TopicStats, topic_stats
from spellwork.events.durable.subscription import Cursor, Seen, follow, told_of
from spellwork.events.durable.sweep import Sweeper, Sweeping
from spellwork.events.durable.topic import DurableTopic
from spellwork.events.durable.watch import Watch
from spellwork.events.pattern import pattern_tokens
from spellwork.store import Batch, Encryption, Reader, Store, fingerprint, open_store

T = TypeVar("T")
log = logging.getLogger("spellwork.events")


class Topics:
    """The durable topics of a store. Lives on the store's event loop.

    `codec` is what payloads are stored with, `source` what their events have as their source unless a publisher says otherwise.
    """

    def __init__(self, store: Store, *, codec: Codec | None = None, clock: Clock | None = None, source: str = "spellwork"):
        self.store = store
        self.codec = codec or Codec()
        self.clock = clock or SystemClock()
        self.source = source
        self.outlet = Outlet(store)
        self.watch = Watch(store)
        self._sweeper = Sweeper(self)
        self._ids = new_id(self.clock), itertools.count(1)
        self._sweeping: asyncio.Task[None] | None = None

    async def topic(
        self,
        name: str,
        *,
        type: Any = Any,  # noqa: A002 - the word of `Topic` and `Signal`
        partitions: int | None = None,
        retention: Retention | None = None,
        dedup: Duration | None = None,
        compact: bool | None = None,
        change: bool = False,
    ) -> DurableTopic[Any]:
        """Declare a topic, or open it. What is not given stays as it is stored, or as it is by default: one partition, all kept.

        - `type`: the annotation of payloads.
        - `partitions`: how many consumers of a group can share the work. Fixed once the topic has a group.
        - `retention`: how much is kept.
        - `dedup`: for how long (seconds or a timedelta) a further event of the same id is taken for the first one.
        - `compact`: keep only the newest event of each key, among those that all groups have finished.

        Raises `TopicDiffers` if the topic is declared with other options, unless `change` says that they are to be changed.
        """
        check_name(name)
        key = row_key(Spaces.TOPICS, name)
        while True:
            stored, version, grouped = await self.store.read(lambda reader: _declared(reader, name))
            wanted = changed(stored, partitions=partitions, retention=retention, dedup=dedup, compact=compact)
            if version and wanted == stored:
                break
            if version and not change:
                raise TopicDiffers(
                    f"topic {name} is declared with {_shown(stored)}, not with {_shown(wanted)}; open it without options, or "
                    "with change=True",
                    topic=name,
                )
            if grouped and wanted.partitions != stored.partitions:
                raise TopicDiffers(
                    f"topic {name} has groups that share {stored.partitions} partitions, which cannot become {wanted.partitions}; "
                    "drop its groups first, or use another topic",
                    topic=name,
                )
            batch = Batch().put(key, pack_options(wanted)).require_version(key, version)
            start, end = rows_of(Spaces.GROUPS, name)
            with contextlib.suppress(Conflict):  # somebody else declares it just now: look again
                await self.store.commit(batch if grouped else batch.require_unchanged(start, end, _NO_GROUPS))
        return DurableTopic(self, name, self.codec.shape(type), wanted)

    async def stored(self, name: str, *, type: Any = Any) -> DurableTopic[Any]:  # noqa: A002 - as above
        """A topic with the options that it has, without declaring it if it is not."""
        key = row_key(Spaces.TOPICS, check_name(name))
        options = unpack_options(name, await self.store.get(key))
        return DurableTopic(self, name, self.codec.shape(type), options)

    def new_id(self) -> str:
        """An id for an event. One of these objects in one process draws from the system's randomness once."""
        prefix, numbers = self._ids
        return f"{prefix}-{next(numbers):x}"

    def sweep_every(self, pause: Duration) -> None:
        """Sweep every so often (seconds or a timedelta), until it is closed."""
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().create_task(_sweep(self, seconds(pause)), name="spellwork-topics")

    def close(self) -> None:
        """Before the store is closed: whoever waits for events gets `StoreClosed`, and nothing is swept any more."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        self.watch.close()

    async def names(self) -> list[str]:
        """The topics that are declared or have had events, sorted."""
        return await self.store.read(topic_names)

    def read(
        self,
        pattern: str,
        start: Cursor | str | dt.datetime = "earliest",
        *,
        follow: bool = True,
        type: Any = Any,  # noqa: A002 - as above
    ) -> AsyncIterator[Seen]:
        """The events of all topics that match, in the order of their commits; topics that appear later are included.

        `start` is "earliest", "latest", the cursor of an event that was read, or a time: then it begins with the first commit that
        brought an event of that time. With `follow=False` it ends at the newest event.
        """
        pattern_tokens(pattern)
        return _follow(self, pattern, start, follow, self.codec.shape(type))

    def timeline(self, correlation: str, pattern: str = ">", start: Cursor | str | dt.datetime = "earliest") -> AsyncIterator[Seen]:
        """What happened for a correlation id, up to now: its events of all topics that match, in the order of their commits.

        The event whose own id it is belongs to them, and so does what the workflow run or machine of that id has published,
        whatever it was started for. Of each, `event.type` is the topic and `event.sequence` the offset; payloads are decoded
        without an annotation. `start` is that of `read`.

        There is no index by correlation: this costs one read of all the logs that match, from `start` on, of which a page at a time
        is in memory. A narrow pattern and a late start make it cheaper. Raises `DefinitionError`; `RowDamaged` at a damaged event,
        whose correlation nobody knows; and `Lagged` if events are deleted before they are read.
        """
        pattern_tokens(pattern)
        given: Any = correlation  # from whoever uses no type checker
        if not (isinstance(given, str) and given):
            raise DefinitionError(f"a timeline is that of the id of a run, an event or a request, not of {correlation!r}")
        return _follow(self, pattern, start, False, self.codec.untyped, told_of(correlation))

    async def stats(self, topic: str) -> TopicStats:
        """The figures of a topic and its groups; raises `TopicNotFound`."""
        return await self.store.read(lambda reader: topic_stats(reader, topic))

    async def drop_group(self, topic: str, group: str) -> None:
        """Forget a group with its dead letters; retention waits for it no longer. Raises `TopicError` while it has consumers.

        Consumers on other machines that have not left must show no life for their lease first, which this waits for.
        """
        await drop_group(self.store, self.clock, topic, group)

    async def delete(self, topic: str, *, force: bool = False) -> int:
        """Delete a topic: its events, groups with their dead letters, known ids, and what it is declared with. How many offsets.

        What is published to it from then on begins a new topic that nobody has declared; its offsets go on, so that no cursor
        comes to point at another event. Whoever reads the topic meanwhile gets `TopicNotFound`, who reads a pattern `Lagged` if
        something was not read yet. A deletion that is broken off has deleted some, and is finished by asking again.

        Raises `TopicNotFound`, and `TopicError` while a group has consumers, or (unless `force`) while events were not yet
        brought to workflow runs or triggers that wait for them.
        """
        return await delete_topic(self, topic, force=force)

    async def dead_letters(self, topic: str, group: str, *, after: int = 0, limit: int = 1000) -> list[DeadLetter]:
        """The dead letters of a group behind an offset, in the order of their offsets; raises `TopicNotFound`."""
        return await self.store.read(lambda reader: dead_letters(reader, topic, group, self.codec.untyped, after, limit))

    async def replay(self, topic: str, group: str, offset: int | None = None) -> int:
        """Deliver a dead letter again, or all there are now: each once, to this group, with new attempts. How many there were.

        Raises `TopicNotFound`, and `TopicError` for one that is damaged (which is left out of all).
        """
        return await settle(self.store, topic, group, offset, again=True)

    async def drop(self, topic: str, group: str, offset: int | None = None) -> int:
        """Delete a dead letter, or all there are now. How many there were. Raises `TopicNotFound`."""
        return await settle(self.store, topic, group, offset, again=False)

    async def sweep(self) -> Sweeping:
        """Delete what is beyond retention, compacted or forgotten, in all topics. `open_topics` does it now and then.

        Raises `StoreCorrupt` for a topic that is damaged, when all the others are swept.
        """
        done = Sweeping()
        damage: StoreCorrupt | None = None
        for name in await self.names():
            try:
                await self._sweeper.sweep(name, done)
            except StoreCorrupt as error:
                damage = damage or error
        if damage is not None:
            raise damage
        return done


_follow = follow
_NO_GROUPS = fingerprint(())


@contextlib.asynccontextmanager
async def open_topics(
    url: str,
    *,
    codec: Codec | None = None,
    create: bool = True,
    durability: str | None = None,
    clock: Clock | None = None,
    sweep_every: Duration | None = 60,
    encryption: Encryption | None = None,
) -> AsyncGenerator[Topics]:
    """The durable topics of the store at `url`, which is opened, swept every so often, and closed."""
    store = open_store(url, durability=durability, clock=clock, create=create, encryption=encryption)
    try:
        topics = Topics(store, codec=codec, clock=clock)
        if sweep_every is not None:
            topics.sweep_every(sweep_every)
        try:
            yield topics
        finally:
            topics.close()
    finally:
        await store.close()


async def _sweep(topics: Topics, pause: float) -> None:
    while True:
        due = asyncio.Event()
        topics.clock.call_later(pause, due.set)
        await due.wait()
        try:
            await topics.sweep()
        except StoreCorrupt as error:  # nobody else need come across it, and the topic grows meanwhile
            log.warning("a topic is not swept, its retention is not kept: %s", error)
        except StoreError:
            continue  # whoever writes or reads gets it, too, and can do something about it


def topic_names(reader: Reader) -> list[str]:
    """The topics that are declared or have had events, sorted."""
    declared = [names_of(key)[0] for key, _ in reader.scan(*space_range(Spaces.TOPICS), damaged=b"")]
    return sorted({*declared, *topics_with_events(reader)})


def _declared(reader: Reader, name: str) -> tuple[Options, int, bool]:
    key = row_key(Spaces.TOPICS, name)
    grouped = bool(reader.scan(*rows_of(Spaces.GROUPS, name), limit=1))
    return unpack_options(name, reader.get(key)), reader.version(key), grouped


def _shown(options: Options) -> str:
    parts = [f"partitions={options.partitions}", str(options.retention), f"dedup={options.dedup / 1e6:g} s"]
    return ", ".join([*parts, f"compact={options.compact}"])
