"""Owns copying a store to another backend: every row with its version, in order, and the proof that both hold the same.
It must never write to a store that holds anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import msgspec

from spellwork.errors import StoreCorrupt, StoreNotEmpty
from spellwork.store.backend import Reader, Row
from spellwork.store.keyspace import OWN_ROWS, REVISION
from spellwork.store.store import Store

_PAGE = 2_000
_EVERYTHING = b"\xff" * 64
_LENGTH = 8


class Contents(msgspec.Struct, frozen=True):
    """What a store holds at one moment.

    `bytes` are those of keys and values, `keyspaces` the rows and bytes of each first byte of a key, and `digest` stands for every
    key, value and version: it is the same on every backend.
    """

    revision: int
    rows: int
    bytes: int
    digest: str
    keyspaces: dict[int, tuple[int, int]]


async def contents(store: Store) -> Contents:
    """Read everything once; a row that is not as it was written raises `RowDamaged`."""
    return await store.read(_contents)


async def copy_store(source: Store, target: Store, progress: Callable[[int], None] | None = None) -> Contents:
    """Copy everything that `source` holds at one moment to `target`; `progress` hears how many rows there are so far.

    Versions, revision and change feed stay what they are, so requirements and watchers go on where they were. Nobody may write to
    the target meanwhile. It is read back in the end: raises `StoreCorrupt` if it differs, `StoreNotEmpty` if it held anything.
    """
    there = await contents(target)
    if there.rows > bool(there.revision):  # one that was made encrypted just now has a revision, and nothing else
        raise StoreNotEmpty(f"{target.url} is not empty; copy to a new store")
    async with source.snapshot() as view:
        wanted = await view.read(_contents)
        after, rows = b"", 0
        while page := await view.read(lambda reader, after=after: _page(reader, after)):  # type: ignore[misc]
            after = page[-1][0]
            kept = [row for row in page if row[0] not in OWN_ROWS and row[0] != REVISION]
            rows += len(kept)
            await target.load(kept, 0)
            if progress is not None:
                progress(rows)
    if wanted.rows:
        # last, so that a copy that was broken off is never taken for a whole one
        await target.load([(REVISION, wanted.revision.to_bytes(8, "big"), wanted.revision)], wanted.revision)
    found = await contents(target)
    if found != wanted:
        raise StoreCorrupt(f"{target.url} does not hold what {source.url} holds; remove it, check the disk, and copy again")
    return found


def _page(reader: Reader, after: bytes) -> list[Row]:
    return reader.rows(after + b"\0", _EVERYTHING, limit=_PAGE)


def _rows(reader: Reader) -> Iterator[Row]:
    after = b""
    while page := _page(reader, after):
        after = page[-1][0]
        yield from (row for row in page if row[0] not in OWN_ROWS)


def _contents(reader: Reader) -> Contents:
    digest = hashlib.blake2b(digest_size=16)
    rows, size = 0, 0
    keyspaces: dict[int, tuple[int, int]] = {}
    for key, value, version in _rows(reader):
        lengths = len(key).to_bytes(_LENGTH, "big") + len(value).to_bytes(_LENGTH, "big")
        digest.update(lengths + version.to_bytes(_LENGTH, "big") + key + value)
        rows, size = rows + 1, size + len(key) + len(value)
        count, total = keyspaces.get(key[0], (0, 0))
        keyspaces[key[0]] = (count + 1, total + len(key) + len(value))
    return Contents(int.from_bytes(reader.get(REVISION) or b"", "big"), rows, size, digest.hexdigest(), keyspaces)
