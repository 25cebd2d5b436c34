"""Keys: every key is a key of its own, in its order, inside its tree and scope."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spellwork.codec import Codec
from spellwork.errors import DefinitionError, PayloadError, StoreCorrupt
from spellwork.state import KEY_BYTES, SCOPE_KINDS, Scope, TreeName, TreeRows, open_store
from spellwork.state.keys import decode_key, encode_key, prefix_range
from spellwork.state.operators import Operators
from spellwork.state.scopes import ASIDE, DUE, STATE

_TEXT = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\0\x01\xff"), max_size=6)
_BYTES = st.binary(max_size=6) | st.sampled_from([b"\0", b"\xff", b"\0\xff", b"\xff\xff", b"\0\0"])
_SCALARS = _TEXT | _BYTES | st.integers(-(2**64) + 1, 2**64 - 1) | st.integers(-300, 300)
KEYS = st.recursive(_SCALARS, lambda parts: st.lists(parts, max_size=3).map(tuple), max_leaves=5)
_NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=5)
SCOPES = st.just(Scope()) | st.builds(Scope, st.sampled_from(SCOPE_KINDS[1:]), _NAMES)


def in_order(key: Any) -> tuple:
    """What the order of keys is, said in Python's own: kind first, then the value."""
    kinds: tuple[Any, ...] = (bytes, str, tuple, int)
    for rank, kind in enumerate(kinds):
        if isinstance(key, kind):
            return (rank, tuple(map(in_order, key)) if kind is tuple else key.encode() if kind is str else key)
    raise TypeError(key)


def same(one, other) -> bool:
    return in_order(one) == in_order(other)


@given(KEYS)
@settings(deadline=None)
def test_a_key_comes_back(key) -> None:
    """Decoding gives the key with the types that it had."""
    assert same(decode_key(encode_key(key)), key)


@given(KEYS, KEYS)
@settings(deadline=None)
def test_the_order_of_bytes_is_the_order_of_keys(one, other) -> None:
    """And different keys are different bytes."""
    first, second = encode_key(one), encode_key(other)
    assert (first < second, first == second) == (in_order(one) < in_order(other), same(one, other))


@given(st.tuples(_TEXT, _TEXT) | st.tuples(_BYTES, _BYTES) | st.tuples(st.lists(_SCALARS, max_size=2).map(tuple), KEYS), KEYS)
@settings(deadline=None)
def test_a_prefix_holds_what_begins_with_it(pair, other) -> None:
    """A text's or bytes' continuations, or a tuple's further elements, and nothing else."""
    prefix, rest = pair
    longer = prefix + (rest if not isinstance(prefix, tuple) else (rest,))
    low, high = prefix_range(prefix)
    assert low <= encode_key(prefix) < high
    assert low <= encode_key(longer) < high
    begins = type(other) is type(prefix) and (
        other[: len(prefix)] == prefix if not isinstance(prefix, tuple) else same(other[: len(prefix)], prefix)
    )
    assert (low <= encode_key(other) < high) == begins


@given(SCOPES, _NAMES, KEYS, SCOPES, _NAMES, KEYS)
@settings(deadline=None)
def test_no_key_reaches_another_tree_or_scope(scope, tree, key, other_scope, other_tree, other_key) -> None:
    """Whatever the names: full keys are equal only if scope, tree and key are, and the range of a tree or scope holds its own."""
    codec, operators = Codec(), Operators()
    mine = TreeRows(scope, tree, int, codec, operators)
    other = TreeRows(other_scope, other_tree, int, codec, operators)
    is_same_tree = (scope, tree) == (other_scope, other_tree)
    assert (mine.key(key) == other.key(other_key)) == (is_same_tree and same(key, other_key))
    assert (mine.prefix <= other.key(other_key) < mine.end) == is_same_tree
    assert other.key(other_key).startswith(scope.prefix()) == (scope == other_scope)
    assert TreeName.of(mine.key(key)) == TreeName(scope, tree, mine.prefix)
    assert same(mine.key_of(mine.key(key)), key)
    for bounds in ({"prefix": ()}, {"prefix": ""}, {"prefix": b""}, {"start": key}, {"stop": key}, {"after": key}):
        span = mine.span(**bounds)
        assert mine.prefix <= span.start <= span.end <= mine.end


