"""Generated programs: each comes to what it must, whatever the program."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys

import pytest

from spellwork.testing import TestEngine, shapes
from spellwork.workflow import ActivityContext


@pytest.mark.slow
async def test_two_hundred_programs_come_to_what_they_must() -> None:
    """Law: a generated program's result is `expected(program)`."""
    async with TestEngine(workflows=shapes.WORKFLOWS) as engine:
        for seed in range(200):
            program = shapes.generate(random.Random(seed))
            run = await engine.start(shapes.perform, program, id=f"seed-{seed}")
            began = engine.clock.monotonic()
            assert await shapes.drive(run, program) == shapes.expected(program), (seed, program)
            assert engine.clock.monotonic() - began < 60, "a program ends within a minute of virtual time"


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "nodes"), [("sequential", "sequence"), ("parallel", "gather"), ("nested", "child")])
async def test_programs_of_steps_have_exactly_as_many(kind: str, nodes: str) -> None:
    """Twenty steps: in one run one after the other, in one run side by side, or in children, down to those of children."""
    begun: list[ActivityContext] = []
    observe = begun.append
    shapes.observers.append(observe)
    try:
        async with TestEngine(workflows=shapes.WORKFLOWS) as engine:
            for seed in range(30):
                begun.clear()
                program = shapes.of_steps(random.Random(seed), kind)
                run = await engine.start(shapes.perform, program, id=f"seed-{seed}")
                assert await shapes.drive(run, program) == shapes.expected(program)
                assert program[0][0] == nodes
                assert len({context.idempotency_key for context in begun}) == len(begun) == 20
                assert ({context.run_id for context in begun} == {run.id}) == (kind != "nested")
    finally:
        shapes.observers.remove(observe)


_PRINT = """
import json, random
from spellwork.testing import shapes
print(json.dumps([shapes.generate(random.Random(seed)) for seed in range(50)]))
"""


def test_generation_follows_from_the_seed_alone() -> None:
    """The same seed gives the same program in every process, whatever its hash seed."""
    ours = json.dumps([shapes.generate(random.Random(seed)) for seed in range(50)])
    for hash_seed in ("0", "4711"):
        env = {"PYTHONPATH": ":".join(path for path in sys.path if path), "PYTHONHASHSEED": hash_seed}
        done = subprocess.run([sys.executable, "-c", _PRINT], env=env, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == ours


def test_every_kind_of_node_is_drawn() -> None:
    """Whatever a program can do appears within two hundred seeds."""
    seen = json.dumps([shapes.generate(random.Random(seed)) for seed in range(200)])
    from spellwork.testing.shapes import program

    assert not [kind for kind in program._DUE if f'["{kind}"' not in seen]


@pytest.mark.slow
async def test_programs_come_to_the_same_when_waiting_runs_go_out_of_memory() -> None:
    """Law: a run that is dropped and replayed at every wait comes to what it must."""
    async with TestEngine(workflows=shapes.WORKFLOWS, cache=0) as engine:
        for seed in range(1000, 1060):
            program = shapes.generate(random.Random(seed))
            run = await engine.start(shapes.perform, program, id=f"seed-{seed}")
            async with asyncio.timeout(10):
                assert await shapes.drive(run, program) == shapes.expected(program), (seed, program)
