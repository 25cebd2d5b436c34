"""Owns the description of types that the codec does not know by itself.
It must never look a type up by anything but the name under which the program registered it.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from typing import Any

import msgspec

from spellwork.errors import DefinitionError


class RegisteredType(msgspec.Struct, frozen=True):
    """A type with a stable name and a way to plain data and back.

    `encode` turns a value into builtins (what `Codec` stores as it is), `decode` turns them back. Enums, dataclasses, msgspec
    structs and pydantic models need neither.
    """

    kind: type[Any]
    name: str
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]

    @classmethod
    def of(
        cls,
        kind: type[Any],
        *,
        name: str | None = None,
        encode: Callable[[Any], Any] | None = None,
        decode: Callable[[Any], Any] | None = None,
    ) -> RegisteredType:
        """Describe `kind`; for kinds that have an obvious form, `encode` and `decode` may be left out."""
        name = name or f"{kind.__module__}.{kind.__qualname__}"
        if encode is not None and decode is not None:
            return cls(kind, name, encode, decode)
        if encode is not None or decode is not None:
            raise DefinitionError(f"{name}: give both encode= and decode=, or neither")
        if issubclass(kind, enum.Enum):
            return cls(kind, name, lambda member: member.name, lambda label: kind[label])
        if hasattr(kind, "model_validate_json"):
            return cls(kind, name, _dump_model, kind.model_validate_json)
        if dataclasses.is_dataclass(kind) or issubclass(kind, msgspec.Struct):
            names = _field_names(kind)
            return cls(
                kind,
                name,
                lambda value: {field: getattr(value, field) for field in names},
                lambda fields: msgspec.convert(fields, kind),
            )
        raise DefinitionError(f"{name} is no enum, dataclass, msgspec struct or pydantic model: give encode= and decode=")


def _dump_model(value: Any) -> str:
    return str(value.model_dump_json())


def _field_names(kind: Any) -> tuple[str, ...]:
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind) if field.init)
    return tuple(kind.__struct_fields__)
