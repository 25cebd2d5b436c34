"""Owns the parameters of a workflow or handler: binding a call, and its way to bytes and back by annotation.
It must never evaluate anything but the annotations that the author wrote.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import msgspec

from spellwork.codec import Codec
from spellwork.errors import DefinitionError, PayloadError

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class _Call(msgspec.Struct, array_like=True):
    positional: list[bytes]
    named: dict[str, bytes]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Call).decode


class Parameters:
    """The signature of `fn` with its annotations resolved."""

    def __init__(self, fn: Callable[..., Any], name: str):
        self.name = name
        self._signature = inspect.signature(fn)
        hints = resolve_hints(fn, name)
        self.result = hints.get("return", Any)
        if self.result is type(None):
            self.result = None
        parameters = list(self._signature.parameters.values())
        self._by_position = [(p.name, hints.get(p.name, Any)) for p in parameters if p.kind in _POSITIONAL]
        self._by_name = {p.name: hints.get(p.name, Any) for p in parameters}
        self._rest = {p.kind: hints.get(p.name, Any) for p in parameters}
        simple = all(p.kind in _POSITIONAL for p in parameters)
        self._arity = (sum(p.default is p.empty for p in parameters), len(self._by_position)) if simple else None

    def encode(self, codec: Codec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """The payload of a call; raises `PayloadError` that names parameter and path, before anything is written."""
        self._bind(args, kwargs)
        call = _Call(
            [self._checked(codec, *self._positional(i), value) for i, value in enumerate(args)],
            {name: self._checked(codec, name, self._annotation(name), value) for name, value in kwargs.items()},
        )
        return _packed(codec, call)

    def decode(self, codec: Codec, payload: bytes) -> tuple[list[Any], dict[str, Any]]:
        """Arguments of a stored call; raises `PayloadError` when they do not fit the annotations of today."""
        call = decode_call(codec, payload)
        args = [
            self._named(name, codec, annotation, data)
            for (name, annotation), data in zip(map(self._positional, count()), call.positional, strict=False)
        ]
        kwargs = {n: self._named(n, codec, self._annotation(n), data) for n, data in call.named.items()}
        self._bind(args, kwargs)
        return args, kwargs

    def _bind(self, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        if self._arity is not None and not kwargs and self._arity[0] <= len(args) <= self._arity[1]:
            return
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise PayloadError(f"{self.name}{self._signature}: {error}", path="$") from error

    def _positional(self, index: int) -> tuple[str, Any]:
        if index < len(self._by_position):
            return self._by_position[index]
        return f"args[{index}]", self._rest.get(inspect.Parameter.VAR_POSITIONAL, Any)

    def _annotation(self, name: str) -> Any:
        return self._by_name.get(name, self._rest.get(inspect.Parameter.VAR_KEYWORD, Any))

    def _checked(self, codec: Codec, name: str, annotation: Any, value: Any) -> bytes:
        shape = codec.shape(annotation)
        try:
            payload = shape.hidden(name, shape.encode(value))
            shape.decode(payload)
        except PayloadError as error:
            path = error.path.replace("$", name, 1)
            raise PayloadError(f"{self.name}: {str(error).replace('$', name, 1)}", path=path) from error
        return payload

    def _named(self, name: str, codec: Codec, annotation: Any, payload: bytes) -> Any:
        try:
            return codec.shape(annotation).decode(payload)
        except PayloadError as error:
            path = error.path.replace("$", name, 1)
            raise PayloadError(f"{self.name}: {str(error).replace('$', name, 1)}", path=path) from error


def encode_call(codec: Codec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """The payload of a call whose signature is not known here."""
    shape = codec.untyped
    named = {name: shape.hidden(name, shape.encode(value)) for name, value in kwargs.items()}
    call = _Call([shape.encode(value) for value in args], named)
    return _packed(codec, call)


def pack_call(positional: list[bytes]) -> bytes:
    """A stored call with these payloads."""
    return _encode(_Call(positional, {}))


def _packed(codec: Codec, call: _Call) -> bytes:
    try:
        data = _encode(call)
    except UnicodeEncodeError as error:
        raise PayloadError(f"$: the name of an argument is no text that can be stored: {error.reason}", path="$") from error
    return codec.checked(None, data)


def decode_call(codec: Codec, payload: bytes) -> _Call:
    """The undecoded arguments of a stored call."""
    try:
        return _decode(codec.inflate(payload))
    except msgspec.MsgspecError as error:
        raise PayloadError(f"$: stored arguments cannot be read: {error}", path="$") from error


def show_call(codec: Codec, payload: bytes) -> dict[str, Any]:
    """Arguments of a stored call as plain values, for people to read."""
    call = decode_call(codec, payload)
    values = {f"{index}": codec.untyped.decode(data) for index, data in enumerate(call.positional)}
    return values | {name: codec.untyped.decode(data) for name, data in call.named.items()}


def resolve_hints(fn: Callable[..., Any], name: str) -> dict[str, Any]:
    """The annotations of `fn`; names of enclosing functions are seen too. Raises `DefinitionError` for unknown ones."""
    closure = inspect.getclosurevars(fn).nonlocals if hasattr(fn, "__closure__") and fn.__closure__ else {}
    try:
        return typing.get_type_hints(fn, localns=dict(closure) or None, include_extras=True)
    except NameError as error:
        raise DefinitionError(
            f"{name}: the annotation {error.name!r} cannot be resolved; define the type at module level"
        ) from error
    except TypeError:
        return {}
