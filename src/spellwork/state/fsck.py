"""Owns the check of what state keeps: keys, values, moments of expiry, and operations that were done.
It must never decode a value by its annotation, which only the program has.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import msgspec

from spellwork.errors import StoreCorrupt
from spellwork.state.keys import decode_key
from spellwork.state.row import due_of, payload_of
from spellwork.state.rows import due_key
from spellwork.state.scopes import DUE, OPERATIONS, SCOPE_KINDS, STATE
from spellwork.store import Reader
from spellwork.store.fsck import Finding, examined

_COMPRESSED = b"\xc1"
_DUE_BYTES, _OPERATION_BYTES = 8, 16
_FORMS = (b"\x00", b"\x01")


def check_state(reader: Reader) -> Iterator[Finding]:
    """Findings in the keyspaces of state; damaged rows are left to who checks the checksums."""
    for row in examined(reader, *STATE.range()):
        if row.value is not None:
            where, problem = _where(row.key), _fault(row.key, row.value)
            if problem:
                yield Finding(kind="unreadable", message=f"state, {where}: {problem}", key=row.key)
            elif (due := due_of(row.value)) and not _is_there(reader, due_key(due, row.key)):
                yield Finding(
                    kind="missing",
                    message=f"state, {where}: it expires, and is missing in the index of what does",
                    key=due_key(due, row.key),
                )
    for row in examined(reader, *DUE.range()):
        target = row.key[1 + _DUE_BYTES :]
        if not target or target[0] not in (STATE.prefix, OPERATIONS.prefix):
            yield Finding(kind="unreadable", message="a moment of expiry belongs to nothing", key=row.key)
    for row in examined(reader, *OPERATIONS.range()):
        if row.value is not None and len(row.value) != _OPERATION_BYTES:
            yield Finding(kind="unreadable", message="the mark of a merge that was done cannot be read", key=row.key)


def _is_there(reader: Reader, key: bytes) -> bool:
    return bool(reader.scan(key, key + b"\0", damaged=b""))


def _fault(key: bytes, value: bytes) -> str:
    """What is wrong with a row of a tree, if anything is."""
    place = _split(key)
    if place is None:
        return "its key names no scope and tree"
    try:
        decode_key(place[2])
    except StoreCorrupt as error:
        return str(error)
    if value[:1] not in _FORMS or (value[:1] == b"\x01" and len(value) <= _DUE_BYTES):
        return "its value has no form that is known"
    payload = payload_of(value)
    try:
        msgspec.msgpack.decode(zlib.decompress(payload[1:]) if payload[:1] == _COMPRESSED else payload)
    except (msgspec.MsgspecError, ValueError, zlib.error, RecursionError) as error:
        return f"its value cannot be read: {error}"
    return ""


def _split(key: bytes) -> tuple[str, str, bytes] | None:
    """Scope, tree and the rest of a key."""
    if len(key) < 2 or key[1] >= len(SCOPE_KINDS):
        return None
    scope, rest = SCOPE_KINDS[key[1]], key[2:]
    parts = rest.split(b"\0", 1 if scope == "global" else 2)
    try:
        names = [part.decode() for part in parts[:-1]]
    except UnicodeDecodeError:
        return None
    if scope == "global":
        return (scope, names[0], parts[-1]) if len(names) == 1 and names[0] else None
    return (f"{scope}:{names[0]}", names[1], parts[-1]) if len(names) == 2 and all(names) else None


def _where(key: bytes) -> str:
    place = _split(key)
    return key.hex() if place is None else f"tree {place[1]} ({place[0]}), key {place[2].hex()}"
