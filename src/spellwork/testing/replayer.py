"""Owns replaying stored runs in tests and in CI.
It must never write.
"""

from __future__ import annotations

from typing import Any

from spellwork.engine import Engine, rows
from spellwork.engine.replay import Verdict, check_runs, replay_journal
from spellwork.errors import NonDeterminismError
from spellwork.journal import ErrorRegistry
from spellwork.workflow import Workflow


async def replays(engine: Engine, *run_ids: str) -> list[Verdict]:
    """Replay runs of an open engine (all, if none is named) against the code that is registered with it."""
    return await check_runs(engine.store, engine.registry, engine.codec, list(run_ids) or None)


async def check_replay(engine: Engine, run_id: str, workflow: Workflow[Any, Any] | None = None) -> None:
    """Replay one run, against `workflow` if given; raises `NonDeterminismError` at the first difference."""
    if workflow is None:
        verdict = (await replays(engine, run_id))[0]
        if not verdict.ok:
            raise NonDeterminismError(
                verdict.error,
                run_id=run_id,
                position=verdict.position or 0,
                expected="the journal",
                found="today's code",
            )
        return
    info = await (await engine.get(run_id)).status()
    entries = await engine.store.read(lambda reader: rows.read_entries(reader, info.number))
    replay_journal(info.number, workflow, entries, engine.codec, ErrorRegistry())
