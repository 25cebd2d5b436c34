"""Owns updates: they are validated on a copy, accepted in the journal, and answered when their handler has ended.
It must never accept one twice, nor answer before the answer is durable.
"""

from __future__ import annotations

import asyncio
from typing import Any

from spellwork.clock import Clock
from spellwork.engine import messages as m
from spellwork.engine import rows
from spellwork.engine.ending import blocked_error
from spellwork.engine.finder import Finder
from spellwork.engine.host import Host
from spellwork.errors import RunFinished, StoreClosed
from spellwork.journal import UpdateAccepted, UpdateCompleted
from spellwork.workflow.questions import validate_update


class Updates:
    """Performs updates of runs of owned partitions."""

    def __init__(self, host: Host, clock: Clock, finder: Finder):
        self._host = host
        self._clock = clock
        self._finder = finder

    async def take(self, message: m.AskUpdate) -> bytes | None:
        """Have an update done, or find that it was; returns its answer, or raises `m.Told` with its failure."""
        validated = None
        while True:
            live = await self._finder.running(message)
            if live is None:
                return _result(await self._stored(message))
            execution = live.execution
            if message.id in execution.update_ids or validated == live.number:
                break
            validated = live.number  # looked at anew afterwards: it may have gone on as a new run, which another may have told
            await live.settled()
            await self._validate(message)
        if message.id not in execution.update_ids:
            self._host.append(live, UpdateAccepted(max(self._clock.now(), execution.now), message.id, message.name, message.args))
        answer = execution.update_ids.get(message.id)
        if answer is None:
            if live.dropped:  # its handler was what the run could not go on with
                await live.partition.settled()
                raise blocked_error(live.row)
            waiter: asyncio.Future[UpdateCompleted | None] = asyncio.get_running_loop().create_future()

            def tell(entry: UpdateCompleted | None) -> None:
                if not waiter.done():
                    waiter.set_result(entry)

            waiters = live.update_waiters.setdefault(message.id, [])
            waiters.append(tell)
            try:
                answer = await waiter
            finally:
                waiters.remove(tell)  # whoever has gone must not keep the run in memory
                if not waiters and live.update_waiters.get(message.id) is waiters:
                    del live.update_waiters[message.id]
                    self._host.rest_if_idle(live)
            if answer is None and execution.finished and live.acked >= execution.position:
                raise RunFinished(f"run {message.run_id} ended before update {message.name} was answered", run_id=message.run_id)
            if answer is None:
                raise StoreClosed(f"run {message.run_id} left this process before update {message.name} was answered; ask again")
        else:
            await live.settled()
        return _result(answer)

    async def _validate(self, message: m.AskUpdate) -> None:
        execution = await self._finder.copy(message.run_id)
        try:
            validate_update(execution, message.name, message.args)
        finally:
            execution.close()

    async def _stored(self, message: m.AskUpdate) -> UpdateCompleted:
        def wanted(entry: Any) -> bool:
            return isinstance(entry, UpdateCompleted) and entry.id == message.id

        found = await self._host.store.read(lambda reader: rows.find_in_chain(reader, message.run_id, wanted))
        if found is not None:
            return found  # type: ignore[no-any-return]
        raise RunFinished(f"run {message.run_id} ended before update {message.name} was answered", run_id=message.run_id)


def _result(answer: UpdateCompleted) -> bytes | None:
    if answer.failure is not None:
        raise m.Told("the update failed", failure=answer.failure)
    return answer.result
