"""Owns the changes of a tree as watchers get them.
It must never tell of anything that is not committed, nor tell it out of order.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Generic, Literal, TypeVar

import msgspec

from spellwork.errors import PayloadError
from spellwork.state.keys import Key, decode_key
from spellwork.state.rows import TreeRows
from spellwork.store import Change, Store

V = TypeVar("V")

Kind = Literal["set", "delete", "expired", "clear"]


class StateChange(msgspec.Struct, Generic[V], frozen=True):
    """One committed change of a tree.

    - `kind`: "set" (with the new `value`), "delete", "expired" (its time had come), or "clear": all keys that begin with `key`, or
      all there are if `key` is None.
    - `resume`: a watch with `since=resume` continues behind this change. A revision that changed several keys comes as a whole:
      only the last of its changes has it for its `resume`, so that after another one it is told again from its beginning.
    """

    revision: int
    tree: str
    key: Key | None
    value: V | None
    kind: Kind
    resume: int


async def changes_of(
    store: Store, rows: TreeRows[V], start: bytes, end: bytes, since: int | None
) -> AsyncGenerator[StateChange[V]]:
    """The changes of the keys of a tree from `start` up to `end`."""
    async with contextlib.aclosing(store.feed(start, since)) as feed:
        async for changes in feed:
            # the end of a range of keys may come before the end of what begins with the same bytes
            ours = [change for change in changes if change.key < end]
            for change, following in zip(ours, [*ours[1:], None], strict=True):
                is_last = following is None or following.revision != change.revision
                yield _told(rows, change, change.revision if is_last else change.revision - 1)


def _told(rows: TreeRows[V], change: Change, resume: int) -> StateChange[V]:
    revision, full = change.revision, change.key
    if change.end is not None and change.end != expired_end(full):
        cleared = decode_key(full[len(rows.prefix) :]) if len(full) > len(rows.prefix) else None
        return StateChange(revision, rows.name, cleared, None, "clear", resume)
    key = rows.key_of(full)
    if change.value is None:
        return StateChange(revision, rows.name, key, None, "delete" if change.end is None else "expired", resume)
    try:
        return StateChange(revision, rows.name, key, rows.value(key, change.value), "set", resume)
    except PayloadError as error:
        error.revision = revision  # type: ignore[attr-defined] # where to go on: behind it
        raise


def expired_end(full: bytes) -> bytes:
    """The end of the range that the sweeper deletes for one key: nobody else deletes such a range."""
    return full + b"\x00"
