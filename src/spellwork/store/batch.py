"""Owns the batch: what is written together, and what must hold for it.
It must never be changed after it was sealed, which happens when the turn of the event loop that submitted it ends.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

Operator = Callable[[bytes | None, bytes], bytes | None]
"""The value of a key (None: it has none) and an operand to the new value (None: delete it). Runs in the writer's thread, where it
must not block; whatever it raises refuses its batch with `MergeRefused`."""

SEQUENCE_BYTES = 8


class Batch:
    """Puts, deletes, range deletes, merges, appends and requirements that apply as a whole or not at all.

    Range deletes come first, then `rows` (the last word on each key; None deletes it), then merges, then appends. Requirements are
    checked against the state before the batch:

    - `absent`: keys that must not exist;
    - `versions`: keys that must have this version (the revision that wrote them);
    - `unchanged`: ranges whose keys must have the versions of this `fingerprint`: none changed, came or went;
    - `damaged`: keys whose rows must not be as they were written;
    - `epochs`: partitions that must have this epoch, else the batch is `Fenced`.

    `rewrites` are keys whose rows are written again as they are, value and version unchanged, and no watcher is told: so that a
    backend that encrypts does it with its current key.

    `sequences` has the numbers that the appends got, in their order, once the batch is committed.
    """

    __slots__ = (
        "absent",
        "appends",
        "damaged",
        "epochs",
        "merges",
        "ranges",
        "rewrites",
        "rows",
        "sealed",
        "sequences",
        "unchanged",
        "versions",
    )

    def __init__(self) -> None:
        self.sealed = False
        self.rows: dict[bytes, bytes | None] = {}
        self.ranges: list[tuple[bytes, bytes]] = []
        self.merges: list[tuple[bytes, Operator, bytes]] = []
        self.appends: list[tuple[bytes, bytes, bytes]] = []
        self.rewrites: list[bytes] = []
        self.sequences: list[int] = []
        self.absent: list[bytes] = []
        self.versions: list[tuple[bytes, int]] = []
        self.unchanged: list[tuple[bytes, bytes, bytes]] = []
        self.damaged: list[bytes] = []
        self.epochs: list[tuple[int, int]] = []

    def put(self, key: bytes, value: bytes) -> Batch:
        """Set `key` to `value`."""
        self.rows[key] = value
        return self

    def put_all(self, pairs: Iterable[tuple[bytes, bytes]]) -> Batch:
        """Set many keys to their values, at a fraction of what as many calls of `put` cost."""
        self.rows.update(pairs)
        return self

    def delete(self, key: bytes) -> Batch:
        """Remove `key` if it is there."""
        self.rows[key] = None
        return self

    def delete_range(self, start: bytes, end: bytes) -> Batch:
        """Remove every key with start <= key < end."""
        self.ranges.append((start, end))
        return self

    def merge(self, key: bytes, operator: str | Operator, operand: bytes) -> Batch:
        """Combine the value of `key` with `operand`.

        `operator` is "add" or "max" (signed 8-byte big-endian integers), "append", or a function.
        """
        function = MERGES.get(operator) if isinstance(operator, str) else operator
        if function is None:
            raise ValueError(f"unknown merge operator {operator!r}; there are {', '.join(sorted(MERGES))}")
        self.merges.append((key, function, operand))
        return self

    def append(self, log: bytes, value: bytes, *, counter: bytes | None = None) -> Batch:
        """Put `value` at the end of a log: under the key `log` + its number (8 bytes, big-endian), counting from 1 without gaps.

        The order of the numbers is the order of the commits. The newest one is the value of the key `counter`, by default `log`
        itself; a counter without a value goes on from the number that the key `log` has. A log has one.
        """
        self.appends.append((log, value, log if counter is None else counter))
        return self

    def rewrite(self, key: bytes) -> Batch:
        """Write the row of `key` again as it is when the batch is applied, if there is one."""
        self.rewrites.append(key)
        return self

    def require_absent(self, key: bytes) -> Batch:
        """Refuse the batch with `Conflict` if `key` exists."""
        self.absent.append(key)
        return self

    def require_version(self, key: bytes, version: int) -> Batch:
        """Refuse the batch with `Conflict` unless `key` was last written at this revision (0: does not exist)."""
        self.versions.append((key, version))
        return self

    def require_unchanged(self, start: bytes, end: bytes, seen: bytes) -> Batch:
        """Refuse the batch with `Conflict` unless the rows with start <= key < end have the fingerprint `seen`."""
        self.unchanged.append((start, end, seen))
        return self

    def require_damaged(self, key: bytes) -> Batch:
        """Refuse the batch with `Conflict` unless the row of `key` is damaged: nobody has written it anew since that was seen."""
        self.damaged.append(key)
        return self

    def require_epoch(self, partition: int, epoch: int) -> Batch:
        """Refuse the batch with `Fenced` unless the partition has this epoch."""
        self.epochs.append((partition, epoch))
        return self


def _add(old: bytes | None, operand: bytes) -> bytes:
    total = _number(old) + _number(operand)
    return total.to_bytes(8, "big", signed=True)


def _max(old: bytes | None, operand: bytes) -> bytes:
    return operand if old is None or _number(operand) > _number(old) else old


def _append(old: bytes | None, operand: bytes) -> bytes:
    return (old or b"") + operand


def _number(data: bytes | None) -> int:
    return int.from_bytes(data, "big", signed=True) if data else 0


MERGES: dict[str, Operator] = {"add": _add, "max": _max, "append": _append}


def fingerprint(rows: Iterable[tuple[bytes, int]]) -> bytes:
    """What stands for the keys and versions of a range of rows."""
    digest = hashlib.blake2b(digest_size=16)
    for key, version in rows:
        digest.update(len(key).to_bytes(4, "big") + key + version.to_bytes(8, "big"))
    return digest.digest()
