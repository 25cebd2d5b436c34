"""Owns finding out who runs a store, and reaching its runs: with an answer if somebody is there, by inbox if not.
It must never claim a partition, nor leave a message behind that nobody should act on later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from spellwork import Engine
from spellwork.cli.exits import CommandError, Exit, Unavailable
from spellwork.clock import SystemClock, machine_identity, process_is_gone
from spellwork.engine import messages as m
from spellwork.engine.ownership import Owner, Ownership, read_claims
from spellwork.engine.rows import read_row
from spellwork.errors import RunFinished, RunNotFound, SpellworkError
from spellwork.journal import RunRow
from spellwork.journal.rows import Keys
from spellwork.store import Batch, Store

T = TypeVar("T")
_LETTERS = 10_000
PARTITIONS = 4  # what an Engine gives a new store


async def owner_of(store: Store, partition: int) -> Owner | None:
    """The process that runs a partition, or None if that is known to be nobody."""
    count = await Ownership(store, SystemClock(), 1.0).stored_count()
    for claim in await store.read(lambda reader: read_claims(reader, count)):
        owner = claim.owner
        if claim.index == partition and owner.id and not _is_gone(owner):
            return owner
    return None


def _is_gone(owner: Owner) -> bool:
    return owner.machine == machine_identity() and process_is_gone(owner.pid, owner.started)


async def find_run(engine: Engine, run_id: str) -> RunRow:
    """The row of a run; raises `RunNotFound`."""
    row = await engine.store.read(lambda reader: read_row(reader, run_id))
    if row is None:
        if await _is_queued(engine.store, run_id):
            raise RunNotFound(
                f"run {run_id!r} is queued: it begins when `spellwork worker FILE.py` runs {engine.url}", run_id=run_id
            )
        raise RunNotFound(f"there is no run {run_id!r} in {engine.url}; `spellwork ps` lists those there are", run_id=run_id)
    return row


async def _is_queued(store: Store, run_id: str) -> bool:
    letters = await store.scan(bytes((Keys.INBOX,)), bytes((Keys.INBOX + 1,)), limit=_LETTERS, damaged=b"")
    messages = (m.unpack_envelope(data).message for _, data in letters if data)
    return any(isinstance(message, m.AskStart) and message.run_id == run_id for message in messages)


async def find_open_run(engine: Engine, run_id: str) -> RunRow:
    """The row of a run that can still be told something; raises `RunFinished` for another."""
    row = await find_run(engine, run_id)
    if row.status.ended:
        raise RunFinished(f"run {run_id} is {row.status}; nothing can be sent to it any more", run_id=run_id)
    return row


async def answer(work: Coroutine[Any, Any, T], timeout: float, otherwise: str) -> T:
    """What the owner answers, or `Unavailable` with the words `otherwise` after `timeout` seconds.

    An error of the user's own code in the owner (an update's handler that raised) becomes a `CommandError`.
    """
    task = asyncio.ensure_future(work)
    done, _ = await asyncio.wait([task], timeout=timeout)
    if not done:
        task.cancel()
        await asyncio.wait([task])
        raise Unavailable(otherwise)
    error = task.exception()
    if error is None or isinstance(error, SpellworkError):
        return task.result()
    raise CommandError(f"{type(error).__name__}: {error}", Exit.FAILED, "failed") from error


async def post(store: Store, partition: int, message: m.AnyMessage) -> None:
    """Put a message into an inbox, durable, with nobody waiting for its reply."""
    clock = SystemClock()
    request = clock.now().to_bytes(8, "big") + clock.entropy(8)
    key = bytes((Keys.INBOX,)) + partition.to_bytes(2, "big") + request
    await store.commit(Batch().put(key, m.encode(m.Envelope(message))))
