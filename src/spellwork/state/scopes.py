"""Owns the names of scopes and trees, and the place in the keyspace that they stand for.
It must never give two of them places that overlap.
"""

from __future__ import annotations

from typing import Any

import msgspec

from spellwork.codec.text import check_name
from spellwork.errors import DefinitionError, PayloadError, StoreCorrupt
from spellwork.store import Keyspace, successor

STATE = Keyspace("state", 0x80)
DUE = Keyspace("due", 0x20)
OPERATIONS = Keyspace("operations", 0x21)
SCHEMAS = Keyspace("schemas", 0x22)
ASIDE = Keyspace("aside", 0x50)

SCOPE_KINDS = ("global", "user", "session", "agent", "tool", "workflow", "custom")
SCOPE_BYTES, TREE_BYTES = 96, 64
_END = b"\x00"


class Scope(msgspec.Struct, frozen=True, order=True):
    """Whose state it is: one of `SCOPE_KINDS`, and (except for `global`) an id."""

    kind: str = "global"
    id: str = ""

    def __post_init__(self) -> None:
        if self.kind not in SCOPE_KINDS:
            raise DefinitionError(f"there is no scope {self.kind!r}; there are {', '.join(SCOPE_KINDS)}")
        if self.kind == "global":
            if self.id != "":
                raise DefinitionError("the global scope has no id; leave it out")
        else:
            _check(self.id, f"id of the {self.kind} scope", SCOPE_BYTES)

    def prefix(self) -> bytes:
        """What the keys of everything in this scope begin with."""
        name = b"" if self.kind == "global" else self.id.encode() + _END
        return STATE.key(bytes((SCOPE_KINDS.index(self.kind),)) + name)

    def tree(self, name: str) -> bytes:
        """What the keys of a tree in this scope begin with."""
        return self.prefix() + _check(name, "name of a tree", TREE_BYTES).encode() + _END

    def __str__(self) -> str:
        return self.kind if self.kind == "global" else f"{self.kind}:{self.id}"

    @classmethod
    def parse(cls, text: str) -> Scope:
        """A scope from "global" or "KIND:ID"."""
        kind, _, name = text.partition(":")
        return cls(kind, name)


class TreeName(msgspec.Struct, frozen=True, order=True):
    """A tree that has keys: its scope, its name, and what its keys begin with."""

    scope: Scope
    name: str
    prefix: bytes

    @classmethod
    def of(cls, key: bytes) -> TreeName:
        """The tree that a full key belongs to; raises `StoreCorrupt` if it is no key of a tree."""
        try:
            kind = SCOPE_KINDS[key[1]]
            at = 2
            name = ""
            if kind != "global":
                end = key.index(_END, at)
                name, at = key[at:end].decode(), end + 1
            end = key.index(_END, at)
            scope = Scope(kind, name)
            found = cls(scope, key[at:end].decode(), key[: end + 1])
            if scope.tree(found.name) == found.prefix:
                return found
        except (IndexError, ValueError, PayloadError):
            pass
        raise StoreCorrupt(f"{key.hex()} is no key of a tree; run `spellwork fsck`")

    @property
    def end(self) -> bytes:
        """The first key behind the tree."""
        return successor(self.prefix)


def _check(value: Any, what: str, most: int) -> str:
    text = check_name(value, what)
    if len(text.encode()) > most:
        raise PayloadError(f"{what}: must be 1 to {most} bytes of text without control characters", path=what)
    return text
