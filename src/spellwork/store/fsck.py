"""Owns the check of a store's own rows: checksums, versions and the change feed; and what is kept of rows that were set aside.
It must never write, nor know what other keyspaces mean.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from spellwork.errors import RowDamaged
from spellwork.store.backend import Reader
from spellwork.store.keyspace import FEED, FEED_FLOOR, REVISION, Keyspace

ASIDE = Keyspace("set aside by fsck", 0x58)
_END = b"\xff" * 64
_PAGE = 500
_HURT = b"\xc1the row under this key is damaged"
_NUMBER_BYTES = 8


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is not as it must be.

    - `kind`: a stable name, such as "damaged" (its checksum says so), "unreadable", "missing", "dangling" or "stale".
    - `key`: the row that it is about, which need not exist. `run_id`, `number` and `position` name run and entry where it has any.
    - `aside`: it was dealt with by an earlier quarantine, and concerns nobody any more.
    """

    kind: str
    message: str
    key: bytes
    run_id: str = ""
    number: int = 0
    position: int | None = None
    aside: bool = False


class Seen(msgspec.Struct, frozen=True):
    """A row as the check met it; `value` is None where it is damaged."""

    key: bytes
    value: bytes | None
    version: int


class SetAside(msgspec.Struct, frozen=True, array_like=True):
    """What is kept under `ASIDE` + the key of a row: why, when (microseconds UTC), and the bytes it had, where they can be had."""

    reason: str
    at: int
    found: bytes | None


def pack_aside(row: SetAside) -> bytes:
    """Its stored form."""
    return msgspec.msgpack.encode(row)


def examined(reader: Reader, start: bytes = b"", end: bytes = _END) -> Iterator[Seen]:
    """Every row in a range, damaged ones too."""
    while True:
        page = _page(reader, start, end)
        yield from page
        if len(page) < _PAGE:
            return
        start = page[-1].key + b"\0"


def _page(reader: Reader, start: bytes, end: bytes) -> list[Seen]:
    try:
        return [Seen(*row) for row in reader.rows(start, end, limit=_PAGE)]
    except RowDamaged:
        found = reader.scan(start, end, limit=_PAGE, damaged=_HURT)
        return [Seen(key, None, 0) if value == _HURT else Seen(key, value, reader.version(key)) for key, value in found]


def set_aside(reader: Reader) -> frozenset[bytes]:
    """The keys of the rows that earlier quarantines dealt with."""
    return frozenset(row.key[1:] for row in examined(reader, *ASIDE.range()))


def check_feed(reader: Reader, revision: int) -> Iterator[Finding]:
    """Findings in the change feed."""
    floor = 0
    for row in examined(reader, FEED_FLOOR, FEED_FLOOR + b"\0"):
        if row.value is not None:
            floor = int.from_bytes(row.value, "big")
        if floor > revision:
            yield Finding(kind="unreadable", message="the feed begins after the newest revision", key=FEED_FLOOR)
    for row in examined(reader, *FEED.range()):
        if row.value is None:
            continue  # named by its checksum
        number = int.from_bytes(row.key[1:], "big")
        if len(row.key) != 1 + _NUMBER_BYTES or number > revision:
            yield Finding(
                kind="unreadable", message=f"the feed has an entry for revision {number}, newest is {revision}", key=row.key
            )
        elif number <= floor:
            yield Finding(
                kind="stale", message=f"the feed has an entry for revision {number}, it begins after {floor}", key=row.key
            )
        elif not _is_change(row.value):
            yield Finding(kind="unreadable", message=f"the feed's entry for revision {number} cannot be read", key=row.key)


def _is_change(value: bytes) -> bool:
    try:
        msgspec.msgpack.decode(value, type=list[tuple[bytes, bytes | None, bytes | None]])
    except (msgspec.MsgspecError, ValueError):
        return False
    return True


def newest_revision(reader: Reader) -> int:
    """The revision of the newest commit; raises `RowDamaged` if its row is."""
    return int.from_bytes(reader.get(REVISION) or b"", "big")
