"""Durable topics: events in a store, with offsets, groups, redelivery and dead letters.
This face only imports; it must never be imported by `import spellwork` or `import spellwork.events`.
"""

from spellwork.events.durable.consumer import Consumer
from spellwork.events.durable.dead import DeadLetter
from spellwork.events.durable.delivery import Delivery
from spellwork.events.durable.options import Retention
from spellwork.events.durable.reading import Found
from spellwork.events.durable.record import Record, append_event
from spellwork.events.durable.stats import GroupStats, TopicStats
from spellwork.events.durable.subscription import Cursor, Seen, found_after
from spellwork.events.durable.sweep import Sweeping
from spellwork.events.durable.topic import DurableTopic
from spellwork.events.durable.topics import Topics, open_topics

__all__ = [
    "Consumer",
    "Cursor",
    "DeadLetter",
    "Delivery",
    "DurableTopic",
    "Found",
    "GroupStats",
    "Record",
    "Retention",
    "Seen",
    "Sweeping",
    "TopicStats",
    "Topics",
    "append_event",
    "found_after",
    "open_topics",
]
