"""Owns what a run asks of other runs: starting and cancelling children, sending signals.
It must never ask twice with different words: each errand is idempotent by (run, command).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from spellwork.clock import Clock
from spellwork.engine import messages as m
from spellwork.engine.host import Host
from spellwork.engine.live import LiveRun
from spellwork.engine.partition import Partition
from spellwork.errors import (
    RunBlocked,
    RunFinished,
    RunNotFound,
    SpellworkError,
    StoreError,
    UnknownWorkflow,
)
from spellwork.journal import (
    ChildStarted,
    Failure,
    Parent,
    RunRow,
    SignalSent,
)
from spellwork.workflow import commands as c


class Starter(Protocol):
    """Who starts runs and hears of the ends of children."""

    async def start(self, message: m.AskStart, partition: Partition) -> RunRow:
        """Start a run, or find the one that exists."""
        ...

    async def child_ended(self, message: m.TellChildEnded, extra: Any) -> None:
        """A child has ended."""
        ...


class Errands:
    """Runs errands in the background; their outcomes are entries of the run that sent them."""

    def __init__(self, host: Host, clock: Clock, post: Callable[[m.AnyMessage], Any], starter: Starter):
        self._host = host
        self._clock = clock
        self._post = post
        self._starter = starter
        self._last: dict[tuple[int, str], asyncio.Future[None]] = {}

    def _now(self, live: LiveRun) -> int:
        return max(self._clock.now(), live.execution.now)

    def start_child(self, live: LiveRun, command: c.StartChild) -> None:
        """Start a child; idempotent, since its row says who asked for it with which command."""
        self._host.spawn(self._start_child(live, command))

    async def _start_child(self, live: LiveRun, command: c.StartChild) -> None:
        row = live.row
        if live.execution.finished and command.parent_close != "abandon":
            return  # its parent has ended without waiting for it, and would close it at once
        parent = Parent(row.id, row.number, row.partition, command.n)
        message = m.AskStart(
            command.child_id, command.workflow.name, command.workflow.version, command.args, command.digest, parent,
            live.execution.started.origin, row.id,
        )  # fmt: skip
        failure = None
        try:
            await self._starter.start(message, live.partition)
        except UnknownWorkflow as error:
            self._host.block(live, error)  # a missing definition is for the deployer to mend, not for the workflow
            return
        except StoreError:
            return  # the partition was lost or the store failed; whoever owns the run next asks again
        except SpellworkError as error:
            failure = Failure.of(error).redacted(self._host.codec.redaction)
        at = self._now(live)
        self._host.append(live, ChildStarted(at, command.n, command.workflow.name, command.digest, command.child_id, failure))
        early = live.early.pop(command.n, None)
        if early is not None:
            await self._starter.child_ended(*early)

    def send_signal(self, live: LiveRun, command: c.SendSignal) -> None:
        """Send a signal; idempotent by the sender's run and command. Those to one run go one after the other, in their order."""
        key, done = (live.number, command.target), asyncio.get_running_loop().create_future()
        before, self._last[key] = self._last.get(key), done
        self._host.spawn(self._send_in_turn(live, command, before, done))

    async def _send_in_turn(
        self, live: LiveRun, command: c.SendSignal, before: asyncio.Future[None] | None, done: asyncio.Future[None]
    ) -> None:
        try:
            if before is not None:
                await asyncio.shield(before)  # its own task sets it, also when this one is cancelled
            await self._send_signal(live, command)
        finally:
            done.set_result(None)
            if self._last.get((live.number, command.target)) is done:
                del self._last[live.number, command.target]

    async def _send_signal(self, live: LiveRun, command: c.SendSignal) -> None:
        failure = None
        try:
            await self._post(m.AskSignal(command.target, command.name, command.payload, f"{live.number:x}:{command.n}"))
        except StoreError:
            return
        except SpellworkError as error:
            failure = Failure.of(error).redacted(self._host.codec.redaction)
        self._host.append(live, SignalSent(self._now(live), command.n, command.name, command.digest, failure))

    def cancel_child(self, live: LiveRun, command: c.CancelChild) -> None:
        """Ask a child to cancel; one that has ended ignores it."""
        self._host.spawn(self._cancel_child(live, command))

    async def _cancel_child(self, live: LiveRun, command: c.CancelChild) -> None:
        try:
            await self._post(m.AskCancel(command.child_id, command.reason))
        except StoreError:
            return  # not done, so the run stays at work: whoever owns it next asks again
        except (RunFinished, RunNotFound, RunBlocked):
            pass
        del live.cancelling[command.n]
        self._host.drain(live)
