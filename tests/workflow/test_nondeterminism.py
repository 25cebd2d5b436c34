"""Twelve ways in which code can part from its journal; each is reported at the first difference."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from spellwork import NonDeterminismError, activity, workflow
from spellwork.errors import RunBlocked
from spellwork.testing import TestEngine, check_replay
from tests.workflow import ambient


@activity
async def a(x: int) -> int:
    return x


@activity
async def b(x: int) -> int:
    return x


@activity
async def c(x: int) -> int:
    return x


@workflow(name="w")
async def original() -> int:
    await a(1)
    await b(2)
    await asyncio.sleep(10)
    return await c(3)


@workflow(name="w")
async def reordered() -> int:
    await b(2)
    await a(1)
    await asyncio.sleep(10)
    return await c(3)


@workflow(name="w")
async def added() -> int:
    await a(1)
    await c(9)
    await b(2)
    await asyncio.sleep(10)
    return await c(3)


@workflow(name="w")
async def dropped() -> int:
    await a(1)
    await asyncio.sleep(10)
    return await c(3)


@workflow(name="w")
async def renamed() -> int:
    await a(1)
    await c(2)
    await asyncio.sleep(10)
    return await c(3)


@workflow(name="w")
async def other_arguments() -> int:
    await a(1)
    await b(22)
    await asyncio.sleep(10)
    return await c(3)


@workflow(name="w")
async def other_timer() -> int:
    await a(1)
    await b(2)
    await asyncio.sleep(20)
    return await c(3)


@workflow(name="w")
async def ends_early() -> int:
    await a(1)
    return 3


@workflow(name="w")
async def added_at_the_end() -> int:
    await a(1)
    await b(2)
    await asyncio.sleep(10)
    await c(3)
    return await a(4)


@workflow(name="w")
async def other_result() -> int:
    await a(1)
    await b(2)
    await asyncio.sleep(10)
    return await c(3) + 1


@pytest.mark.parametrize(
    ("changed", "position", "found"),
    [
        (reordered, 1, "step b"),
        (added, 2, "step c"),
        (dropped, 2, "timer of 10 s"),
        (renamed, 2, "step c"),
        (other_arguments, 2, "step b with other arguments"),
        (other_timer, 3, "timer of 20 s with other arguments"),
        (ends_early, 2, "the workflow is over"),
        (added_at_the_end, 5, "step a"),
        (other_result, 5, "the code with"),
    ],
    ids=lambda value: value.fn.__name__ if hasattr(value, "fn") else None,
)
async def test_changed_code_is_reported_where_it_parts(changed, position: int, found: str) -> None:
    """Code that issues other commands than the journal has is refused at the first of them."""
    async with TestEngine(workflows=[original]) as engine:
        await engine.run(original, id="r")
        await check_replay(engine, "r", original)
        with pytest.raises(NonDeterminismError) as caught:
            await check_replay(engine, "r", changed)
    assert caught.value.position == position
    assert caught.value.run_id == "r"
    assert found in str(caught.value)


def _process(verb: str, url: str, **environment: str) -> str:
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-m", "tests.workflow.ambient", verb, url],
        env=os.environ | {"PYTHONPATH": paths} | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout


def test_commands_that_depend_on_the_world_are_reported(tmp_path: Path) -> None:
    """Wall clock, random, set order, environment, uuid4, a thread's work and addresses change the commands and are caught."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    _process("run", url, PYTHONHASHSEED="1", AMBIENT="one")
    verdicts = json.loads(_process("replay", url, PYTHONHASHSEED="2", AMBIENT="two"))
    assert set(verdicts) == {kind.name for kind in ambient.KINDS}
    for name, (ok, position, error) in verdicts.items():
        assert not ok, f"{name} passed silently"
        assert position == 1
        assert "with other arguments" in error


async def test_blocked_run_goes_on_after_the_fix(tmp_path: Path) -> None:
    """A run that meets changed code is parked with the reason, loses nothing, and ends once the code is back."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    async with TestEngine(url, workflows=[original]) as engine:
        await engine.start(original, id="r")
        await engine.settle()
    async with TestEngine(url, workflows=[other_arguments]) as engine:
        run = await engine.get("r")
        with pytest.raises(RunBlocked, match="step b with other arguments"):
            await run.result()
        assert (await run.status()).status == "blocked"
    async with TestEngine(url, workflows=[original]) as engine:
        assert await (await engine.get("r")).result() == 3
