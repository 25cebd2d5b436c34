"""Owns the corpus of workflow shapes that crash laws run over, and how each is driven from outside.
It must never hide an effect: each activity writes its idempotency key to a ledger before it returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from typing import Any

from spellwork import (
    Engine,
    Retry,
    Run,
    RunCancelled,
    Signal,
    activity,
    activity_context,
    continue_as_new,
    patched,
    random,
    rng,
    start_child,
    update,
    uuid4,
    workflow,
)
from spellwork.errors import RunFinished
from spellwork.testing import Ledger

LEDGER = "SPELLWORK_LEDGER"
_FAST = Retry(max_attempts=4, initial=0.002, maximum=0.004)


def effect(label: str) -> None:
    """Write the effect of the running activity to the ledger, where there is one."""
    if path := os.environ.get(LEDGER):
        Ledger(path).write(f"{activity_context().idempotency_key} {label}")


@activity(retry=_FAST)
async def add(a: int, b: int) -> int:
    effect("add")
    await asyncio.sleep(0)
    return a + b


@activity(retry=_FAST)
def double(a: int) -> int:
    effect("double")
    return 2 * a


@activity(retry=_FAST)
async def flaky(a: int) -> int:
    effect("flaky")
    if activity_context().attempt < 3:
        raise ConnectionError("not yet")
    return a + 100


@activity(retry=Retry(max_attempts=2, initial=0.001))
async def hopeless(a: int) -> int:
    effect("hopeless")
    raise ValueError(f"never {a}")


go = Signal[int]("go")


@workflow
async def sequence(n: int) -> int:
    total = 0
    for i in range(n):
        total = await add(total, i)
    return total


@workflow
async def fan_out(n: int) -> list[int]:
    parts = await asyncio.gather(*(add(i, i) for i in range(n)))
    more = []
    for done in asyncio.as_completed([double(part) for part in parts]):
        more.append(await done)
    return sorted(more)


@workflow
async def nested(n: int) -> int:
    child = await start_child(sequence, n, parent_close="cancel")
    direct = await sequence(2)
    theirs: int = await child.result()
    return direct + theirs


@workflow
async def timers(n: int) -> list[int]:
    out = []
    for i in range(n):
        await asyncio.sleep(0.004)
        out.append(await add(i, 1))
    try:
        async with asyncio.timeout(0.003):
            await asyncio.Event().wait()
    except TimeoutError:
        out.append(-1)
    return out


@workflow
async def signals(n: int) -> int:
    total = 0
    for _ in range(n):
        total += await go.receive()
        total = await add(total, 0)
    return total


@workflow
async def retries(n: int) -> int:
    total = 0
    for i in range(n):
        total += await flaky(i)
    try:
        await hopeless(n)
    except ValueError:
        total += 1000
    return total


@workflow
async def cancelled(n: int) -> int:
    try:
        await asyncio.sleep(3600)
    finally:
        for i in range(n):
            await add(i, 7)
    return n


@workflow
async def continued(left: int, total: int = 0) -> int:
    total = await add(total, left)
    if left:
        continue_as_new(left - 1, total)
    return total


@workflow
async def updates(n: int) -> int:
    total, seen = 0, 0
    wake = asyncio.Event()

    @update
    async def put(value: int) -> int:
        nonlocal total, seen
        total = await add(total, value)
        seen += 1
        wake.set()
        return total

    while seen < n:
        await wake.wait()
        wake.clear()
    return total


@workflow
async def chance(n: int) -> list[Any]:
    picks: list[Any] = [random() for _ in range(n)] + [uuid4().hex, rng().choice("abc")]
    if patched("more"):
        picks.append(await add(1, 1))
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_limited(i)) for i in range(n)]
    return [len(picks), *(task.result() for task in tasks)]


async def _limited(i: int) -> int:
    async with asyncio.timeout(30):
        return await double(i)


async def _plain(run: Run[Any]) -> Any:
    return await run.result(15)


async def _with_signals(run: Run[Any]) -> Any:
    for i in range(3):
        await run.signal(go, i + 1, id=f"go-{i}")
    return await run.result(15)


async def _with_cancel(run: Run[Any]) -> Any:
    with contextlib.suppress(RunFinished):
        await run.cancel("enough")
    try:
        return await run.result(15)
    except RunCancelled as error:
        return f"cancelled: {error.reason}"


async def _with_updates(run: Run[Any]) -> Any:
    for i in range(3):
        await run.update("put", i + 1, id=f"put-{i}")
    return await run.result(15)


Drive = Callable[[Run[Any]], Awaitable[Any]]
SHAPES: dict[str, tuple[Any, tuple[Any, ...], Drive, Any]] = {
    "sequence": (sequence, (8,), _plain, 28),
    "fan_out": (fan_out, (5,), _plain, [0, 4, 8, 12, 16]),
    "nested": (nested, (4,), _plain, 7),
    "timers": (timers, (3,), _plain, [1, 2, 3, -1]),
    "signals": (signals, (3,), _with_signals, 6),
    "retries": (retries, (2,), _plain, 1201),
    "cancelled": (cancelled, (3,), _with_cancel, "cancelled: enough"),
    "continued": (continued, (3,), _plain, 6),
    "updates": (updates, (3,), _with_updates, 6),
    "chance": (chance, (3,), _plain, [6, 0, 2, 4]),
}
WORKFLOWS = [shape[0] for shape in SHAPES.values()]
"""Name: workflow, arguments, how it is driven, and the result of an undisturbed run."""


async def drive(engine: Engine, names: list[str], acknowledge: Callable[[str], None]) -> dict[str, Any]:
    """Start (or find) the named shapes, drive them to their ends; tell what was acknowledged on the way."""

    async def one(name: str) -> tuple[str, Any]:
        definition, args, driver, _ = SHAPES[name]
        run = await engine.start(definition, *args, id=name)
        acknowledge(f"started {name}")
        result = await driver(run)
        acknowledge(f"result {name}")
        return name, result

    return dict(await asyncio.gather(*(one(name) for name in names)))
