"""What generated programs and the laws of replay have found: each once, so that it is not found again."""

from __future__ import annotations

import asyncio

import pytest

from spellwork import Signal, activity, continue_as_new, patched, start_child, update, workflow
from spellwork.testing import TestEngine, check_replay


@activity
async def echo(x: int) -> int:
    return x


async def test_patched_is_true_for_a_continued_run_that_carries_signals() -> None:
    """A run that continues another takes the new path, also when unread signals came along."""
    inbox = Signal[int]("inbox")

    @workflow
    async def chain(left: int) -> tuple[bool, int]:
        if left:
            await echo(1)
            continue_as_new(left - 1)
        is_new = patched("here")
        return is_new, await inbox.receive()

    async with TestEngine(workflows=[chain]) as engine:
        run = await engine.start(chain, 1, id="c")
        await run.signal(inbox, 7)
        assert await run.result() == (True, 7)
        await check_replay(engine, "c")


@pytest.mark.parametrize("turns", range(4))
async def test_an_update_sent_twice_is_applied_once_though_the_run_continues_in_between(turns) -> None:
    """The same id, side by side: the second is answered like the first also when that made the run go on as a new one."""

    @workflow
    async def chain(left: int, total: int = 0) -> int:
        rang = asyncio.Event()

        @update
        def put(value: int) -> int:
            nonlocal total
            total += value
            rang.set()
            return total

        await rang.wait()
        if left:
            continue_as_new(left - 1, total)
        return total

    async with TestEngine(workflows=[chain]) as engine:
        run = await engine.start(chain, 1, id="c")

        async def again() -> int:
            for _ in range(turns):
                await asyncio.sleep(0)
            return await run.update("put", 1, id="u")

        first, second = await asyncio.gather(run.update("put", 1, id="u"), again())
        assert (first, second) == (1, 1)
        assert await run.update("put", 10, id="v") == 11
        assert await run.result() == 11


async def test_a_signal_to_a_child_that_nobody_waits_for_any_more_arrives() -> None:
    """A task that sends a signal may be cancelled meanwhile; the run goes on."""
    word = Signal[int]("word")

    @workflow
    async def listener() -> int:
        return await word.receive()

    @workflow
    async def parent() -> int:
        child = await start_child(listener)
        telling = asyncio.create_task(child.signal(word, 7))
        await asyncio.sleep(0)
        telling.cancel()
        value = await child
        await asyncio.sleep(1)  # meanwhile the news comes that the signal has arrived
        return value

    async with TestEngine(workflows=[parent, listener]) as engine:
        assert await engine.run(parent, id="p") == 7
        await check_replay(engine, "p")


async def test_a_continued_run_may_carry_more_than_it_reads() -> None:
    """Three signals are waiting when a chain begins to read one a run: each run gets its own."""
    inbox = Signal[str]("inbox")

    @workflow
    async def relay(left: int, heard: str = "") -> str:
        if left < 3:
            heard += await inbox.receive()
        else:
            await asyncio.sleep(10)
        if left:
            continue_as_new(left - 1, heard)
        return heard

    async with TestEngine(workflows=[relay]) as engine:
        run = await engine.start(relay, 3, id="c")
        for word in ("a", "b", "c"):
            await run.signal(inbox, word)
        assert await run.result(5) == "abc"
