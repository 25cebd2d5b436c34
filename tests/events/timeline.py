"""A harness on virtual time: sources that give items at set moments, and what came out when."""

from __future__ import annotations

import asyncio
from typing import Any

from spellwork.events import Stream
from spellwork.events.buffer import pause
from spellwork.testing.clock import VirtualClock


def virtual() -> VirtualClock:
    """A clock that jumps whenever all tasks wait for time."""
    clock = VirtualClock()
    clock.may_jump = lambda: True
    return clock


class Timeline:
    """Gives the values of `script`, pairs of (seconds since the first reading, value), and raises those that are exceptions.

    `log` notes when a reading opens and closes; `given` counts the items that were taken from it.
    """

    def __init__(self, clock: VirtualClock, *script: tuple[float, Any], log: list[str] | None = None, name: str = "source"):
        self.clock, self.script, self.name = clock, script, name
        self.log: list[str] = [] if log is None else log
        self.given = 0

    async def __call__(self):
        start = self.clock.monotonic()
        self.log.append(f"{self.name} opened")
        try:
            for moment, value in self.script:
                left = start + moment - self.clock.monotonic()
                if left > 1e-7:
                    await pause(self.clock, left)
                if isinstance(value, Exception):
                    raise value
                self.given += 1
                yield value
        finally:
            await asyncio.sleep(0)  # closing may take a while
            self.log.append(f"{self.name} closed")

    def stream(self) -> Stream[Any]:
        """A stream of it on its clock."""
        return Stream(self, clock=self.clock)


async def seen(
    clock: VirtualClock, stream: Stream[Any], *, busy: float = 0.0, out: list[tuple[float, Any]] | None = None
) -> list[tuple[float, Any]]:
    """What the stream gives to a consumer that is `busy` so long after each item, with the seconds since the first question."""
    start, out = clock.monotonic(), [] if out is None else out
    async with stream.open() as items:
        async for item in items:
            out.append((round(clock.monotonic() - start, 3), item))
            if busy:
                await pause(clock, busy)
    return out


def nothing_is_left() -> bool:
    """Whether the calling task is the only one."""
    return asyncio.all_tasks() == {asyncio.current_task()}
