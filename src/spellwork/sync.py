"""Owns the synchronous face: one thread with an event loop, and a bridge to it.
It must never do anything itself; each verb is the asynchronous one, awaited elsewhere.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import functools
import inspect
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from spellwork import engine as asynchronous
from spellwork.clock import Duration
from spellwork.engine import Event, RunInfo
from spellwork.errors import StoreClosed, UsageError
from spellwork.journal import Status
from spellwork.state import Reads, Scan, ScopeView, StateBatch, StateSnapshot, StateStore, Transaction, open_store
from spellwork.supervision import attempt
from spellwork.workflow import Signal, Workflow

if TYPE_CHECKING:
    from spellwork.engine import machine as asynchronous_machine
    from spellwork.hosted import MachineState, MachineType, Transition
    from spellwork.machine import Chart, Refusal

_CLOSED = "the engine or store is closed; open it again"
R = TypeVar("R")
T = TypeVar("T")


class _Bridge:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._loop = asyncio.new_event_loop()
        self.threads: set[threading.Thread] = set()
        self._lock = threading.Lock()
        self._calls: set[concurrent.futures.Future[Any]] = set()
        self._closed = False
        self._thread = threading.Thread(target=self._loop.run_forever, name="spellwork-sync", daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work` on the loop; a KeyboardInterrupt here cancels it there, and its end ends whoever waits."""
        refusal = self._refusal()
        if refusal is not None:
            work.close()
            raise refusal
        with self._lock:
            if self._closed:
                work.close()
                raise StoreClosed(_CLOSED)
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
            self._calls.add(future)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise
        except concurrent.futures.CancelledError:
            if self._closed:
                raise StoreClosed(_CLOSED) from None
            raise
        finally:
            self._calls.discard(future)

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def _refusal(self) -> UsageError | None:
        if threading.current_thread() is self._thread:
            return UsageError(
                "the synchronous face was called on its own event loop, which would wait for itself; call it in a plain activity, "
                "which has a thread"
            )
        if os.getpid() != self._process:
            return UsageError("this was opened before a fork, and its thread is in the other process; open it again in this one")
        return None

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
        # over there, since a loop may be running in this thread
        asyncio.run_coroutine_threadsafe(_cancel_others(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        for future in list(self._calls):
            future.cancel()


async def _cancel_others() -> None:
    """What is still awaited in other threads, which would wait for ever."""
    await asyncio.sleep(0)  # what was asked for just now begins
    if others := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in others:
            task.cancel()
        await asyncio.wait(others)


class Run(Generic[R]):
    """The synchronous handle of a run; see `spellwork.Run` for what each verb means."""

    def __init__(self, bridge: _Bridge, run: asynchronous.Run[R]):
        self._call = bridge.call
        self._run = run
        self.id = run.id

    def result(self, timeout: Duration | None = None) -> R:
        """Wait for what the workflow returns."""
        return self._call(self._run.result(timeout))

    def status(self) -> RunInfo:
        """Where it stands."""
        return self._call(self._run.status())

    def signal(self, signal: Signal[Any] | str, value: Any = None, id: str | None = None) -> None:
        """Send a signal."""
        self._call(self._run.signal(signal, value, id))

    def query(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Ask a query."""
        return self._call(self._run.query(name, *args, **kwargs))

    def update(self, name: str, *args: Any, id: str | None = None, **kwargs: Any) -> Any:
        """Apply an update."""
        return self._call(self._run.update(name, *args, id=id, **kwargs))

    def cancel(self, reason: str = "cancelled") -> None:
        """Ask it to unwind."""
        self._call(self._run.cancel(reason))

    def terminate(self, reason: str = "terminated") -> None:
        """End it at once."""
        self._call(self._run.terminate(reason))

    def resume(self) -> None:
        """Try it again after it was blocked."""
        self._call(self._run.resume())

    def history(self) -> list[Event]:
        """Its journal."""
        return self._call(self._run.history())


class HostedMachine:
    """The synchronous handle of a hosted machine; see `spellwork.engine.machine.HostedMachine` for what each verb means."""

    def __init__(self, bridge: _Bridge, machine: asynchronous_machine.HostedMachine):
        self._call = bridge.call
        self._machine = machine
        self.id = machine.id

    def start(self) -> Self:
        """Make sure that it exists."""
        self._call(self._machine.start())
        return self

    def send(self, event: Any, data: Any = None, *, id: str | None = None) -> None:
        """Send an event."""
        self._call(self._machine.send(event, data, id=id))

    def ask(self, event: Any, data: Any = None, *, id: str | None = None) -> MachineState:
        """Send an event; where it led."""
        return self._call(self._machine.ask(event, data, id=id))

    def state(self) -> MachineState:
        """Where it stands."""
        return self._call(self._machine.state())

    def history(self, limit: int | None = None) -> list[Transition]:
        """What it has done."""
        return self._call(self._machine.history(limit))

    def watch(self, after: int | None = None) -> Iterator[Transition]:
        """Each transition once it is durable; waits for the next one."""
        stream = self._machine.watch(after)
        try:
            while True:
                try:
                    yield self._call(_next(stream))
                except StopAsyncIteration:
                    return
        finally:
            self._call(_close(stream))

    def why_not(self, event: Any, data: Any = None) -> Refusal:
        """Why an event would lead nowhere."""
        return self._call(self._machine.why_not(event, data))

    def result(self, timeout: Duration | None = None) -> Any:
        """Wait for what its final state gives."""
        return self._call(self._machine.result(timeout))

    def status(self) -> RunInfo:
        """Where its run stands."""
        return self._call(self._machine.status())

    def cancel(self, reason: str = "cancelled") -> None:
        """End it, with its exit actions."""
        self._call(self._machine.cancel(reason))

    def terminate(self, reason: str = "terminated") -> None:
        """End it at once."""
        self._call(self._machine.terminate(reason))


async def _next(stream: AsyncIterator[T]) -> T:
    return await anext(stream)


async def _close(stream: AsyncIterator[Any]) -> None:
    await stream.aclose()  # type: ignore[attr-defined] # it is a generator


class Engine:
    """The synchronous engine: `with Engine("sqlite:work.db", workflows=[...]) as engine: engine.run(report, urls)`.

    Takes what `spellwork.Engine` takes. Workflows and async activities run on a thread of their own.
    """

    def __init__(self, store: str = "memory:", **options: Any):
        self._engine = asynchronous.Engine(store, **options)
        self._bridge: _Bridge | None = None

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            bridge = _Bridge()
            undo.callback(bridge.close)
            bridge.call(self._engine.__aenter__())
            undo.pop_all()
        self._bridge = bridge
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        bridge, self._bridge = self._open, None
        try:
            bridge.call(self._engine.__aexit__(kind, error, traceback))
        finally:
            bridge.close()

    @property
    def _open(self) -> _Bridge:
        if self._bridge is None:
            raise UsageError("the engine is not open; use `with Engine(...) as engine:`")
        return self._bridge

    def start(self, workflow: Workflow[..., R] | str, *args: Any, id: str | None = None, **kwargs: Any) -> Run[R]:
        """Start a run."""
        return Run(self._open, self._open.call(self._engine.start(workflow, *args, id=id, **kwargs)))

    def run(self, workflow: Workflow[..., R] | str, *args: Any, id: str | None = None, **kwargs: Any) -> Any:
        """Start a run and wait for its result."""
        return self._open.call(self._engine.run(workflow, *args, id=id, **kwargs))

    def get(self, id: str) -> Run[Any]:
        """The handle of an existing run."""
        return Run(self._open, self._open.call(self._engine.get(id)))

    def machine(self, definition: Chart | MachineType | str, id: str, context: Any = None) -> HostedMachine:
        """The durable machine of this id."""

        async def made() -> asynchronous_machine.HostedMachine:
            return self._engine.machine(definition, id, context)

        return HostedMachine(self._open, self._open.call(made()))

    def list(
        self,
        *,
        status: Status | str | None = None,
        workflow: str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[RunInfo]:
        """Runs, newest first."""
        return self._open.call(self._engine.list(status=status, workflow=workflow, limit=limit, after=after))


class State:
    """A part of `spellwork.state` whose verbs return what the asynchronous ones would when awaited.

    It has the attributes of what it stands for: stores, scopes, trees, transactions, snapshots, batches. Blocks are entered with
    `with`, scans and watches are gone through with `for`. Their verbs may be called from any thread.
    """

    def __init__(self, bridge: _Bridge, thing: Any):
        self._bridge = bridge
        self._thing = thing

    def __repr__(self) -> str:
        return f"<synchronous {self._thing!r}>"

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._thing, name)
        if not callable(found):
            return self._plain(found)
        if isinstance(self._thing, StateStore) and name == "run":
            return self._run
        return functools.wraps(found)(functools.partial(self._called, found))

    def __getitem__(self, tree: State) -> Any:
        return self._plain(self._thing[tree._thing])

    def __iter__(self) -> Iterator[Any]:
        items = aiter(self._thing)
        try:
            while True:
                try:
                    yield self._bridge.call(anext(items))
                except StopAsyncIteration:
                    return
        finally:
            self._bridge.call(items.aclose())

    def __enter__(self) -> Any:
        entered = self._bridge.call(self._thing.__aenter__())
        return self if entered is self._thing else self._plain(entered)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        ended: bool | None = self._bridge.call(self._thing.__aexit__(kind, error, traceback))
        return ended

    def _called(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        given = [arg._thing if isinstance(arg, State) else arg for arg in args]
        return self._plain(function(*given, **kwargs))

    def _run(self, function: Callable[[Any], T], **options: Any) -> T:
        """The function of a transaction is a plain one: it may block, so it gets a thread."""

        async def in_thread(transaction: Transaction) -> T:
            return await _in_thread(self._bridge, function, State(self._bridge, transaction))

        result: T = self._bridge.call(self._thing.run(in_thread, **options))
        return result

    def _plain(self, found: Any) -> Any:
        if inspect.iscoroutine(found):
            if not self._bridge.is_running:
                found.close()
                raise StoreClosed(_CLOSED)
            return self._plain(self._bridge.call(found))
        if isinstance(found, _STATE) or inspect.isasyncgen(found):
            return State(self._bridge, found)
        return found


_STATE = (
    Reads, Scan, ScopeView, StateBatch, StateSnapshot, StateStore, Transaction, contextlib.AbstractAsyncContextManager,
)  # fmt: skip


async def _in_thread(bridge: _Bridge, function: Callable[[State], T], given: State) -> T:
    """What a function returns that may block for as long as it likes, also for other transactions: no pool has threads enough."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[tuple[T, BaseException | None]] = loop.create_future()

    def tell(outcome: tuple[T, BaseException | None]) -> None:
        if not future.cancelled():
            future.set_result(outcome)

    def work() -> None:
        outcome: Any = None, KeyboardInterrupt()
        try:
            outcome = attempt(function, given)
        finally:
            loop.call_soon_threadsafe(tell, outcome)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), name="spellwork-transaction", daemon=True)
    bridge.threads.add(thread)
    thread.start()
    try:
        result, error = await future
    finally:
        bridge.threads.discard(thread)
    if error is not None:
        raise error
    return result


class _OpenState(State):
    """A store with the thread that serves it."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        self.close()
        return None

    def close(self) -> None:
        """Close the store and end its thread."""
        if self._bridge.is_running:
            try:
                self._bridge.call(self._end())
            finally:
                self._bridge.close()

    async def _end(self) -> None:
        await self._thing.close()
        for thread in list(self._bridge.threads):
            await asyncio.to_thread(thread.join)
        await asyncio.get_running_loop().shutdown_default_executor()


def open_state(url: str, **options: Any) -> State:
    """Open a store for its state without asyncio; used with `with`, it is closed at the end.

    Takes what `spellwork.state.open_store` takes.
    """
    with contextlib.ExitStack() as undo:
        bridge = _Bridge()
        undo.callback(bridge.close)

        async def opened() -> StateStore:
            return await open_store(url, **options)

        store = bridge.call(opened())
        undo.pop_all()
    return _OpenState(bridge, store)
