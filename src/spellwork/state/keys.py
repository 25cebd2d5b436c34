"""Owns the keys of a tree: texts, bytes, integers and tuples of them, to bytes whose order is theirs, and back.
It must never let two keys meet, nor let one begin like another by accident.

The encoding is that of FoundationDB's tuple layer (its type codes, its escape of the zero byte), without the last terminator: a
prefix of a text is then a prefix of its bytes.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from spellwork.errors import PayloadError, StoreCorrupt

Key: TypeAlias = "str | bytes | int | tuple[Key, ...]"
"""Keys of a tree. They sort by kind (bytes, texts, tuples, integers), then by value. True is no key: it would be equal to 1."""

KEY_BYTES = 320
"""How long an encoded key may be. With the longest names of scope and tree it fits every backend (LMDB: 511 bytes)."""

_DEEPEST = 8
_BYTES, _TEXT, _TUPLE, _ZERO = 0x01, 0x02, 0x05, 0x14
_END = b"\x00"
_ESCAPED_ZERO = b"\x00\xff"
_INT_BYTES = 8
_AFTER_EVERY_ELEMENT = b"\xff"
_OPEN_ENDED = (_BYTES, _TEXT, _TUPLE)


def encode_key(key: Key) -> bytes:
    """The bytes of a key; raises `PayloadError` if it is no key, or too long."""
    data = _element(key, 0)
    if data[0] in _OPEN_ENDED:
        data = data[:-1]
    if len(data) > KEY_BYTES:
        raise PayloadError(
            f"key: {len(data):,} bytes (encoded) are more than the limit of {KEY_BYTES}; use a digest of what it is made of",
            path="key",
        )
    return data


def prefix_range(prefix: Key) -> tuple[bytes, bytes]:
    """First and end (exclusive) of the keys that begin with a text or bytes, or (a tuple) with these elements."""
    if type(prefix) not in (str, bytes, tuple):
        raise PayloadError(f"prefix: must be a text, bytes or a tuple, not {type(prefix).__qualname__}", path="prefix")
    data = encode_key(prefix)
    if data[0] == _TUPLE:
        # no element begins with 0xff, but the escape of a zero byte inside the last one does: that is another element
        return data, data + _AFTER_EVERY_ELEMENT
    # 0xff ends no text, and carries over in bytes
    stripped = data.rstrip(b"\xff")
    return data, stripped[:-1] + bytes((stripped[-1] + 1,))


def decode_key(data: bytes) -> Key:
    """The key of its bytes; raises `StoreCorrupt` if they are not a key's."""
    try:
        key: Key = _decoded(data + _END if data[:1] and data[0] in _OPEN_ENDED else data, 0, 0)[0]
        if encode_key(key) == data:
            return key
    except (IndexError, ValueError, PayloadError):
        pass
    raise StoreCorrupt(f"{data.hex()} is no key of a tree; run `spellwork fsck`")


def _element(key: Any, depth: int) -> bytes:
    kind = type(key)
    if kind is str:
        try:
            return b"\x02" + key.encode().replace(_END, _ESCAPED_ZERO) + _END  # type: ignore[no-any-return]
        except UnicodeEncodeError as error:
            raise PayloadError(f"key: {key[:80]!r} is no text that can be stored: {error.reason}", path="key") from error
    if kind is int:
        return _integer(key)
    if kind is tuple:
        if depth == _DEEPEST:
            raise PayloadError(f"key: tuples are nested deeper than {_DEEPEST}", path="key")
        return b"\x05" + b"".join([_element(part, depth + 1) for part in key]) + _END
    if kind is bytes:
        return b"\x01" + key.replace(_END, _ESCAPED_ZERO) + _END  # type: ignore[no-any-return]
    raise PayloadError(
        f"key: must be a str, bytes, int or a tuple of such, not {type(key).__module__}.{type(key).__qualname__}", path="key"
    )


def _integer(number: int) -> bytes:
    size = (number.bit_length() + 7) // 8
    if size > _INT_BYTES:
        raise PayloadError("key: integers must fit into 64 bits; use a text for larger ones", path="key")
    if number >= 0:
        return bytes((_ZERO + size,)) + number.to_bytes(size, "big")
    return bytes((_ZERO - size,)) + (number + (1 << 8 * size) - 1).to_bytes(size, "big")


def _decoded(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    code = data[at]
    at += 1
    if code in (_TEXT, _BYTES):
        end = data.index(_END, at)
        while data[end + 1 : end + 2] == b"\xff":
            end = data.index(_END, end + 2)
        raw = data[at:end].replace(_ESCAPED_ZERO, _END)
        return (raw.decode() if code == _TEXT else raw), end + 1
    if code == _TUPLE and depth < _DEEPEST:
        parts = []
        while data[at] != 0:
            part, at = _decoded(data, at, depth + 1)
            parts.append(part)
        return tuple(parts), at + 1
    size = abs(code - _ZERO)
    if size > _INT_BYTES:
        raise ValueError(code)
    number = int.from_bytes(data[at : at + size], "big")
    return (number if code >= _ZERO else number - (1 << 8 * size) + 1), at + size
