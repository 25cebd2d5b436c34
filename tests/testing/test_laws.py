"""The laws of replay over hand-written and generated workflows, and what each law must catch."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spellwork import Retry, activity, workflow
from spellwork.testing import TestEngine, laws, shapes
from spellwork.testing.chaos import corpus


@st.composite
def programs(draw: st.DrawFn, size: int = 10) -> shapes.Program:
    """A generated program; hypothesis draws (and shrinks) its seed and size."""
    return shapes.generate(random.Random(draw(st.integers(0, 2**32 - 1))), size=draw(st.integers(1, size)))


@pytest.mark.parametrize("name", corpus.SHAPES)
async def test_laws_hold_over_the_corpus(name: str) -> None:
    """Law: replay is a fixed point, monotone, prefix-closed, in the order of the journal, and exact, for each shape."""
    async with TestEngine(workflows=corpus.WORKFLOWS) as engine:
        definition, args, driver, expected = corpus.SHAPES[name]
        assert await driver(await engine.start(definition, *args, id=name)) == expected
        assert await laws.check_laws(engine) >= 1


async def _hold(program: shapes.Program) -> None:
    async with TestEngine(workflows=shapes.WORKFLOWS) as engine:
        run = await engine.start(shapes.perform, program, id="p")
        assert await shapes.drive(run, program) == shapes.expected(program)
        assert await laws.check_laws(engine) >= 1


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(program=programs())
def test_laws_hold_over_generated_programs(program: Any) -> None:
    """Law: the same, for programs that nobody has thought of."""
    asyncio.run(_hold(program))


@activity
async def plain(x: int) -> int:
    return x


@activity(retry=Retry(max_attempts=1))
async def breaks() -> None:
    raise ValueError("once")


@workflow
async def many_unwind(n: int) -> list[int]:
    """One task of a group fails; the others, which asyncio keeps in a set, unwind with a step each."""
    order: list[int] = []

    async def one(i: int) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            order.append(await plain(i))

    try:
        async with asyncio.TaskGroup() as group:
            for i in range(n):
                group.create_task(one(i))
            group.create_task(breaks())
    except* ValueError:
        pass
    return order


async def test_what_asyncio_keeps_in_sets_has_an_order() -> None:
    """Law: forty tasks that are cancelled through a set issue their commands in the same order on every replay."""
    async with TestEngine(workflows=[many_unwind]) as engine:
        assert len(await engine.run(many_unwind, 40, id="r")) == 40
        for _ in range(3):
            assert await laws.check_laws(engine, "r") == 1


async def _journal(engine: TestEngine) -> laws.Journal:
    await engine.run(many_unwind, 2, id="r")
    return (await laws.journals(engine, "r"))[0]


async def test_each_law_says_what_it_saw() -> None:
    """A journal with an entry that is missing, moved, repeated or older than the one before is refused by its law."""
    async with TestEngine(workflows=[many_unwind]) as engine:
        journal = await _journal(engine)
        started, *rest = journal.entries
        forgeries: list[tuple[Any, list[Any], str]] = [
            (laws.one_end, [started, *rest, rest[-1]], "something comes after"),
            (laws.fixed_point, [started, *rest[1:]], "do not replay"),
            (laws.prefix_closed, [started, rest[1], rest[0], *rest[2:]], "do not replay"),
            (laws.timely, [started, msgspec.structs.replace(rest[0], at=0), *rest[1:]], "older than the one before"),
        ]
        for law, entries, message in forgeries:
            with pytest.raises(laws.LawBroken, match=message):
                law(dataclasses.replace(journal, entries=entries))


async def test_a_workflow_that_looks_at_the_world_breaks_a_law() -> None:
    """Code that asks for something else on each replay is caught without being run a second time."""
    calls: list[int] = []

    @workflow
    async def worldly() -> int:
        calls.append(1)
        return await plain(len(calls))

    async with TestEngine(workflows=[worldly]) as engine:
        await engine.run(worldly, id="r")
        with pytest.raises(laws.LawBroken, match="run r"):
            await laws.check_laws(engine, "r")
