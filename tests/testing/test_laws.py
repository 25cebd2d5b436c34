"""The laws of replay over hand-written and generated workflows, and what each law must catch."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spellwork.testing import TestEngine, laws, shapes
from spellwork.testing.chaos import corpus


@st.composite
def programs(draw: st.DrawFn, size: int = 10) -> shapes.Program:
    """A generated program; hypothesis draws (and shrinks) its seed and size."""
    return shapes.generate(random.Random(draw(st.integers(0, 2**32 - 1))), size=draw(st.integers(1, size)))


@pytest.mark.parametrize("name", corpus.SHAPES)
async def test_laws_hold_over_the_corpus(name: str) -> None:
    """Law: replay is a fixed point, monotone, prefix-closed, in the order of the journal, and exact, for each shape of the corpus."""
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
