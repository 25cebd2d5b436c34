"""Owns the rows of groups: progress of lanes, claims, members, dead letters.
It must never decide anything.
"""

# Annotations are evaluated here: from strings, msgspec would compile each field's anew when the decoders are made.

import zlib
from typing import Annotated, Any, TypeVar

import msgspec

from spellwork.errors import StoreCorrupt
from spellwork.events.durable.options import MOST_PARTITIONS
from spellwork.events.durable.record import Record
from spellwork.instant import Instant

R = TypeVar("R")


class GroupRow(msgspec.Struct, frozen=True, array_like=True, tag=1, tag_field="form"):
    """A group: into how many lanes it divides its topic, and behind which offset it began."""

    partitions: Annotated[int, msgspec.Meta(ge=1, le=MOST_PARTITIONS)]
    start: int
    created: Instant


class Pending(msgspec.Struct, frozen=True, array_like=True):
    """An event of a lane without an end yet.

    `attempts` counts how often it was handed out, `due` is when it may be again (microseconds, 0: now). It is `out` with the
    lane's owner. `losses` counts how often in a row it was out when an owner died. What was `revived` has its event in a row of its
    own.
    """

    offset: int
    attempts: int = 0
    due: int = 0
    out: bool = False
    losses: int = 0
    revived: bool = False


class Progress(msgspec.Struct, frozen=True, array_like=True, tag=1, tag_field="form"):
    """How far a lane is: its events up to `position` have ended, all but those that are `pending`."""

    position: int
    pending: list[Pending] = []

    @property
    def floor(self) -> int:
        """Nothing up to here is needed in the log any more."""
        return min((each.offset - 1 for each in self.pending if not each.revived), default=self.position)


class Claim(msgspec.Struct, frozen=True, array_like=True, tag=1, tag_field="form"):
    """Which member has a lane; "" when it was given back. The row changes only when the lane changes hands."""

    member: str = ""


class Member(msgspec.Struct, frozen=True, array_like=True, tag=1, tag_field="form"):
    """A consumer that is alive while `beat` moves. `lease` is in seconds."""

    id: str
    machine: str
    pid: int
    started: str
    lease: float
    beat: int = 0


class DeadRow(msgspec.Struct, frozen=True, array_like=True, tag=1, tag_field="form"):
    """An event that a group has given up; `record` is None if the event itself was damaged."""

    record: Record | None
    attempts: int
    reason: str
    at: Instant


pack_row = msgspec.msgpack.Encoder().encode
_DECODERS: dict[type, msgspec.msgpack.Decoder[Any]] = {
    kind: msgspec.msgpack.Decoder(kind) for kind in (GroupRow, Progress, Claim, Member, DeadRow)
}


def unpack_row(kind: type[R], key: bytes, data: bytes) -> R:
    """The row under a key; raises `StoreCorrupt`."""
    try:
        row: R = _DECODERS[kind].decode(data)
    except (msgspec.MsgspecError, ValueError) as error:
        raise StoreCorrupt(f"the row of a group at {key.hex()} cannot be read ({error}); restore a backup") from error
    return row


def partition_of(key: str | None, offset: int, partitions: int) -> int:
    """The lane of an event: by its key, or where it has none, in turn."""
    return (offset if key is None else zlib.crc32(key.encode())) % partitions
