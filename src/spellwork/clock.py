"""Owns the only reading of time, randomness and process identity in the package.
It must never be bypassed: engine, store and loop get a `Clock` injected, so that tests and simulation can replace it.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

MICROSECONDS = 1_000_000
Duration = float | int | dt.timedelta


LONGEST = 1000 * 365 * 86_400.0
"""The longest duration in seconds: a thousand years, so that what is due then still has a date."""


def seconds(value: Duration) -> float:
    """A duration in seconds."""
    return value.total_seconds() if isinstance(value, dt.timedelta) else float(value)


def is_duration(value: Any) -> bool:
    """Whether it is a number of seconds (or a timedelta) from 0 to `LONGEST`; nan and infinity are not."""
    if isinstance(value, dt.timedelta):
        value = value.total_seconds()
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= LONGEST


class Cancellable(Protocol):
    """What a scheduled call gives back."""

    def cancel(self) -> None:
        """Call it off."""
        ...


class Clock(Protocol):
    """Time, delays and randomness as the engine sees them.

    `longest_wait` bounds (in seconds) how long a timer may rely on delays alone, so that a wall clock that jumps is noticed.
    """

    longest_wait: float

    def now(self) -> int:
        """Wall time in microseconds since 1970-01-01 UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never goes backwards."""
        ...

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Cancellable:
        """Call back on the running event loop after `seconds`."""
        ...

    def entropy(self, size: int) -> bytes:
        """Random bytes for seeds and ids."""
        ...


class SystemClock:
    """The real thing."""

    longest_wait = 60.0

    def now(self) -> int:
        """Wall time in microseconds UTC."""
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Cancellable:
        """Call back on the running loop."""
        return asyncio.get_running_loop().call_later(seconds, callback)

    def entropy(self, size: int) -> bytes:
        """Bytes from the system's generator."""
        return os.urandom(size)


def nanoseconds(clock: Clock) -> Callable[[], int]:
    """Wall time by a clock in nanoseconds, for where the call of its `now` would be a good part of the work."""
    return time.time_ns if type(clock) is SystemClock else lambda: clock.now() * 1000


def new_id(clock: Clock) -> str:
    """A time-ordered id (UUIDv7, RFC 9562), so that new ids lie side by side in the store."""
    milliseconds = clock.now() // 1000
    raw = bytearray(milliseconds.to_bytes(6, "big") + clock.entropy(10))
    raw[6] = 0x70 | (raw[6] & 0x0F)
    raw[8] = 0x80 | (raw[8] & 0x3F)
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def machine_identity() -> str:
    """One boot of one machine (and one pid namespace): processes with equal identities can see each other's pids."""
    parts = [socket.gethostname()]
    for source in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        try:
            parts.append(os.readlink(source) if "ns" in source else _content(source).strip())
        except OSError:
            continue
    return "|".join(parts)


def process_started(pid: int) -> str:
    """A token for the start time of a process (Linux), or "" where the system does not tell."""
    try:
        return _content(f"/proc/{pid}/stat").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def process_is_gone(pid: int, started: str) -> bool:
    """Whether the process is certainly dead. On Windows this never claims so: a lease has to run out there."""
    if sys.platform == "win32":
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    now = process_started(pid)
    return bool(started and now and started != now) or _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    # A killed child that its parent has not reaped still answers to kill(pid, 0), but will never write again.
    try:
        return _content(f"/proc/{pid}/stat").rpartition(")")[2].split()[0] in ("Z", "X")
    except (OSError, IndexError):
        return False


def _content(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
