"""Owns `Store`: the asynchronous face of a backend, with reads off the event loop, group commit and the change feed.
It must never let a reader see what is not committed.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, TypeVar

import msgspec

from spellwork.clock import Cancellable, Clock
from spellwork.errors import Lagged, StoreClosed, StoreError, StoreUnavailable, UsageError
from spellwork.store.backend import Backend, Compacting, Reader, Row
from spellwork.store.batch import Batch
from spellwork.store.committer import CommitStats, Committer, Done, Probe
from spellwork.store.durability import Durability
from spellwork.store.encrypted import EncryptedBackend
from spellwork.store.keyspace import FEED, FEED_FLOOR, REVISION
from spellwork.store.memory import MemoryBackend
from spellwork.store.patience import Patience

T = TypeVar("T")
# How often other processes are listened for: by an owner for its mail, by a watcher, and by somebody who waits for an answer.
_LISTEN_EVERY = 0.05
_WATCH_EVERY = 0.03
# A timer at 33 Hz alone takes a third of a percent of a processor: who has heard nothing for two seconds may look less often.
_QUIET_EVERY = 0.05
_QUIET_AFTER = 2.0
_AWAIT_EVERY = 0.005
_FEED_PAGE = 1000
_FEED_BYTES = 4 << 20
_FEED_ROWS = 20
_REST = 300.0
_LONGEST_REST = 2.0
_CLOSED = "the store is closed; open it again"


class Change(msgspec.Struct, frozen=True):
    """One committed change of a watched key; `value` is None for a delete, and `end` bounds a deleted range."""

    revision: int
    key: bytes
    value: bytes | None
    end: bytes | None = None


class Store:
    """Ordered bytes with atomic batches. Made by `open_store`; lives on one event loop."""

    def __init__(self, url: str, backend: Backend, durability: Durability, clock: Clock, probe: Probe | None = None) -> None:
        self.url = url
        self.durability = durability
        self._backend = backend
        self._clock = clock
        self._readers: concurrent.futures.ThreadPoolExecutor | None = None
        self._patience: Patience | None = None
        self._reading = 0
        self._committer = self._started(probe)
        self._committer.committed = lambda _revision: self._ring(self._listeners, self._watchers)
        self._connection: Any = None
        self._listeners: list[Callable[[], None]] = []
        self._watchers: list[Callable[[], None]] = []
        self._foreign: list[Callable[[], None]] = []
        self._poll: Cancellable | None = None
        self._heard = backend.doorbell()
        self._heard_at = clock.monotonic()
        self._is_alone = bool(getattr(backend, "alone", False))
        self._looks: set[asyncio.Future[Any]] = set()
        self._snapshots: set[Snapshot] = set()
        self._feeds: set[asyncio.Event] = set()
        self._closed = False

    def _started(self, probe: Probe | None) -> Committer:
        """Start both threads now, so that a lack of them shows here and not at the first read."""
        if asyncio._get_running_loop() is None:
            self._backend.close()
            raise UsageError(f"{self.url}: a store is opened on a running event loop: do it inside a coroutine")
        committer = None
        try:
            committer = Committer(self._backend, self._clock, sync_every=self.durability.sync_every, probe=probe)
            if not self._backend.inline:
                self._readers = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="spellwork-reader")
                self._readers.submit(int)
                self._patience = Patience(asyncio.get_running_loop(), lambda: self._reading > 0)
        except (RuntimeError, MemoryError) as error:
            if committer is not None:
                committer.stop()
                committer.join()
            self._backend.close()
            raise StoreUnavailable(f"{self.url}: {no_thread(error)}") from error
        return committer

    @property
    def clock(self) -> Clock:
        """The clock that it was opened with."""
        return self._clock

    @property
    def stats(self) -> CommitStats:
        """What the committer has done so far."""
        return self._committer.stats

    @property
    def pending(self) -> int:
        """How many batches were submitted and not yet acknowledged."""
        return self._committer.pending

    def size(self) -> int:
        """Bytes on the medium."""
        return self._backend.size()

    def stop_at_failure(self) -> None:
        """Give every batch after one that failed its error, for whoever is in memory ahead of the store, as an engine is."""
        self._committer.resumes = False

    def submit(self, batch: Batch, done: Done) -> None:
        """Queue a batch without waiting: the engine's path. `done` gets the revision or the error, on the loop."""
        self._committer.submit(batch, done)

    async def commit(self, batch: Batch) -> int:
        """Apply `batch` durably and return its revision; raises `Conflict`, `Fenced` or what the disk said."""
        if not isinstance(batch, Batch):
            raise UsageError(f"commit() takes a Batch, not {batch!r}")  # else all that commits in the same turn would hang
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def done(outcome: int | StoreError) -> None:
            if future.done():
                return
            if isinstance(outcome, StoreError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        self._committer.submit(batch, done)
        return await future

    async def read(self, query: Callable[[Reader], T]) -> T:
        """Run `query` on a consistent view, off the event loop; it must not block on anything else."""
        if self._readers is None:
            self._require_open()
            return query(self._live_reader())
        try:
            reading = asyncio.get_running_loop().run_in_executor(self._readers, self._read, query)
        except RuntimeError as error:  # its thread has ended
            raise StoreClosed(_CLOSED) from error
        self._reading += 1
        if self._patience is not None:
            self._patience.given()
        try:
            return await reading
        finally:
            self._reading -= 1

    def _require_open(self) -> None:
        if self._closed:
            raise StoreClosed(_CLOSED)

    def _live_reader(self) -> Reader:
        backend = self._backend
        return backend.live_reader() if isinstance(backend, (MemoryBackend, EncryptedBackend)) else backend.reader()

    def _read(self, query: Callable[[Reader], T]) -> T:
        reader = self._backend.reader() if self._connection is None else self._connection.again()
        self._connection = reader
        try:
            return query(reader)
        finally:
            reader.close()

    async def examine(self, query: Callable[[Reader], T], *, raw: bool = False) -> T:
        """Run a long `query` on a consistent view, in a thread of its own, so that nobody else waits for it.

        With `raw` it sees the rows of an encrypted store as they lie there.
        """
        self._require_open()
        backend = self._backend
        if raw and isinstance(backend, EncryptedBackend):
            backend = backend.inner

        def run() -> T:
            reader = backend.reader()
            try:
                return query(reader)
            finally:
                reader.dispose()

        look = asyncio.get_running_loop().run_in_executor(None, run)
        self._looks.add(look)
        look.add_done_callback(self._looks.discard)
        return await asyncio.shield(look)

    async def get(self, key: bytes) -> bytes | None:
        """The value of `key`, or None."""
        return await self.read(lambda reader: reader.get(key))

    async def scan(
        self, start: bytes, end: bytes, *, reverse: bool = False, limit: int | None = None, damaged: bytes | None = None
    ) -> list[tuple[bytes, bytes]]:
        """The pairs with start <= key < end; raises `RowDamaged` unless `damaged` is to stand for such a value."""
        return await self.read(lambda reader: reader.scan(start, end, reverse=reverse, limit=limit, damaged=damaged))

    @contextlib.asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Snapshot]:
        """A view that stays as it is while others write. Hold it briefly: it keeps old versions alive."""
        self._require_open()
        view = Snapshot(self._readers, self._snapshots.discard)
        self._snapshots.add(view)
        try:
            await view.open(self._backend)
            yield view
        finally:
            await view.close()

    def on_change(self, callback: Callable[[], None], *, foreign_only: bool = False, calm: bool = False) -> Callable[[], None]:
        """Call back (on the loop) when something may have been committed; returns how to stop.

        With `foreign_only` it is called for commits of other processes alone. Those are noticed within 5 ms, with `calm` within
        30 ms (50 ms after two seconds without any), which costs a process that merely watches some tenths of a percent of a
        processor.
        """
        listeners = self._foreign if foreign_only else self._watchers if calm else self._listeners
        listeners.append(callback)
        self._heard_at = self._clock.monotonic()
        if self._poll is not None and not foreign_only:
            self._poll.cancel()
            self._poll = None
        self._ensure_polling()

        def stop() -> None:
            if callback in listeners:
                listeners.remove(callback)

        return stop

    def _ring(self, *listeners: list[Callable[[], None]]) -> None:
        for callback in [callback for some in listeners for callback in some]:
            callback()

    def _ensure_polling(self) -> None:
        if self._poll is None and self._readers is not None and not self._closed and not self._is_alone:
            # an owner that only looks for mail may sleep longer than somebody who waits for an answer
            watching = _WATCH_EVERY if self._clock.monotonic() - self._heard_at < _QUIET_AFTER else _QUIET_EVERY
            pause = _AWAIT_EVERY if self._listeners else watching if self._watchers else _LISTEN_EVERY
            self._poll = asyncio.get_running_loop().call_later(pause, self._listen)

    def _listen(self) -> None:
        self._poll = None
        if self._closed or not (self._listeners or self._watchers or self._foreign):
            return
        heard = self._backend.doorbell()
        if heard != self._heard:
            self._heard, self._heard_at = heard, self._clock.monotonic()
            self._ring(self._listeners, self._watchers, self._foreign)
        self._ensure_polling()

    async def check(self) -> None:
        """Look at the whole store beside other work, unless that was done when it was opened; raises `StoreCorrupt`.

        It takes a part at a time, and a small share of one processor.
        """
        after, loop = b"", asyncio.get_running_loop()
        while not self._backend.checked and not self._closed:
            began = self._clock.monotonic()
            after = await loop.run_in_executor(self._readers, self._backend.check, after)
            await asyncio.sleep(min(_REST * (self._clock.monotonic() - began), _LONGEST_REST))

    async def load(self, rows: list[Row], revision: int) -> None:
        """Put rows as they are, with their versions, while nobody else writes: for copies and restores of whole stores.

        `revision` is that of the newest commit they come from, 0 while there are more to come.
        """
        await self._off_loop(lambda: _load(self._backend, rows, revision))

    async def compact(self) -> None:
        """Give back what deleted rows took on the medium; raises `UsageError` where a backend cannot do that in place."""
        backend = self._backend.inner if isinstance(self._backend, EncryptedBackend) else self._backend
        if not isinstance(backend, Compacting):
            raise UsageError(f"{self.url} cannot be compacted in place; copy it to a new store, which is compact")
        await self._off_loop(backend.compact)

    async def _off_loop(self, work: Callable[[], T]) -> T:
        self._require_open()
        if self._readers is None:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    async def check_now(self) -> None:
        """Look at the whole store at once, however long it takes; raises `StoreCorrupt`."""
        self._require_open()
        backend: Any = self._backend.inner if isinstance(self._backend, EncryptedBackend) else self._backend
        structure: Callable[[], None] = getattr(backend, "check_structure", lambda: None)

        def look() -> None:
            structure()
            after = b""
            while not backend.checked:
                after = backend.check(after)

        await asyncio.to_thread(look)

    async def revision(self) -> int:
        """The revision of the newest commit."""
        return int.from_bytes(await self.get(REVISION) or b"", "big")

    async def watch(self, prefix: bytes, since: int | None = None) -> AsyncIterator[Change]:
        """Committed changes under `prefix` (of a watched keyspace), in revision order, after revision `since` (default: now).

        Raises `Lagged` when changes after `since` are no longer retained, or when the store is older than `since`.
        """
        async with contextlib.aclosing(self.feed(prefix, since)) as feed:
            async for changes in feed:
                for change in changes:
                    yield change

    async def feed(self, prefix: bytes, since: int | None = None) -> AsyncGenerator[list[Change]]:
        """As `watch`, some revisions at a time: all changes of a revision come together. Raises `StoreClosed` at the end."""
        if not prefix or prefix[0] < 0x80:
            raise ValueError("only keyspaces with a prefix of 0x80 and above are watched")
        position = await self.revision() if since is None else since
        woken = asyncio.Event()
        stop = self.on_change(woken.set, calm=True)
        self._feeds.add(woken)
        try:
            while True:
                woken.clear()
                self._require_open()
                changes, position, more = await self.read(lambda reader, after=position: _changes(reader, prefix, after))  # type: ignore[misc]
                if changes:
                    yield changes
                elif not more:
                    await woken.wait()
        finally:
            stop()
            self._feeds.discard(woken)

    async def close(self) -> None:
        """Write what is queued and let go of everything."""
        if self._closed:
            return
        self._closed = True
        for woken in self._feeds:
            woken.set()  # nothing else would ever wake who waits for changes
        if self._poll is not None:
            self._poll.cancel()
        loop = asyncio.get_running_loop()
        self._committer.stop()
        if self._looks:
            await asyncio.wait(self._looks)  # whoever asked may have gone, its thread reads on
        if self._readers is not None:
            await loop.run_in_executor(self._readers, self._committer.join)  # no further thread: there may be none to be had
            await loop.run_in_executor(self._readers, self._let_go)
            self._readers.shutdown()
        else:
            self._let_go()
        await asyncio.sleep(0)  # the last acknowledgements
        self._backend.close()

    def _let_go(self) -> None:
        """In the thread of the readers: who has a snapshot still finds it closed, and it keeps nothing of the store."""
        for view in list(self._snapshots):
            view.dispose()
        if self._connection is not None:
            self._connection.dispose()


