"""Owns `Codec`: values to payloads by annotation, limits, compression and digests.
It must never let a value through that reads back differently from what its annotation promises.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import types
import typing
import zlib
from collections.abc import Iterable
from typing import Any

import msgspec

from spellwork.codec.exact import ExactForm
from spellwork.codec.redaction import Redaction
from spellwork.codec.registered import RegisteredType
from spellwork.codec.secret import REFUSAL, Secret
from spellwork.errors import DefinitionError, PayloadError

# 0xc1 is the one byte that no msgpack value starts with, so it can announce a compressed payload for free.
_COMPRESSED = b"\xc1"
# All bytes but those that may begin an array, a map or an extension in msgpack.
_NO_CONTAINER = bytes({*range(256)} - {*range(0x80, 0xA0), *range(0xC7, 0xCA), *range(0xD4, 0xD9), *range(0xDC, 0xE0)})
_UNTYPED = (Any, object, inspect.Parameter.empty, list, dict, set, frozenset, tuple)
# What constructors of values make of stored parts that are none: a Decimal of "x", a datetime of one part, an int as a zone.
_DECODE_ERRORS = (
    msgspec.MsgspecError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError,
)  # fmt: skip
_ENCODE_ERRORS = (TypeError, ValueError, OverflowError, RecursionError, UnicodeError)


class Limits(msgspec.Struct, frozen=True):
    """What one payload may be: `size` in bytes (before compression), `depth` in nested containers."""

    size: int = 1 << 20
    depth: int = 64
    compress_above: int = 4096


class Shape:
    """How values of one annotation become payloads and come back."""

    __slots__ = ("_codec", "_decoder", "_exact", "annotation")

    def __init__(self, codec: Codec, annotation: Any):
        self._codec = codec
        self.annotation = annotation
        self._exact = _has_untyped(annotation, frozenset())
        target = Any if self._exact else annotation
        try:
            self._decoder = msgspec.msgpack.Decoder(target, dec_hook=codec.dec_hook, ext_hook=codec.exact.revive)
        except TypeError:
            self._exact = True
            self._decoder = msgspec.msgpack.Decoder(ext_hook=codec.exact.revive)

    def encode(self, value: Any) -> bytes:
        """The payload of `value`; raises `PayloadError` that names the path of what cannot be stored."""
        codec = self._codec
        try:
            data = codec.pack(codec.exact.lower(value) if self._exact else value)
        except PayloadError:
            raise
        except _ENCODE_ERRORS as error:
            raise codec.refusal(value, error) from error
        if codec.redaction is not None:
            data = self._redacted(codec.redaction, value, data)
        if len(data) > 32:
            data = codec.checked(value, data)
        return data

    def hidden(self, name: str, payload: bytes) -> bytes:
        """The payload of a parameter `name`, without what it holds if the rules of redaction name it."""
        redaction = self._codec.redaction
        if redaction is None or not redaction.names(name):
            return payload
        hidden = redaction.hidden(msgspec.msgpack.decode(self._codec.inflate(payload)))
        return self._fitting(self._codec.pack(hidden), f"{name}: ")

    def _redacted(self, redaction: Redaction, value: Any, data: bytes) -> bytes:
        _refuse_positional(redaction, value)
        cleaned = redaction.payload(data)
        return data if cleaned is data else self._fitting(cleaned, "")

    def _fitting(self, cleaned: bytes, what: str) -> bytes:
        try:
            self.decode(cleaned)
        except PayloadError as error:
            raise PayloadError(
                f"{what}{error}: that is what redaction leaves of it; annotate it as a text, or change the rules",
                path=error.path,
            ) from error
        return cleaned

    def decode(self, payload: bytes) -> Any:
        """The value of a payload; raises `PayloadError` when it does not fit the annotation."""
        if payload[:1] == _COMPRESSED:
            payload = self._codec.inflate(payload)
        try:
            value = self._decoder.decode(payload)
            if self._exact and self.annotation not in _UNTYPED:
                value = self._convert(value)
        except _DECODE_ERRORS as error:
            path = _path_of(str(error))
            wanted = getattr(self.annotation, "__name__", None) or str(self.annotation)
            raise PayloadError(f"{path}: {error} (expected {wanted})", path=path) from error
        return value

    def _convert(self, value: Any) -> Any:
        try:
            return msgspec.convert(value, self.annotation, dec_hook=self._codec.dec_hook)
        except TypeError as error:
            if "not supported" not in str(error):
                raise
            # an annotation that msgspec has no notion of: the exact form stands, if it is of that class
            if isinstance(self.annotation, type) and not isinstance(value, self.annotation):
                raise TypeError(f"got {type(value).__name__}") from error
            return value


class Codec:
    """Values to bytes and back.

    `types` are classes (or `RegisteredType`s) that may stand where no annotation says more. `redaction` has the rules for what is
    never stored.
    """

    def __init__(
        self, *, types: Iterable[type | RegisteredType] = (), limits: Limits | None = None, redaction: Redaction | None = None
    ) -> None:
        self.limits = limits or Limits()
        self.redaction = redaction
        self._types = types = list(types)
        registered = [t if isinstance(t, RegisteredType) else RegisteredType.of(t) for t in types]
        self._by_type = {entry.kind: entry for entry in registered}
        self.exact = ExactForm(self._by_type, {entry.name: entry for entry in registered})
        self.pack = msgspec.msgpack.Encoder(enc_hook=self._enc_hook).encode
        self._canonical = msgspec.msgpack.Encoder(enc_hook=self._enc_hook, order="deterministic").encode
        self._shapes: dict[Any, Shape] = {}
        self.untyped = Shape(self, Any)

    def redacting(self, redaction: Redaction) -> Codec:
        """A codec like this one, with rules; raises `DefinitionError` if it has some already."""
        if self.redaction is not None:
            raise DefinitionError("the codec has rules of redaction already; give them once, to the codec or to the engine")
        return Codec(types=self._types, limits=self.limits, redaction=redaction)

    def text(self, text: str) -> str:
        """A text for people (a reason, say) as it may be stored."""
        return text if self.redaction is None else self.redaction.text(text)

    def plain(self, value: Any) -> Any:
        """Plain data (headers, say) as it may be stored."""
        return value if self.redaction is None else self.redaction.value(value)

    def shape(self, annotation: Any) -> Shape:
        """The (cached) shape of an annotation."""
        try:
            shape = self._shapes.get(annotation)
        except TypeError:  # an unhashable annotation, such as Annotated[int, {...}]
            return Shape(self, annotation)
        if shape is None:
            shape = self._shapes[annotation] = Shape(self, annotation)
        return shape

    def digest(self, value: Any) -> bytes:
        """Eight bytes that differ when the value does, whatever the hash seed; raises `PayloadError`."""
        try:
            data = self._canonical(value)
        except _ENCODE_ERRORS as error:
            if str(error) == REFUSAL:
                raise self.refusal(value, error) from None
            data = self._exact_bytes(value)
        if len(data) > 32:
            self._check(value, data)
        return hashlib.blake2b(data, digest_size=8).digest()

    def _exact_bytes(self, value: Any) -> bytes:
        try:
            return self.pack(self.exact.lower(value))
        except _ENCODE_ERRORS as error:
            raise self.refusal(value, error) from error

    def checked(self, value: Any, data: bytes) -> bytes:
        """`data` within the limits, compressed where that pays."""
        self._check(value, data)
        return self.compressed(data)

    def compressed(self, data: bytes) -> bytes:
        """`data` compressed where that pays; what is beyond the limit stays as it is."""
        if self.limits.compress_above < len(data) <= self.limits.size:
            small = zlib.compress(data, 1)
            if len(small) + 1 < len(data):
                return _COMPRESSED + small
        return data

    def inflate(self, payload: bytes) -> bytes:
        """The uncompressed form of a payload."""
        return _inflate(payload, self.limits.size) if payload[:1] == _COMPRESSED else payload

    def _check(self, value: Any, data: bytes) -> None:
        limits = self.limits
        if len(data) > limits.size:
            raise PayloadError(
                f"$: {len(data):,} bytes are more than the limit of {limits.size:,}; store the data elsewhere and pass a "
                "reference, or raise Codec(limits=Limits(size=...))",
                path="$",
            )
        if len(data) > limits.depth and type(value) not in (str, bytes) and _may_be_deep(data, limits.depth):
            self._check_depth(value, limits.depth)

    def _check_depth(self, value: Any, limit: int) -> None:
        level = {id(value): ("$", value)}  # by identity: a value that contains itself must not grow
        for _ in range(limit):
            level = {id(child): (where, child) for path, item in level.values() for where, child in _containers(path, item)}
            if not level:
                return
        path = next(iter(level.values()))[0]
        raise PayloadError(f"{path}: nested deeper than the limit of {limit}", path=path)

    def refusal(self, value: Any, error: BaseException) -> PayloadError:
        """The `PayloadError` for a value that msgspec refused, with the path of the first bad part."""
        self._check_depth(value, self.limits.depth)
        path, bad = self._locate(value, "$")
        if isinstance(bad, Secret):
            return PayloadError(f"{path}: {REFUSAL}", path=path)
        kind = type(bad).__qualname__
        return PayloadError(f"{path}: a value of type {kind} cannot be stored: {error}", path=path)

    def _locate(self, value: Any, path: str) -> tuple[str, Any]:
        for child_path, child in _children(path, value):
            try:
                self.pack(child)
            except _ENCODE_ERRORS:
                return self._locate(child, child_path)
        return path, value

    def _enc_hook(self, value: Any) -> Any:
        if isinstance(value, Secret):
            raise TypeError(REFUSAL)
        registered = self._by_type.get(type(value))
        if registered is not None:
            return registered.encode(value)
        if hasattr(value, "model_dump_json"):
            return value.model_dump_json()
        kind = type(value)
        raise TypeError(f"{kind.__module__}.{kind.__qualname__} is not known; register it with Codec(types=[...])")

    def dec_hook(self, annotation: Any, value: Any) -> Any:
        """Build what msgspec does not know (registered types, pydantic models) from plain data."""
        if isinstance(annotation, type) and isinstance(value, annotation):
            return value
        registered = self._by_type.get(annotation)
        if registered is not None:
            return registered.decode(value)
        if hasattr(annotation, "model_validate_json"):
            # ours are JSON text; what comes by name or from the command line is plain data
            return annotation.model_validate_json(value if isinstance(value, (str, bytes)) else msgspec.json.encode(value))
        raise TypeError(f"values of type {annotation!r} are not supported")


def _refuse_positional(redaction: Redaction, value: Any) -> None:
    """Raise for fields that the rules name in what is stored without the names of its fields."""
    level = [("$", value)]
    while level:
        for path, item in level:
            config = getattr(item, "__struct_config__", None)
            by_position = isinstance(item, tuple) or (config is not None and config.array_like)
            names = getattr(item, "_fields" if isinstance(item, tuple) else "__struct_fields__", ()) if by_position else ()
            for name in names:
                if redaction.names(name):
                    raise PayloadError(
                        f"{path}.{name}: {type(item).__qualname__} is stored without the names of its fields, so the rule for "
                        f"{name!r} cannot reach it; use a dataclass",
                        path=f"{path}.{name}",
                    )
        level = [child for path, item in level for child in _containers(path, item)]


def _may_be_deep(data: bytes, limit: int) -> bool:
    """Whether there are as many bytes that may begin a level of nesting. Where there are not, nobody need walk over the value."""
    return len(data.translate(None, _NO_CONTAINER)) >= limit


def _inflate(payload: bytes, limit: int) -> bytes:
    # A stored payload was within the limit when it was written; the factor allows for a limit that was lowered since.
    try:
        engine = zlib.decompressobj()
        data = engine.decompress(payload[1:], max(limit * 16, 1 << 24))
    except zlib.error as error:
        raise PayloadError(f"$: a compressed payload is damaged: {error}", path="$") from error
    if not engine.eof:
        raise PayloadError("$: a compressed payload is cut off or far beyond the limit", path="$")
    return data


def _children(path: str, value: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield f"{path}.<key {key!r}>", key
            yield f"{path}[{key!r}]", item
    elif isinstance(value, (list, tuple, set, frozenset)):
        for index, item in enumerate(value):
            yield f"{path}[{index}]", item
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield f"{path}.{field.name}", getattr(value, field.name)
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield f"{path}.{name}", getattr(value, name)


def _containers(path: str, value: Any) -> Iterable[tuple[str, Any]]:
    return (pair for pair in _children(path, value) if not isinstance(pair[1], (str, bytes, int, float)))


def _path_of(message: str) -> str:
    marker = " - at `"
    if marker in message:
        return message.split(marker, 1)[1].split("`", 1)[0]
    return "$"


def _has_untyped(annotation: Any, seen: frozenset[Any]) -> bool:  # noqa: PLR0911 - one answer a kind of annotation
    if annotation in _UNTYPED or isinstance(annotation, (typing.TypeVar, str)):
        return True
    if annotation in seen or annotation is None:
        return False
    if typing.get_origin(annotation) is typing.Annotated:
        return _has_untyped(typing.get_args(annotation)[0], seen)
    if typing.get_origin(annotation) is typing.Literal:
        return False
    if isinstance(annotation, typing.NewType):
        return _has_untyped(annotation.__supertype__, seen)
    seen = seen | {annotation}
    parts = [part for part in typing.get_args(annotation) if part is not Ellipsis]
    if isinstance(annotation, type) and (dataclasses.is_dataclass(annotation) or issubclass(annotation, (msgspec.Struct, tuple))):
        try:
            parts += list(typing.get_type_hints(annotation).values())
        except (NameError, TypeError):
            return False
    return any(not isinstance(part, (list, types.EllipsisType)) and _has_untyped(part, seen) for part in parts)
