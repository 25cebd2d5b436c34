"""Owns the rows of one tree: its keys and values to bytes and back, and its writes as additions to a batch.
It must never read: what it adds to a batch needs no look at the store, and nothing but a merge can fail when that is committed.
"""

from __future__ import annotations

import hashlib
import typing
from typing import Any, Generic, TypeVar

import msgspec

from spellwork.clock import LONGEST, MICROSECONDS, Clock, Duration, is_duration, seconds
from spellwork.codec import Codec
from spellwork.codec.text import check_name
from spellwork.errors import DefinitionError, PayloadError
from spellwork.state.keys import Key, decode_key, encode_key, prefix_range
from spellwork.state.look import Span
from spellwork.state.operators import MISSING, Operator, Operators, plain_of
from spellwork.state.row import due_of, is_live, pack, payload_of
from spellwork.state.scopes import DUE, OPERATIONS, Scope
from spellwork.store import Batch, successor

V = TypeVar("V")

_LATEST = 2**63 - 1
_UNCHECKED = (Any, object)
_BARE = (list, dict, set, frozenset, tuple)


class TreeRows(Generic[V]):
    """A tree as bytes: name and scope make the prefix of its keys, the annotation makes the shape of its values."""

    def __init__(self, scope: Scope, name: str, annotation: type[V], codec: Codec, operators: Operators):
        self.scope = scope
        self.name = name
        self.annotation = annotation
        self.prefix = scope.tree(name)
        self.end = successor(self.prefix)
        self._shape = codec.shape(annotation)
        self._untyped = codec.untyped
        self._operators = operators
        # the exact form of what has no annotation comes back as it is; anything else must prove that it fits
        self._proves = annotation not in _UNCHECKED
        # what is in a bare container is not checked by the codec, nor that it is one
        self._bare: Any = annotation if annotation in _BARE else object

    def __str__(self) -> str:
        return self.name if self.scope.kind == "global" else f"{self.scope}/{self.name}"

    # Keys

    def key(self, key: Key) -> bytes:
        """The full key of `key`."""
        return self.prefix + encode_key(key)

    def key_of(self, full: bytes) -> Key:
        """The key of a full key of this tree."""
        return decode_key(full[len(self.prefix) :])

    def span(
        self,
        *,
        prefix: Key | None = None,
        start: Key | None = None,
        stop: Key | None = None,
        reverse: bool = False,
        limit: int | None = None,
        after: Key | None = None,
    ) -> Span:
        """The range of keys that these options select; raises `DefinitionError` where they make no sense together."""
        if prefix is not None and (start is not None or stop is not None):
            raise DefinitionError("give either prefix= or start= and stop=, not both")
        if limit is not None and (type(limit) is not int or limit < 0):
            raise DefinitionError("limit= must be a number of keys, 0 or more")
        low, high = self.prefix, self.end
        if prefix is not None:
            low, high = (self.prefix + bound for bound in prefix_range(prefix))
        if start is not None:
            low = self.key(start)
        if stop is not None:
            high = self.key(stop)
        if after is not None:
            at = self.key(after)
            low, high = (low, min(high, at)) if reverse else (max(low, at + b"\x00"), high)
        return Span(low, max(low, high), reverse, limit)

    # Values

    def payload(self, key: Key, value: V) -> bytes:
        """The payload of a value; raises `PayloadError` that names tree and key if it can't be stored, or would not come back."""
        try:
            payload = self._shape.encode(value)
            if self._proves:
                self._decoded(payload)
        except PayloadError as error:
            raise self._refused(key, error) from error
        return payload

    def value(self, key: Key, row: bytes) -> V:
        """The value of a row; raises `PayloadError` that names tree and key."""
        try:
            return self._decoded(payload_of(row))
        except PayloadError as error:
            raise self._refused(key, error) from error

    def _decoded(self, payload: bytes) -> V:
        value: V = self._shape.decode(payload)
        if not isinstance(value, self._bare):
            raise PayloadError(f"$: got {type(value).__name__} (expected {self._bare.__name__})", path="$")
        return value

    def _refused(self, key: Any, error: PayloadError) -> PayloadError:
        return PayloadError(f"tree {self}, key {key!r}: {error}", path=error.path, tree=self.name, key=key)

    # Writes

    def put_into(self, batch: Batch, key: Key, value: V, *, ttl: Duration | None = None, now: int = 0) -> int:
        """Set `key` to `value`; with `ttl` (seconds) it expires so much later than `now` (microseconds UTC).

        Returns the moment of expiry, 0 for never.
        """
        full, payload = self.key(key), self.payload(key, value)
        due = due_at(ttl, now) if ttl is not None else 0
        self._forget_merges(batch, full)
        batch.put(full, pack(payload, due))
        if due:
            batch.put(due_key(due, full), b"")
        return due

    def delete_into(self, batch: Batch, key: Key) -> None:
        """Remove `key` if it is there."""
        full = self.key(key)
        self._forget_merges(batch, full)
        batch.delete(full)

    def clear_into(self, batch: Batch, prefix: Key | None = None) -> None:
        """Remove every key, or those that begin with `prefix`."""
        span = self.span(prefix=prefix)
        clear_range(batch, span.start, span.end)

    def merge_into(
        self, batch: Batch, key: Key, op: str, operand: Any, clock: Clock, *, id: str | None = None, window: float = 0.0
    ) -> Operation:
        """Combine the value of `key` with `operand` in the committer; returns what stands for the operation (empty without `id`).

        The committer refuses the batch with `MergeRefused` if the two don't fit, or the result doesn't fit the tree. With an `id`
        it refuses it with `Conflict` on the operation's row if a merge with this id was committed in the last `window` seconds.
        """
        full = self.key(key)
        data = self._operand(key, operand)
        batch.merge(full, self.merging(key, op, clock), data)
        if id is None:
            return Operation(b"", b"")
        operation = Operation.of(full, id, op, data)
        due = due_at(window, clock.now())
        batch.require_absent(operation.key).put(operation.key, due.to_bytes(8, "big") + operation.digest)
        batch.put(due_key(due, operation.key), b"")
        return operation

    def merging(self, key: Key, op: str, clock: Clock) -> _Merging[V]:
        """What the committer runs for a merge into `key`."""
        kind = typing.get_origin(self.annotation) or self.annotation
        # where the annotation says so, texts and bytes grow by themselves; anything else grows in a list
        empty: Any = kind() if op == "append" and kind in (str, bytes) else MISSING
        return _Merging(self, key, self._operators.find(op), empty, clock)

    def operand(self, data: bytes) -> Any:
        """The operand of a merge as it was given."""
        return self._untyped.decode(data)

    def _operand(self, key: Key, operand: Any) -> bytes:
        try:
            try:
                return self._untyped.encode(operand)
            except PayloadError:
                return self._untyped.encode(plain_of(operand))
        except PayloadError as error:
            raise self._refused(key, error) from error
        except TypeError as error:
            raise self._refused(key, PayloadError(f"$: {error}", path="$")) from error

    @staticmethod
    def _forget_merges(batch: Batch, full: bytes) -> None:
        # merges apply behind rows; what was merged before this write is overwritten by it
        if batch.merges:
            batch.merges = [merge for merge in batch.merges if merge[0] != full]


