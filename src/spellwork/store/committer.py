"""Owns group commit: one writer that takes whatever is queued, checks each batch's requirements, writes and syncs once.
It must never acknowledge a batch before the backend has made its group durable, nor let one batch's conflict touch another.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterable

import msgspec

from spellwork.clock import Clock
from spellwork.errors import Conflict, Fenced, MergeRefused, RowDamaged, StoreClosed, StoreError, StoreFailed, StoreFull
from spellwork.store.backend import Backend
from spellwork.store.batch import SEQUENCE_BYTES, Batch, fingerprint
from spellwork.store.keyspace import FEED, FEED_FLOOR, PARTITIONS, REVISION, WATCHED
from spellwork.store.logs import last_number
from spellwork.store.patience import Patience
from spellwork.store.seal import damage
from spellwork.supervision import attempt

Outcome = int | StoreError
Done = Callable[[Outcome], None]
Probe = Callable[[str], None]
Item = tuple[Batch, Done]
Change = tuple[bytes, bytes | None, bytes | None]

_GROUP_ROWS = 20_000
_COUNTERS = 1_000  # of logs, remembered
FEED_RETAINED = 10_000
_TURNS_TO_ANSWER = 2
_LARGE = 200
AS_IT_IS = 200
"""From how many rows on a batch goes to the backend as it is: the overlay would cost more than it saves."""


class CommitStats(msgspec.Struct):
    """Counts since the store was opened: `syncs` is how often a commit waited for the disk."""

    batches: int = 0
    groups: int = 0
    syncs: int = 0
    rows: int = 0
    conflicts: int = 0


class Committer:
    """Queues batches from the event loop and writes them in a thread (or inline, where a backend is in memory).

    `sync_every` is None for never, 0.0 for each group, else the longest time in seconds that a commit may stay unsynced.

    When a group fails, whatever was submitted before all of its submitters know fails with it: it may build on what is not there.
    What is submitted after that is tried anew (through a handle that was opened anew, unless it is sure that nothing was written),
    or never again if `resumes` is False.
    """

    def __init__(self, backend: Backend, clock: Clock, *, sync_every: float | None, probe: Probe | None = None):
        self._backend = backend
        self._clock = clock
        self._sync_every = sync_every
        self._probe = probe or _no_probe
        self._queue: queue.SimpleQueue[list[Item] | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._turn: list[Item] = []
        self._failed: StoreError | None = None
        self._suspect = False
        self._committing = False
        self._holding = False
        self._handed = 0
        self.resumes = True
        self._epochs: dict[int, int] = {}
        self._counters: dict[bytes, tuple[bytes, int]] = {}
        self._synced_at = clock.monotonic()
        self._unsynced = False
        self._closed = False
        self._patience = Patience(self._loop, lambda: self._writing and not self._closed)
        self._ready: list[Item] = []
        self._ready_rows = 0
        self._writing = False
        self._settling = 0
        self.pending = 0
        self.stats = CommitStats()
        self.committed: Callable[[int], None] = lambda _revision: None
        self._inline = backend.inline
        self._thread: threading.Thread | None = None
        if not self._inline:
            self._start_writer()

    def submit(self, batch: Batch, done: Done) -> None:
        """Queue `batch`; `done` is called on the event loop with its revision or with what went wrong.

        What one turn of the loop submits travels together, so that steps that finished side by side share a sync.
        """
        if self._closed:
            error = self._failed or StoreClosed("the store is closed; open the engine again")
            self._loop.call_soon(done, error)
            return
        if not self._turn:
            self._loop.call_soon(self._flush)
        self._turn.append((batch, done))
        self.pending += 1

    def _flush(self) -> None:
        items, self._turn = self._turn, []
        if not items:
            return  # they were told that what came before them has failed
        for batch, _ in items:
            batch.sealed = True
        if self._inline:
            self._handed += len(items)
            self._loop.call_soon(self._deliver, self._write_group(items))
            return
        self._ready += items
        self._ready_rows += sum(len(batch.rows) for batch, _ in items)
        # a group that is large already gains nothing by waiting, and the writer can work beside the loop
        if self._ready_rows >= _LARGE or (not self._writing and self._settling != _TURNS_TO_ANSWER):
            self._push()

    def _push(self) -> None:
        if self._ready and not self._holding:
            items, self._ready, self._ready_rows = self._ready, [], 0
            self._writing, self._settling = True, 0
            self._handed += len(items)
            self._hand_over(items)

    def _settle(self) -> None:
        if self._settling:
            self._settling -= 1
            if self._settling:
                self._loop.call_soon(self._settle)
            elif not self._writing and not self._turn:  # else the flush of this turn takes everything
                self._push()

    def stop(self) -> None:
        """Hand over what is queued and take nothing more. Called on the event loop, like everything that touches the queue."""
        if self._turn:
            self._flush()
        self._holding = False
        self._push()
        self._closed = True

    def join(self) -> None:
        """Wait until the writer has written what was handed over. Called off the event loop, after `stop`."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()

    # The thread; a simulation has another writer

    def _start_writer(self) -> None:
        self._thread = threading.Thread(target=self._run, name="spellwork-committer", daemon=True)
        self._thread.start()

    def _hand_over(self, items: list[Item]) -> None:
        self._queue.put(items)
        self._patience.given()

    def _run(self) -> None:
        running = True
        while running:
            try:
                items = self._queue.get(timeout=self._sync_every if self._unsynced else None)
            except queue.Empty:
                items = []
            if items is None:
                running = False
                items = []
            group = list(items)
            while running and len(group) < _GROUP_ROWS:
                try:
                    more = self._queue.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    running = False
                    break
                group += more
            if group or self._unsynced:
                outcomes = self._write_group(group, last=not running)
                if outcomes:
                    self._notify(outcomes)

    def _notify(self, outcomes: list[tuple[Done, Outcome]]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._deliver, outcomes)
        except RuntimeError:
            # The loop was closed without closing the engine: nobody is left to be told, and the rows are durable.
            return

    def _deliver(self, outcomes: list[tuple[Done, Outcome]]) -> None:
        newest = 0
        self.pending -= len(outcomes)
        self._handed -= len(outcomes)
        self._holding = self._failed is not None and self.resumes and not self._closed
        if not self._inline:
            # What the acknowledged do next is ready in two turns. Waiting for that keeps the waves of many runs together: half of
            # them would otherwise go on the sync that has just become free, the other half on the one after it, for ever.
            self._writing, self._settling = False, _TURNS_TO_ANSWER
            self._loop.call_soon(self._settle)
        problems: list[BaseException] = []
        for done, outcome in outcomes:
            _, problem = attempt(done, outcome)
            if problem is not None:
                problems.append(problem)  # the others of the group are told all the same
            if type(outcome) is int:
                newest = outcome
        if newest:
            self.committed(newest)
        if self._holding and not self._handed:
            problems += self._go_on()
        if problems:
            raise problems[0]

    def _go_on(self) -> list[BaseException]:
        """All whose batches the writer refused know of it, and it has no others: those whose batches are still here hear it now."""
        error, self._failed, self._holding = self._failed, None, False
        items, self._ready, self._ready_rows, self._turn = self._ready + self._turn, [], 0, []
        self.pending -= len(items)
        for batch, _ in items:
            batch.sealed = True  # whoever collects rows in it must begin another one
        told = [attempt(done, error) for _, done in items]
        return [problem for _, problem in told if problem is not None]

    def _write_group(self, group: list[Item], *, last: bool = False) -> list[tuple[Done, Outcome]]:
        if self._failed is not None:
            return [(done, self._failed) for _, done in group]
        sync = self._wants_sync(idle=not group or last)
        outcomes, error = attempt(self._probed, group, sync)
        if error is not None:
            self._failed = self._undone(error)
            return [(done, self._failed) for _, done in group]
        self.stats.groups += 1
        self._unsynced = not sync and self._sync_every is not None
        if sync:
            self.stats.syncs += 1
            self._synced_at = self._clock.monotonic()
        return outcomes  # type: ignore[no-any-return]

    def _undone(self, error: BaseException) -> StoreError:
        """Take back a group that failed, and judge whether the handle may be used again; returns what its submitters are told."""
        _, doubt = attempt(self._backend.rollback)
        self._forget()  # it may be of rows that are not there now
        # After a failed sync nobody knows what the disk holds (fsyncgate). A full disk is noticed before that.
        is_sure = isinstance(error, StoreFull) or not (self._committing or isinstance(error, StoreFailed))
        if doubt is not None or not is_sure or not isinstance(error, StoreError):
            self._suspect = True
        return error if isinstance(error, StoreError) else StoreFailed(f"a commit failed: {error!r}; open the engine again")

    def _probed(self, group: list[Item], sync: bool) -> list[tuple[Done, Outcome]]:
        self._committing = False
        if self._suspect:
            self._backend.reopen()
            self._suspect = False
        self._probe("commit.before")
        outcomes = self._transaction(group, sync=sync)
        self._probe("commit.after")
        return outcomes

    def _forget(self) -> None:
        """What is remembered of the rows may not be true any more."""
        self._epochs.clear()
        self._counters.clear()

    def _wants_sync(self, *, idle: bool) -> bool:
        if self._sync_every is None:
            return False
        return idle or self._clock.monotonic() - self._synced_at >= self._sync_every

    def _transaction(self, group: list[Item], *, sync: bool) -> list[tuple[Done, Outcome]]:
        revision, changed = self._backend.begin(sync=sync)
        if changed:
            self._forget()
        work = _Transaction(self._backend, self._epochs, self._counters, revision)
        outcomes: list[tuple[Done, Outcome]] = []
        for batch, done in group:
            try:
                outcomes.append((done, work.apply(batch)))
            except (Conflict, Fenced, MergeRefused, RowDamaged) as error:
                self.stats.conflicts += 1
                outcomes.append((done, error))
        work.prune_feed(revision)
        work.flush(final=True)
        self._probe("commit.sync")
        self._committing = True
        self._backend.commit(work.revision)
        self.stats.batches += len(group)
        self.stats.rows += work.rows
        return outcomes


