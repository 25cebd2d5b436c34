"""Durable topics: events in a store, with offsets, groups, redelivery and dead letters.
This face only imports; it must never be imported by `import spellwork` or `import spellwork.events`.
"""

from spellwork.events.durable.options import Retention
from spellwork.events.durable.record import Record, append_event
from spellwork.events.durable.subscription import Cursor, Seen
from spellwork.events.durable.topic import DurableTopic
from spellwork.events.durable.topics import Topics, open_topics

__all__ = ["Cursor", "DurableTopic", "Record", "Retention", "Seen", "Topics", "append_event", "open_topics"]
