"""Owns the refusal of sizes and times that mean nothing.
It must never let one through to be found out while the stream runs.
"""

from __future__ import annotations

import datetime as dt
import math
from typing import Any

from spellwork.clock import Duration, seconds
from spellwork.errors import UsageError


def whole(name: str, value: Any, least: int) -> int:
    """`value`, if it is a whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UsageError(f"{name} is {value!r}, but must be a whole number of at least {least}")
    return int(value)


def not_negative(name: str, given: Duration) -> float:
    """`given` in seconds, if finite and at least 0."""
    value = _finite(name, given)
    if value < 0:
        raise UsageError(f"{name} is {given!r}, but must be 0 seconds or more")
    return value


def positive(name: str, given: Duration) -> float:
    """`given` in seconds, if finite and above 0."""
    value = _finite(name, given)
    if value <= 0:
        raise UsageError(f"{name} is {given!r}, but must be above 0 seconds")
    return value


def _finite(name: str, given: Any) -> float:
    if isinstance(given, int | float | dt.timedelta) and math.isfinite(value := seconds(given)):
        return value
    raise UsageError(f"{name} is {given!r}, but must be a finite number of seconds or a timedelta")
