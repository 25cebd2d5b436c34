"""Owns the way of messages to runs whose partition another process owns: inboxes, replies, and draining our own.
It must never lose a message: its row goes in the batch of its effect, or of its reply.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from spellwork.clock import MICROSECONDS, Clock
from spellwork.engine import messages as m
from spellwork.engine.desk import Desk
from spellwork.engine.host import Host
from spellwork.engine.partition import Partition
from spellwork.errors import SpellworkError, StoreCorrupt, StoreError, UnknownWorkflow
from spellwork.journal import ErrorRegistry, Failure
from spellwork.journal.rows import Keys, partition_range
from spellwork.store import Batch, Store

log = logging.getLogger("spellwork.engine")
_RESEND_AFTER = 2.0
_ONCE_MORE = 1.0
_DRAIN = 500
_REPLIES_KEPT = 86_400 * MICROSECONDS


def _reply_key(request: bytes) -> bytes:
    return bytes((Keys.REPLIES,)) + request


class MailRoom:
    """Sends to inboxes, drains those of owned partitions, and waits for replies."""

    def __init__(self, store: Store, clock: Clock, errors: ErrorRegistry, host: Host, desk: Desk):
        self._store = store
        self._clock = clock
        self._errors = errors
        self._host = host
        self._desk = desk
        self.why: Callable[[], SpellworkError | None] = lambda: None
        self._handling: set[bytes] = set()
        self._told: set[bytes] = set()
        self._newest = 0
        self._draining = False
        self._again = False
        self._closed = False
        self._stop = store.on_change(self.drain_soon, foreign_only=True)
        desk.closing.deliver_local = self._deliver
        host.unblocked = self.drain_soon

    def drain_soon(self) -> None:
        """Look into the inboxes of owned partitions."""
        if self._host.partitions and not self._closed:
            if self._draining:
                self._again = True
            else:
                self._draining = True
                self._host.spawn(self._drain())

    async def _drain(self) -> None:
        try:
            while True:
                self._again = False
                for partition in list(self._host.partitions.values()):
                    await self.drain(partition)
                if not self._again:
                    return
        except StoreError as error:
            log.warning("looking into the inboxes failed, once more in a second: %s", error)
            self._clock.call_later(_ONCE_MORE, self.drain_soon)
        finally:
            self._draining = False

    async def drain(self, partition: Partition) -> None:
        """Take up every message of one inbox."""
        start, end = partition_range(Keys.INBOX, partition.index)
        while partition.held:
            found = await self._store.scan(start, end, limit=_DRAIN, damaged=b"")
            for key, data in found:
                if key in self._handling:
                    continue
                try:
                    envelope = m.unpack_envelope(data)
                except StoreCorrupt as error:
                    log.warning("a message at %s is left where it is: %s", key.hex(), error)
                    self._handling.add(key)
                    continue
                self._deliver(key, envelope, partition)
            if len(found) < _DRAIN:
                return
            start = found[-1][0] + b"\0"

    def _deliver(self, key: bytes, envelope: m.Envelope, partition: Partition) -> None:
        if key not in self._handling:
            self._handling.add(key)
            self._host.spawn(self._handle(key, envelope, partition))

    async def _handle(self, key: bytes, envelope: m.Envelope, partition: Partition) -> None:
        reply = m.Reply()
        effect = _Consumption(key, envelope.reply_to)
        try:
            reply = m.Reply(await self._desk.handle(envelope.message, partition, effect))
        except m.Deferred as error:
            log.info("a message for run %s waits: %s", envelope.message.run_id, error)
            if envelope.reply_to and partition.held:
                # kept for the run: whoever sent it need not wait for the day that the run is mended
                batch = partition.batch().put(key, m.encode(m.Envelope(envelope.message)))
                batch.put(_reply_key(envelope.reply_to), m.encode(m.Reply()))
            self._handling.discard(key)
            return
        except SpellworkError as error:
            # damage is an answer: looked at again it would be no better, and whoever sent the message would wait for ever
            if isinstance(error, StoreError) and not (isinstance(error, StoreCorrupt) and envelope.reply_to):
                log.info("a message for run %s waits: %s", envelope.message.run_id, error)
                self._handling.discard(key)
                return
            if isinstance(error, UnknownWorkflow) and not envelope.reply_to:
                # nobody would hear that nothing was started: it waits for an owner that has the workflow
                if key not in self._told:
                    log.warning("run %s is not started yet: %s", envelope.message.run_id, error)
                self._told.add(key)
                self._handling.discard(key)
                return
            failure = error.failure if isinstance(error, m.Told) else Failure.of(error).redacted(self._host.codec.redaction)
            reply = m.Reply(None, failure)
            effect.done = False
            if not envelope.reply_to and isinstance(envelope.message, m.AskSignal | m.AskStart):
                what = "a signal for" if isinstance(envelope.message, m.AskSignal) else "the start of"
                log.warning("%s run %s was refused, and nobody waits to hear it: %s", what, envelope.message.run_id, error)
        if not effect.done and partition.held:
            batch = partition.batch().delete(key)
            if envelope.reply_to:
                batch.put(_reply_key(envelope.reply_to), m.encode(reply))
        self._handling.discard(key)
        self._told.discard(key)

    async def keep(self, message: m.AnyMessage, partition: Partition) -> None:
        """Leave a message in our own inbox, for a run that cannot take it now."""
        key = self._inbox(partition.index)
        await self._store.commit(Batch().put(key, m.encode(m.Envelope(message))).require_epoch(partition.index, partition.epoch))

    def leave(self, message: m.AnyMessage, partition: int, batch: Batch) -> None:
        """Let `batch` bring a message into an inbox, for whoever owns it or will; nobody waits for the reply."""
        batch.put(self._inbox(partition), m.encode(m.Envelope(message)))

    def _inbox(self, partition: int) -> bytes:
        # letters of one process keep their order, also when the clock is set back in between
        self._newest = max(self._clock.now(), self._newest + 1)
        stamp = self._newest.to_bytes(8, "big") + self._clock.entropy(8)
        return bytes((Keys.INBOX,)) + partition.to_bytes(2, "big") + stamp

    async def ask(self, message: m.AnyMessage, partition: int) -> bytes | None:
        """Send a message to another owner and wait for its reply; raises what the owner raised."""
        request = self._clock.now().to_bytes(8, "big") + self._clock.entropy(8)
        inbox = bytes((Keys.INBOX,)) + partition.to_bytes(2, "big") + request
        letter = m.encode(m.Envelope(message, request))
        rung = asyncio.Event()
        stop = self._store.on_change(rung.set)
        try:
            await self._store.commit(Batch().put(inbox, letter))
            sent = self._clock.monotonic()
            while True:
                if (failed := self.why()) is not None:
                    raise failed  # nobody would notice any more that the partition has become ours
                rung.clear()
                data, waiting = await self._store.read(lambda reader: (reader.get(_reply_key(request)), reader.get(inbox)))
                if data is not None:
                    await self._store.commit(Batch().delete(_reply_key(request)))
                    return self._open(data)
                if waiting is None and self._clock.monotonic() - sent > _RESEND_AFTER:
                    # consumed without a reply: the owner died in between, and every message is idempotent
                    await self._store.commit(Batch().put(inbox, letter))
                    sent = self._clock.monotonic()
                if partition in self._host.partitions:  # it has become ours
                    self.drain_soon()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.0):  # before Python 3.12, wait_for() loses a cancellation that comes with the ring
                        await rung.wait()
        finally:
            stop()

    async def forget_replies(self) -> None:
        """Delete the replies that nobody came for within a day: whoever asked has gone, or was killed."""
        until = max(0, self._clock.now() - _REPLIES_KEPT).to_bytes(8, "big")
        await self._store.commit(Batch().delete_range(_reply_key(b""), _reply_key(until)))

    def _open(self, data: bytes) -> bytes | None:
        reply = m.unpack_reply(data)
        if reply.failure is not None:
            raise self._errors.rebuild(reply.failure)
        return reply.value

    def close(self) -> None:
        """Stop listening."""
        self._closed = True
        self._stop()


class _Consumption:
    """The rows that end a message, added to the batch of its effect: the inbox row goes, an empty reply comes."""

    def __init__(self, key: bytes, reply_to: bytes):
        self._key = key
        self._reply_to = reply_to
        self.done = False

    def refused(self) -> None:
        """The batch of the effect was not written."""
        self.done = False

    def add(self, batch: Batch) -> None:
        """Put the rows into the batch of the effect."""
        batch.delete(self._key)
        if self._reply_to:
            batch.put(_reply_key(self._reply_to), m.encode(m.Reply()))
        self.done = True
