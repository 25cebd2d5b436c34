"""The linearizability checker on histories whose verdict is known, and start-by-id under it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from typing import Any

import pytest

from spellwork import Engine, RunCancelled, RunExists, RunNotFound, activity, workflow
from spellwork.errors import RunFinished
from spellwork.store import Batch
from spellwork.testing import TestEngine, linear
from spellwork.testing.linear import UNKNOWN, History, Operation, RunsById


class Register:
    """A value that is written and read."""

    def key(self, call: tuple[Any, ...]) -> str:
        return "register"

    def initial(self) -> int:
        return 0

    def step(self, state: int, call: tuple[Any, ...], result: Any) -> Iterable[int]:
        if call[0] == "write":
            return [call[1]]
        return [state] if result in (state, UNKNOWN) else []


def op(client: str, call: tuple[Any, ...], result: Any, invoked: int, returned: int | None) -> Operation:
    return Operation(client, call, result, invoked, returned)


LINEARIZABLE = {
    "nothing happened": [],
    "a read beside a write sees the old value": [op("a", ("write", 1), None, 1, 4), op("b", ("read",), 0, 2, 3)],
    "a read beside a write sees the new value": [op("a", ("write", 1), None, 1, 4), op("b", ("read",), 1, 2, 3)],
    "a write that never returned was seen": [op("a", ("write", 1), UNKNOWN, 1, None), op("b", ("read",), 1, 2, 3)],
    "a write that never returned was not seen": [op("a", ("write", 1), UNKNOWN, 1, None), op("b", ("read",), 0, 2, 3)],
    "a write that never returned is seen late": [
        op("a", ("write", 1), UNKNOWN, 1, None), op("b", ("read",), 0, 2, 3), op("b", ("read",), 1, 4, 5),
    ],
    "two writes beside each other, read in either order": [
        op("a", ("write", 1), None, 1, 6), op("b", ("write", 2), None, 2, 5),
        op("c", ("read",), 2, 3, 4), op("c", ("read",), 1, 7, 8),
    ],
}  # fmt: skip
BROKEN = {
    "a read after a write sees the old value": [op("a", ("write", 1), None, 1, 2), op("b", ("read",), 0, 3, 4)],
    "a value that nobody wrote": [op("b", ("read",), 7, 3, 4)],
    "a value goes back": [
        op("a", ("write", 1), UNKNOWN, 1, None), op("b", ("read",), 1, 2, 3), op("b", ("read",), 0, 4, 5),
    ],
    "two readers disagree about the order of two writes": [
        op("a", ("write", 1), None, 1, 20), op("b", ("write", 2), None, 2, 21),
        op("c", ("read",), 1, 3, 4), op("c", ("read",), 2, 5, 6), op("d", ("read",), 1, 7, 8), op("d", ("read",), 2, 9, 10),
    ],
    "a write is seen before it was called": [op("b", ("read",), 1, 1, 2), op("a", ("write", 1), None, 3, 4)],
}  # fmt: skip


@pytest.mark.parametrize("name", LINEARIZABLE)
def test_linearizable_histories_are_explained(name: str) -> None:
    """A history that some order explains passes, and the order is given."""
    history = LINEARIZABLE[name]
    verdict = linear.check(history, Register())
    assert verdict.ok, str(verdict)
    assert {each for each in history if each.returned is not None} <= set(verdict.order)


@pytest.mark.parametrize("name", BROKEN)
def test_other_histories_are_refused(name: str) -> None:
    """A history that no order explains is refused, with the operations up to the answer that cannot be."""
    history = BROKEN[name]
    verdict = linear.check(history, Register())
    assert not verdict.ok
    assert {(each.client, each.call) for each in verdict.offending} <= {(each.client, each.call) for each in history}
    assert "no order of these" in str(verdict)


def test_what_comes_after_the_offence_is_left_out() -> None:
    """The offending part ends with the first answer that has no explanation."""
    late = [op("c", ("read",), 1, 10 + 2 * i, 11 + 2 * i) for i in range(20)]
    verdict = linear.check([*BROKEN["a read after a write sees the old value"], *late], Register())
    assert [each.returned for each in verdict.offending] == [2, 4]


def test_the_verdict_of_small_histories_is_that_of_trying_every_order() -> None:
    """The search and its memory agree with brute force on random histories of up to six operations."""
    import itertools

    rng = random.Random(5)
    verdicts = set()
    for _ in range(400):
        moments = rng.sample(range(100), 12)
        history = []
        for i in range(rng.randint(2, 6)):
            invoked, returned = sorted(moments[2 * i : 2 * i + 2])
            call, result = rng.choice([(("write", rng.randint(1, 2)), None), (("read",), rng.randint(0, 2))])
            history.append(op(str(i), call, result, invoked, returned))

        def explains(order: tuple[Operation, ...]) -> bool:
            value, latest = 0, -1
            for each in order:
                latest = max(latest, each.invoked)
                if each.returned is None or each.returned < latest or (each.call[0] == "read" and each.result != value):
                    return False
                value = each.call[1] if each.call[0] == "write" else value
            return True

        expected = any(explains(order) for order in itertools.permutations(history))
        verdicts.add(expected)
        assert linear.check(history, Register()).ok is expected, history
    assert verdicts == {True, False}


@activity
async def same(x: int) -> int:
    return x


@workflow
async def quick(x: int) -> int:
    return await same(x)


@workflow
async def slow(x: int) -> int:
    await asyncio.Event().wait()
    return x


async def _ask(engine: Engine, call: tuple[Any, ...]) -> Any:
    verb, run_id = call[:2]
    try:
        if verb == "start":
            run = await engine.start(call[2], call[3], id=run_id)
            return (await run.status()).number
        run = await engine.get(run_id)
        if verb == "status":
            return (await run.status()).number
        if verb == "cancel":
            await run.cancel()
            return "accepted"
        await run.result(0.05)
    except RunExists:
        return "exists"
    except RunNotFound:
        return "absent"
    except RunFinished:
        return "ended"
    except RunCancelled:
        return "cancelled"
    except TimeoutError:
        return UNKNOWN
    return "completed"


async def _play(engines: list[Engine], seed: int, clients: int, rounds: int, ids: int) -> linear.Verdict:
    """Let clients act at random on a few ids, side by side."""
    history = History()

    async def act(name: str, rng: random.Random) -> None:
        for _ in range(rounds):
            run_id = f"{seed}-{rng.randrange(ids)}"
            verb = rng.choice(("start", "start", "start", "status", "cancel", "result"))
            call = (verb, run_id, rng.choice(("quick", "slow")), rng.randrange(2)) if verb == "start" else (verb, run_id)
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(0)
            with history.call(name, *call) as answer:
                if (told := await _ask(rng.choice(engines), call)) is not UNKNOWN:
                    answer.append(told)

    await asyncio.gather(*(act(f"client-{i}", random.Random(seed * 1000 + i)) for i in range(clients)))
    return linear.check(history.operations, RunsById())


@pytest.mark.slow
async def test_start_by_id_is_linearizable() -> None:
    """Law: starts, cancellations and looks at a few ids by concurrent tasks answer as if they had come one after the other."""
    async with TestEngine(workflows=[quick, slow]) as engine:
        for seed in range(40):
            verdict = await _play([engine], seed, clients=6, rounds=5, ids=2)
            assert verdict.ok, f"seed {seed}: {verdict}"


@pytest.mark.slow
async def test_start_by_id_is_linearizable_across_engines(tmp_path) -> None:
    """Law: the same when some of them ask through engines that own nothing."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    async with (
        Engine(url, workflows=[quick, slow], durability="relaxed") as owner,
        Engine(url, workflows=[quick, slow], client=True) as one,
        Engine(url, workflows=[quick, slow], client=True) as other,
    ):
        for seed in range(3):
            verdict = await _play([owner, one, other], seed, clients=5, rounds=4, ids=2)
            assert verdict.ok, f"seed {seed}: {verdict}"


async def test_an_engine_that_starts_an_id_twice_is_caught(monkeypatch) -> None:
    """The mutant that forgets to require that the id is absent breaks the law."""
    monkeypatch.setattr(Batch, "require_absent", lambda self, key: self)
    async with TestEngine(workflows=[quick, slow]) as engine:
        verdicts = [await _play([engine], seed, clients=4, rounds=4, ids=1) for seed in range(5)]
    assert not all(verdicts)
    offence = next(verdict for verdict in verdicts if not verdict)
    assert "start" in str(offence)