@given(st.binary(max_size=12))
@settings(max_examples=300, deadline=None)
def test_bytes_that_are_no_key_are_refused(data) -> None:
    """Decoding arbitrary bytes gives a key that encodes to them, or StoreCorrupt."""
    try:
        key = decode_key(data)
    except StoreCorrupt:
        return
    assert encode_key(key) == data


class Text(str):
    def encode(self, *args, **kwargs):
        return b"\xff" * 5


@pytest.mark.parametrize(
    "key",
    [
        None,
        1.5,
        True,
        ["a"],
        object(),
        Text("a"),
        "\ud800",
        ("a", None),
        ("a", "\ud800"),
        2**64,
        -(2**64),
        (((((((((1,),),),),),),),),),
    ],
    ids=lambda key: type(key).__name__,
)
def test_what_is_no_key_is_refused(key) -> None:
    """PayloadError, for surrogates and for subclasses that might do anything as well."""
    with pytest.raises(PayloadError, match=r"^key: "):
        encode_key(key)


@pytest.mark.parametrize(
    "key", ["x" * KEY_BYTES, "\0" * (KEY_BYTES // 2), ("x" * KEY_BYTES,), b"x" * KEY_BYTES, (1,) * 200], ids=range(5)
)
def test_a_key_that_is_too_long_is_refused(key) -> None:
    """The limit counts encoded bytes."""
    with pytest.raises(PayloadError, match=rf"limit of {KEY_BYTES}"):
        encode_key(key)
    assert len(encode_key("x" * (KEY_BYTES - 1))) == KEY_BYTES


def test_the_longest_key_fits_every_backend() -> None:
    """LMDB takes 511 bytes; an index entry of the longest key of the longest names stays below."""
    rows = TreeRows(Scope("workflow", "s" * 96), "t" * 64, int, Codec(), Operators())
    full = rows.key("x" * (KEY_BYTES - 1))
    assert len(full) <= 511 - 26
    assert len(DUE.key(bytes(8) + full)) <= 511
    assert len(ASIDE.key(full)) <= 511
    assert full[0] == STATE.prefix


@pytest.mark.parametrize(
    ("kind", "id"), [("nobody", "x"), ("user", ""), ("user", "a\0b"), ("user", "u" * 97), ("global", "x"), ("user", "\ud800")]
)
def test_bad_scopes_are_refused(kind, id) -> None:
    """Unknown kinds, ids that are missing, too long or no text."""
    with pytest.raises((DefinitionError, PayloadError)):
        Scope(kind, id)


@pytest.mark.parametrize("name", ["", "a\0", "t" * 65, "\ud800", 7])
async def test_bad_names_of_trees_are_refused(name) -> None:
    """When the tree is made, before anything is written."""
    async with open_store("memory:") as store:
        with pytest.raises(PayloadError, match="name of a tree"):
            store.tree(name, int)


def test_a_scope_is_its_text() -> None:
    """For the command line, also where the id has a colon."""
    for scope in (Scope(), Scope("user", "a:b"), Scope("custom", ":")):
        assert Scope.parse(str(scope)) == scope


async def test_odd_keys_are_keys(url: str) -> None:
    """The empty text, bytes and tuple, and zero bytes live side by side."""
    odd: list[Any] = ["", b"", (), "\0", b"\0", ("",), (b"",), ((),), 0, 1, -1, "a\0b", ("a", "\0"), ("a\0",)]
    async with open_store(url) as store:
        tree = store.tree("t", int)
        for number, key in enumerate(odd):
            await tree.set(key, number)
        for number, key in enumerate(odd):
            assert await tree.get(key) == number
        found = [key for key, _ in await tree.scan()]
        assert all(in_order(one) < in_order(other) for one, other in itertools.pairwise(found))
        assert len(found) == len(odd)
