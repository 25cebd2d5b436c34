"""Owns what the engine keeps of a run that is in memory.
It must never know more of the store than which rows stand for the run.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from spellwork.journal import RunRow

if TYPE_CHECKING:
    from spellwork.engine.partition import Partition
    from spellwork.engine.steps import Step
    from spellwork.workflow import Execution
    from spellwork.workflow.commands import CancelChild


class LiveRun:
    """A loaded run.

    Effects in `held` wait until the entry at their position is durable (`acked` says how far that is). `early` holds news of
    children that ended before the run knew that they had started. `cancelling` has the cancellations of children that are on
    their way, by command: no entry will answer them, and until they have arrived the run is at work. `receipts` has the entries
    of transactions that were committed before a crash and are not yet in the journal, by command. `writes` counts those in
    `held`. `continuing` is set when it goes on as a new run.
    """

    __slots__ = (
        "acked",
        "cancelling",
        "continuing",
        "dropped",
        "early",
        "execution",
        "held",
        "number",
        "parked",
        "partition",
        "receipts",
        "recoveries",
        "row",
        "steps",
        "timer_key",
        "unacked",
        "update_waiters",
        "writes",
    )

    def __init__(self, row: RunRow, partition: Partition, execution: Execution):
        self.row = row
        self.number = row.number
        self.partition = partition
        self.execution = execution
        self.acked = 0
        self.unacked = 0
        self.held: deque[tuple[int, Any]] = deque()
        self.parked = False
        self.timer_key: bytes | None = None
        self.recoveries = 0
        self.cancelling: dict[int, CancelChild] = {}
        self.writes = 0
        self.steps: dict[int, Step] = {}
        self.update_waiters: dict[str, list[Any]] = {}
        self.dropped = False
        self.continuing = False
        self.early: dict[int, tuple[Any, Any]] = {}
        self.receipts: dict[int, Any] = {}

    async def settled(self) -> None:
        """Wait until everything so far is in the store."""
        if self.unacked:
            # batches commit in order, so the one of this turn tells that those before it are durable (it rides on the same sync)
            await self.partition.settled()
