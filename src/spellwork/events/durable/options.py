"""Owns what a topic is declared with, as users give it and as the store has it.
It must never change what is stored: that is for whoever declares.
"""

# Annotations are evaluated here: from strings, msgspec would compile each field's anew when the decoders are made.

import msgspec

from spellwork.clock import MICROSECONDS, Duration, seconds
from spellwork.errors import DefinitionError, StoreCorrupt

MOST_PARTITIONS = 1024


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a topic is kept: at most `count` events, none older than `age`, at most `bytes` of stored events.

    What a group has not finished yet, or a run that waits or a trigger was not brought, is kept in any case, unless
    `beyond_groups`. A `Retention()` without limits keeps everything.
    """

    count: int | None = None
    age: Duration | None = None
    bytes: int | None = None
    beyond_groups: bool = False

    def __post_init__(self) -> None:
        for name in ("count", "bytes"):
            value = getattr(self, name)
            # 1e9 is no whole number: it would be stored as what no reader takes for one
            if value is not None and (type(value) is not int or not 1 <= value < 1 << 63):
                raise DefinitionError(f"retention by {name} needs a whole number, 1 or more, not {value!r}")
        if self.age is not None and (isinstance(self.age, bool) or not seconds(self.age) >= 0):
            raise DefinitionError(f"retention by age needs a positive number, not {self.age!r}")


class Options(msgspec.Struct, frozen=True, array_like=True, tag=1, tag_field="form"):
    """The stored form. Times are in microseconds, 0 and None mean: no limit."""

    partitions: int = 1
    keep_count: int | None = None
    keep_age: int | None = None
    keep_bytes: int | None = None
    beyond_groups: bool = False
    dedup: int = 0
    compact: bool = False

    @property
    def retention(self) -> Retention:
        """How much is kept, as it was given."""
        age = None if self.keep_age is None else self.keep_age / MICROSECONDS
        return Retention(count=self.keep_count, age=age, bytes=self.keep_bytes, beyond_groups=self.beyond_groups)

    @property
    def limited(self) -> bool:
        """Whether anything is ever trimmed."""
        return any(limit is not None for limit in (self.keep_count, self.keep_age, self.keep_bytes))


def changed(
    options: Options,
    *,
    partitions: int | None = None,
    retention: Retention | None = None,
    dedup: Duration | None = None,
    compact: bool | None = None,
) -> Options:
    """The options with those that are given; raises `DefinitionError`."""
    new: dict[str, object] = {}
    if partitions is not None:
        if type(partitions) is not int or not 1 <= partitions <= MOST_PARTITIONS:
            raise DefinitionError(f"a topic has 1 to {MOST_PARTITIONS} partitions, not {partitions!r}")
        new["partitions"] = partitions
    if retention is not None:
        age = None if retention.age is None else microseconds(retention.age)
        new |= {"keep_count": retention.count, "keep_age": age, "keep_bytes": retention.bytes}
        new["beyond_groups"] = retention.beyond_groups
    if dedup is not None:
        new["dedup"] = microseconds(dedup)
    if compact is not None:
        new["compact"] = compact
    return msgspec.structs.replace(options, **new)


def microseconds(duration: Duration) -> int:
    """A duration as it is stored; raises `DefinitionError`."""
    length = seconds(duration)
    if not 0 <= length < 1e9:
        raise DefinitionError(f"{duration!r} is no duration of seconds")
    return round(length * MICROSECONDS)


pack_options = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Options).decode


def unpack_options(topic: str, data: bytes | None) -> Options:
    """The options of a topic; the default ones where there is no row. Raises `StoreCorrupt`."""
    try:
        return Options() if data is None else _decode(data)
    except (msgspec.MsgspecError, ValueError) as error:
        raise StoreCorrupt(f"the options of topic {topic} cannot be read ({error}); restore a backup") from error
