"""Owns the contract that a backend fulfils: one write transaction at a time, consistent readers, a doorbell.
It must never hold more than a backend needs: group commit, requirements, feed and durability policy live above it.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

Row = tuple[bytes, bytes, int]
"""Key, value, version."""


class Reader(Protocol):
    """A consistent view of everything committed when it was made."""

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`, or None."""
        ...

    def version(self, key: bytes) -> int:
        """The revision that wrote `key`, 0 if it does not exist."""
        ...

    def scan(
        self, start: bytes, end: bytes, *, reverse: bool = False, limit: int | None = None, damaged: bytes | None = None
    ) -> list[tuple[bytes, bytes]]:
        """The pairs with start <= key < end, in key order.

        A row that is not as it was written raises `RowDamaged`, unless `damaged` is given to stand for its value.
        """
        ...

    def rows(self, start: bytes, end: bytes, *, reverse: bool = False, limit: int | None = None) -> list[Row]:
        """As `scan`, with the version of each row; one that is not as it was written raises `RowDamaged`."""
        ...

    def close(self) -> None:
        """End the view."""
        ...

    def again(self) -> Reader:
        """A new view through what this one used."""
        ...

    def dispose(self) -> None:
        """End the view and let go of what it used."""
        ...


@runtime_checkable
class Compacting(Protocol):
    """What a backend may be able to do besides."""

    def compact(self) -> None:
        """Give back what deleted rows took. Called from a thread of readers, beside readers and the writer."""
        ...


class Backend(Protocol):
    """Ordered bytes on some medium. Write methods are called from one thread; readers from another.

    A backend of which one process at most has a store open may say so by an attribute `alone`: then nobody looks at its doorbell.
    """

    inline: bool
    """Whether commits are so cheap that they run on the event loop."""

    checked: bool
    """Whether `check` has seen everything."""

    def check(self, after: bytes) -> bytes:
        """Look at the next rows behind the key `after`; raises `StoreCorrupt` if some cannot be found by their keys.

        Returns the last key it saw. At the end it sets `checked`. A damaged row that stands under its own key is found by whoever
        reads it, and concerns nobody else.
        """
        ...

    def begin(self, *, sync: bool) -> tuple[int, bool]:
        """Start a write transaction, to be synced or not.

        Returns the current revision, and whether another process wrote since the last time.
        """
        ...

    def get(self, key: bytes) -> tuple[bytes, int] | None:
        """Value and version inside the write transaction."""
        ...

    def versions(self, start: bytes, end: bytes) -> list[tuple[bytes, int]]:
        """Keys and versions of the rows with start <= key < end inside the write transaction, in key order."""
        ...

    def write(self, rows: list[Row], deletes: list[bytes]) -> None:
        """Put rows and delete keys inside the write transaction."""
        ...

    def delete_range(self, start: bytes, end: bytes) -> None:
        """Delete every key with start <= key < end."""
        ...

    def commit(self, revision: int) -> None:
        """Make the transaction durable (if it was begun with `sync`) and visible, as one."""
        ...

    def rollback(self) -> None:
        """Forget the write transaction; raises when it is not certain that nothing of it will be there."""
        ...

    def reopen(self) -> None:
        """Open anew what the write transactions go through, after one whose outcome is not known; raises `StoreError`.

        Readers go on, or fail with `StoreClosed`.
        """
        ...

    def reader(self) -> Reader:
        """A new view."""
        ...

    def doorbell(self) -> int:
        """A number that changes when another process has committed; cheap, called from the event loop."""
        ...

    def size(self) -> int:
        """Bytes on the medium."""
        ...

    def close(self) -> None:
        """Let go of the medium."""
        ...
