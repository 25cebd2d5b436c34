"""Owns the keys of an encrypted store: where they come from, and how one value is sealed and opened.
It must never show a key, store one, or use a nonce twice.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import secrets
from collections.abc import Callable, Iterable
from typing import Any

from spellwork.errors import DefinitionError, KeyMissing, RowDamaged, StoreUnavailable

KEY_BYTES = 32
ID_BYTES = 4
_FORM = 1
_SALT_BYTES, _NONCE_BYTES, _TAG_BYTES = 8, 12, 16
_HEAD = 1 + ID_BYTES
_BODY = _HEAD + _SALT_BYTES + _NONCE_BYTES
_ROWS_A_SALT = 1 << 24
_DERIVED_KEPT = 4096

Given = str | bytes
"""A key: 32 bytes, or their base64 or hexadecimal text."""


class Encryption:
    """With what a store is encrypted. The first key seals what is written; the others only open what they sealed before.

    Make a key with `Encryption.new_key()`, and keep it where the store is not: without it the store is lost.
    """

    def __init__(self, key: Given, *older: Given) -> None:
        keys = [_parsed(given, "a key") for given in (key, *older)]
        self._keys: Callable[[], list[bytes]] = lambda: keys
        self._source = "keys"

    @staticmethod
    def new_key() -> str:
        """A new random key of 256 bits, as text."""
        return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()

    @classmethod
    def from_env(cls, name: str = "SPELLWORK_KEY") -> Encryption:
        """Keys from an environment variable, with spaces or commas between several; read each time that a store is opened."""
        return cls._lazy(lambda: os.environ.get(name, ""), f"the environment variable {name}")

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Encryption:
        """Keys from a file, one a line; read each time that a store is opened."""
        return cls._lazy(lambda: _content(os.fspath(path)), f"the file {os.fspath(path)}")

    @classmethod
    def from_callback(cls, fetch: Callable[[], Given | Iterable[Given]]) -> Encryption:
        """Keys from a function (a vault's client, say), called each time that a store is opened; what it raises is raised there."""
        return cls._lazy(fetch, "the callback")

    @classmethod
    def _lazy(cls, fetch: Callable[[], Given | Iterable[Given]], source: str) -> Encryption:
        made = cls.__new__(cls)
        made._keys = lambda: _several(fetch(), source)
        made._source = source
        return made

    def keyring(self) -> Keyring:
        """The keys as they are now; raises `KeyMissing` when there are none, `DefinitionError` for one that is none."""
        return Keyring(self._keys())

    def __repr__(self) -> str:
        return f"<Encryption from {self._source}>"


class Keyring:
    """Seals with the current key, opens with any of them. Sealing is for one thread, opening for all."""

    def __init__(self, keys: list[bytes]):
        try:
            from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - an extra
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415
        except ImportError as error:
            raise StoreUnavailable("encryption needs the package cryptography: pip install 'spellwork[crypto]'") from error
        self._cipher: Any = AESGCM
        self._invalid = InvalidTag
        self._by_id = {_tag(key, b"id")[:ID_BYTES]: key for key in keys}
        if len(self._by_id) != len(set(keys)):
            raise DefinitionError("two keys have the same id; replace one of them by a new one")
        self.current = _tag(keys[0], b"id")[:ID_BYTES]
        self._opened: dict[bytes, Any] = {}
        self._salt, self._left, self._process = b"", 0, 0
        self._sealer: Any = None

    @property
    def ids(self) -> dict[bytes, bytes]:
        """The id of each key, the current one first, with a value that only its key gives."""
        order = [self.current, *(name for name in self._by_id if name != self.current)]
        return {name: _tag(self._by_id[name], b"check")[:16] for name in order}

    def seal(self, row: bytes, value: bytes) -> bytes:
        """What is stored for `value` under the key `row`."""
        if not self._left or self._process != os.getpid():
            self._fresh_salt()
        self._left -= 1
        nonce = os.urandom(_NONCE_BYTES)
        return self._head + nonce + self._sealer.encrypt(nonce, value, row)  # type: ignore[no-any-return]

    def _fresh_salt(self) -> None:
        # so many random nonces are safe under one key; a forked child must not go on with its parent's
        self._left, self._process = _ROWS_A_SALT, os.getpid()
        self._salt = os.urandom(_SALT_BYTES)
        self._head = bytes((_FORM,)) + self.current + self._salt
        self._sealer = self._derived(self.current, self._salt)

    def _derived(self, name: bytes, salt: bytes) -> Any:
        return self._cipher(_tag(self._by_id[name], b"rows" + salt))

    def open(self, row: bytes, sealed: bytes) -> bytes:
        """The value that was sealed under the key `row`; raises `RowDamaged`, or `KeyMissing` if it is sealed with another key."""
        if len(sealed) < _BODY + _TAG_BYTES or sealed[0] != _FORM:
            raise RowDamaged(f"the row at {row.hex()} is not encrypted as all others are; restore it from a backup", key=row)
        name = sealed[: _BODY - _NONCE_BYTES]
        opener = self._opened.get(name)
        if opener is None:
            opener = self._opener(row, name)
        try:
            return opener.decrypt(sealed[_BODY - _NONCE_BYTES : _BODY], sealed[_BODY:], row)  # type: ignore[no-any-return]
        except self._invalid:
            raise RowDamaged(
                f"the row at {row.hex()} was changed or moved since it was encrypted; restore it from a backup", key=row
            ) from None

    def _opener(self, row: bytes, name: bytes) -> Any:
        key = name[1:_HEAD]
        if key not in self._by_id:
            raise KeyMissing(
                f"the row at {row.hex()} is encrypted with key {key.hex()}, which was not given; give it as an older key",
                key_id=key.hex(),
            )
        if len(self._opened) >= _DERIVED_KEPT:
            self._opened.clear()
        opener = self._opened[name] = self._derived(key, name[_HEAD:])
        return opener


def key_id_of(sealed: bytes) -> bytes:
    """The id of the key that sealed a stored value."""
    return sealed[1:_HEAD]


def _tag(key: bytes, text: bytes) -> bytes:
    return hmac.digest(key, b"spellwork 1 " + text, "sha256")


def _content(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError as error:
        raise KeyMissing(f"the file of keys {path} cannot be read: {error}") from error
    except UnicodeDecodeError:  # which holds all that was read
        raise KeyMissing(f"the file of keys {path} cannot be read: it is no plain text") from None


def _several(given: Given | Iterable[Given], source: str) -> list[bytes]:
    if isinstance(given, bytes):
        given = [given]
    parts = given.replace(",", " ").split() if isinstance(given, str) else list(given)
    if not parts:
        raise KeyMissing(f"{source} holds no key; put one there (`spellwork key new` makes one)")
    return [_parsed(part, source) for part in parts]


def _parsed(given: Given, source: str) -> bytes:
    key = given
    if isinstance(given, str):
        text = given.strip()
        try:
            key = (
                bytes.fromhex(text)
                if len(text) == 2 * KEY_BYTES
                else base64.b64decode(text, altchars=b"-_" if "-" in text or "_" in text else None, validate=True)
            )
        except (ValueError, binascii.Error):
            key = b""
    if not isinstance(key, bytes) or len(key) != KEY_BYTES:
        raise DefinitionError(
            f"{source}: a key is {KEY_BYTES} random bytes, as bytes, base64 or hexadecimal; `spellwork key new` makes one "
            "(a passphrase is none)"
        )
    return key
