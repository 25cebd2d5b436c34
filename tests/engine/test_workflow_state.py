"""State from inside workflows and activities: exactly once, atomic with the journal, the same on replay."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path

import pytest

from spellwork import Engine, Retry, RunFailed, Signal, activity, workflow
from spellwork.errors import Conflict, PayloadError, RowDamaged, TransactionConflict, UsageError
from spellwork.state import Transaction
from spellwork.testing import TestEngine, check_laws
from spellwork.workflow.events import Event
from spellwork.workflow.state import state
from tests.engine.test_fsck import hurt

go = Signal[int]("go")


@dataclass
class Cart:
    items: list[str]
    total: int = 0


async def test_a_workflow_reads_and_writes_typed_trees() -> None:
    """What it sets it reads, typed; others see it; deleting, scanning and clearing work; and the journal obeys the laws."""

    @workflow
    async def shop() -> list[str]:
        carts = state("carts", Cart)
        await carts.set("ann", Cart(["tea"], 3))
        await carts.set(("bob", 1), Cart([]))
        found = await carts.get("ann")
        assert found is not None
        found.items.append("milk")
        await carts.set("ann", found)
        assert await carts.exists("ann")
        assert await carts.get("nobody") is None
        keys = [str(key) for key, _ in await carts.scan()]
        await carts.delete(("bob", 1))
        other = state("others", int)
        for i in range(5):
            await other.set(f"k{i}", i)
        await other.clear("k")
        assert await other.count() == 0
        await state.scope("user", "u1").tree("carts", Cart).set("ann", Cart(["hidden"]))
        return keys

    async with TestEngine(workflows=[shop]) as engine:
        run = await engine.start(shop)
        assert await run.result() == ["ann", "('bob', 1)"]
        assert await engine.state.tree("carts", Cart).get("ann") == Cart(["tea", "milk"], 3)
        assert await engine.state.tree("carts", Cart).count() == 1
        assert await engine.state.scope("user", "u1").tree("carts", Cart).get("ann") == Cart(["hidden"])
        assert await check_laws(engine, run.id) == 1


async def test_what_a_workflow_read_is_the_same_on_replay(tmp_path: Path) -> None:
    """A value that was changed since by somebody else does not change the past of a run."""
    seen: list[int | None] = []

    @workflow
    async def reads() -> int:
        value = await state("numbers", int).get("n")
        seen.append(value)
        return (value or 0) + await go.receive()

    url = f"sqlite:{tmp_path / 'store.db'}"
    async with Engine(url, workflows=[reads]) as engine:
        await engine.state.tree("numbers", int).set("n", 1)
        await engine.start(reads, id="r")
        while not seen:
            await asyncio.sleep(0.01)
    async with Engine(url, workflows=[reads]) as engine:
        await engine.state.tree("numbers", int).set("n", 100)
        run = await engine.get("r")
        await run.signal(go, 5)
        assert await run.result(timeout=10) == 6
    assert seen == [1, 1]


async def test_transactions_and_merges_of_many_runs_are_exact(tmp_path: Path) -> None:
    """Money that many runs move between accounts is neither made nor lost, and every merge counts once."""

    @workflow
    async def moves(source: str, target: str, times: int) -> None:
        accounts = state("accounts", int)

        async def move(tx: Transaction) -> None:
            have = await tx[accounts].get(source, 0)
            await tx[accounts].set(source, have - 1)
            await tx[accounts].set(target, await tx[accounts].get(target, 0) + 1)

        for _ in range(times):
            await state.run(move)
            await state("counts", int).merge("moves", "add", 1)

    async with Engine(f"sqlite:{tmp_path / 'store.db'}", workflows=[moves]) as engine:
        accounts = engine.state.tree("accounts", int)
        for name in "abc":
            await accounts.set(name, 100)
        pairs = [(a, b) for a in "abc" for b in "abc" if a != b]
        runs = [await engine.start(moves, source, target, 5) for source, target in pairs]
        for run in runs:
            await run.result(timeout=60)
        assert dict(await accounts.scan()) == {"a": 100, "b": 100, "c": 100}
        assert await engine.state.tree("counts", int).get("moves") == 30


async def test_conditions_hold_or_raise_conflict() -> None:
    """if_absent and if_version inside a workflow raise `Conflict`, and leave what is there."""

    @workflow
    async def claims(name: str) -> str:
        try:
            await state("claims", str).set("seat", name, if_absent=True)
        except Conflict:
            return f"{name} came too late"
        found = await state("claims", str).get_versioned("seat")
        await state("claims", str).set("seat", f"{name}!", if_version=found.version)
        with pytest.raises(Conflict):
            await state("claims", str).delete("seat", if_version=found.version)
        return "mine"

    async with TestEngine(workflows=[claims]) as engine:
        first, second = await engine.start(claims, "ann"), await engine.start(claims, "bob")
        assert sorted([await first.result(), await second.result()])[1] == "mine"
        assert (await engine.state.tree("claims", str).get("seat") or "").endswith("!")


async def test_bad_values_are_refused_before_anything_is_written() -> None:
    """A value that does not fit its tree, or that cannot be stored, fails at the call with the tree and the key."""

    @workflow
    async def bad() -> None:
        await state("numbers", int).set("n", "text")  # type: ignore[arg-type]

    async with TestEngine(workflows=[bad]) as engine:
        with pytest.raises((RunFailed, PayloadError), match="tree numbers, key 'n'"):
            await (await engine.start(bad)).result()
        assert await engine.state.tree("numbers", int).count() == 0


async def test_values_expire_by_the_workflows_time() -> None:
    """A ttl counts from the workflow's now, and the value is gone for everybody afterwards."""

    @workflow
    async def remembers() -> list[bool]:
        await state("notes", str).set("n", "soon gone", ttl=60)
        before = await state("notes", str).exists("n")
        await asyncio.sleep(61)
        return [before, await state("notes", str).exists("n")]

    async with TestEngine(workflows=[remembers]) as engine:
        assert await (await engine.start(remembers)).result() == [True, False]