def _load(backend: Backend, rows: list[Row], revision: int) -> None:
    try:
        backend.begin(sync=True)
        backend.write(rows, [])
        backend.commit(revision)
    except BaseException:
        backend.rollback()
        raise


def no_thread(error: BaseException) -> str:
    """What to say when a thread cannot be started."""
    return f"no thread can be started ({error}); raise the limit on threads or memory (ulimit -u, ulimit -v) and open it again"


class Snapshot:
    """A consistent view over time."""

    def __init__(self, executor: concurrent.futures.Executor | None, gone: Callable[[Snapshot], None]):
        self._reader: Reader | None = None
        self._executor = executor
        self._gone = gone

    async def open(self, backend: Backend) -> None:
        """Fix the moment; done by the store."""
        await self._call(lambda: self._open(backend))

    def _open(self, backend: Backend) -> None:
        self._reader = backend.reader()
        if self._executor is not None:
            self._reader.get(REVISION)  # the first read fixes what a SQLite read transaction sees

    async def _call(self, function: Callable[[], T]) -> T:
        if self._executor is None:
            return function()
        try:
            calling = asyncio.get_running_loop().run_in_executor(self._executor, function)
        except RuntimeError as error:  # its thread has ended
            raise StoreClosed(_CLOSED) from error
        return await calling

    def _use(self) -> Reader:
        if self._reader is None:
            raise StoreClosed("this view was closed, by itself or with its store; open another one")
        return self._reader

    async def read(self, query: Callable[[Reader], T]) -> T:
        """Run `query` on the view, off the event loop."""
        return await self._call(lambda: query(self._use()))

    async def get(self, key: bytes) -> bytes | None:
        """The value of `key` when the snapshot was made."""
        return await self._call(lambda: self._use().get(key))

    async def scan(self, start: bytes, end: bytes, *, reverse: bool = False, limit: int | None = None) -> list[tuple[bytes, bytes]]:
        """The pairs with start <= key < end when the snapshot was made."""
        return await self._call(lambda: self._use().scan(start, end, reverse=reverse, limit=limit))

    async def close(self) -> None:
        """Let the view go, even if whoever waits for that is cancelled."""
        closing = asyncio.ensure_future(self._call(self.dispose))
        closing.add_done_callback(self._closed)
        with contextlib.suppress(StoreClosed):  # then its store has done it
            await asyncio.shield(closing)

    def _closed(self, closing: asyncio.Future[None]) -> None:
        if not closing.cancelled():
            closing.exception()  # whoever still waits gets it
        self._gone(self)

    def dispose(self) -> None:
        """The same in the thread of the readers."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.dispose()


def _changes(reader: Reader, prefix: bytes, after: int) -> tuple[list[Change], int, bool]:
    floor = int.from_bytes(reader.get(FEED_FLOOR) or b"", "big")
    if floor > after:
        raise Lagged(
            f"changes up to revision {floor} are no longer retained, asked for those after {after}; read the state and watch anew",
            missed=floor - after,
        )
    newest = int.from_bytes(reader.get(REVISION) or b"", "big")
    if after > newest:
        raise Lagged(
            f"the store is at revision {newest}, asked for changes after {after}: it was restored or made anew since; read the "
            "state and watch anew",
            missed=after - newest,
        )
    _, end = FEED.range()
    rows: list[tuple[bytes, bytes]] = []
    start, size, more = FEED.key((after + 1).to_bytes(8, "big")), 0, True
    while more and len(rows) < _FEED_PAGE and size < _FEED_BYTES:
        found = reader.scan(start, end, limit=_FEED_ROWS)
        more = len(found) == _FEED_ROWS
        if found:
            rows += found
            size += sum(len(value) for _, value in found)
            start = found[-1][0] + b"\0"
    changes: list[Change] = []
    for key, value in rows:
        after = int.from_bytes(key[1:], "big")
        for changed, content, range_end in msgspec.msgpack.decode(value, type=list[tuple[bytes, bytes | None, bytes | None]]):
            if changed.startswith(prefix) or (range_end is not None and changed <= prefix < range_end):
                changes.append(Change(after, changed, content, range_end))
    if not more:
        # nothing more up to now: an idle watcher must not fall behind what others commit
        after = max(after, newest)
    return changes, after, more
