"""Values come back exactly, or are refused with the path to what cannot."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import math
import uuid
import zoneinfo
from typing import Any, Literal, NamedTuple

import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spellwork.codec import Codec, Limits, RegisteredType
from spellwork.errors import DefinitionError, PayloadError


class Colour(enum.Enum):
    RED = 1
    BLUE = "b"


@dataclasses.dataclass
class Point:
    x: int
    tags: frozenset[str] = frozenset()


class Box(msgspec.Struct):
    name: str
    points: list[Point]


class Model(pydantic.BaseModel):
    when: dt.datetime
    amounts: dict[str, decimal.Decimal]


class Pair(NamedTuple):
    a: int
    b: str


class Celsius:
    def __init__(self, degrees: float):
        self.degrees = degrees

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Celsius) and other.degrees == self.degrees

    __hash__ = None  # type: ignore[assignment]


UTC_NOW = dt.datetime(2026, 11, 23, 10, 30, 5, 123456, tzinfo=dt.UTC)
TYPED: list[tuple[Any, Any]] = [
    (None, None), (bool, True), (int, -(2**63)), (int, 2**64 - 1), (float, 1.5), (float, math.inf), (str, "é\u2028\0"),
    (bytes, b"\0\xff"), (bytearray, bytearray(b"x")), (list[int], [1, 2]), (tuple[int, ...], (1, 2)),
    (tuple[int, str], (1, "a")), (set[str], {"a", "b"}), (frozenset[int], frozenset({1})), (dict[str, int], {"a": 1}),
    (dict[int, str], {1: "a"}), (dt.datetime, UTC_NOW), (dt.datetime, dt.datetime(2026, 1, 1, 1)), (dt.date, dt.date(2026, 1, 1)),
    (dt.time, dt.time(1, 2, 3, 4)), (dt.timedelta, dt.timedelta(days=-1, microseconds=1)), (uuid.UUID, uuid.UUID(int=7)),
    (decimal.Decimal, decimal.Decimal("1.10")), (Colour, Colour.BLUE), (Point, Point(1, frozenset({"a"}))),
    (Box, Box("b", [Point(1)])), (Model, Model(when=UTC_NOW, amounts={"a": decimal.Decimal("0.1")})), (Pair, Pair(1, "x")),
    (int | str | None, "x"), (list[Point | None], [None, Point(2)]), (Literal["a", "b"], "b"),
    (dict[str, list[set[int]]], {"a": [{1}]}),
    (Celsius, Celsius(3.5)),
]  # fmt: skip
EXACT = [
    None, True, 0, -1, 2**63, -(2**64), 2**200, 0.1, math.inf, "text", b"bytes", bytearray(b"ba"), [1, [2]], (1, (2, ())),
    {1, 2}, {(1, 2), (3,)}, frozenset({"a"}), {"a": {"b": [1]}}, {1: 2, -5: 3}, {(1, 2): "pair"}, {None: 1, True: 2},
    {2**70: 1}, {1.5: 1}, {b"k": 1}, UTC_NOW, dt.datetime(2026, 10, 25, 2, 30, fold=1),
    dt.datetime(2026, 6, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
    dt.datetime(2026, 6, 1, tzinfo=dt.timezone(dt.timedelta(hours=5))),
    dt.date.min, dt.time(23, 59, fold=1), dt.timedelta.max, uuid.uuid4(), decimal.Decimal("NaN"), decimal.Decimal("1E+5"),
    1 + 2j, Colour.RED, Point(3), Box("x", []), Celsius(1.0), [{"deep": ({1, 2}, [b"", None])}],
]  # fmt: skip


@pytest.fixture(scope="module")
def codec() -> Codec:
    """A codec that knows the test's own types."""
    celsius = RegisteredType.of(Celsius, encode=lambda c: c.degrees, decode=Celsius)
    return Codec(types=[Colour, Point, Box, celsius])


@pytest.mark.parametrize(("annotation", "value"), TYPED, ids=lambda value: str(value)[:40])
def test_annotated_values_round_trip(codec: Codec, annotation: Any, value: Any) -> None:
    """What is annotated comes back as its annotation says, equal and of the same type."""
    shape = codec.shape(annotation)
    back = shape.decode(shape.encode(value))
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize("value", EXACT, ids=lambda value: repr(value)[:40])
def test_values_without_annotation_round_trip_exactly(codec: Codec, value: Any) -> None:
    """Without an annotation the form describes itself: types, keys, time zones and big integers come back."""
    payload = codec.untyped.encode(value)
    back = codec.untyped.decode(payload)
    assert repr(back) == repr(value) or back == value
    assert type(back) is type(value)
    if isinstance(value, dt.datetime):
        assert (back.tzinfo, back.fold) == (value.tzinfo, value.fold)


