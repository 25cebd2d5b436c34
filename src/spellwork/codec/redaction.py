"""Owns the rules by which parts of values are replaced before anything is stored.
It must never keep what it replaced, nor change the meaning of what no rule names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from spellwork.codec import exact
from spellwork.errors import DefinitionError, PayloadError

Ext = msgspec.msgpack.Ext
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode
_EMPTY: dict[int, list[Any]] = {exact.TUPLE: [], exact.SET: [], exact.FROZENSET: [], exact.PAIRS: []}


class Redaction:
    """What is replaced by `replace` before it is stored, and is then gone: for the running program as for a replay.

    - `patterns`: regular expressions; whatever they match in any text (and in bytes) is replaced.
    - `fields`: names of fields, keys and parameters (upper and lower case, `_` and `-` make no difference). Their texts, bytes and
      scalars become `replace`, their lists and mappings empty; None stays. Texts that are JSON are looked into.

    Numbers are replaced by name alone. What is stored as a key of the store (ids, names of topics and trees) is not a value.
    """

    def __init__(self, *, patterns: Iterable[str | re.Pattern[str]] = (), fields: Iterable[str] = (), replace: str = "***") -> None:
        patterns, fields = list(patterns), list(fields)
        if not patterns and not fields:
            raise DefinitionError("Redaction: give patterns=, fields= or both; without any it would do nothing")
        try:
            self._patterns = [re.compile(pattern) for pattern in patterns]
        except re.error as error:
            raise DefinitionError(f"Redaction: a pattern is no regular expression: {error}") from error
        self._fields = {_plain_name(name) for name in fields}
        self.replace = replace
        for pattern in self._patterns:
            if pattern.search("") is not None:
                raise DefinitionError("Redaction: a pattern matches the empty text, so it would match everywhere")
        if self._sub(replace) != replace:
            raise DefinitionError("Redaction: a pattern matches the replacement itself; choose another replace=")

    def __repr__(self) -> str:
        return f"<Redaction of {len(self._patterns)} patterns and {len(self._fields)} fields>"

    def names(self, field: str) -> bool:
        """Whether a field, key or parameter of this name is replaced."""
        return bool(self._fields) and _plain_name(field) in self._fields

    def text(self, text: str) -> str:
        """A text without what the rules name."""
        cleaned = self._sub(text)
        if self._fields and text.lstrip()[:1] in ("{", "["):
            cleaned = self._inside_json(cleaned)
        return cleaned

    def value(self, value: Any) -> Any:
        """Plain data (what msgpack knows) without what the rules name; the same object if they name nothing in it."""
        walk = _WALKS.get(type(value))
        return value if walk is None else walk(self, value)

    def payload(self, data: bytes) -> bytes:
        """A msgpack payload without what the rules name; the same object if they name nothing in it."""
        value = _decode(data)
        cleaned = self.value(value)
        return data if cleaned is value else _encode(cleaned)

    def hidden(self, value: Any) -> Any:
        """What stands for plain data under a name that is replaced."""
        kind = type(value)
        if value is None:
            return None
        if kind is bytes:
            return self.replace.encode()
        if kind is list or kind is dict:
            return kind()
        if kind is Ext and value.code in _EMPTY:
            return Ext(value.code, _encode(_EMPTY[value.code]))
        return self.replace

    def _sub(self, text: str) -> str:
        for pattern in self._patterns:
            text = pattern.sub(self._replacement, text)
        return text

    def _replacement(self, _match: re.Match[str]) -> str:
        return self.replace  # a function, so that a backslash in it means itself

    def _bytes(self, value: bytes) -> bytes:
        text = value.decode("utf-8", "surrogateescape")
        cleaned = self.text(text)
        return value if cleaned == text else cleaned.encode("utf-8", "surrogateescape")

    def _inside_json(self, text: str) -> str:
        try:
            value = msgspec.json.decode(text)
        except (msgspec.DecodeError, ValueError, RecursionError):
            return text
        cleaned = self.value(value)
        return text if cleaned is value else msgspec.json.encode(cleaned).decode()

    def _items(self, value: Any) -> Any:
        cleaned = type(value)(map(self.value, value))
        return value if all(map(_is, value, cleaned)) else cleaned

    def _mapping(self, value: dict[Any, Any]) -> dict[Any, Any]:
        cleaned, changed = {}, False
        for key, item in value.items():
            new_key = self.value(key)
            new = self._item(key, item)
            changed = changed or not _is(new_key, key) or not _is(new, item)
            if new_key in cleaned:
                raise PayloadError(
                    "$: two keys of a mapping are the same once they are redacted; use keys that are no secrets", path="$"
                )
            cleaned[new_key] = new
        return cleaned if changed else value

    def _item(self, key: Any, item: Any) -> Any:
        return self.hidden(item) if type(key) is str and self.names(key) else self.value(item)

    def _extension(self, value: Ext) -> Ext:
        walk = _EXTENSIONS.get(value.code)
        if walk is None:
            return value
        inner = _decode(value.data)
        cleaned = walk(self, inner)
        return value if _is(cleaned, inner) else Ext(value.code, _encode(cleaned))

    def _registered(self, inner: list[Any]) -> list[Any]:
        body = self.value(inner[1])
        return inner if _is(body, inner[1]) else [inner[0], body]

    def _pairs(self, inner: list[Any]) -> list[Any]:
        pairs = [[self.value(key), self._item(key, item)] for key, item in inner]
        same = all(_is(new[0], old[0]) and _is(new[1], old[1]) for new, old in zip(pairs, inner, strict=True))
        return inner if same else pairs


def _is(new: Any, old: Any) -> bool:
    return new is old or (type(new) in (str, bytes) and new == old)


def _plain_name(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


_WALKS: dict[type, Callable[[Redaction, Any], Any]] = {
    str: Redaction.text,
    bytes: Redaction._bytes,
    list: Redaction._items,
    tuple: Redaction._items,  # a key of a mapping
    dict: Redaction._mapping,
    Ext: Redaction._extension,
}
_EXTENSIONS: dict[int, Callable[[Redaction, Any], Any]] = {
    exact.TUPLE: Redaction.value,
    exact.SET: Redaction.value,
    exact.FROZENSET: Redaction.value,
    exact.BYTEARRAY: Redaction.value,
    exact.PAIRS: Redaction._pairs,
    exact.REGISTERED: Redaction._registered,
}
