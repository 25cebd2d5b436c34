"""Owns the self-describing form of values that have no annotation: plain data as it is, everything else as a tagged extension.
It must never store a value that would come back as another one; such a value is refused with the path to it.
"""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import sys
import uuid
from collections.abc import Callable
from typing import Any

import msgspec

from spellwork.codec.registered import RegisteredType
from spellwork.codec.secret import REFUSAL, Secret
from spellwork.errors import PayloadError

INT_MIN, INT_MAX = -(2**63), 2**64 - 1
_SCALARS = frozenset({str, float, bool, type(None), bytes})

(
    TUPLE, SET, FROZENSET, _DATETIME, _DATE, _TIME, _TIMEDELTA,
    _DECIMAL, _UUID, _BIGINT, BYTEARRAY, PAIRS, REGISTERED, _COMPLEX,
) = range(1, 15)  # fmt: skip

_pack = msgspec.msgpack.encode


def is_plain(value: Any) -> bool:
    """Whether msgpack alone brings the value back exactly."""
    kind = type(value)
    if kind in _SCALARS:
        return True
    if kind is int:
        return bool(INT_MIN <= value <= INT_MAX)
    if kind is list:
        return all(map(is_plain, value))
    if kind is dict:
        return all(type(key) in (str, int) and is_plain(key) for key in value) and all(map(is_plain, value.values()))
    return False


def is_plain_tree(value: Any) -> bool:
    """Whether msgpack alone brings the value back exactly, and no list or dict stands in it twice: those would come back as two."""
    return is_plain(value) and _is_tree(value, set())


def _is_tree(value: Any, seen: set[int]) -> bool:
    kind = type(value)
    if kind is not list and kind is not dict:
        return True
    if id(value) in seen:
        return False
    seen.add(id(value))
    return all(_is_tree(each, seen) for each in (value if kind is list else value.values()))


class ExactForm:
    """Turns values into plain data with extensions, and extensions back into values."""

    def __init__(self, by_type: dict[type, RegisteredType], by_name: dict[str, RegisteredType]):
        self._by_type = by_type
        self._by_name = by_name
        self._decoder = msgspec.msgpack.Decoder(ext_hook=self.revive)

    def lower(self, value: Any, path: str = "$") -> Any:
        """The storable form of `value`; raises `PayloadError` at the first part that has none."""
        if is_plain(value):
            return value
        kind = type(value)
        if kind is list:
            return [self.lower(item, f"{path}[{i}]") for i, item in enumerate(value)]
        if kind is dict:
            return self._lower_dict(value, path)
        if kind in (tuple, set, frozenset):
            items = [self.lower(item, f"{path}[{i}]") for i, item in enumerate(value)]
            if kind is not tuple:
                items.sort(key=_pack)  # one form for equal sets, whatever the hash seed
            code = TUPLE if kind is tuple else SET if kind is set else FROZENSET
            return msgspec.msgpack.Ext(code, _pack(items))
        registered = None if kind is Secret else self._by_type.get(kind)
        if registered is not None:
            body = self.lower(registered.encode(value), path)
            return msgspec.msgpack.Ext(REGISTERED, _pack([registered.name, body]))
        lower = _LOWER.get(kind)
        if lower is None:
            raise PayloadError(_refusal(value, path), path=path)
        code, data = lower(value)
        if data is None:
            raise PayloadError(
                f"{path}: the time zone {value.tzinfo!r} has no exact stored form; use UTC, a fixed offset or a ZoneInfo",
                path=path,
            )
        return msgspec.msgpack.Ext(code, _pack(data))

    def _lower_dict(self, value: dict[Any, Any], path: str) -> Any:
        items = [(self.lower(key, f"{path}.<key {key!r}>"), self.lower(item, f"{path}[{key!r}]")) for key, item in value.items()]
        if all(type(key) in (str, int) and is_plain(key) for key in value):
            return dict(items)
        return msgspec.msgpack.Ext(PAIRS, _pack(items))

    def revive(self, code: int, data: memoryview) -> Any:
        """The value of one extension (the `ext_hook` of a msgspec decoder)."""
        raw = self._decoder.decode(data)
        if code == REGISTERED:
            name, body = raw
            registered = self._by_name.get(name)
            if registered is None:
                raise PayloadError(
                    f"$: the stored type {name!r} is not registered; pass Codec(types=[...]) with it",
                    path="$",
                )
            return registered.decode(body)
        revive = _REVIVE.get(code)
        if revive is None:
            raise PayloadError(f"$: unknown stored extension {code}", path="$")
        return revive(raw)


