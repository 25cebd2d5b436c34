"""Owns the refusal of sizes and times that mean nothing.
It must never let one through to be found out while the stream runs.
"""

from __future__ import annotations

import math
from typing import Any

from spellwork.errors import UsageError


def whole(name: str, value: Any, least: int) -> int:
    """`value`, if it is a whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UsageError(f"{name} is {value!r}, but must be a whole number of at least {least}")
    return int(value)


def not_negative(name: str, seconds: float) -> float:
    """`seconds`, if finite and at least 0."""
    if not math.isfinite(seconds) or seconds < 0:
        raise UsageError(f"{name} is {seconds!r}, but must be a finite number of seconds, 0 or more")
    return seconds


def positive(name: str, seconds: float) -> float:
    """`seconds`, if finite and above 0."""
    if not math.isfinite(seconds) or seconds <= 0:
        raise UsageError(f"{name} is {seconds!r}, but must be a finite number of seconds above 0")
    return seconds