async def test_an_activitys_transaction_commits_with_its_completion(tmp_path: Path) -> None:
    """When what it read was changed meanwhile the attempt is tried again; when it fails nothing of it is written."""
    tries: list[int] = []
    engine: Engine

    @activity(retry=Retry(max_attempts=5, initial=0.01))
    async def withdraw(amount: int) -> int:
        tx = state.on_completion()
        accounts = state("accounts", int)
        have = await tx[accounts].get("ann", 0)
        tries.append(have)
        if len(tries) == 1:
            await engine.state.tree("accounts", int).set("ann", 50)  # somebody else, between the read and the completion
        if len(tries) == 2:
            await tx[accounts].set("ann", -1)
            raise OSError("the attempt fails after it has written")
        await tx[accounts].set("ann", have - amount)
        return have - amount

    @workflow
    async def pays() -> int:
        return await withdraw(10)

    async with Engine(f"sqlite:{tmp_path / 'store.db'}", workflows=[pays], activities=[withdraw]) as engine:
        await engine.state.tree("accounts", int).set("ann", 100)
        run = await engine.start(pays)
        assert await run.result(timeout=20) == 40
        assert tries == [100, 50, 50]
        assert await engine.state.tree("accounts", int).get("ann") == 40
        assert not await engine.store.scan(b"\x40", b"\x41")
        assert await check_laws(engine, run.id) == 1


async def test_a_transaction_in_a_block_raises_when_it_has_lost() -> None:
    """`async with state.transaction()` tries once."""

    @workflow
    async def loses() -> str:
        numbers = state("numbers", int)
        try:
            async with state.transaction() as tx:
                value = await tx[numbers].get("n", 0)
                await go.receive()
                await tx[numbers].set("n", value + 1)
        except TransactionConflict:
            return "lost"
        return "won"

    async with TestEngine(workflows=[loses]) as engine:
        run = await engine.start(loses)
        await engine.settle()
        await engine.state.tree("numbers", int).set("n", 7)
        await run.signal(go, 1)
        assert await run.result() == "lost"
        assert await engine.state.tree("numbers", int).get("n") == 7


async def test_outside_it_says_where_to_go() -> None:
    """Outside workflows and activities, and in plain activities, the verb says what to use instead."""
    with pytest.raises(UsageError, match=r"engine\.state"):
        await state("x", int).get("k")

    @activity
    def plain() -> None:
        state("x", int)

    @workflow
    async def calls() -> None:
        await plain()

    async with TestEngine(workflows=[calls], activities=[plain]) as engine:
        with pytest.raises(Exception, match=r"async activity"):
            await (await engine.start(calls)).result()


