"""Owns the batch: what is written together, and what must hold for it.
It must never be changed after it was sealed, which happens when the turn of the event loop that submitted it ends.
"""

from __future__ import annotations


class Batch:
    """Puts, deletes, range deletes, merges and requirements that apply as a whole or not at all.

    Range deletes come first, then `rows` (the last word on each key; None deletes it), then merges. Requirements are
    checked against the state before the batch:

    - `absent`: keys that must not exist;
    - `versions`: keys that must have this version (the revision that wrote them);
    - `epochs`: partitions that must have this epoch, else the batch is `Fenced`.
    """

    __slots__ = ("absent", "epochs", "merges", "ranges", "rows", "sealed", "versions")

    def __init__(self) -> None:
        self.sealed = False
        self.rows: dict[bytes, bytes | None] = {}
        self.ranges: list[tuple[bytes, bytes]] = []
        self.merges: list[tuple[bytes, str, bytes]] = []
        self.absent: list[bytes] = []
        self.versions: list[tuple[bytes, int]] = []
        self.epochs: list[tuple[int, int]] = []

    def put(self, key: bytes, value: bytes) -> Batch:
        """Set `key` to `value`."""
        self.rows[key] = value
        return self

    def delete(self, key: bytes) -> Batch:
        """Remove `key` if it is there."""
        self.rows[key] = None
        return self

    def delete_range(self, start: bytes, end: bytes) -> Batch:
        """Remove every key with start <= key < end."""
        self.ranges.append((start, end))
        return self

    def merge(self, key: bytes, operator: str, operand: bytes) -> Batch:
        """Combine the value of `key` with `operand`: "add" and "max" (signed 8-byte big-endian integers) or "append"."""
        if operator not in MERGES:
            raise ValueError(f"unknown merge operator {operator!r}; there are {', '.join(sorted(MERGES))}")
        self.merges.append((key, operator, operand))
        return self

    def require_absent(self, key: bytes) -> Batch:
        """Refuse the batch with `Conflict` if `key` exists."""
        self.absent.append(key)
        return self

    def require_version(self, key: bytes, version: int) -> Batch:
        """Refuse the batch with `Conflict` unless `key` was last written at this revision (0: does not exist)."""
        self.versions.append((key, version))
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


MERGES = {"add": _add, "max": _max, "append": _append}
