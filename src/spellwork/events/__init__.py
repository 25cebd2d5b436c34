"""Events in memory: a bus with topics and patterns, broadcast, emitters, and operators over streams of values.
This face only imports; it must never be imported by `import spellwork`.
"""

from spellwork.events import channel, ops, processors
from spellwork.events.broadcast import Broadcast
from spellwork.events.bus import Bus
from spellwork.events.emitter import Emitter
from spellwork.events.event import Attributes, Event
from spellwork.events.failure import Failure
from spellwork.events.pattern import matches
from spellwork.events.pipeline import Stage
from spellwork.events.stream import Operator, Source, Stream
from spellwork.events.subscription import Overflow, Subscription, SyncSubscription
from spellwork.events.topic import Topic

__all__ = [
    "Attributes",
    "Broadcast",
    "Bus",
    "Emitter",
    "Event",
    "Failure",
    "Operator",
    "Overflow",
    "Source",
    "Stage",
    "Stream",
    "Subscription",
    "SyncSubscription",
    "Topic",
    "channel",
    "matches",
    "ops",
    "processors",
]
