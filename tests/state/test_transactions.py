"""Transactions: serializable, over several trees, on a view that fits together, run again when they lose."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from spellwork.errors import Conflict, DefinitionError, MergeRefused, PayloadError, TransactionConflict, UsageError
from spellwork.state import StateStore, Transaction, Tree, Versioned, open_store, perform, transactional
from spellwork.store import Batch


async def test_several_trees_change_together_or_not_at_all(url: str) -> None:
    """What a transaction writes is there after its block, and not if the block raised or was cancelled."""
    async with open_store(url) as store:
        a, b = store.tree("a", int), store.tree("b", str)
        async with store.transaction() as tx:
            await tx[a].set("k", 1)
            await tx[b].set("k", "x")
            assert await a.get("k") is None
        assert (await a.get_versioned("k")).version == (await b.get_versioned("k")).version == 1
        for problem in (ValueError("no"), asyncio.CancelledError()):
            with pytest.raises(type(problem)):  # noqa: PT012 - the block is what raises
                async with store.transaction() as tx:
                    await tx[a].set("k", 2)
                    await tx[b].delete("k")
                    raise problem
        assert (await a.get("k"), await b.get("k")) == (1, "x")


async def test_a_transaction_sees_its_own_writes(url: str) -> None:
    """In every read, over what is stored: sets, deletes, clears and merges, with limits in both directions."""
    async with open_store(url) as store:
        t = store.tree("t", int)
        for i in range(6):
            await t.set(i, i)
        async with store.transaction() as tx:
            mine = tx[t]
            await mine.delete(1)
            await mine.set(2, 20)
            await mine.set(9, 9)
            await mine.merge(3, "add", 30)
            await mine.merge(7, "add", 7)
            assert await mine.scan(limit=3) == [(0, 0), (2, 20), (3, 33)]
            assert await mine.scan(reverse=True, limit=3) == [(9, 9), (7, 7), (5, 5)]
            assert [pair async for pair in mine.scan(start=4)] == [(4, 4), (5, 5), (7, 7), (9, 9)]
            assert await mine.count() == 7
            assert await mine.get_many([0, 1, 2, 3]) == {0: 0, 2: 20, 3: 33}
            assert not await mine.exists(1)
            assert (await mine.get_versioned(2)) == Versioned(20, 0, 6)
            assert (await mine.get_versioned(0))[:2] == (0, 1)
            await mine.clear()
            await mine.set(4, 40)
            await mine.merge(4, "add", 2)
            await mine.merge(5, "add", 2)
            assert await mine.scan() == [(4, 42), (5, 2)]
            assert await mine.get(0) is None
        assert await t.scan() == [(4, 42), (5, 2)]


async def test_a_lost_transaction_writes_nothing(url: str) -> None:
    """If what it read was changed, came, or went, it raises TransactionConflict at its end, which is a Conflict."""
    async with open_store(url) as store:
        t = store.tree("t", int)
        reads = {
            "key": lambda tx: tx[t].get("k"),
            "missing": lambda tx: tx[t].get("new"),
            "scan": lambda tx: tx[t].scan(prefix="k"),
            "count": lambda tx: tx[t].count(),
            "phantom": lambda tx: tx[t].scan(prefix="n"),
            "limited": lambda tx: tx[t].scan(limit=1, reverse=True),
        }
        for name, read in reads.items():
            await t.clear()
            await t.set("k", 1)
            with pytest.raises(TransactionConflict, match="nothing was written") as caught:  # noqa: PT012 - the block is what raises
                async with store.transaction() as tx:
                    await read(tx)
                    await tx[t].set("mine", 1)
                    await store.batch().put(t, "k", 2).put(t, "new", 1).commit()
            assert isinstance(caught.value, Conflict), name
            assert await t.get("mine") is None, name


async def test_what_was_not_read_does_not_conflict(url: str) -> None:
    """Blind writes, merges, other keys, and rows behind a limited scan: the transaction goes through."""
    async with open_store(url) as store:
        t = store.tree("t", int)
        for i in range(6):
            await t.set(i, i)
        async with store.transaction() as tx:
            await tx[t].scan(start=0, limit=2)
            await tx[t].scan(stop=6, limit=2, reverse=True, start=0)
            await tx[t].get(2)
            await tx[t].set("mine", 1)
            await tx[t].merge("n", "add", 1)
            await store.batch().put(t, 3, 30).put(t, "n", 5).put(t, "mine", 7).commit()
        assert await t.get("mine") == 1
        assert await t.get("n") == 6


async def test_a_transaction_never_sees_half_of_another(url: str) -> None:
    """Two keys that always add up to zero do so in each transaction that reads both, however the writer interferes."""
    async with open_store(url) as store:
        t = store.tree("t", int)
        await store.batch().put(t, "a", 0).put(t, "b", 0).commit()
        done = False

        async def writer() -> None:
            for i in range(150):
                await store.batch().put(t, "a", i).put(t, "b", -i).commit()

        async def reader() -> int:
            seen = lost = 0
            while not done:
                try:
                    async with store.transaction() as tx:
                        one = await tx[t].get("a", 0)
                        await asyncio.sleep(0)
                        other = (await tx[t].scan(prefix="b"))[0][1] if seen % 2 else await tx[t].get("b", 0)
                        assert one + other == 0
                    seen += 1
                except TransactionConflict:
                    lost += 1
                await asyncio.sleep(0)
            return seen + lost

        reading = asyncio.ensure_future(reader())
        await writer()
        done = True
        assert await reading > 1


async def test_reads_side_by_side_fit_together(url: str) -> None:
    """Reads that are awaited together in one transaction are checked against each other as well."""
    async with open_store(url) as store:
        t = store.tree("t", int)
        await store.batch().put(t, "a", 0).put(t, "b", 0).commit()
        for i in range(1, 40):
            tx = store.transaction()
            outcomes = await asyncio.gather(
                tx[t].get("a"), store.batch().put(t, "a", i).put(t, "b", i).commit(), tx[t].get("b"), return_exceptions=True
            )
            one, _, other = outcomes
            assert one == other or isinstance(other, TransactionConflict)


async def test_write_skew_is_prevented(url: str) -> None:
    """Two doctors who each go off call because they see the other on call: one of them is run again, and stays."""
    async with open_store(url) as store:
        on_call = store.tree("on-call", bool)
        await store.batch().put(on_call, "ann", True).put(on_call, "bob", True).commit()
        both = asyncio.Barrier(2)
        first: set[str] = set()

        async def leave(tx: Transaction, name: str) -> bool:
            present = [who for who, is_on in await tx[on_call].scan() if is_on]
            if name not in first:
                first.add(name)
                await both.wait()
            if len(present) < 2:
                return False
            await tx[on_call].set(name, False)
            return True

        left = await asyncio.gather(store.run(lambda tx: leave(tx, "ann")), store.run(lambda tx: leave(tx, "bob")))
        assert sorted(left) == [False, True]
        assert [value for _, value in await on_call.scan()].count(True) == 1


async def test_histories_are_serializable(url: str) -> None:
    """Random transactions side by side see and leave what they would, one after the other, in the order of their commits."""
    rng = random.Random(4)
    async with open_store(url) as store:
        t = store.tree("t", int)
        log: list[tuple[int, list]] = []

        async def one(seed: int) -> None:
            steps = random.Random(seed)
            done: list = []

            async def work(tx: Transaction) -> None:
                nonlocal done
                done, choose = [], random.Random(seed)
                for _ in range(choose.randint(1, 5)):
                    key, what = choose.randint(0, 4), choose.random()
                    if what < 0.4:
                        done.append(("get", key, await tx[t].get(key)))
                    elif what < 0.55:
                        done.append(("scan", key, await tx[t].scan(start=key, limit=choose.choice([None, 1, 2]))))
                    elif what < 0.8:
                        await tx[t].set(key, choose.randint(0, 999))
                        done.append(("set", key, tx.pending.rows[t.rows.key(key)]))
                    elif what < 0.9:
                        await tx[t].delete(key)
                        done.append(("set", key, None))
                    else:
                        await tx[t].merge(key, "add", 1)
                        done.append(("add", key, 1))
                    await asyncio.sleep(0)
                await tx[t].set(("order", seed), seed)  # so that its place among the commits can be read

            for _ in range(steps.randint(0, 3)):
                await asyncio.sleep(0)
            await store.run(work)
            log.append(((await t.get_versioned(("order", seed))).version, done))

        for _ in range(6):
            await asyncio.gather(*(one(rng.randrange(10**9)) for _ in range(8)))
        model: dict[int, int] = {}
        for _, steps in sorted(log, key=lambda entry: entry[0]):
            for what, key, value in steps:
                if what == "get":
                    assert value == model.get(key)
                elif what == "scan":
                    expected = sorted((k, v) for k, v in model.items() if k >= key)
                    assert value == expected[: len(value)]
                    assert len(value) == min(len(expected), len(value) or 3)
                elif what == "add":
                    model[key] = model.get(key, 0) + 1
                elif value is None:
                    model.pop(key, None)
                else:
                    model[key] = t.rows.value(key, value)
        assert [(k, v) for k, v in await t.scan() if isinstance(k, int)] == sorted(model.items())


async def test_a_swallowed_conflict_still_loses(url: str) -> None:
    """A function that catches the conflict of a read is run again all the same."""
    async with open_store(url) as store:
        t = store.tree("t", int)
        await t.set("a", 0)
        attempts = 0

        async def careless(tx: Transaction) -> None:
            nonlocal attempts
            attempts += 1
            await tx[t].get("a")
            if attempts == 1:
                await t.set("a", 1)
                with pytest.raises(TransactionConflict):
                    await tx[t].get("b")
            await tx[t].set("c", attempts) if attempts > 1 else None

        await store.run(careless)
        assert attempts == 2
        assert await t.get("c") == 2


async def test_attempts_are_bounded(url: str) -> None:
    """A transaction that loses each time raises TransactionConflict with the number of its attempts."""
    async with open_store(url) as store:
        t = store.tree("t", int)
        runs = 0

        async def losing(tx: Transaction) -> None:
            nonlocal runs
            runs += 1
            await tx[t].get("a")
            await t.set("a", runs)
            await tx[t].set("b", 1)

        with pytest.raises(TransactionConflict, match="in each of 4 attempts") as caught:
            await store.run(losing, attempts=4)
        assert (runs, caught.value.attempts) == (4, 4)
        assert await t.get("b") is None
        with pytest.raises(DefinitionError, match="attempts="):
            await store.run(losing, attempts=0)


@transactional
async def transfer(tx: Transaction, accounts: Tree[int], source: str, target: str, amount: int) -> int:
    """Move an amount."""
    left = await tx[accounts].get(source, 0) - amount
    if left < 0:
        raise ValueError(f"{source} has not enough")
    await tx[accounts].set(source, left)
    await tx[accounts].merge(target, "add", amount)
    return left


@transactional(attempts=9)
async def twice(tx: Transaction, accounts: Tree[int]) -> None:
    """Two transfers in one transaction."""
    await transfer(tx, accounts, "a", "b", 1)
    await transfer(tx, accounts, "a", "c", 1)


async def test_transactional_functions(url: str) -> None:
    """They take a store in place of the transaction, compose, return what they return, and raise without a retry."""
    async with open_store(url) as store:
        accounts = store.tree("accounts", int)
        await accounts.set("a", 10)
        assert await transfer(store, accounts, "a", "b", 3) == 7
        await twice(store, accounts)
        assert await accounts.scan() == [("a", 5), ("b", 4), ("c", 1)]
        with pytest.raises(ValueError, match="not enough"):
            await transfer(store, accounts, "a", "b", 6)
        await asyncio.gather(*(transfer(store, accounts, "a", "b", 1) for _ in range(5)))
        assert await accounts.scan() == [("a", 0), ("b", 9), ("c", 1)]


async def test_an_ended_transaction_is_refused(url: str) -> None:
    """After its end, reads and writes raise UsageError; so does committing what another one commits."""
    async with open_store(url) as store:
        t = store.tree("t", int)
        async with store.transaction() as tx:
            await tx[t].set("k", 1)
        for use in (tx[t].get, tx[t].delete, lambda key: tx.commit()):
            with pytest.raises(UsageError, match="has ended"):
                await use("k")
        with pytest.raises(UsageError, match="committed by what it belongs to"):
            await Transaction(store.look, None, store.clock).commit()


async def test_its_owner_may_commit_it(url: str) -> None:
    """Requirements and writes go into a batch of somebody else, and its reads through a callable of theirs."""
    async with open_store(url) as store:
        t = store.tree("t", int)
        await t.set("a", 1)
        looks = []

        async def look(look):
            looks.append(look)
            return await store.low.read(lambda reader: perform(reader, look))

        tx = Transaction(look, None, store.clock)
        await tx[t].set("a", await tx[t].get("a", 0) + 1)
        await tx[t].merge("b", "add", 1)
        await store.low.commit(tx.into(Batch().put(b"\x40mine", b"")))
        assert (await t.get("a"), await t.get("b"), len(looks)) == (2, 1, 1)

        tx = Transaction(look, None, store.clock)
        await tx[t].set("a", await tx[t].get("a", 0) + 1)
        await t.set("a", 7)
        with pytest.raises(Conflict):
            await store.low.commit(tx.into(Batch().put(b"\x40other", b"")))
        assert await store.low.get(b"\x40other") is None


async def test_bad_writes_are_refused_inside(url: str) -> None:
    """A value that doesn't fit raises at once, and one bad merge at the commit; nothing is written then."""
    async with open_store(url) as store:
        t = store.tree("t", int)
        with pytest.raises(PayloadError):  # noqa: PT012 - the block is what raises
            async with store.transaction() as tx:
                await tx[t].set("a", 1)
                await tx[t].set("b", "x")  # type: ignore[arg-type]
        with pytest.raises(MergeRefused):  # noqa: PT012 - the block is what raises
            async with store.transaction() as tx:
                await tx[t].set("a", 1)
                await tx[t].merge("b", "append", 1)
                await tx[t].merge("b", "append", 1)
        async with store.transaction() as tx:
            await tx[t].merge("b", "append", 1)
            with pytest.raises(MergeRefused, match=r"got|Expected"):
                await tx[t].get("b")  # works it out
            await tx[t].delete("b")
        assert await store.tree("t").scan() == []


