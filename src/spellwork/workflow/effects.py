"""Owns what workflow code may ask to be done to Spellwork's own data: writes, reads and transactions, each with one entry.
It must never do it itself: an effect says what, and the host does it exactly once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec

from spellwork.codec import Shape
from spellwork.store import Batch, Store


class Moment(msgspec.Struct, frozen=True, gc=False):
    """When (microseconds UTC) and for whom something is written; `key` is the same however often it is tried."""

    at: int
    run_id: str
    partition: int
    key: str


class Effect(Protocol):
    """Something done to Spellwork's own data. `name` and the digest of `words` are what replay compares."""

    @property
    def name(self) -> str:
        """What is done, in two words, such as "set carts"."""
        ...

    @property
    def words(self) -> Any:
        """Everything else that tells one such effect from another."""
        ...


class Write(msgspec.Struct, frozen=True, gc=False):
    """Rows that go into the batch of the entry that says so.

    `put` adds them; `expires` says that they may hold something with a time of expiry. They need no read, and nothing may refuse
    them: the batch of the whole partition would go with them.
    """

    name: str
    words: Any
    put: Callable[[Batch, Moment], None]
    expires: bool = False


class Read(msgspec.Struct, frozen=True, gc=False):
    """A look at the store, whose payload is recorded; `shape` decodes it. It sees everything that the run wrote before."""

    name: str
    words: Any
    look: Callable[[Store], Awaitable[bytes]]
    shape: Shape


class Commit(msgspec.Struct, frozen=True, gc=False):
    """Rows that depend on what was read: a batch with requirements, and a receipt beside it that stands for the entry.

    When a requirement does not hold the code gets `Conflict`; a merge that cannot be worked out, `MergeRefused`. `subscribes` says
    that the run wants to hear of events from now on.
    """

    name: str
    words: Any
    put: Callable[[Batch, Moment], None]
    expires: bool = False
    subscribes: bool = False