def test_nan_comes_back_as_nan(codec: Codec) -> None:
    """NaN is not equal to itself, and still comes back."""
    assert math.isnan(codec.untyped.decode(codec.untyped.encode(math.nan)))
    assert math.isnan(codec.shape(float).decode(codec.shape(float).encode(math.nan)))


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary() | st.decimals(allow_nan=False)
    | st.datetimes() | st.timedeltas() | st.uuids(),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner)
    | st.dictionaries(st.text() | st.integers(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(value=plain)
@settings(max_examples=200, deadline=None)
def test_any_value_comes_back_or_is_refused(value: Any) -> None:
    """Law: decode(encode(x)) is x, or encode raises PayloadError; nothing in between."""
    codec = Codec()
    try:
        payload = codec.untyped.encode(value)
    except PayloadError:
        return
    assert codec.untyped.decode(payload) == value


@given(data=st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_foreign_bytes_give_only_typed_errors(data: bytes) -> None:
    """Bytes that are no payload raise PayloadError, whatever they are."""
    codec = Codec()
    for annotation in (Any, int, list[str], Point, dict[str, dt.datetime], Model):
        try:
            codec.shape(annotation).decode(data)
        except PayloadError:
            continue


@pytest.mark.parametrize(
    ("annotation", "value", "path"),
    [
        (int, "x", "$"),
        (list[int], [1, "two"], "$[1]"),
        (dict[str, Point], {"a": {"x": "no"}}, "$[...].x"),
        (Point, {"tags": []}, "$"),
        (Colour, "GREEN", "$"),
    ],
)
def test_what_does_not_fit_the_annotation_is_named(codec: Codec, annotation: Any, value: Any, path: str) -> None:
    """Decoding against another annotation raises PayloadError with the path inside the value."""
    payload = codec.untyped.encode(value)
    with pytest.raises(PayloadError) as caught:
        codec.shape(annotation).decode(payload)
    assert caught.value.path == path


def test_digests_do_not_depend_on_set_order(codec: Codec) -> None:
    """Equal arguments have equal digests, whatever the order in which a set was filled; others differ."""
    words = [f"w{i}" for i in range(50)]
    backwards: set[str] = set()
    for word in reversed(words):
        backwards |= {word}
    assert codec.digest((set(words),)) == codec.digest((backwards,))
    assert codec.digest((1,)) != codec.digest((2,))
    assert codec.digest((2**80,)) != codec.digest((2**80 + 1,))


def test_limits_and_compression() -> None:
    """The limits are the codec's options; large payloads are compressed and count by their real size."""
    codec = Codec(limits=Limits(size=10_000, depth=3, compress_above=100))
    text = "spell" * 1000
    assert len(codec.untyped.encode(text)) < 200
    assert codec.untyped.decode(codec.untyped.encode(text)) == text
    with pytest.raises(PayloadError, match="more than the limit of 10,000"):
        codec.untyped.encode("x" * 10_001)
    with pytest.raises(PayloadError, match=r"\$\[0\]\[0\]\[0\].*deeper than the limit of 3"):
        codec.untyped.encode([[[["padding" * 10]]]])


def test_json_is_compressed_to_a_third_and_less(codec: Codec) -> None:
    """What agents keep (JSON as a text or as values) takes a third of its room at most, and comes back as it was."""
    records = [
        {"id": n, "role": "assistant" if n % 2 else "user", "model": "a-model", "usage": {"input": n * 17, "output": n * 5},
         "content": f"Step {n} of the plan: read the file number {n * n % 97} and sum up what has changed."}
        for n in range(200)
    ]  # fmt: skip
    text = msgspec.json.encode(records).decode()
    for value in (text, records):
        kept = codec.untyped.encode(value)
        assert 3 * len(kept) <= len(msgspec.msgpack.encode(value))
        assert codec.untyped.decode(kept) == value


def test_a_bomb_of_zeros_is_refused(codec: Codec) -> None:
    """A small compressed payload that would grow beyond reason is refused."""
    import zlib

    with pytest.raises(PayloadError, match="cut off or far beyond"):
        codec.untyped.decode(b"\xc1" + zlib.compress(b"\0" * (1 << 26), 9))


def test_registration_without_a_form_is_refused() -> None:
    """A type with no obvious form needs encode= and decode=, both."""
    with pytest.raises(DefinitionError, match="give encode= and decode="):
        RegisteredType.of(Celsius)
    with pytest.raises(DefinitionError, match="both"):
        RegisteredType.of(Celsius, encode=str)


def test_unknown_stored_types_are_named(codec: Codec) -> None:
    """A stored type that this program has not registered is named in the error, and never looked up."""
    payload = codec.untyped.encode(Point(1))
    with pytest.raises(PayloadError, match=r"Point' is not registered"):
        Codec().untyped.decode(payload)
