"""Owns the verb `state`: typed trees and transactions from inside a workflow or an activity.
It must never read or write by itself: in a workflow everything is an effect with an entry, in an activity the engine does it.
"""

from __future__ import annotations

import asyncio
from asyncio import events
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from spellwork.clock import Cancellable, Duration
from spellwork.errors import Conflict, DefinitionError, TransactionConflict, UsageError
from spellwork.state import Key, Look, Reads, Scope, Seen, StateStore, Transaction, Tree, TreeRows, perform
from spellwork.state.attempts import ATTEMPTS
from spellwork.state.look import Span
from spellwork.state.operators import Operators
from spellwork.state.rows import clear_range
from spellwork.store import Batch, Store
from spellwork.workflow.activity import activity_context
from spellwork.workflow.effects import Commit, Moment, Read, Write
from spellwork.workflow.loop import WorkflowLoop

if TYPE_CHECKING:
    from spellwork.workflow.execution import Execution

V = TypeVar("V")
T = TypeVar("T")
_PATIENT_AFTER = 3
_PAUSE = 0.05


class WorkflowTree(Reads[V], Generic[V]):
    """A tree inside a workflow. What is read is recorded; what is written commits together with the journal, exactly once.

    `set`, `delete` and `clear` cost no commit of their own. Those with a condition, and `merge`, cost one, as a transaction does.
    """

    def __init__(self, rows: TreeRows[V], execution: Execution):
        super().__init__(rows)
        self._execution = execution

    async def _see(self, keys: tuple[bytes, ...], spans: tuple[Span, ...] = (), *, versions: bool = False) -> Seen:
        look = Look(self._execution.now, keys, spans, versions=versions)
        return await _seen(self._execution, f"read {self.rows}", look)

    async def set(
        self, key: Key, value: V, *, ttl: Duration | None = None, if_version: int | None = None, if_absent: bool = False
    ) -> None:
        """Set `key` to `value`; see `Tree.set`. A `ttl` counts from the workflow's own time."""
        own = Batch()
        self.rows.put_into(own, key, value, ttl=ttl, now=self._execution.now)
        if if_absent:
            if if_version not in (None, 0):
                raise DefinitionError("give either if_version= or if_absent=, not both")
            if_version = 0
        await self._write("set", key, own, if_version)

    async def delete(self, key: Key, *, if_version: int | None = None) -> None:
        """Remove `key` if it is there; see `Tree.delete`."""
        own = Batch()
        self.rows.delete_into(own, key)
        await self._write("delete", key, own, if_version)

    async def clear(self, prefix: Key | None = None) -> None:
        """Remove every key, or those that begin with `prefix`, however many there are."""
        span = self.rows.span(prefix=prefix)

        def put(batch: Batch, _moment: Moment) -> None:
            clear_range(batch, span.start, span.end)

        await self._execution.perform(Write(f"clear {self.rows}", (span.start, span.end), put))

    async def merge(self, key: Key, op: str, operand: Any) -> None:
        """Combine the value of `key` with `operand`, exactly, however many do so at the same time; see `Tree.merge`.

        `op` is one of the library's own. Raises `MergeRefused` if the two do not fit.
        """
        own = Batch()
        self.rows.merge_into(own, key, op, operand, _At(self._execution.now))
        await _commit(self._execution, f"merge {self.rows}", own, op)

    async def _write(self, verb: str, key: Key, own: Batch, wanted: int | None) -> None:
        name, rows, full = f"{verb} {self.rows}", dict(own.rows), self.rows.key(key)
        if wanted is None:

            def put(batch: Batch, _moment: Moment) -> None:
                batch.rows.update(rows)

            await self._execution.perform(Write(name, list(rows.items()), put, expires=len(rows) > 1))
            return None
        while True:
            seen = await self._see((full,), versions=True)
            version = seen.versions[full] if full in seen.rows else 0
            if version != wanted:
                raise Conflict(f"tree {self.rows}, key {key!r} has version {version}, not {wanted} (0: no value)", key=full)
            own.versions = [(full, seen.versions[full])]  # that of an expired value, where there is still one
            try:
                return await _commit(self._execution, name, own)
            except Conflict:
                continue  # it was changed, or an expired one was swept: look again


class ScopedState:
    """The trees of one scope, inside a workflow or an activity."""

    def __init__(self, scope: Scope):
        self._scope = scope

    def tree(self, name: str, annotation: type[V] = Any) -> WorkflowTree[V] | Tree[V]:  # type: ignore[assignment] # none is Any
        """The tree of this name; its values are of the annotation's type."""
        execution = _execution()
        if execution is None:
            return _of_activity().scope(self._scope.kind, self._scope.id).tree(name, annotation)
        return WorkflowTree(TreeRows(self._scope, name, annotation, execution.codec, _OPERATORS), execution)

    __call__ = tree


