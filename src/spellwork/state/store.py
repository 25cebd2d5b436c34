"""Owns `StateStore`: the users' face of a store, from which trees, transactions, snapshots and batches are made.
It must never let a write pass that is beyond the bound of what may wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, overload

import msgspec

from spellwork.clock import Clock, Duration, seconds
from spellwork.codec import Codec
from spellwork.errors import DefinitionError, StoreBusy, StoreError
from spellwork.state import attempts as attempts_of
from spellwork.state import migration
from spellwork.state.attempts import ATTEMPTS
from spellwork.state.batch import StateBatch
from spellwork.state.look import Look, Seen, perform
from spellwork.state.migration import MigrationReport, Plan, Schema
from spellwork.state.operators import Operator, Operators
from spellwork.state.rows import TreeRows, clear_range
from spellwork.state.scopes import SCHEMAS, STATE, Scope, TreeName
from spellwork.state.snapshot import StateSnapshot
from spellwork.state.sweeper import Sweeper
from spellwork.state.transaction import Transaction
from spellwork.state.tree import Tree
from spellwork.state.turns import Turns
from spellwork.store import Batch, CommitStats, Reader, Store, successor

V = TypeVar("V")
T = TypeVar("T")

MERGE_WINDOW = 24 * 3600.0
MAX_PENDING = 1000


class StateStats(msgspec.Struct, frozen=True):
    """The newest `revision`, `bytes` on the medium, how many writes are `pending`, and the committer's counts."""

    revision: int
    bytes: int
    pending: int
    commits: CommitStats


class ScopeView:
    """The trees of one scope. No key or name in it reaches another scope's trees."""

    def __init__(self, scope: Scope, store: StateStore):
        self.scope = scope
        self._store = store

    @overload
    def tree(self, name: str, annotation: type[V]) -> Tree[V]: ...

    @overload
    def tree(self, name: str, annotation: Any = Any) -> Tree[Any]: ...

    def tree(self, name: str, annotation: Any = Any) -> Tree[Any]:
        """The tree of this name; its values are of the annotation's type. It begins to exist with its first key."""
        return Tree(self._store.rows(name, annotation, self.scope), self._store)

    async def clear(self) -> int:
        """Remove everything in this scope, all trees with all their keys; returns the revision."""
        batch, start = Batch(), self.scope.prefix()
        clear_range(batch, start, successor(start))
        return await self._store.commit(batch)

    async def trees(self) -> list[str]:
        """The names of the trees that have keys in it, sorted."""
        return [found.name for found in await self._store.trees() if found.scope == self.scope]


