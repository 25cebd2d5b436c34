"""Owns the stored form of an event, and the rows that an append adds to a batch.
It must never read: whoever publishes inside another batch knows nothing but the topic's name.
"""

# Annotations are evaluated here: from strings, msgspec would compile each field's anew when the decoders are made.

import msgspec

from spellwork.errors import RowDamaged
from spellwork.events.durable.keys import log_key, newest_key
from spellwork.events.event import Header
from spellwork.instant import Instant
from spellwork.store import Batch


class Record(msgspec.Struct, frozen=True, array_like=True, tag=1, tag_field="form", gc=False):
    """An event as the log of its topic has it.

    `time` is the publisher's, in microseconds UTC; `payload` is what its codec made of the data.
    A later form gets another tag, and this one stays readable.
    """

    id: str
    time: Instant
    payload: bytes
    key: str | None = None
    source: str = "spellwork"
    subject: str | None = None
    correlation: str | None = None
    causation: str | None = None
    priority: int | None = None
    headers: dict[str, Header] | None = None


pack_record = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Record).decode


def unpack_record(key: bytes, data: bytes) -> Record:
    """The record under a key of the store; raises `RowDamaged`."""
    try:
        return _decode(data)
    except (msgspec.MsgspecError, ValueError) as error:
        raise RowDamaged(f"the event at {key.hex()} cannot be read ({error}); restore it from a backup", key=key) from error


def append_event(batch: Batch, topic: str, record: Record) -> None:
    """Add an event to what `batch` writes, at the end of the topic, which need not have been declared.

    Blind: no read, no requirement, nothing that can be refused. The offset is the batch's next one of `sequences` after the commit.
    The caller supplies the id of the event; whoever commits once publishes once.
    """
    batch.append(log_key(topic), pack_record(record), counter=newest_key(topic))