class _Transaction:
    """One write transaction: an overlay of what is not yet handed to the backend.

    `epochs` and `counters` are what is known of partitions and of logs, so that it need not be read for each batch anew.
    """

    def __init__(self, backend: Backend, epochs: dict[int, int], counters: dict[bytes, tuple[bytes, int]], revision: int):
        self._backend = backend
        self._epochs = epochs
        self._counters = counters
        self._overlay: dict[bytes, tuple[bytes, int] | None] = {}
        self.revision = revision
        self.rows = 0

    def apply(self, batch: Batch) -> int:
        self._check(batch)
        # all of it is worked out before anything is touched: a batch that is refused leaves no trace
        rows = self._worked_out(batch) if batch.merges or batch.appends else batch.rows
        kept = [(key, self._get(key)) for key in batch.rewrites]
        revision = self.revision = self.revision + 1
        self._overlay.update((key, row) for key, row in kept if row is not None)
        for start, end in batch.ranges:
            self.flush()
            self._counters.clear()
            self._backend.delete_range(start, end)
        changes: list[Change] = [(start, None, end) for start, end in batch.ranges if start[0] >= WATCHED]
        changes += self._put_many(rows, revision) if len(rows) >= AS_IT_IS else self._put(rows, revision)
        if batch.appends:
            self._remember({counter for _, _, counter in batch.appends})
        if changes:
            self._overlay[FEED.key(revision.to_bytes(8, "big"))] = (msgspec.msgpack.encode(changes), revision)
        return revision

    def _put(self, rows: dict[bytes, bytes | None], revision: int) -> list[Change]:
        """Put rows into the overlay; returns what watchers are told."""
        overlay, counters = self._overlay, self._counters
        changes: list[Change] = []
        for key, value in rows.items():
            overlay[key] = None if value is None else (value, revision)
            space = key[0]
            if space >= WATCHED:
                changes.append((key, value, None))
            elif space == PARTITIONS.prefix:
                self._epochs.pop(int.from_bytes(key[1:3], "big"), None)
            if key in counters:
                del counters[key]
        return changes

    def _remember(self, counters: Iterable[bytes]) -> None:
        """Keep the counters of logs for the next batches, if they went the common way."""
        if len(self._counters) > _COUNTERS:
            self._counters.clear()
        for counter in counters:
            if (row := self._overlay.get(counter)) is not None:
                self._counters[counter] = row

    def _put_many(self, rows: dict[bytes, bytes | None], revision: int) -> list[Change]:
        """The same for so many that they are better handed to the backend as they are."""
        self.flush()
        self._epochs.clear()  # to read them again costs less than to look here for partitions
        self._counters.clear()
        put = [(key, value, revision) for key, value in rows.items() if value is not None]
        deleted = [key for key, value in rows.items() if value is None] if len(put) < len(rows) else []
        self._backend.write(put, deleted)
        self.rows += len(rows)
        return [(key, value, None) for key, value in rows.items() if key[0] >= WATCHED]

    def _worked_out(self, batch: Batch) -> dict[bytes, bytes | None]:
        """The rows of a batch with what its merges and appends come to."""
        rows = dict(batch.rows)
        logs = {log: log for log, _, _ in batch.appends}
        logs |= {counter: log for log, _, counter in batch.appends}

        def value_of(key: bytes) -> bytes | None:
            value = rows[key] if key in rows else stored(key)
            return value or (value_of(logs[key]) if logs.get(key, key) != key else value)

        def stored(key: bytes) -> bytes | None:
            if any(start <= key < end for start, end in batch.ranges):
                return None
            try:
                old = self._get(key)
            except RowDamaged:
                if key not in logs:
                    raise
                # also for a merge that looks at the counter: the log tells, and what is appended makes it whole again
                return self._counted(key, logs[key]).to_bytes(SEQUENCE_BYTES, "big")
            return old[0] if old else None

        for key, operator, operand in batch.merges:
            rows[key], problem = attempt(operator, value_of(key), operand)
            if problem is not None:
                raise MergeRefused(f"the merge into {key!r} was refused: {problem}", key=key) from problem
        newest: dict[bytes, int] = {}
        sequences = []
        for log, value, counter in batch.appends:
            last = newest[counter] if counter in newest else int.from_bytes(value_of(counter) or b"", "big")
            sequence = newest[counter] = last + 1
            rows[log + sequence.to_bytes(SEQUENCE_BYTES, "big")] = value
            sequences.append(sequence)
        rows.update((counter, last.to_bytes(SEQUENCE_BYTES, "big")) for counter, last in newest.items())
        batch.sequences = sequences
        return rows

    def _counted(self, counter: bytes, log: bytes) -> int:
        """The newest number of a log whose counter is damaged. What this transaction has appended is not there yet, nor need it
        be: its first append has made the counter whole again.
        """
        reader = self._backend.reader()
        try:
            number = last_number(reader, log)
        finally:
            reader.dispose()
        if number is None:
            raise damage(counter)
        return number

    def _check(self, batch: Batch) -> None:
        for partition, epoch in batch.epochs:
            held = self._epochs.get(partition)
            if held is None:
                row = self._get(PARTITIONS.key(partition.to_bytes(2, "big")))
                held = self._epochs[partition] = int.from_bytes(row[0][:8], "big") if row else 0
            if held != epoch:
                raise Fenced(
                    f"partition {partition} has epoch {held}, this writer had {epoch}: another owner has taken over",
                    partition=partition,
                )
        for key in batch.absent:
            if self._get(key) is not None:
                raise Conflict(f"the key {key!r} exists already", key=key)
        for key, version in batch.versions:
            row = self._get(key)
            if (row[1] if row else 0) != version:
                raise Conflict(f"the key {key!r} was changed by someone else", key=key)
        for key in batch.damaged:
            self._counters.pop(key, None)  # what is remembered says nothing of the row that is there
            _, problem = attempt(self._get, key)
            if problem is None:
                raise Conflict(f"the row at {key.hex()} is not damaged (any more)", key=key)
            if not isinstance(problem, RowDamaged):
                raise problem
        for start, end, seen in batch.unchanged:
            self.flush()
            if fingerprint(self._backend.versions(start, end)) != seen:
                raise Conflict(f"something from {start!r} up to {end!r} was changed by someone else", key=start)

    def _get(self, key: bytes) -> tuple[bytes, int] | None:
        if key in self._overlay:
            return self._overlay[key]
        if key in self._counters:
            return self._counters[key]
        return self._backend.get(key)

    def prune_feed(self, before: int) -> None:
        # once in a thousand revisions is often enough, and keeps the range delete off the common path
        if before // 1000 != self.revision // 1000 and self.revision > FEED_RETAINED:
            self.flush()
            floor = self.revision - FEED_RETAINED
            self._backend.delete_range(FEED.key(), FEED.key((floor + 1).to_bytes(8, "big")))
            self._overlay[FEED_FLOOR] = (floor.to_bytes(8, "big"), self.revision)

    def flush(self, *, final: bool = False) -> None:
        if final:
            self._overlay[REVISION] = (self.revision.to_bytes(8, "big"), self.revision)
        if not self._overlay:
            return
        deletes = [key for key, row in self._overlay.items() if row is None]
        rows = [(key, row[0], row[1]) for key, row in self._overlay.items() if row is not None]
        self._backend.write(rows, deletes)
        self.rows += len(self._overlay)
        self._overlay = {}


def _no_probe(_point: str) -> None:
    return None
