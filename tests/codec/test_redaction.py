"""Secrets that refuse to be stored, and rules for what is replaced before anything is."""

from __future__ import annotations

import copy
import dataclasses
import datetime as dt
import decimal
import json
import pickle
import re
import typing
import uuid
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spellwork.codec import Codec, Redaction, RegisteredType, Secret
from spellwork.errors import DefinitionError, PayloadError
from spellwork.journal import Failure

CANARY = "sk-live-7f3a91"
RULES = Redaction(patterns=[r"sk-live-\w+"], fields=["password", "api_key"])


@dataclasses.dataclass
class Login:
    user: str
    password: str
    nested: dict[str, str] | None = None


class Shape(msgspec.Struct):
    api_key: str
    note: str


class Opaque:
    def __init__(self, text: str):
        self.text = text


# Secret


@pytest.mark.parametrize("show", [repr, str, "{}".format, lambda s: f"{s!r} {s!s} {s}"])
def test_a_secret_shows_nothing(show) -> None:
    """As text, whatever the way, it is stars; so is an exception about it."""
    secret = Secret(CANARY)
    assert "***" in show(secret)
    assert CANARY not in show(secret) + str([secret]) + str(ValueError(secret)) + repr({"a": secret})
    assert secret.reveal() == CANARY


@pytest.mark.parametrize(
    ("annotation", "value", "path"),
    [
        (Any, Secret(CANARY), "$"),
        (Any, {"a": [1, Secret(CANARY)]}, "$['a'][1]"),
        (Secret[str], Secret(CANARY), "$"),
        (dict[str, Secret[str]], {"token": Secret(CANARY)}, "$['token']"),
        (Login, Login("ada", Secret(CANARY)), "$.password"),  # type: ignore[arg-type]
        (Login, Login("ada", "x", {"deep": Secret(CANARY)}), "$.nested['deep']"),  # type: ignore[dict-item]
        (dict[str, Any], {"deep": (Secret(CANARY),)}, "$['deep'][0]"),
        (set, {Secret(CANARY)}, "$[0]"),
    ],
)
def test_a_secret_is_refused_with_its_path(annotation, value, path) -> None:
    """Wherever it stands, typed or not: encoding and digests raise PayloadError that says where and what to do."""
    for codec in (Codec(), Codec(types=[RegisteredType(Secret, "secret", lambda s: s.reveal(), Secret)])):
        for refuse in (codec.shape(annotation).encode, codec.digest):
            with pytest.raises(PayloadError, match="pass the name of the secret instead") as caught:
                refuse(value)
            assert CANARY not in str(caught.value)
        with pytest.raises(PayloadError) as caught:
            codec.shape(annotation).encode(value)
        assert caught.value.path == path


def test_secrets_are_compared_copied_and_never_pickled() -> None:
    """Equal by value, the same when copied, refused by pickle, and gone from a stored failure."""
    secret = Secret(CANARY)
    assert secret == Secret(CANARY) != Secret("other")
    assert Secret(b"a") == Secret(b"a") != Secret(b"b")
    assert Secret(1) == Secret(1) != 1
    assert len({secret, Secret(CANARY)}) == 1
    assert not Secret("")
    assert copy.deepcopy({"a": secret})["a"] is secret
    with pytest.raises(TypeError, match="never stored"):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        json.dumps(secret)
    error = ValueError("it failed", secret)
    error.__cause__ = KeyError(secret)
    assert CANARY not in repr(Failure.of(error))


# Redaction


@pytest.mark.parametrize(
    ("annotation", "value", "stored"),
    [
        (str, f"use {CANARY} please", "use *** please"),
        (bytes, b"\xff" + CANARY.encode(), b"\xff***"),
        (Any, {"Password": "x", "api-key": 7, "apiKey": b"x"}, {"Password": "***", "api-key": "***", "apiKey": b"***"}),
        (Any, {"password": None}, {"password": None}),
        (Any, {"password": ["a", "b"], "deep": [{"api_key": {"x": 1}}]}, {"password": [], "deep": [{"api_key": {}}]}),
        (Any, {CANARY: 1}, {"***": 1}),
        (Any, ({"password": "x"}, {CANARY}, frozenset([CANARY])), ({"password": "***"}, {"***"}, frozenset(["***"]))),
        (Any, {"password": ("a", 1)}, {"password": ()}),
        (Any, {(1, 2): CANARY, "password": "x"}, {(1, 2): "***", "password": "***"}),
        (Any, bytearray(CANARY.encode()), bytearray(b"***")),
        (Login, Login("ada", "x", {"password": "y"}), Login("ada", "***", {"password": "***"})),
        (list[Shape], [Shape("x", f"n {CANARY}")], [Shape("***", "n ***")]),
        (str, '{"password": "x", "a": [1, "sk-live-1"]}', '{"password":"***","a":[1,"***"]}'),
        (str, '[{"api_key": "x"}]', '[{"api_key":"***"}]'),
        (str, "{not json, password", "{not json, password"),
        (dict[str, list[str]], {"password": ["a"]}, {"password": []}),
    ],
)  # fmt: skip
def test_rules_reach_every_form(annotation, value, stored) -> None:
    """Names and patterns, in plain and typed values, keys, JSON texts and extensions; what comes back is what is stored."""
    codec = Codec(redaction=RULES)
    shape = codec.shape(annotation)
    payload = shape.encode(value)
    assert CANARY.encode() not in payload
    assert shape.decode(payload) == stored
    assert shape.encode(stored) == payload  # once more changes nothing


