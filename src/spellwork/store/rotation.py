"""Owns the change from old keys to a new one: retire, rewrite, forget; and the encrypted copy of a store that is not.
It must never forget a key with which a row is still sealed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import cast

import msgspec

from spellwork.errors import Conflict, UsageError
from spellwork.store.backend import Backend, Reader
from spellwork.store.batch import Batch
from spellwork.store.encrypted import EncryptedBackend, EncryptedReader, ListedKey, encrypted, listed, pack
from spellwork.store.keyring import Encryption
from spellwork.store.keyspace import KEYS, OWN_ROWS, REVISION
from spellwork.store.opening import open_backend
from spellwork.store.placing import built
from spellwork.store.store import Store

_FIRST, _END = b"", b"\xff" * 64
_PAGE = 500
_ROWS_AT_ONCE = 2000
Progress = Callable[[int], None]
_replace = msgspec.structs.replace


class KeyUse(msgspec.Struct, frozen=True):
    """A key of the store: its id, whether it is retired, and how many rows are sealed with it."""

    id: str
    retired: bool
    rows: int


async def key_uses(store: Store) -> list[KeyUse]:
    """Which keys seal how many rows; reads the whole store. Raises `UsageError` for a store that is not encrypted."""
    _ring(store)

    def count(reader: Reader) -> list[KeyUse]:
        counted: Counter[bytes] = Counter()
        start = _FIRST
        while page := cast("EncryptedReader", reader).keys_of(start, _END, _PAGE):
            counted.update(key_id for _, key_id in page if key_id)
            start = page[-1][0] + b"\0"
        return [KeyUse(key.id.hex(), key.retired, counted[key.id]) for key in listed(reader.get(KEYS) or b"") if not key.gone]

    return await store.examine(count)


async def rotate(store: Store, progress: Progress | None = None) -> int:
    """Seal everything with the current key and forget the others; returns how many rows were rewritten.

    The store must be open with the old keys as older ones. Others may write meanwhile, with the current key: those that still
    seal with an old one are refused from now on. When it is interrupted, begin it again. Values, versions and watchers are not
    concerned. Old ciphertext may stay in free pages of the file until they are used again.
    """
    current = _ring(store)
    listed_at_first = {
        key.id for key in await _relist(store, lambda keys: [_replace(key, retired=key.id != current) for key in keys])
    }
    rewritten, start = 0, _FIRST
    while True:
        page = await store.read(lambda reader, start=start: cast("EncryptedReader", reader).keys_of(start, _END, _PAGE))  # type: ignore[misc]
        if not page:
            break
        stale = [key for key, key_id in page if key_id not in (b"", current)]
        if stale:
            batch = Batch()
            for key in stale:
                batch.rewrite(key)
            await store.commit(batch)
            rewritten += len(stale)
            if progress is not None:
                progress(rewritten)
        start = page[-1][0] + b"\0"
    # nobody could seal with a key that the first step retired, so what was not found is not there; of one that another rotation
    # has retired since, there may be rows where this one had been already
    await _relist(store, lambda keys: [_replace(key, gone=key.gone or (key.retired and key.id in listed_at_first)) for key in keys])
    return rewritten


def _ring(store: Store) -> bytes:
    backend = store._backend
    if not isinstance(backend, EncryptedBackend):
        raise UsageError(f"{store.url} is not encrypted; `spellwork key encrypt NEW` makes an encrypted copy")
    return backend.ring.current


async def _relist(store: Store, change: Callable[[list[ListedKey]], list[ListedKey]]) -> list[ListedKey]:
    """Change the list of keys; returns what it is then."""
    while True:
        stored, version = await store.read(lambda reader: (reader.get(KEYS) or b"", reader.version(KEYS)))
        keys = change(listed(stored))
        after = pack(keys)
        if after == stored:
            return keys
        try:
            await store.commit(Batch().put(KEYS, after).require_version(KEYS, version))
        except Conflict:
            continue
        return keys


def encrypt_copy(source: str, target: str, encryption: Encryption) -> int:
    """Copy a store that is not encrypted to a new one that is; returns how many rows it has.

    Keys, values and versions stay the same. Whoever writes to the source meanwhile writes to the source alone. Blocks while it
    copies; call it in a thread. Interrupted, it leaves no target.
    """
    _, inner = open_backend(source, create=False)
    try:
        encrypted(inner, None)  # refuses one that is encrypted already
        reader = inner.reader()
        try:
            with built(target) as made:
                return _fill(reader, encrypted(made, encryption))
        finally:
            reader.dispose()
    finally:
        inner.close()


def _fill(reader: Reader, sealed: Backend) -> int:
    count, start = 0, _FIRST
    # the list of keys was written at revision 1, which the source may not have reached
    revision = max(int.from_bytes(reader.get(REVISION) or b"", "big"), 1)
    while page := reader.rows(start, _END, limit=_ROWS_AT_ONCE):
        sealed.begin(sync=True)
        sealed.write([row for row in page if row[0] != REVISION and row[0] not in OWN_ROWS], [])
        sealed.commit(revision)
        count += len(page)
        start = page[-1][0] + b"\0"
    sealed.begin(sync=True)
    sealed.write([(REVISION, revision.to_bytes(8, "big"), revision)], [])
    sealed.commit(revision)
    return count
