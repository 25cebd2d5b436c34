"""Owns finding the runs that wait for events of a topic.
It must never go over the subscriptions that have nothing to do with the topic: there may be very many of them.
"""

from __future__ import annotations

import logging

from spellwork.errors import RowDamaged
from spellwork.events.pattern import ONE, REST
from spellwork.journal.rows import subscription_of, subscription_range
from spellwork.store import Reader, successor
from spellwork.supervision import attempt

log = logging.getLogger("spellwork.engine")

Subscribers = dict[str, list[tuple[int, str, bytes]]]
"""For each pattern: the revision of the subscription, its run, and its key."""


def oldest_subscription(reader: Reader, partition: int) -> int | None:
    """The revision of the oldest subscription in a partition; None if nobody waits there."""
    return min((version for version, _, _ in _read(reader, *subscription_range(partition))), default=None)


def is_waited_for(reader: Reader, partition: int) -> bool:
    """Whether any run of a partition has a subscription."""
    return _any(reader, *subscription_range(partition))


def subscribers(reader: Reader, partition: int, topic: str) -> Subscribers:
    """Who waits in a partition for events of a topic.

    The keys of subscriptions are sorted by pattern, so they are a tree of tokens: it is descended along the topic's name, with a
    look or two at each of its tokens, and where nobody waits further down, not at all.
    """
    found: Subscribers = {}
    start, _ = subscription_range(partition)
    above, names = [start], topic.split(".")
    for depth, name in enumerate(names, 1):
        below = []
        for prefix in above:
            _add(found, reader, prefix + REST.encode())
            for token in (name, ONE):
                deeper = prefix + token.encode()
                if depth == len(names):
                    _add(found, reader, deeper)
                elif _any(reader, *_span(deeper + b".")):
                    below.append(deeper + b".")
        above = below
    return found


def _add(found: Subscribers, reader: Reader, pattern: bytes) -> None:
    for version, run_id, key in _read(reader, *_span(pattern + b"\0")):
        found.setdefault(subscription_of(key)[0], []).append((version, run_id, key))


def _span(prefix: bytes) -> tuple[bytes, bytes]:
    return prefix, successor(prefix)


def _any(reader: Reader, start: bytes, end: bytes) -> bool:
    return bool(reader.scan(start, end, limit=1, damaged=b""))


def _read(reader: Reader, start: bytes, end: bytes) -> list[tuple[int, str, bytes]]:
    """Subscriptions; one that cannot be read has lost its revision, and its run gets no events by it."""
    try:
        return [(version, subscription_of(key)[1], key) for key, _, version in reader.rows(start, end)]
    except RowDamaged:
        kept = []
        for key, _ in reader.scan(start, end, damaged=b""):
            pattern, run_id = subscription_of(key)
            version, damage = attempt(reader.version, key)
            if damage is None:
                kept.append((version, run_id, key))
            else:
                log.warning("run %s gets no events of %s: %s", run_id, pattern, damage)
        return kept
