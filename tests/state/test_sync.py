"""The synchronous face: the same verbs, without asyncio."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from spellwork.errors import Conflict, DefinitionError, PayloadError, StoreClosed, TransactionConflict
from spellwork.state import StateStats
from spellwork.sync import open_state


def test_verbs_return_what_they_would_when_awaited(url: str) -> None:
    """Trees, scopes, scans, batches, snapshots and merges; `with` closes the store and ends its thread."""
    before = threading.active_count()
    with open_state(url) as store:
        t = store.tree("t", int)
        u = store.scope("user", "u").tree("t", int)
        first = t.set("a", 1)
        assert t.get("a") == 1
        assert t.get("b", 7) == 7
        assert u.get("a") is None
        with pytest.raises(Conflict):
            t.set("a", 2, if_absent=True)
        with pytest.raises(PayloadError):
            t.set("a", "x")
        assert t.get_versioned("a").version == first
        store.batch().put(t, "b", 2).put(u, "a", 3).commit()
        t.merge("b", "add", 40)
        assert list(t.scan()) == [("a", 1), ("b", 42)]
        assert t.get_many(["a", "z"]) == {"a": 1}
        with store.snapshot() as snapshot:
            t.delete("a")
            assert snapshot[t].get("a") == 1
        assert [(found.name, str(found.scope)) for found in store.trees()] == [("t", "global"), ("t", "user:u")]
        assert isinstance(store.stats(), StateStats)
    assert threading.active_count() == before
    with pytest.raises(StoreClosed):
        t.set("a", 1)
    store.close()


def test_transactions_without_asyncio(url: str) -> None:
    """As a block, and as a plain function that is run again when it has lost, from many threads."""
    before = threading.active_count()
    with open_state(url) as store:
        t = store.tree("t", int)
        with store.transaction() as tx:
            tx[t].set("a", tx[t].get("a", 0) + 1)
            assert t.get("a") is None
        with pytest.raises(ValueError, match="no"), store.transaction() as tx:  # noqa: PT012 - the block is what raises
            tx[t].set("a", 9)
            raise ValueError("no")
        with pytest.raises(TransactionConflict), store.transaction() as tx:  # noqa: PT012 - the block is what raises
            tx[t].set("a", tx[t].get("a") + 1)
            t.set("a", 1)

        def add(tx) -> int:
            value = tx[t].get("a") + 1
            tx[t].set("a", value)
            return value

        def count() -> None:
            for _ in range(10):
                store.run(add, attempts=500)

        threads = [threading.Thread(target=count) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.run(add) == 42
    assert threading.active_count() == before


def test_watch_without_asyncio(url: str) -> None:
    """A `for` over the changes, which can be left."""
    with open_state(url) as store:
        t = store.tree("t", int)
        for i in range(3):
            t.set(i, i)
        seen = []
        for change in t.watch(since=0):
            seen.append(change.value)
            if len(seen) == 3:
                break
        assert seen == [0, 1, 2]


def test_a_store_that_cannot_be_opened_leaves_no_thread(url: str) -> None:
    """The error comes as it is."""
    before = threading.active_count()
    with pytest.raises(DefinitionError):
        open_state(url, max_pending=0)
    assert threading.active_count() == before


def test_transactions_that_wait_for_others_find_a_thread_each() -> None:
    """However many there are: each function may begin a transaction of its own, which needs a thread as well."""
    with open_state("memory:") as store:
        t, log = store.tree("t", int), store.tree("log", str)
        together = threading.Barrier(40)

        def work(number: int) -> None:
            def outer(tx):
                if not together.broken:
                    together.wait(20)
                store.run(lambda own: own[log].set(number, "began"))
                tx[t].set(number, number)

            store.run(outer)

        threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in threads)
        assert (t.count(), log.count()) == (40, 40)


def test_a_thread_that_watches_hears_that_the_store_is_closed(url: str) -> None:
    """It would wait for ever, and keep the program from ending."""
    store = open_state(url)
    t, outcome, begun = store.tree("t", int), [], threading.Event()

    def watch() -> None:
        try:
            for change in t.watch():
                outcome.append(change.key)
                begun.set()
        except StoreClosed:
            outcome.append("closed")

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    while not begun.wait(0.05):
        t.set("a", 1)
    store.close()
    thread.join(10)
    assert outcome[-1] == "closed"


async def test_it_can_be_opened_and_closed_where_a_loop_is_running(tmp_path: Path) -> None:
    """As in a notebook, whose cells run on one."""
    with open_state(f"sqlite:{tmp_path / 'store.db'}") as store:
        store.tree("numbers").set("a", 1)
        assert store.tree("numbers").get("a") == 1