def test_registered_types_and_models_are_reached() -> None:
    """What a type makes of itself is plain data, and rules hold there; a pydantic model is JSON text, which is looked into."""
    pydantic = pytest.importorskip("pydantic")

    class Account(pydantic.BaseModel):  # type: ignore[name-defined,misc] # imported where it is installed
        name: str
        password: str

    opaque = RegisteredType(
        Opaque, "opaque", lambda value: {"text": value.text, "password": "x"}, lambda data: Opaque(data["text"])
    )
    codec = Codec(types=[opaque], redaction=RULES)
    payload = codec.untyped.encode([Opaque(CANARY)])
    assert CANARY.encode() not in payload
    assert codec.untyped.decode(payload)[0].text == "***"
    shape = codec.shape(Account)
    assert shape.decode(shape.encode(Account(name=CANARY, password="hunter2"))) == Account(name="***", password="***")
    assert b"hunter2" not in shape.encode(Account(name="a", password="hunter2"))


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("abc{}[]\" :") | st.binary(max_size=9)
    | st.just(uuid.UUID(int=7)) | st.just(decimal.Decimal("1.5")) | st.just(dt.datetime(2026, 1, 1, tzinfo=dt.UTC)),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(value=PLAIN)
def test_law_what_no_rule_names_is_stored_as_ever(value) -> None:
    """With rules that name nothing in a value, its payload is the same to the byte."""
    assert Codec(redaction=RULES).untyped.encode(value) == Codec().untyped.encode(value)


@given(value=PLAIN, where=st.sampled_from(["field", "pattern", "key"]))
def test_law_what_a_rule_names_is_nowhere(value, where) -> None:
    """Put anywhere beside any value, the secret is not in the payload, and the value is."""
    hurt = {"field": {"a": value, "password": "hunter2"}, "pattern": ["sk-live-hunter2", value], "key": {"sk-live-hunter2": value}}[
        where
    ]
    codec = Codec(redaction=RULES)
    payload = codec.untyped.encode([hurt, (hurt,)])
    assert b"hunter2" not in payload
    assert Codec().untyped.encode(value) in payload


def test_what_redaction_cannot_leave_is_refused() -> None:
    """A number under a redacted name whose annotation admits no text, named tuples, and keys that become the same."""

    class Point(typing.NamedTuple):
        x: int
        password: str

    class Flat(msgspec.Struct, array_like=True):
        api_key: str

    codec = Codec(redaction=RULES)
    with pytest.raises(PayloadError, match="what redaction leaves of it"):
        codec.shape(dict[str, int]).encode({"password": 7})
    for annotation, value in ((Point, Point(1, "x")), (list[Flat], [Flat("x")])):
        with pytest.raises(PayloadError, match="without the names of its fields"):
            codec.shape(annotation).encode(value)
    with pytest.raises(PayloadError, match="two keys of a mapping are the same"):
        codec.untyped.encode({"sk-live-1": 1, "sk-live-2": 2})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "would do nothing"),
        ({"patterns": ["("]}, "no regular expression"),
        ({"patterns": ["a*"]}, "matches the empty text"),
        ({"patterns": [r"\*"]}, "matches the replacement itself"),
    ],
)
def test_rules_that_make_no_sense_are_refused(options, message) -> None:
    """When they are made, not when they are used."""
    with pytest.raises(DefinitionError, match=message):
        Redaction(**options)


def test_rules_are_given_once_and_stay_out_of_sight() -> None:
    """A codec with rules takes no second ones; a pattern may itself be the secret, so it is not shown."""
    rules = Redaction(patterns=[re.compile(re.escape(CANARY))], replace="[gone\\1]")
    assert CANARY not in repr(rules)
    assert rules.text(f"a {CANARY}") == "a [gone\\1]"
    with pytest.raises(DefinitionError, match="give them once"):
        Codec(redaction=rules).redacting(RULES)
    codec = Codec(types=[Login]).redacting(rules)
    assert codec.untyped.decode(codec.untyped.encode(Login(CANARY, "x"))) == Login("[gone\\1]", "x")


def test_failures_are_redacted_with_their_causes() -> None:
    """Message, data and every cause."""
    error = ValueError(f"bad {CANARY}", {"password": "hunter2"})
    error.__cause__ = KeyError(CANARY)
    failure = Failure.of(error).redacted(RULES)
    assert CANARY not in repr(failure)
    assert failure.data == ["bad ***", {"password": "***"}]
    assert failure.cause is not None
    assert failure.cause.message == "'***'"
    assert Failure.of(error).redacted(None).message == Failure.of(error).message
