"""Owns the ends of runs: their last entry, what it tells parents and children, and going on as a new run.
It must never tell anybody of an end before it is durable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from spellwork.clock import Clock
from spellwork.engine import messages as m
from spellwork.engine import rows
from spellwork.engine.ending import failure_of_end
from spellwork.engine.host import Host
from spellwork.engine.live import LiveRun
from spellwork.engine.partition import Partition
from spellwork.errors import (
    SpellworkError,
    UsageError,
)
from spellwork.journal import (
    Cancelled,
    Completed,
    Continued,
    Entry,
    Failed,
    RunRow,
    SignalReceived,
    Started,
    Status,
)
from spellwork.journal.rows import Keys, subscription_key
from spellwork.store import Batch
from spellwork.workflow import commands as c


class Closing:
    """Writes ends. `ended` and `deliver_local` are set by those who wait for results and for messages."""

    def __init__(self, host: Host, clock: Clock, new_number: Callable[[], int]):
        self._host = host
        self._clock = clock
        self._new_number = new_number
        self.ended: Callable[[str, RunRow, Entry], None] = lambda _id, _row, _entry: None
        self.deliver_local: Callable[[bytes, m.Envelope, Partition], None] = lambda _key, _envelope, _partition: None

    def _now(self, live: LiveRun) -> int:
        return max(self._clock.now(), live.execution.now)

    def finish(self, live: LiveRun, command: c.Finish) -> None:
        """The code is over: write its outcome."""
        at = self._now(live)
        if command.continue_args is not None:
            self._continue(live, command, at)
        elif command.cancelled is not None:
            self.end(live, Cancelled(at, command.cancelled), Status.CANCELLED, command.cancelled)
        elif command.failure is not None:
            failure = command.failure
            self.end(live, Failed(at, failure), Status.FAILED, str(failure))
        else:
            self.end(live, Completed(at, command.result or b""), Status.COMPLETED, "")

    def end(self, live: LiveRun, entry: Any, status: Status, reason: str) -> None:
        """Write the last entry and the row of a run, with notices to its parent and children."""
        row = msgspec.structs.replace(live.row, status=status, reason=reason[:500], updated=entry.at)
        batch = live.partition.mark(live)
        rows.put_entry(batch, live.number, live.execution.position, entry)
        rows.put_end(batch, row, live.timer_key)
        for pattern in live.execution.subscriptions:
            batch.delete(subscription_key(live.partition.index, pattern, live.row.id))
        notices = self.notices(live.execution.open_children(), row, entry)
        keys = [self.write_notice(batch, notice) for notice in (*_undelivered(live), *notices)]
        self._host.deliver(live, entry)
        live.partition.remark(live)
        live.row = row
        live.parked = False
        self._host.steps.cancel_all(live)
        self._host.hold(live, lambda: self._over(live, entry, keys))

    def notices(self, children: list[tuple[str, str]], row: RunRow, entry: Any) -> list[m.AnyMessage]:
        """What an end tells others."""
        notices: list[m.AnyMessage] = []
        if row.parent is not None:
            failure = failure_of_end(row, entry)
            result = entry.result if isinstance(entry, Completed) else None
            notices.append(m.TellChildEnded(row.parent.run_id, row.parent.number, row.parent.n, row.id, result, failure))
        for child_id, policy in children:
            if policy == "cancel":
                notices.append(m.AskCancel(child_id, f"its parent {row.id} has ended", row.number))
            elif policy == "terminate":
                notices.append(m.AskTerminate(child_id, f"its parent {row.id} has ended", row.number))
        return notices

    def write_notice(self, batch: Batch, notice: m.AnyMessage) -> tuple[bytes, m.AnyMessage]:
        """Put a notice into an inbox of ours."""
        # children live in their parent's partition, so the notice is for an inbox of ours
        index = batch.epochs[0][0]
        stamp = self._clock.now().to_bytes(8, "big") + self._clock.entropy(8)
        key = bytes((Keys.INBOX,)) + index.to_bytes(2, "big") + stamp
        batch.put(key, m.encode(m.Envelope(notice)))
        return key, notice

    def _over(self, live: LiveRun, entry: Any, notices: list[tuple[bytes, m.AnyMessage]]) -> None:
        self._host.drop(live)
        self.ended(live.row.id, live.row, entry)
        self._deliver(live, notices)

    def _deliver(self, live: LiveRun, notices: list[tuple[bytes, m.AnyMessage]]) -> None:
        for key, notice in notices:
            self.deliver_local(key, m.Envelope(notice), live.partition)

    def _continue(self, live: LiveRun, command: c.Finish, at: int) -> None:
        number = self._new_number()
        old, args = live.row, command.continue_args or b""
        definition = self._host.registry.find(old.workflow)
        batch = live.partition.mark(live)
        entry = Continued(at, args, number)
        rows.put_entry(batch, live.number, live.execution.position, entry)
        rows.put_end(batch, msgspec.structs.replace(old, status=Status.CONTINUED, updated=at), live.timer_key)
        before = live.execution.started
        row = RunRow(
            old.id, number, old.partition, definition.name, definition.version, Status.RUNNING, at, at,
            old.digest, old.parent, "", old.number,
        )  # fmt: skip
        started = Started(
            at, old.id, definition.name, definition.version, args, self._clock.entropy(16), old.parent,
            before.generation + 1, command.seen, len(command.carried), before.correlation, before.causation,
        )  # fmt: skip
        rows.put_start(batch, row, started)
        signals = [SignalReceived(at, *carried) for carried in command.carried]
        for position, signal in enumerate(signals, start=1):
            rows.put_entry(batch, number, position, signal)
        keys = [self.write_notice(batch, notice) for notice in _undelivered(live)]
        self._host.deliver(live, entry)
        live.partition.remark(live)
        live.parked = False
        live.continuing = True
        self._host.steps.cancel_all(live)
        self._host.hold(live, lambda: self._go_on(live, row, keys))

    def _go_on(self, live: LiveRun, row: RunRow, notices: list[tuple[bytes, m.AnyMessage]]) -> None:
        self._host.drop(live)
        self._host.spawn(self._load_quietly(row.number))
        self._deliver(live, notices)

    async def _load_quietly(self, number: int) -> None:
        try:
            await self._host.loader.load(number)
        except (SpellworkError, UsageError):
            return  # it was blocked with its reason


def _undelivered(live: LiveRun) -> list[m.AnyMessage]:
    """Cancellations that the run asked for and that are still on their way: nobody will ask again once it is over."""
    return [m.AskCancel(command.child_id, command.reason) for command in live.cancelling.values()]
