"""Owns the handle of a child run inside its parent's code.
It must never reach the child but through commands of the parent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from spellwork.codec.text import check_name, check_reason
from spellwork.workflow.signal import Signal

if TYPE_CHECKING:
    from spellwork.workflow.execution import Execution


class Child:
    """A started child. Await it (or `result()`) for its result; forget it to let it run beside its parent."""

    def __init__(self, execution: Execution, id: str, ended: asyncio.Future[Any]):
        self.id = id
        self._execution = execution
        self._ended = ended

    def __await__(self) -> Generator[Any, None, Any]:
        return self.result().__await__()

    async def result(self) -> Any:
        """What the child returned; raises its failure as `RunFailed`, `RunCancelled` or `RunTerminated`."""
        return await asyncio.shield(self._ended)

    async def signal(self, signal: Signal[Any] | str, value: Any = None) -> None:
        """Send a signal to the child; returns once it is durable there."""
        target = signal if isinstance(signal, Signal) else check_name(signal, "signal")
        await self._execution.send_signal(self.id, target, value)

    def cancel(self, reason: str = "cancelled by its parent") -> None:
        """Ask the child to cancel."""
        self._execution.cancel_child(self.id, check_reason(reason))
