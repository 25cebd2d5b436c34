"""Owns the merge operators: an old value and an operand to the new value.
It must never change the old value in place, nor guess what two values that don't fit together might mean.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from spellwork.errors import DefinitionError

MISSING: Final = msgspec.UNSET
"""Stands for the value of a key that has none."""

Operator = Callable[[Any, Any], Any]
"""Gets the value of a key (None: it has none) and the operand, and returns the new value.

It runs in the thread that writes, one merge after the other: it must be quick, must not block, and must not change what it gets.
Whatever it raises refuses the merge."""

_NUMBERS = (int, float, decimal.Decimal)


def _add(old: Any, operand: Any) -> Any:
    for value in (operand,) if old is MISSING else (old, operand):
        if not isinstance(value, _NUMBERS) or isinstance(value, bool):
            raise TypeError(f"add needs numbers, not {type(value).__name__}")
    return operand if old is MISSING else old + operand


def _append(old: Any, operand: Any) -> Any:
    if old is MISSING:
        return [operand]
    if isinstance(old, list):
        return [*old, operand]
    if isinstance(old, str) and isinstance(operand, str):
        return old + operand
    if isinstance(old, bytes) and isinstance(operand, bytes):
        return old + operand
    raise TypeError(f"append cannot put a {type(operand).__name__} behind a {type(old).__name__}")


def _union(old: Any, operand: Any) -> Any:
    if not isinstance(operand, (set, frozenset, list, dict)):
        raise TypeError(f"union needs a set, list or dict, not {type(operand).__name__}")
    if old is MISSING:
        return _distinct(operand) if isinstance(operand, list) else operand
    if isinstance(old, (set, frozenset)) and isinstance(operand, (set, frozenset, list)):
        return old | frozenset(operand)
    if isinstance(old, list) and isinstance(operand, (set, frozenset, list)):
        return _distinct([*old, *operand])
    if isinstance(old, dict) and isinstance(operand, dict):
        return old | operand
    raise TypeError(f"union cannot join a {type(old).__name__} and a {type(operand).__name__}")


def _distinct(items: list[Any]) -> list[Any]:
    try:
        return list(dict.fromkeys(items))
    except TypeError:  # items that have no hash, such as lists
        found: list[Any] = []
        for item in items:
            if item not in found:
                found.append(item)
        return found


def _min(old: Any, operand: Any) -> Any:
    return operand if old is MISSING or operand < old else old


def _max(old: Any, operand: Any) -> Any:
    return operand if old is MISSING or operand > old else old


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7396, "JSON Merge Patch", section 2."""
    if not isinstance(patch, Mapping):
        return patch
    result = _object(target)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge_patch(result.get(name), value)
    return result


def _object(value: Any) -> dict[str, Any]:
    """What a value is in JSON, if that is an object; else an empty one, as the RFC has it."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, msgspec.Struct) or dataclasses.is_dataclass(value):
        plain = plain_of(value)
        return plain if isinstance(plain, dict) else {}
    if hasattr(value, "model_dump"):
        return dict(value.model_dump(mode="json"))
    return {}


def plain_of(value: Any) -> Any:
    """Structs and dataclasses as dicts (sets as lists); what the codec stores exactly stays what it is."""
    return msgspec.to_builtins(value, builtin_types=_EXACT)


def _patch(old: Any, operand: Any) -> Any:
    return merge_patch(None if old is MISSING else old, operand)


_EXACT = (bytes, bytearray, decimal.Decimal, dt.datetime, dt.date, dt.time, dt.timedelta, uuid.UUID)
_BUILT_IN: dict[str, Operator] = {
    "add": _add,
    "append": _append,
    "max": _max,
    "merge-patch": _patch,
    "min": _min,
    "union": _union,
}


class Operators:
    """The merge operators of a store by name: the built-in ones and those it was opened with."""

    def __init__(self, registered: Mapping[str, Operator] | None = None):
        self._known = dict(_BUILT_IN)
        for name, operator in (registered or {}).items():
            if name in _BUILT_IN:
                raise DefinitionError(f"the merge operator {name!r} is built in; give yours another name")
            if not callable(operator):
                raise DefinitionError(f"the merge operator {name!r} is a {type(operator).__name__}, not a function")
            self._known[name] = _without_missing(operator)

    def find(self, name: str) -> Operator:
        """The operator of this name; raises `DefinitionError`."""
        operator = self._known.get(name)
        if operator is None:
            raise DefinitionError(f"unknown merge operator {name!r}; there are {', '.join(sorted(self._known))}")
        return operator


def _without_missing(operator: Operator) -> Operator:
    def called(old: Any, operand: Any) -> Any:
        return operator(None if old is MISSING else old, operand)

    return called
