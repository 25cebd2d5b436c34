"""Owns times as they are stored: microseconds since 1970-01-01 UTC, and their way to a `datetime` and back.
It must never let a row be read whose time no calendar has.
"""

# Annotations are evaluated here: from strings, msgspec would compile each field's anew when the decoders are made.

import datetime as dt
from typing import Annotated

import msgspec

FIRST, LAST = -62_135_596_800_000_000, 253_402_300_799_999_999
Instant = Annotated[int, msgspec.Meta(ge=FIRST, le=LAST)]
"""A stored time in microseconds UTC; a row with one that no calendar has (years 1 to 9999) cannot be read."""
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def datetime_of(microseconds: int) -> dt.datetime:
    """The time of microseconds since 1970, UTC."""
    return _EPOCH + dt.timedelta(microseconds=microseconds)


def microseconds_of(time: dt.datetime) -> int:
    """Microseconds since 1970; a time without a zone is taken as UTC."""
    aware = time if time.tzinfo is not None else time.replace(tzinfo=dt.UTC)
    return (aware - _EPOCH) // dt.timedelta(microseconds=1)