async def test_a_transaction_inside_another_does_not_hang(url: str) -> None:
    """Who waits, with a turn at a key, for somebody who wants that turn goes on after a second."""
    async with open_store(url) as store:
        t = store.tree("t", int)
        runs = 0

        async def inner(tx: Transaction) -> None:
            await tx[t].set("k", await tx[t].get("k", 0) + 1)

        async def outer(tx: Transaction) -> None:
            nonlocal runs
            runs += 1
            await tx[t].get("k")
            if runs <= 2:
                await store.run(inner)  # changes what the outer one has read
            await tx[t].set("done", runs)

        await asyncio.wait_for(store.run(outer), 20)
        assert (runs, await t.get("k"), await t.get("done")) == (3, 2, 3)


async def increments(store: StateStore, tasks: int, each: int) -> None:
    t = store.tree("t", int)

    async def through_transactions() -> None:
        async def add(tx: Transaction) -> None:
            await tx[t].set("tx", await tx[t].get("tx", 0) + 1)

        for _ in range(each):
            await store.run(add)

    async def through_merges() -> None:
        for _ in range(each):
            await t.merge("merge", "add", 1)

    await asyncio.gather(*(through_transactions() for _ in range(tasks)))
    await asyncio.gather(*(through_merges() for _ in range(tasks)))
    assert await t.get("tx") == await t.get("merge") == tasks * each


@pytest.mark.slow
async def test_increments_are_exact(url: str) -> None:
    """8 tasks, 500 increments each of one key, through transactions and through merges; 10,000 each in soak."""
    async with open_store(url, durability=None if url == "memory:" else "relaxed") as store:
        await increments(store, 8, 500)


@pytest.mark.soak
@pytest.mark.timeout(3000)
async def test_increments_are_exact_soak(url: str, tmp_path: Path) -> None:
    """8 tasks, 10,000 increments each of one key, through transactions and through merges."""
    async with open_store(url) as store:
        await increments(store, 8, 10_000)