class State(ScopedState):
    """Spellwork's state from inside a workflow or an `async` activity: `state("carts", Cart)` is a tree.

    In a workflow what it does is durable and done once. In an activity it is done at once, and again when that is tried again;
    only what goes through `on_completion()` commits with the activity's completion.
    """

    def __init__(self) -> None:
        super().__init__(Scope())

    def scope(self, kind: str, id: str = "") -> ScopedState:
        """The trees of one user, session, agent, tool, workflow or anything else (`custom`)."""
        return ScopedState(Scope(kind, id))

    def transaction(self) -> Transaction:
        """One attempt of a transaction, committed at the end of `async with`; raises `TransactionConflict` if it has lost."""
        execution = _execution()
        return _of_activity().transaction() if execution is None else _transaction(execution)

    async def run(self, function: Callable[[Transaction], Awaitable[T]], *, attempts: int = ATTEMPTS) -> T:
        """Run `function` in a transaction, up to `attempts` times if what it has read was changed; see `StateStore.run`."""
        execution = _execution()
        if execution is None:
            return await _of_activity().run(function, attempts=attempts)
        if type(attempts) is not int or attempts < 1:
            raise DefinitionError("attempts= must be a number, 1 or more")
        attempt = 1
        while True:
            transaction = _transaction(execution)
            try:
                async with transaction:
                    result = await function(transaction)
            except TransactionConflict as error:
                if error.key != transaction.lost or attempt == attempts:
                    raise
                if attempt >= _PATIENT_AFTER:
                    await asyncio.sleep(_PAUSE * execution.rng.random())
                attempt += 1
            else:
                return result

    def on_completion(self) -> Transaction:
        """The transaction of the running activity: it is committed together with the activity's completion, or not at all.

        If what it has read is changed before that, the attempt fails with `Conflict` and is retried by the activity's policy.
        """
        if _execution() is not None:
            raise UsageError("on_completion() is for activities; in a workflow use state.transaction() or state.run()")
        store = _of_activity()
        step = activity_context().step
        if step.bound is None:
            step.bound = Transaction(store.look, None, store.clock)
        bound: Transaction = step.bound
        return bound


state = State()
_OPERATORS = Operators(None)


def _execution() -> Execution | None:
    loop = events._get_running_loop()
    return loop.timers if type(loop) is WorkflowLoop else None  # type: ignore[return-value]


def _of_activity() -> StateStore:
    try:
        step = activity_context().step
    except UsageError:
        step = None
    if step is None or events._get_running_loop() is None:
        raise UsageError(
            "state was used outside a workflow and outside an async activity; elsewhere use engine.state, or "
            "spellwork.state.open_store()"
        )
    store: StateStore = step.steps.state()
    return store


def _transaction(execution: Execution) -> Transaction:
    async def read(look: Look) -> Seen:
        return await _seen(execution, "read in transaction", look)

    async def commit(batch: Batch) -> int:
        await _commit(execution, "commit transaction", batch)
        return 0

    return Transaction(read, commit, _At(execution.now))


async def _seen(execution: Execution, name: str, look: Look) -> Seen:
    shape = execution.codec.shape(Seen)

    async def see(store: Store) -> bytes:
        return shape.encode(await store.read(lambda reader: perform(reader, look)))

    held = look.held
    seen_before = [] if held is None else [sorted(held.versions.items()), sorted(held.ranges.items())]
    words = [msgspec.msgpack.encode(msgspec.structs.replace(look, held=None)), seen_before]
    found: Seen = await execution.perform(Read(name, words, see, shape))
    return found


async def _commit(execution: Execution, name: str, own: Batch, detail: str = "") -> None:
    def put(batch: Batch, _moment: Moment) -> None:
        batch.ranges += own.ranges
        batch.rows.update(own.rows)
        batch.merges += own.merges
        batch.versions += own.versions
        batch.unchanged += own.unchanged

    merges = [(key, operand) for key, _, operand in own.merges]
    words = [detail, own.ranges, list(own.rows.items()), merges, own.versions, own.unchanged]
    await execution.perform(Commit(name, words, put, expires=len(own.rows) > 1))


class _At:
    """The clock of a moment, for who only asks what time it is."""

    longest_wait = float("inf")

    def __init__(self, now: int):
        self._now = now

    def now(self) -> int:
        return self._now

    def monotonic(self) -> float:
        return self._now / 1_000_000

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Cancellable:  # noqa: ARG002 - the protocol of clocks
        raise UsageError("a moment has no timers")

    def entropy(self, size: int) -> bytes:  # noqa: ARG002 - the same
        raise UsageError("a moment has no randomness")
