"""Owns encryption at rest: a backend around another one, that seals every value that is written and opens what is read.
It must never write a value that it did not seal, but for the rows that are needed before there is a key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from spellwork.errors import KeyMissing, KeyRefused, NotEncrypted, RowDamaged, StoreCorrupt
from spellwork.store.backend import Backend, Reader, Row
from spellwork.store.keyring import Encryption, Keyring, key_id_of
from spellwork.store.keyspace import KEYS, OWN_ROWS, REVISION

PLAIN_ROWS = frozenset((REVISION, *OWN_ROWS))
_HURT = b"\xc1the row under this one is damaged"
_PAGE = 500


class ListedKey(msgspec.Struct, frozen=True, array_like=True):
    """A key with which rows of the store are sealed. One that is `retired` seals no more; one that is `gone` has sealed no row
    that is left. It stays in the list, so that who still seals with it is refused.
    """

    id: bytes
    check: bytes
    retired: bool = False
    gone: bool = False


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[ListedKey]).decode


class EncryptedReader:
    """Reads through another reader."""

    def __init__(self, inner: Reader, ring: Keyring):
        self._inner = inner
        self._ring = ring

    def get(self, key: bytes) -> bytes | None:
        value = self._inner.get(key)
        return value if value is None or key in PLAIN_ROWS else self._ring.open(key, value)

    def version(self, key: bytes) -> int:
        return self._inner.version(key)

    def scan(
        self, start: bytes, end: bytes, *, reverse: bool = False, limit: int | None = None, damaged: bytes | None = None
    ) -> list[tuple[bytes, bytes]]:
        ring = self._ring
        if damaged is None:
            found = self._inner.scan(start, end, reverse=reverse, limit=limit)
            return [(key, value if key in PLAIN_ROWS else ring.open(key, value)) for key, value in found]
        found = self._inner.scan(start, end, reverse=reverse, limit=limit, damaged=_HURT)
        return [(key, damaged if value == _HURT else self._opened(key, value, damaged)) for key, value in found]

    def _opened(self, key: bytes, value: bytes, damaged: bytes) -> bytes:
        try:
            return value if key in PLAIN_ROWS else self._ring.open(key, value)
        except RowDamaged:
            return damaged

    def rows(self, start: bytes, end: bytes, *, reverse: bool = False, limit: int | None = None) -> list[Row]:
        ring = self._ring
        return [
            (key, value if key in PLAIN_ROWS else ring.open(key, value), version)
            for key, value, version in self._inner.rows(start, end, reverse=reverse, limit=limit)
        ]

    def keys_of(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """The next rows with the id of the key that sealed each; b"" for one that stays plain."""
        return [(key, b"" if key in PLAIN_ROWS else key_id_of(value)) for key, value in self._inner.scan(start, end, limit=limit)]

    def salvage(self, key: bytes) -> bytes | None:
        """What is stored for a row, encrypted or damaged, where the medium gives that."""
        salvage: Callable[[bytes], bytes | None] = getattr(self._inner, "salvage", self._inner.get)
        return salvage(key)

    def close(self) -> None:
        self._inner.close()

    def again(self) -> EncryptedReader:
        return EncryptedReader(self._inner.again(), self._ring)

    def dispose(self) -> None:
        self._inner.dispose()


class EncryptedBackend:
    """The contract over another backend; made by `encrypted`."""

    def __init__(self, inner: Backend, ring: Keyring):
        self.inner = inner
        self.ring = ring
        self.inline, self.checked = inner.inline, inner.checked
        self.alone = bool(getattr(inner, "alone", False))
        self._judged = False

    def check(self, after: bytes) -> bytes:
        last = self.inner.check(after)
        self.checked = self.inner.checked
        return last

    def begin(self, *, sync: bool) -> tuple[int, bool]:
        revision, changed = self.inner.begin(sync=sync)
        if changed or not self._judged:
            # another process may have retired our key: inside this transaction it cannot any more
            self._judged = False  # that it changed is told once, and a refusal must not be the only one
            row = self.inner.get(KEYS)
            _judge(self.ring, None if row is None else row[0], noted=True)
            self._judged = True
        return revision, changed

    def get(self, key: bytes) -> tuple[bytes, int] | None:
        row = self.inner.get(key)
        return row if row is None or key in PLAIN_ROWS else (self.ring.open(key, row[0]), row[1])

    def versions(self, start: bytes, end: bytes) -> list[tuple[bytes, int]]:
        return self.inner.versions(start, end)

    def write(self, rows: list[Row], deletes: list[bytes]) -> None:
        seal = self.ring.seal
        sealed = [row if row[0] in PLAIN_ROWS else (row[0], seal(row[0], row[1]), row[2]) for row in rows]
        self.inner.write(sealed, deletes)

    def delete_range(self, start: bytes, end: bytes) -> None:
        self.inner.delete_range(start, end)

    def commit(self, revision: int) -> None:
        self.inner.commit(revision)

    def rollback(self) -> None:
        self.inner.rollback()

    def reopen(self) -> None:
        self._judged = False
        self.inner.reopen()

    def reader(self) -> EncryptedReader:
        return EncryptedReader(self.inner.reader(), self.ring)

    def live_reader(self) -> EncryptedReader:
        """A reader of the current state, for reads that end before anything else runs."""
        live: Callable[[], Reader] = getattr(self.inner, "live_reader", self.inner.reader)
        return EncryptedReader(live(), self.ring)

    def doorbell(self) -> int:
        return self.inner.doorbell()

    def size(self) -> int:
        return self.inner.size()

    def close(self) -> None:
        self.inner.close()


def encrypted(backend: Backend, encryption: Encryption | None) -> Backend:
    """`backend` as it is to be used with these keys.

    Raises `KeyMissing`, `KeyRefused` or `NotEncrypted` before anything is written. A store that is new is encrypted from its first
    row on. A new current key is noted in the store.
    """
    reader = backend.reader()
    try:
        stored = reader.get(KEYS)
    finally:
        reader.dispose()
    if encryption is None:
        if stored is not None:
            names = ", ".join(key.id.hex() for key in listed(stored) if not key.gone)
            raise KeyMissing(f"the store is encrypted (with key {names}), and no key was given: pass encryption=, or set "
                             "SPELLWORK_KEY for the command line", key_id=names)  # fmt: skip
        return backend
    ring = encryption.keyring()
    if stored is not None:
        _judge(ring, stored)
    if stored is None or all(key.id != ring.current for key in listed(stored)):
        _enlist(backend, ring)
    return EncryptedBackend(backend, ring)


def _enlist(backend: Backend, ring: Keyring) -> None:
    """Note the current key in the store, in a transaction of its own."""
    revision, _ = backend.begin(sync=True)
    try:
        keys = _with_ours(backend, ring)
        revision += 1
        backend.write([(KEYS, pack(keys), revision), (REVISION, revision.to_bytes(8, "big"), revision)], [])
        backend.commit(revision)
    except BaseException:
        backend.rollback()
        raise


def _with_ours(backend: Backend, ring: Keyring) -> list[ListedKey]:
    row = backend.get(KEYS)
    if row is None:
        if backend.get(REVISION) is not None:
            raise NotEncrypted(
                "the store is not encrypted, and a key was given: nothing was written. Open it without, or make an encrypted copy: "
                "spellwork key encrypt NEW"
            )
        return [ListedKey(ring.current, ring.ids[ring.current])]
    _judge(ring, row[0])
    keys = [key for key in listed(row[0]) if key.id != ring.current]
    return [*keys, ListedKey(ring.current, ring.ids[ring.current])]


def _judge(ring: Keyring, stored: bytes | None, *, noted: bool = False) -> None:
    """Raise unless every key of the store is there, and ours may seal; if it must be `noted` already, unless it is."""
    if stored is None:
        raise StoreCorrupt("the list of the store's keys is missing; restore a backup")
    every, ours = listed(stored), ring.ids
    keys = [key for key in every if not key.gone]
    known = [key for key in keys if ours.get(key.id) == key.check]
    names = ", ".join(key.id.hex() for key in keys)
    if not known:
        raise KeyRefused(
            f"the key given opens nothing of this store, which is encrypted with key {names}; give that one", key_id=names
        )
    lacking = ", ".join(key.id.hex() for key in keys if key not in known)
    if lacking:
        raise KeyMissing(
            f"parts of the store are encrypted with key {lacking}, which was not given; give it as an older key until "
            "`spellwork key rotate` is through",
            key_id=lacking,
        )
    current = [key for key in every if key.id == ring.current]
    if any(key.retired for key in current) or (noted and not current):
        name = ring.current.hex()
        raise KeyRefused(f"key {name} was retired by a rotation; open the store with the new key first", key_id=name)


def listed(stored: bytes) -> list[ListedKey]:
    """The keys of the store; raises `StoreCorrupt`."""
    try:
        return _decode(stored)
    except (msgspec.MsgspecError, ValueError) as error:
        raise StoreCorrupt(f"the list of the store's keys cannot be read ({error}); restore a backup") from error


def pack(keys: Iterable[ListedKey]) -> bytes:
    """The stored form of the list of keys."""
    return _encode(list(keys))
