"""Owns whether a value is what an annotation says, as it stands: nothing is copied, converted or stored.
It must never take a value for another one that only looks like it, such as a dict for a dataclass.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

import msgspec

from spellwork.errors import PayloadError

Check = Callable[[Any, str], None]
_ANY = (Any, object, inspect.Parameter.empty)
_SEQUENCES = (list, set, frozenset, collections.abc.Sequence, collections.abc.Set, collections.abc.MutableSequence)
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


def compiled(annotation: Any) -> Check | None:
    """A function that raises `PayloadError` with the path of what does not fit; None where everything does."""
    return _compile(annotation, {})


def _compile(annotation: Any, known: dict[Any, list[Check]]) -> Check | None:  # noqa: PLR0911 - one answer a kind of annotation
    if annotation in _ANY or isinstance(annotation, (typing.TypeVar, str)):
        return None
    if isinstance(annotation, typing.NewType):
        return _compile(annotation.__supertype__, known)
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _both(
            _compile(parts[0], known), _constrained(annotation) if any(isinstance(m, msgspec.Meta) for m in parts) else None
        )
    if origin is typing.Literal:
        return _one_of(parts)
    if origin in (typing.Union, types.UnionType):
        return _union(annotation, [_compile(part, known) for part in parts])
    if origin is tuple:
        return _tuple(parts, known)
    if origin in _SEQUENCES:
        return _both(_instance(origin), _items(_compile(parts[0], known)))
    if origin in _MAPPINGS:
        return _both(_instance(origin), _pairs(_compile(parts[0], known), _compile(parts[1], known)))
    return _class(annotation, origin, known)


def _class(annotation: Any, origin: Any, known: dict[Any, list[Check]]) -> Check | None:
    kind = type(None) if annotation is None else origin or annotation
    if typing.is_typeddict(kind):
        return _both(_instance(dict), _typed_dict(kind, known))
    if not isinstance(kind, type):
        return None  # what has no class at run time (a callable's signature, a type variable's bound) is the type checker's
    if getattr(kind, "_is_protocol", False) and not getattr(kind, "_is_runtime_protocol", False):
        return None
    if dataclasses.is_dataclass(kind) or issubclass(kind, msgspec.Struct):
        return _both(_instance(kind), _fields(kind, known))
    return _instance(kind)


def _refuse(value: Any, path: str, wanted: str) -> typing.NoReturn:
    raise PayloadError(f"{path}: expected {wanted}, got {type(value).__qualname__}", path=path)


def _instance(kind: Any) -> Check:
    # A bool is an int and an int is a float to type checkers; only the second is meant in what is sent around.
    accepted, refused = ((float, int), bool) if kind is float else (kind, bool) if kind is int else (kind, ())

    def check(value: Any, path: str) -> None:
        if not isinstance(value, accepted) or isinstance(value, refused):
            _refuse(value, path, getattr(kind, "__qualname__", str(kind)))

    return check


def _both(first: Check | None, second: Check | None) -> Check | None:
    if first is None or second is None:
        return first or second

    def check(value: Any, path: str) -> None:
        first(value, path)
        second(value, path)

    return check


def _one_of(values: tuple[Any, ...]) -> Check:
    def check(value: Any, path: str) -> None:
        if not any(type(value) is type(each) and value == each for each in values):
            raise PayloadError(f"{path}: expected one of {', '.join(map(repr, values))}, got {value!r}", path=path)

    return check


def _union(annotation: Any, checks: list[Check | None]) -> Check | None:
    if None in checks:
        return None
    some = [check for check in checks if check is not None]

    def check(value: Any, path: str) -> None:
        for each in some:
            try:
                each(value, path)
            except PayloadError:
                continue
            return
        _refuse(value, path, str(annotation))

    return check


def _items(check_item: Check | None) -> Check | None:
    if check_item is None:
        return None

    def check(value: Any, path: str) -> None:
        for index, item in enumerate(value):
            check_item(item, f"{path}[{index}]")

    return check


def _pairs(check_key: Check | None, check_item: Check | None) -> Check | None:
    if check_key is None and check_item is None:
        return None

    def check(value: Any, path: str) -> None:
        for key, item in value.items():
            if check_key is not None:
                check_key(key, f"{path}.<key {key!r}>")
            if check_item is not None:
                check_item(item, f"{path}[{key!r}]")

    return check


def _tuple(parts: tuple[Any, ...], known: dict[Any, list[Check]]) -> Check | None:
    if len(parts) == 2 and parts[1] is Ellipsis:
        return _both(_instance(tuple), _items(_compile(parts[0], known)))
    checks = [_compile(part, known) for part in parts]

    def check(value: Any, path: str) -> None:
        if not isinstance(value, tuple) or len(value) != len(checks):
            _refuse(value, path, f"a tuple of {len(checks)}")
        for index, (each, item) in enumerate(zip(checks, value, strict=True)):
            if each is not None:
                each(item, f"{path}[{index}]")

    return check


def _fields(kind: Any, known: dict[Any, list[Check]]) -> Check | None:
    if kind in known:  # a class that holds itself: by the time a value is checked, its check is there
        later = known[kind]
        return lambda value, path: later[0](value, path) if later else None
    known[kind] = []
    names = kind.__struct_fields__ if issubclass(kind, msgspec.Struct) else [field.name for field in dataclasses.fields(kind)]
    hints = _hints(kind)
    checks = [(name, each) for name in names if (each := _compile(hints.get(name, Any), known)) is not None]

    def check(value: Any, path: str) -> None:
        for name, each in checks:
            each(getattr(value, name), f"{path}.{name}")

    if checks:
        known[kind].append(check)
    return check if checks else None


def _typed_dict(kind: Any, known: dict[Any, list[Check]]) -> Check:
    required: frozenset[str] = kind.__required_keys__
    checks = {name: _compile(_bare(hint), known) for name, hint in _hints(kind).items()}

    def check(value: Any, path: str) -> None:
        for name in [name for name in required if name not in value]:
            raise PayloadError(f"{path}: the key {name!r} of {kind.__qualname__} is missing", path=path)
        for name, item in value.items():
            if name not in checks:
                raise PayloadError(f"{path}: {kind.__qualname__} has no key {name!r}", path=path)
            each = checks[name]
            if each is not None:
                each(item, f"{path}[{name!r}]")

    return check


def _bare(hint: Any) -> Any:
    return typing.get_args(hint)[0] if typing.get_origin(hint) in (typing.Required, typing.NotRequired) else hint


def _hints(kind: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(kind, include_extras=True)
    except (NameError, TypeError):  # an annotation that only a type checker can resolve
        return {}


def _constrained(annotation: Any) -> Check:
    def check(value: Any, path: str) -> None:
        try:
            msgspec.convert(value, annotation)
        except msgspec.ValidationError as error:
            raise PayloadError(f"{path}: {error}", path=path) from error

    return check
