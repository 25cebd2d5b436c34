"""Owns the handle of a run, as the outside sees it.
It must never hold state of its own: every verb goes to the run's owner or reads the store.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from spellwork.clock import Duration, seconds
from spellwork.codec.text import check_name, check_reason
from spellwork.engine import messages as m
from spellwork.instant import datetime_of
from spellwork.journal import RunRow, Status
from spellwork.workflow import Signal

if TYPE_CHECKING:
    from spellwork.engine.engine import Engine
    from spellwork.engine.history import Event

R = TypeVar("R")


class RunInfo(msgspec.Struct, frozen=True):
    """Where a run stands. Times are UTC; `reason` says why it failed, was cancelled or is blocked."""

    id: str
    workflow: str
    version: str
    status: Status
    created: dt.datetime
    updated: dt.datetime
    reason: str
    parent_id: str | None
    number: int

    @classmethod
    def of(cls, row: RunRow) -> RunInfo:
        """The public form of a row."""
        return cls(
            id=row.id,
            workflow=row.workflow,
            version=row.version,
            status=row.status,
            created=datetime_of(row.created),
            updated=datetime_of(row.updated),
            reason=row.reason,
            parent_id=row.parent.run_id if row.parent else None,
            number=row.number,
        )


class Run(Generic[R]):
    """A handle of a run; `id` is what it was started with."""

    def __init__(self, engine: Engine, id: str):
        self._engine = engine
        self.id = id

    async def result(self, timeout: Duration | None = None) -> R:
        """What the workflow returned.

        Raises `RunFailed` (its `__cause__` is the workflow's error), `RunCancelled`, `RunTerminated`, `RunBlocked`, or
        TimeoutError when it has not ended within `timeout` (seconds or timedelta); the run goes on all the same.
        """
        if timeout is None:
            return await self._engine._result(self.id)  # type: ignore[no-any-return]
        limit = seconds(timeout)
        try:
            async with asyncio.timeout(limit):
                return await self._engine._result(self.id)  # type: ignore[no-any-return]
        except TimeoutError:
            raise TimeoutError(f"run {self.id} has not ended within {limit:g} s; it goes on") from None

    async def status(self) -> RunInfo:
        """Where it stands now; raises `RunNotFound`."""
        return RunInfo.of(await self._engine._router.row(self.id))

    async def signal(self, signal: Signal[Any] | str, value: Any = None, id: str | None = None) -> None:
        """Send a signal; returns once it is durable. A signal with an `id` that the run has already had is ignored."""
        name, annotation = (signal.name, signal.type) if isinstance(signal, Signal) else (check_name(signal, "signal"), Any)
        signal_id = self._engine._new_id() if id is None else check_name(id, "id")
        shape = self._engine.codec.shape(annotation)
        payload = shape.encode(value)
        shape.decode(payload)
        await self._engine._router.ask(m.AskSignal(self.id, name, payload, signal_id))

    async def query(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Ask a query of the running workflow; raises `QueryFailed`."""
        return await self._engine._query(self.id, name, args, kwargs)

    async def update(self, name: str, *args: Any, id: str | None = None, **kwargs: Any) -> Any:
        """Apply an update and return its answer; raises `UpdateRejected`, or what its handler raised.

        The same `id` twice is applied once and answered twice.
        """
        return await self._engine._update(self.id, name, args, kwargs, id)

    async def cancel(self, reason: str = "cancelled") -> None:
        """Ask the workflow to unwind (`asyncio.CancelledError` at its await); durable when this returns."""
        await self._engine._router.ask(m.AskCancel(self.id, self._engine.codec.text(check_reason(reason))))

    async def terminate(self, reason: str = "terminated") -> None:
        """End the run at once, without unwinding."""
        await self._engine._router.ask(m.AskTerminate(self.id, self._engine.codec.text(check_reason(reason))))

    async def resume(self) -> None:
        """Try a blocked or quarantined run again; raises what still keeps it from running."""
        await self._engine._router.ask(m.AskResume(self.id))

    async def history(self) -> list[Event]:
        """The journal of the run, decoded for people."""
        return await self._engine._history(self.id)

    def __repr__(self) -> str:
        return f"<run {self.id}>"
