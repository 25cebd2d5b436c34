"""Owns the figures of topics and groups, as `spellwork events topics` and `groups` show them.
It must never write.
"""

from __future__ import annotations

import dataclasses

from spellwork.errors import TopicNotFound
from spellwork.events.durable.dead import count_dead
from spellwork.events.durable.groups import group_names, read_progress, require_group
from spellwork.events.durable.keys import Spaces, check_name, row_key, rows_of
from spellwork.events.durable.options import Options, unpack_options
from spellwork.events.durable.reading import head, swept
from spellwork.store import Reader


@dataclasses.dataclass(frozen=True, slots=True)
class GroupStats:
    """Where a group stands.

    - `lag`: how many offsets its slowest lane is behind the newest event; 0 means that everything is acknowledged.
    - `out`: events that a consumer has; `pending`: those, and what has failed or waits among them.
    - `dead`: dead letters; `consumers`: members that have not left.
    """

    topic: str
    group: str
    partitions: int
    lag: int
    pending: int
    out: int
    dead: int
    consumers: int


@dataclasses.dataclass(frozen=True, slots=True)
class TopicStats:
    """A topic: its newest offset, the last one that was trimmed, and its groups."""

    topic: str
    declared: bool
    options: Options
    newest: int
    trimmed: int
    groups: list[GroupStats]


def topic_stats(reader: Reader, topic: str) -> TopicStats:
    """The figures of a topic; raises `TopicNotFound`."""
    declared = reader.get(row_key(Spaces.TOPICS, check_name(topic)))
    newest = head(reader, topic)
    if declared is None and not reader.scan(*rows_of(Spaces.TOUCHED, topic), limit=1, damaged=b""):
        raise TopicNotFound(f"there is no topic {topic}; `spellwork events topics` lists those there are", topic=topic)
    groups = [group_stats(reader, topic, group, newest) for group in group_names(reader, topic)]
    options = unpack_options(topic, declared)
    return TopicStats(topic, declared is not None, options, newest, swept(reader, topic).trimmed, groups)


def group_stats(reader: Reader, topic: str, group: str, newest: int) -> GroupStats:
    """The figures of a group."""
    row = require_group(reader, topic, group)
    lanes = read_progress(reader, topic, group, row)
    pending = [each for lane in lanes for each in lane.pending]
    return GroupStats(
        topic,
        group,
        row.partitions,
        max(0, newest - min(lane.floor for lane in lanes)),
        len(pending),
        sum(each.out for each in pending),
        count_dead(reader, topic, group),
        len(reader.scan(*rows_of(Spaces.MEMBERS, topic, group))),
    )
