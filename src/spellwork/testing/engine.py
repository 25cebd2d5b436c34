"""Owns `TestEngine`: the real engine on virtual time, in memory unless told otherwise, with activities replaced at will.
It must never behave differently from the engine in anything but time and the replaced activities.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable, Mapping
from typing import Any, Self

from spellwork.clock import MICROSECONDS
from spellwork.engine import Engine
from spellwork.errors import DefinitionError
from spellwork.testing.clock import VirtualClock
from spellwork.testing.stillness import stands_still
from spellwork.workflow import Activity


class TestEngine(Engine):
    """An `Engine` whose time is virtual.

    While something awaits a `result()` and nothing but timers is left, time jumps to the next timer: a sleep of 30 days takes no
    time, nor does the timeout of an activity that waits for what never comes (input, a real timer and a thread are waited for).
    Otherwise it stands still until `advance()`. `fakes` maps activities (or their names) to functions that stand in for
    them; their results are encoded and decoded like real ones.
    """

    __test__ = False  # its name starts like a test's, for users; pytest must not collect it

    def __init__(
        self,
        store: str = "memory:",
        *,
        fakes: Mapping[Activity[..., Any] | str, Callable[..., Any]] | None = None,
        seed: int = 0,
        **options: Any,
    ):
        self.clock = VirtualClock(seed)
        super().__init__(store, clock=self.clock, **options)
        self._fakes: dict[str, Callable[..., Any]] = {
            key if isinstance(key, str) else key.name: fake for key, fake in (fakes or {}).items()
        }
        for name, fake in self._fakes.items():
            if not callable(fake):
                raise DefinitionError(f"the fake of activity {name} is not callable: {fake!r}")

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._host.steps.fakes = dict(self._fakes)
        self.clock.may_jump = lambda: bool(self._waiting) and (self.idle or self._is_stuck())
        return self

    def _is_stuck(self) -> bool:
        """Whether activities are under way that only time can end."""
        return self._settled and self._host.steps.on_the_loop and stands_still(asyncio.get_running_loop())

    async def advance(self, by: float | dt.timedelta) -> None:
        """Move time forward by seconds (or a timedelta), and let everything that becomes due happen."""
        target = self.clock.now() + round((by.total_seconds() if isinstance(by, dt.timedelta) else by) * MICROSECONDS)
        await self.settle()
        while (due := self.clock.next_due()) is not None and due <= target:
            self.clock.advance_to(due)
            await self.settle()
        self.clock.advance_to(target)
        await self.settle()

    async def settle(self) -> None:
        """Let everything happen that needs no time to pass."""
        quiet = 0
        while quiet < 20:
            await asyncio.sleep(0 if self.idle else 0.001)
            quiet = quiet + 1 if self.idle else 0