def _refusal(value: Any, path: str) -> str:
    if isinstance(value, Secret):
        return f"{path}: {REFUSAL}"
    kind = type(value)
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    if isinstance(value, (enum.Enum, msgspec.Struct)) or hasattr(kind, "__dataclass_fields__"):
        remedy = "annotate the parameter or result with it, or register it: Codec(types=[...])"
    else:
        remedy = "pass plain data, or register the type with encode= and decode="
    return f"{path}: a value of type {name} cannot be stored without an annotation; {remedy}"


def _zone(value: dt.datetime | dt.time) -> Any:
    zone = value.tzinfo
    if zone is None:
        return 0
    zoneinfo = sys.modules.get("zoneinfo")  # who has a ZoneInfo has imported it; most programs never do
    if zoneinfo is not None and isinstance(zone, zoneinfo.ZoneInfo) and zone.key:
        return zone.key
    if isinstance(zone, dt.timezone):
        offset = zone.utcoffset(None)
        return ["", offset.days, offset.seconds, offset.microseconds]
    return None


def _unzone(stored: Any) -> dt.tzinfo | None:
    if stored == 0:
        return None
    if isinstance(stored, str):
        import zoneinfo  # noqa: PLC0415 - see _zone

        return zoneinfo.ZoneInfo(stored)
    offset = dt.timedelta(*stored[1:])
    return dt.timezone(offset) if offset else dt.UTC


def _lower_datetime(value: dt.datetime) -> tuple[int, Any]:
    zone = _zone(value)
    naive = value.replace(tzinfo=None, fold=0).isoformat()
    return _DATETIME, None if zone is None else [naive, value.fold, zone]


def _lower_time(value: dt.time) -> tuple[int, Any]:
    zone = _zone(value)
    naive = value.replace(tzinfo=None, fold=0).isoformat()
    return _TIME, None if zone is None else [naive, value.fold, zone]


_LOWER: dict[type, Callable[[Any], tuple[int, Any]]] = {
    dt.datetime: _lower_datetime,
    dt.date: lambda v: (_DATE, v.isoformat()),
    dt.time: _lower_time,
    dt.timedelta: lambda v: (_TIMEDELTA, [v.days, v.seconds, v.microseconds]),
    decimal.Decimal: lambda v: (_DECIMAL, str(v)),
    uuid.UUID: lambda v: (_UUID, v.bytes),
    int: lambda v: (_BIGINT, v.to_bytes(v.bit_length() // 8 + 1, "big", signed=True)),
    bytearray: lambda v: (BYTEARRAY, bytes(v)),
    complex: lambda v: (_COMPLEX, [v.real, v.imag]),
}

_REVIVE: dict[int, Callable[[Any], Any]] = {
    TUPLE: tuple,
    SET: set,
    FROZENSET: frozenset,
    _DATETIME: lambda v: dt.datetime.fromisoformat(v[0]).replace(tzinfo=_unzone(v[2]), fold=v[1]),
    _DATE: dt.date.fromisoformat,
    _TIME: lambda v: dt.time.fromisoformat(v[0]).replace(tzinfo=_unzone(v[2]), fold=v[1]),
    _TIMEDELTA: lambda v: dt.timedelta(*v),
    _DECIMAL: decimal.Decimal,
    _UUID: lambda v: uuid.UUID(bytes=v),
    _BIGINT: lambda v: int.from_bytes(v, "big", signed=True),
    BYTEARRAY: bytearray,
    PAIRS: lambda v: {key: item for key, item in v},  # noqa: C416 - pairs are lists
    _COMPLEX: lambda v: complex(*v),
}