class StateStore:
    """Typed trees with transactions over a store. Made by `open_store`, or around a `spellwork.store.Store` that is open already.

    - `codec`: how values become bytes; its limits bound them. `operators`: merge operators of your own, by name.
    - `max_pending`: how many writes may wait for the disk. At the limit a further one waits its turn, or raises `StoreBusy` if
      `when_full="refuse"`.
    - `merge_window`: how long the ids of merges are remembered at least (seconds or a timedelta).
    - `sweep`: whether this process deletes expired values, soon after their time. Reads don't see them in any case.

    `async with` starts the sweeper; leaving it stops that, and closes what `open_store` has opened.
    """

    def __init__(  # noqa: PLR0913 - each is an option with a default
        self,
        store: Store,
        *,
        codec: Codec | None = None,
        operators: Mapping[str, Operator] | None = None,
        max_pending: int = MAX_PENDING,
        when_full: Literal["wait", "refuse"] = "wait",
        merge_window: Duration = MERGE_WINDOW,
        sweep: bool = True,
        owns: bool = False,
    ):
        if type(max_pending) is not int or max_pending < 1:
            raise DefinitionError("max_pending= must be a number of writes, 1 or more")
        if when_full not in ("wait", "refuse"):
            raise DefinitionError('when_full= must be "wait" or "refuse"')
        if not seconds(merge_window) > 0:
            raise DefinitionError("merge_window= must be more than 0 seconds")
        self.low = store
        self.clock: Clock = store.clock
        self.merge_window = seconds(merge_window)
        self._codec = codec or Codec()
        self._operators = Operators(operators)
        self._max_pending = max_pending
        self._refuses = when_full == "refuse"
        self._slots = asyncio.Semaphore(max_pending)
        self._turns = Turns(self.clock)
        self._owns = owns
        self.sweeper = Sweeper(store, self.clock)
        self._sweeps = sweep
        self._root = ScopeView(Scope(), self)

    async def __aenter__(self) -> Self:
        if self._sweeps:
            self.sweeper.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Write what waits and let go of the store, if it was opened here."""
        await self.sweeper.stop()
        if self._owns:
            await self.low.close()

    # Trees

    @overload
    def tree(self, name: str, annotation: type[V]) -> Tree[V]: ...

    @overload
    def tree(self, name: str, annotation: Any = Any) -> Tree[Any]: ...

    def tree(self, name: str, annotation: Any = Any) -> Tree[Any]:
        """The tree of this name in the global scope."""
        return self._root.tree(name, annotation)

    def scope(self, kind: str, id: str = "") -> ScopeView:
        """The trees of one user, session, agent, tool, workflow or anything else (`custom`)."""
        return ScopeView(Scope(kind, id), self)

    def rows(self, name: str, annotation: type[V], scope: Scope) -> TreeRows[V]:
        """The rows of a tree, for who builds batches of them."""
        return TreeRows(scope, name, annotation, self._codec, self._operators)

    async def trees(self) -> list[TreeName]:
        """The trees that have keys, in all scopes, in the order of the store."""
        return await self.low.read(_trees)

    async def revision(self) -> int:
        """The revision of the newest commit."""
        return await self.low.revision()

    async def stats(self) -> StateStats:
        """Statistics since it was opened; `Tree.stats` counts a tree."""
        return StateStats(await self.low.revision(), self.low.size(), self.low.pending, self.low.stats)

    # Reads and writes

    async def read(self, query: Callable[[Reader], T]) -> T:
        """Run a query on a consistent view of the rows."""
        return await self.low.read(query)

    async def look(self, look: Look) -> Seen:
        """Perform a look."""
        return await self.low.read(functools.partial(perform, look=look))

    async def commit(self, batch: Batch) -> int:
        """Commit a batch; waits, or raises `StoreBusy`, while as many as `max_pending` are on their way."""
        if self._refuses and self._slots.locked():
            raise StoreBusy(
                f"{self._max_pending} writes wait for the disk already; try again later, or open the store with a larger "
                "max_pending=",
                limit=self._max_pending,
            )
        await self._slots.acquire()
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def done(outcome: int | StoreError) -> None:
            # here and not behind the wait: whoever is cancelled leaves a batch that is still on its way
            self._slots.release()
            if type(outcome) is int:
                self.sweeper.expect_of(batch)
            if future.done():
                return
            if isinstance(outcome, StoreError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        self.low.submit(batch, done)
        return await future

    def batch(self) -> StateBatch:
        """Writes to several trees that happen together: `await store.batch().put(a, "k", 1).delete(b, "k").commit()`."""
        return StateBatch(self.commit)

    @contextlib.asynccontextmanager
    async def snapshot(self) -> AsyncIterator[StateSnapshot]:
        """A view that stays as it is while others write: `snapshot[tree]` reads a tree in it. Hold it briefly."""
        async with self.low.snapshot() as view:
            now = self.clock.now()
            yield StateSnapshot(view, now, (await view.read(functools.partial(perform, look=Look(now, versions=True)))).revision)

    # Transactions

    def transaction(self) -> Transaction:
        """One attempt of a transaction, committed at the end of `async with`; raises `TransactionConflict` if it has lost."""
        return Transaction(self.look, self.commit, self.clock)

    async def run(self, function: Callable[[Transaction], Awaitable[T]], *, attempts: int = ATTEMPTS) -> T:
        """Run `function` in a transaction, again if something that it has read was changed before the commit.

        It must have no effects but those of its transaction, since it may run up to `attempts` times. Then it raises
        `TransactionConflict`. Between the attempts it waits for its turn at what it lost at, and for some random milliseconds.
        """
        return await attempts_of.run(function, self.transaction, self._turns, self.clock, attempts)

    # Migrations

    async def migrate(self, plan: Plan, *, dry_run: bool = False) -> MigrationReport:
        """Migrate trees to the next version of their values; see `Migration`.

        Every value is tried first: if one fails, `MigrationFailed` says which, and nothing is changed. A dry run ends there, with a
        report. Then the values are replaced, a thousand at a time; an interrupted migration goes on when it is called again.
        Trees that are there already are left alone. The old values are kept until `finish_migration` or `rollback_migration`.

        Programs that write the old shape have to be stopped first.
        """
        return await migration.migrate(self, plan, dry_run=dry_run)

    async def finish_migration(self, plan: Plan) -> None:
        """Forget the old values: from now on it can't be rolled back."""
        await migration.finish(self, plan)

    async def rollback_migration(self, plan: Plan, *, discard: bool = False) -> int:
        """Put every value back, byte by byte, as it was before the migration; how many values that were.

        Raises `MigrationFailed` if any was written since; with `discard` that is lost.
        """
        return await migration.roll_back(self, plan, discard=discard)

    async def schema(self, tree: Tree[Any]) -> Schema:
        """The version of a tree's values, and how far a migration of it has come."""
        found = await self.low.get(SCHEMAS.key(tree.rows.prefix))
        return msgspec.msgpack.decode(found, type=Schema) if found else Schema()


def _trees(reader: Reader) -> list[TreeName]:
    found: list[TreeName] = []
    at, end = STATE.range()
    while first := reader.scan(at, end, limit=1, damaged=b""):
        found.append(TreeName.of(first[0][0]))
        at = found[-1].end
    return found