@pytest.mark.parametrize("how", ["lost", "left"])
async def test_an_activity_that_swallows_the_end_of_its_transaction_fails_alone(how: str) -> None:
    """A transaction that has lost, or whose block was left by an error, is never committed: the attempt fails, not the engine."""

    @activity(retry=Retry(max_attempts=2, initial=0.01))
    async def swallows() -> None:
        tx, numbers = state.on_completion(), state("numbers", int)
        with contextlib.suppress(TransactionConflict, ValueError):
            if how == "left":
                async with tx:
                    await tx[numbers].set("b", 1)
                    raise ValueError("no")
            await tx[numbers].get("a")
            await tx[numbers].set("b", 1)
            await numbers.set("a", 7)
            await tx[numbers].get("c")

    @workflow
    async def works() -> str:
        try:
            await swallows()
        except (TransactionConflict, UsageError) as error:
            return type(error).__name__
        return "fine"

    async with TestEngine(workflows=[works], activities=[swallows]) as engine:
        run = await engine.start(works)
        assert await run.result() == {"lost": "TransactionConflict", "left": "UsageError"}[how]
        assert await engine.state.tree("numbers", int).get("b") is None


@pytest.mark.parametrize("who", ["workflow", "activity"])
async def test_a_commit_that_meets_damage_is_told(tmp_path: Path, who: str) -> None:
    """A merge into a damaged value raises `RowDamaged` instead of never being answered."""

    @activity(retry=Retry(max_attempts=2, initial=0.01))
    async def merges() -> None:
        await state.on_completion()[state("numbers", int)].merge("a", "add", 1)

    @workflow
    async def works() -> str:
        try:
            await (merges() if who == "activity" else state("numbers", int).merge("a", "add", 1))
        except RowDamaged:
            return "told"
        return "done"

    path = tmp_path / "store.db"
    async with Engine(f"sqlite:{path}", workflows=[works], activities=[merges]) as engine:
        await engine.state.tree("numbers", int).set("a", 1)
        [(key, _)] = await engine.store.scan(b"\x80", b"\x81")
        hurt(path, key)
        assert await (await engine.start(works)).result(timeout=10) == "told"


async def test_what_runs_while_the_engine_closes_has_its_state(tmp_path: Path) -> None:
    """In the time of `grace` an activity, and the workflow behind it, use state and events as ever."""
    url, begun = f"sqlite:{tmp_path / 'store.db'}", asyncio.Event()

    @activity(retry=Retry(max_attempts=1))
    async def slow() -> None:
        begun.set()
        await asyncio.sleep(0.05)
        await state("numbers", int).set("a", 1)

    @workflow
    async def works() -> None:
        await slow()
        await state("numbers", int).set("b", 1, ttl=1000)
        await Event("numbers", int).subscribe()
        await state("numbers", int).set("c", 1)
        await go.receive()

    async with Engine(url, workflows=[works], activities=[slow], grace=5) as engine:
        await engine.start(works, id="w")
        await begun.wait()
    async with Engine(url, workflows=[works], activities=[slow]) as engine:
        run = await engine.get("w")
        await run.signal(go, 1)
        await run.result(timeout=10)
        assert [key for key, _ in await engine.state.tree("numbers", int).scan()] == ["a", "b", "c"]
        assert await check_laws(engine, "w") == 1


@pytest.mark.parametrize("how", ["on completion", "write", "condition"])
async def test_what_expires_is_deleted_however_it_was_written(how: str) -> None:
    """The sweeper looks when the time has come, and not a minute later, or never on virtual time."""

    @activity
    async def sets() -> None:
        await state.on_completion()[state("numbers", int)].set("a", 1, ttl=60)

    @workflow
    async def works() -> None:
        if how == "on completion":
            await sets()
        else:
            await state("numbers", int).set("a", 1, ttl=60, if_absent=how == "condition")

    async with TestEngine(workflows=[works], activities=[sets]) as engine:
        assert await engine.state.tree("numbers", int).count() == 0  # the sweeper runs, and has nothing to do
        await engine.run(works)
        await engine.settle()
        assert await engine.store.scan(b"\x80", b"\x81")
        await engine.advance(61)
        assert not await engine.store.scan(b"\x80", b"\x81")
