"""Owns waiting for the end of a run, here or in another process.
It must never tell of an end that is not durable.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from spellwork.codec import Shape
from spellwork.engine import rows
from spellwork.engine.ending import blocked_error, ended_error
from spellwork.engine.host import Host
from spellwork.errors import SpellworkError
from spellwork.journal import Entry, RunRow, Status

End = tuple[RunRow, Any]


class Waiting:
    """Futures by run id. `row` reads the row of a run."""

    def __init__(self, host: Host, row: Callable[[str], Awaitable[RunRow]]):
        self._host = host
        self._row = row
        self._futures: dict[str, list[asyncio.Future[End]]] = {}
        host.blocked = self._blocked

    def __bool__(self) -> bool:
        return bool(self._futures)

    async def result(self, run_id: str) -> Any:
        """What the run returned, or raises what became of it."""
        future: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        self._futures.setdefault(run_id, []).append(future)
        try:
            if run_id not in self._host.by_id:
                await self._look(run_id, future)
            row, entry = await future
        finally:
            self._forget(run_id, future)
        error = ended_error(row, entry, self._host.errors)
        if error is not None:
            raise error
        return self._shape(row).decode(entry.result)

    async def _look(self, run_id: str, future: asyncio.Future[End]) -> None:
        row = await self._row(run_id)
        if row.status is Status.BLOCKED and row.partition in self._host.partitions:
            row = await self._try_again(row)
        await self._settle_from_store(future, row)
        if not future.done() and row.partition not in self._host.partitions:
            await self._watch(run_id, future)

    async def _try_again(self, row: RunRow) -> RunRow:
        try:
            await self._host.loader.load(row.number)  # the cause may be gone
        except SpellworkError as error:
            raise blocked_error(row) from error
        return await self._row(row.id)

    async def _watch(self, run_id: str, future: asyncio.Future[End]) -> None:
        rung = asyncio.Event()
        stop = self._host.store.on_change(rung.set)
        future.add_done_callback(lambda _done: rung.set())
        try:
            while not future.done():
                rung.clear()
                await self._settle_from_store(future, await self._row(run_id))
                if not future.done():
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(1.0):
                            await rung.wait()
        finally:
            stop()

    async def _settle_from_store(self, future: asyncio.Future[End], row: RunRow) -> None:
        entry = await self._host.store.read(lambda reader: rows.read_last(reader, row.number))
        self._settle(future, row, entry)

    def _settle(self, future: asyncio.Future[End], row: RunRow, entry: Any) -> None:
        if future.done():
            return
        if row.status in (Status.BLOCKED, Status.QUARANTINED) and row.number not in self._host.runs:
            future.set_exception(blocked_error(row))
        elif row.status.ended and row.status is not Status.CONTINUED:
            future.set_result((row, entry))

    def _shape(self, row: RunRow) -> Shape:
        try:
            definition = self._host.registry.find(row.workflow, row.version)
        except SpellworkError:
            return self._host.codec.untyped
        return self._host.codec.shape(definition.parameters.result)

    def _forget(self, run_id: str, future: asyncio.Future[End]) -> None:
        if future.done() and not future.cancelled():
            future.exception()  # when `_look` raised first, nobody else asks, and asyncio would complain
        futures = self._futures.get(run_id, [])
        if future in futures:
            futures.remove(future)
        if not futures:
            self._futures.pop(run_id, None)

    def ended(self, run_id: str, row: RunRow, entry: Entry) -> None:
        """A run has ended, durably."""
        for future in self._futures.pop(run_id, ()):
            self._settle(future, row, entry)

    def _blocked(self, row: RunRow) -> None:
        for future in self._futures.pop(row.id, ()):
            self._settle(future, row, None)

    def recheck(self) -> None:
        """Partitions were lost: whoever waits for a run of theirs now looks for its end in the store."""
        for run_id, futures in self._futures.items():
            for future in futures:
                if run_id not in self._host.by_id and not future.done():
                    self._host.spawn(self._look_again(run_id, future))

    async def _look_again(self, run_id: str, future: asyncio.Future[End]) -> None:
        try:
            await self._look(run_id, future)
        except SpellworkError as error:
            if not future.done():
                future.set_exception(error)

    def tell_all(self, error: SpellworkError) -> None:
        """Nothing more will be heard of any run."""
        futures, self._futures = self._futures, {}
        for future in (future for waiting in futures.values() for future in waiting):
            if not future.done():
                future.set_exception(error)
