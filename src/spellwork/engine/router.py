"""Owns the way of a message to its run: to this process's desk, or to the inbox of whoever owns the run's partition.
It must never let a message end at a takeover: each is idempotent, so it goes to the new owner.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from spellwork.engine import messages as m
from spellwork.engine import rows
from spellwork.engine.desk import Desk, check_same
from spellwork.engine.host import Host
from spellwork.engine.mail import MailRoom
from spellwork.engine.partition import Partition
from spellwork.errors import Fenced, InternalError, RunNotFound, StoreClosed, StoreError
from spellwork.journal import ErrorRegistry, RunRow
from spellwork.store import Batch, Store


class Router:
    """Brings messages to runs.

    `opened` gives the store of the engine, or raises why nothing can be asked any more; `why` tells what has made the engine fail.
    `partition_of` is the partition of a run that nobody else started; `taken_over` is told of a partition that was lost.
    """

    def __init__(  # noqa: PLR0913 - what the engine is made of
        self,
        host: Host,
        desk: Desk,
        mail: MailRoom,
        errors: ErrorRegistry,
        *,
        opened: Callable[[], Store],
        why: Callable[[], StoreError | InternalError | None],
        partition_of: Callable[[str], int],
        taken_over: Callable[[Partition], None],
    ):
        self._host = host
        self._desk = desk
        self._mail = mail
        self._errors = errors
        self._opened = opened
        self._why = why
        self._partition_of = partition_of
        self._taken_over = taken_over

    async def row(self, run_id: str) -> RunRow:
        """The row of an existing run; raises `RunNotFound`."""
        store = self._opened()
        row = await store.read(lambda reader: rows.read_row(reader, run_id))
        if row is None:
            raise RunNotFound(f"there is no run {run_id!r} in {store.url}; `spellwork ps` lists those there are", run_id=run_id)
        return row

    # Starting

    async def begin(self, message: m.AskStart) -> None:
        """Start a run, or find it; it is durable when this returns."""
        if not await self._begun(message):
            await self._mail.ask(message, self._partition_of(message.run_id))

    async def begin_or_leave(self, message: m.AskStart, batch: Batch) -> None:
        """The same; where another owner has to start it, or will once there is one, a letter to it goes into `batch`."""
        if not await self._begun(message):
            self._mail.leave(message, self._partition_of(message.run_id), batch)

    async def _begun(self, message: m.AskStart) -> bool:
        """Start a run, or find it, durable; False where another owner has to start it."""
        partition = self._host.partitions.get(self._partition_of(message.run_id))
        if partition is not None:
            try:
                await self._desk.start(message, partition)
            except Fenced:
                self._taken_over(partition)
            else:
                return True
        existing = await self._opened().read(lambda reader: rows.read_row(reader, message.run_id))
        if existing is not None:
            check_same(existing, message)
        return existing is not None

    # Asking

    def take(self, message: m.AskSignal) -> tuple[asyncio.Future[None], bytes | None] | None:
        """See `Desk.at_once`."""
        return self._desk.at_once(message)

    async def ask(self, message: m.AnyMessage) -> bytes | None:
        """What the run answers, wherever it is."""
        if type(message) is m.AskSignal and (taken := self._desk.at_once(message)) is not None:
            durable, answer = taken
            try:
                await durable
            except (Fenced, StoreClosed):
                pass  # the way below goes to the new owner, or tells why there is none
            else:
                return answer
        live = self._host.by_id.get(message.run_id)
        partition = live.partition.index if live is not None else (await self.row(message.run_id)).partition
        ours = self._host.partitions.get(partition)
        if ours is not None:
            try:
                return await self._handle(message, ours)
            except Fenced:
                self._taken_over(ours)
            except StoreClosed:
                if ours.held:
                    raise
        return await self._mail.ask(message, partition)

    async def bring(self, message: m.AskSignal, partition: Partition) -> None:
        """Give an event to a run of ours. Raises `Fenced` when the partition is another's: that one brings it then."""
        self._opened()
        if (taken := self.take(message)) is not None:
            await taken[0]
            return
        if not partition.held:
            raise Fenced(f"partition {partition.index} belongs to another owner now", partition=partition.index)
        try:
            await self._handle(message, partition)
        except Fenced:
            self._taken_over(partition)
            raise

    async def _handle(self, message: m.AnyMessage, partition: Partition) -> bytes | None:
        try:
            return await self._desk.handle(message, partition)
        except m.Told as told:
            raise self._errors.rebuild(told.failure) from None
        except m.Deferred:
            await self._mail.keep(message, partition)
            return None
        except StoreClosed as closed:
            if (failed := self._why()) is None:
                raise
            raise failed from closed  # why the run left this process