class _Merging(Generic[V]):
    """The function that the committer calls with the row and the operand."""

    __slots__ = ("_clock", "_empty", "_key", "_operator", "_rows")

    def __init__(self, rows: TreeRows[V], key: Key, operator: Operator, empty: Any, clock: Clock):
        self._rows = rows
        self._key = key
        self._operator = operator
        self._empty = empty
        self._clock = clock

    def __call__(self, row: bytes | None, data: bytes) -> bytes:
        rows, key = self._rows, self._key
        old, due = self._empty, 0
        if row is not None and is_live(row, self._clock.now()):
            old, due = rows.value(key, row), due_of(row)
        return pack(rows.payload(key, self._operator(old, rows.operand(data))), due)


class Operation(msgspec.Struct, frozen=True):
    """A merge that has an id: the key of the row that says it was done, and what stands for what it does."""

    key: bytes
    digest: bytes

    @classmethod
    def of(cls, full: bytes, id: str, op: str, operand: bytes) -> Operation:
        """The operation `id` on the key `full`; raises `PayloadError` if that is no id."""
        named = hashlib.blake2b(full, digest_size=20, key=hashlib.sha256(check_name(id, "id of a merge").encode()).digest())
        return cls(OPERATIONS.key(named.digest()), hashlib.blake2b(operand, digest_size=8, key=op.encode()[:64]).digest())


def clear_range(batch: Batch, start: bytes, end: bytes) -> None:
    """Remove a range of keys, and what the batch has written there up to now."""
    # range deletes apply before rows and merges; what was written before this one is removed by it
    for key in [key for key in batch.rows if start <= key < end]:
        del batch.rows[key]
    batch.merges = [merge for merge in batch.merges if not start <= merge[0] < end]
    batch.delete_range(start, end)


def due_at(ttl: Duration, now: int) -> int:
    """The moment of expiry; raises `DefinitionError` unless it lies ahead, and within what can be stored."""
    if not is_duration(ttl) or not seconds(ttl):
        raise DefinitionError(f"ttl= must be more than 0 seconds and at most {LONGEST:g}, not {ttl!r}")
    wait = seconds(ttl)
    return min(now + max(round(wait * MICROSECONDS), 1), _LATEST)


def due_key(due: int, target: bytes) -> bytes:
    """The key of the hint that `target` may expire at `due`."""
    return DUE.key(due.to_bytes(8, "big") + target)
