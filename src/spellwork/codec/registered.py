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


@dataclasses.dataclass(frozen=True, slots=True)
class RegisteredType:
    """A type with a stable name and a way to plain data and back.

    `encode` turns a value into builtins (what `Codec` stores as it is), `decode` turns them back. Enums, dataclasses, msgspec
    structs and pydantic models need neither.
    """

    type: type
    name: str
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]

    @classmethod
    def of(
        cls,
        type_: type,
        *,
        name: str | None = None,
        encode: Callable[[Any], Any] | None = None,
        decode: Callable[[Any], Any] | None = None,
    ) -> RegisteredType:
        """Describe `type_`; for kinds that have an obvious form, `encode` and `decode` may be left out."""
        name = name or f"{type_.__module__}.{type_.__qualname__}"
        if encode is not None and decode is not None:
            return cls(type_, name, encode, decode)
        if encode is not None or decode is not None:
            raise DefinitionError(f"{name}: give both encode= and decode=, or neither")
        if issubclass(type_, enum.Enum):
            return cls(type_, name, lambda member: member.name, lambda label: type_[label])
        if hasattr(type_, "model_validate_json"):
            return cls(type_, name, _dump_model, type_.model_validate_json)
        if dataclasses.is_dataclass(type_) or issubclass(type_, msgspec.Struct):
            names = _field_names(type_)
            return cls(
                type_,
                name,
                lambda value: {field: getattr(value, field) for field in names},
                lambda fields: msgspec.convert(fields, type_),
            )
        raise DefinitionError(
            f"{name} is no enum, dataclass, msgspec struct or pydantic model: give encode= and decode="
        )


def _dump_model(value: Any) -> str:
    return str(value.model_dump_json())


def _field_names(type_: Any) -> tuple[str, ...]:
    if dataclasses.is_dataclass(type_):
        return tuple(field.name for field in dataclasses.fields(type_) if field.init)
    return tuple(type_.__struct_fields__)
