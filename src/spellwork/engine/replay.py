"""Owns replaying stored runs against today's code, without running or writing anything.
It must never let a difference pass: neither in a command, nor in how a run ended.
"""

from __future__ import annotations

from typing import Any

import msgspec

from spellwork.codec import Codec
from spellwork.engine import rows
from spellwork.engine.registry import Registry
from spellwork.errors import (
    NonDeterminismError,
    PayloadError,
    RowDamaged,
    RunNotFound,
    StoreCorrupt,
    UnknownWorkflow,
    UsageError,
)
from spellwork.journal import Cancelled, Completed, Continued, ErrorRegistry, Failed
from spellwork.journal.rows import Keys, number_of
from spellwork.store import Store
from spellwork.workflow import Execution, Workflow
from spellwork.workflow import commands as c


class Verdict(msgspec.Struct, frozen=True):
    """What came of replaying one run. `position` is where the journal and the code part, if they do."""

    run_id: str
    workflow: str
    ok: bool
    error: str = ""
    position: int | None = None


def replay_journal(
    number: int, definition: Workflow[Any, Any], entries: list[Any], codec: Codec, errors: ErrorRegistry,
    known: Registry | None = None,
) -> None:  # fmt: skip
    """Replay one journal; raises `NonDeterminismError` at the first difference."""
    execution = definition.execution(number, codec, errors, known)
    try:
        execution.replay(entries)
        _check_end(execution, entries)
    finally:
        execution.close()


def _check_end(execution: Execution, entries: list[Any]) -> None:
    finish = next((command for command in execution.outbox if isinstance(command, c.Finish)), None)
    last = entries[-1]
    match last:
        case Completed(result=result):
            expected, found = f"the result {result!r}", f"{finish.result!r}" if finish else "no end"
            same = finish is not None and finish.result == result
        case Failed(failure=failure):
            expected = f"the failure {failure.type}"
            found = finish.failure.type if finish and finish.failure else "another end"
            same = finish is not None and finish.failure is not None and finish.failure.type == failure.type
        case Cancelled():
            expected, found = "cancellation", "another end"
            same = finish is not None and finish.cancelled is not None
        case Continued(args=args):
            expected, found = "continue_as_new with the same arguments", "another end"
            same = finish is not None and finish.continue_args == args
        case _:
            return
    if not same:
        run_id = execution.started.run_id
        raise NonDeterminismError(
            f"run {run_id}, journal position {len(entries) - 1}: the journal ends with {expected}, the code with {found}",
            run_id=run_id,
            position=len(entries) - 1,
            expected=expected,
            found=found,
        )


async def check_runs(store: Store, registry: Registry, codec: Codec, run_ids: list[str] | None = None) -> list[Verdict]:
    """Replay the named runs, or all of them; raises `RunNotFound` for an unknown id."""
    verdicts = []
    for number in await _numbers(store, run_ids):
        try:
            stored = await store.read(lambda reader, n=number: rows.read_run(reader, n))  # type: ignore[misc]
        except RowDamaged as error:
            verdicts.append(Verdict(f"<damaged {number:x}>", "", ok=False, error=str(error)))
            continue
        if stored is not None:
            verdicts.append(_verdict(stored, registry, codec))
    return verdicts


async def _numbers(store: Store, run_ids: list[str] | None) -> list[int]:
    if run_ids is None:
        found = await store.scan(bytes((Keys.RUNS,)), bytes((Keys.RUNS + 1,)), damaged=b"")
        return [number_of(key) for key, _ in found]
    numbers = []
    for run_id in run_ids:
        address = await store.read(lambda reader, i=run_id: rows.find(reader, i))  # type: ignore[misc]
        if address is None:
            raise RunNotFound(f"there is no run {run_id!r}", run_id=run_id)
        numbers.append(address.number)
    return numbers


def _verdict(stored: rows.StoredRun, registry: Registry, codec: Codec) -> Verdict:
    row = stored.row
    try:
        if stored.damage is not None:
            raise stored.damage
        definition = registry.find(row.workflow, row.version)
        replay_journal(row.number, definition, stored.entries, codec, ErrorRegistry(), registry)
    except NonDeterminismError as error:
        return Verdict(row.id, row.workflow, ok=False, error=str(error), position=error.position)
    except (StoreCorrupt, UnknownWorkflow, PayloadError, UsageError) as error:
        return Verdict(row.id, row.workflow, ok=False, error=str(error))
    return Verdict(row.id, row.workflow, ok=True)
