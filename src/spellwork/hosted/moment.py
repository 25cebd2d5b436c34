"""Owns what guards, assignments and plain actions of a hosted machine find when they use a verb of workflows.
It must never let one wait or start anything: a machine does that by its chart.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from spellwork.errors import UsageError

if TYPE_CHECKING:
    from spellwork.hosted.execution import MachineExecution
    from spellwork.workflow.loop import TimerHandle


class Moment:
    """Stands where a workflow's execution would: it knows the time and chance of the entry that is delivered, and nothing else.

    Randomness is drawn from the run's seed and the entry's position, so that an event that was refused leaves no trace in it.
    `turn` counts the turns of one entry: what the machine hears of the first is another one, and has randomness of its own.
    """

    def __init__(self, execution: MachineExecution):
        self._execution = execution
        self._rng: random.Random | None = None
        self.turn = 0

    def renew(self) -> None:
        """Another event is looked at."""
        self._rng = None

    @property
    def now(self) -> int:
        """The time of the entry, microseconds UTC."""
        return self._execution.now

    @property
    def started(self) -> Any:
        """How the run began."""
        return self._execution.started

    @property
    def rng(self) -> random.Random:
        """The randomness of this entry."""
        if self._rng is None:
            execution = self._execution
            place: int = execution.position
            turn = self.turn.to_bytes(2, "big") if self.turn else b""  # the first has none, as in journals that were written before
            self._rng = random.Random(execution.started.seed + place.to_bytes(4, "big") + turn)  # noqa: S311 - replayable
        return self._rng

    def start_timer(self, _delay: float, _handle: TimerHandle) -> None:
        """No timer is started but by the chart."""
        self._refuse("a timer of asyncio")

    def stop_timer(self, _handle: TimerHandle) -> None:
        """There is none."""

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        return lambda *_args, **_kwargs: self._refuse(f"{name}()")

    def _refuse(self, what: str) -> NoReturn:
        raise UsageError(
            f"a guard, assignment or plain action of machine {self._execution.chart.name!r} used {what}; it runs inline and again "
            "on replay, so it can't wait or start anything: make it an @activity, or use after, send and invoke in the chart"
        )
