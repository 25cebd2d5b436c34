"""Merges: what each operator makes of two values, what is refused, and that none is lost or done twice."""

from __future__ import annotations

import asyncio
import dataclasses
import decimal
from typing import Any

import msgspec
import pytest

from spellwork.errors import DefinitionError, MergeRefused, PayloadError
from spellwork.state import merge_patch, open_store


@dataclasses.dataclass
class Plan:
    goal: str
    steps: list[str] = dataclasses.field(default_factory=list)
    owner: str | None = None


class Point(msgspec.Struct):
    x: int
    label: str | None = None


@pytest.mark.parametrize(
    ("annotation", "op", "operands", "result"),
    [
        (int, "add", [1, 2, -5], -2),
        (float, "add", [1, 0.5], 1.5),
        (decimal.Decimal, "add", [decimal.Decimal("0.1")] * 3, decimal.Decimal("0.3")),
        (list[int], "append", [1, 2, 2], [1, 2, 2]),
        (list[Point], "append", [Point(1), Point(2)], [Point(1), Point(2)]),
        (str, "append", ["a", "b"], "ab"),
        (bytes, "append", [b"a", b"b"], b"ab"),
        (Any, "append", ["a", "b"], ["a", "b"]),
        (set[str], "union", [{"a"}, {"b", "a"}, ["c"]], {"a", "b", "c"}),
        (frozenset[int], "union", [frozenset({1}), frozenset({2})], frozenset({1, 2})),
        (list[str], "union", [["b", "a", "b"], ["c", "a"]], ["b", "a", "c"]),
        (list[list[int]], "union", [[[1], [1]], [[2], [1]]], [[1], [2]]),
        (dict[str, int], "union", [{"a": 1, "b": 1}, {"b": 2}], {"a": 1, "b": 2}),
        (int, "min", [5, 3, 9], 3),
        (int, "max", [5, 3, 9], 9),
        (str, "max", ["a", "c", "b"], "c"),
        (dict[str, Any], "merge-patch", [{"a": 1, "b": {"c": 2}}, {"a": None, "b": {"d": 3}}], {"b": {"c": 2, "d": 3}}),
        (Plan, "merge-patch", [{"goal": "g", "owner": "o"}, {"steps": ["s"], "owner": None}], Plan("g", ["s"])),
        (dict[str, Point], "merge-patch", [{"p": {"x": 1, "label": "l"}}, {"p": {"x": 2}}], {"p": Point(2, "l")}),
        (int, "last-digit", [17, 5], 2),
    ],
)
async def test_operators(annotation, op, operands, result) -> None:
    """Each operator begins with a missing value and goes on with what is there; the result is of the tree's type."""
    last_digit = {"last-digit": lambda old, operand: ((old or 0) + operand) % 10}
    async with open_store("memory:", operators=last_digit) as store:
        tree = store.tree("t", annotation)
        for operand in operands:
            await tree.merge("k", op, operand)
        assert await tree.get("k") == result


@pytest.mark.parametrize(
    ("annotation", "old", "op", "operand"),
    [
        (str, "x", "add", 1),
        (int, 1, "add", True),
        (int, 1, "add", 0.5),
        (int, 2**63, "add", 2**63),
        (int, 1, "append", 1),
        (list[int], [1], "append", "x"),
        (str, "x", "append", b"x"),
        (set[int], {1}, "union", 1),
        (dict[str, int], {"a": 1}, "union", [1]),
        (int, 1, "max", "x"),
        (Plan, Plan("g"), "merge-patch", {"goal": None}),
        (Plan, Plan("g"), "merge-patch", 7),
        (int, 1, "broken", 1),
    ],
)
async def test_what_does_not_fit_is_refused(url: str, annotation, old, op, operand) -> None:
    """MergeRefused names tree and key, and the value stays as it was, also where it would not fit the tree's type any more."""

    def broken(old: Any, operand: Any) -> Any:
        raise SystemExit(f"{old} and {operand}")

    async with open_store(url, operators={"broken": broken}) as store:
        tree = store.tree("t", annotation)
        version = await tree.set("k", old)
        with pytest.raises(MergeRefused, match="tree t, key 'k': "):
            await tree.merge("k", op, operand)
        assert (await tree.get_versioned("k"))[:2] == (old, version)
        assert await store.revision() == version


async def test_unknown_operators_and_bad_operands_are_refused_at_once(url: str) -> None:
    """Nothing comes to the committer."""
    async with open_store(url) as store:
        tree = store.tree("t", int)
        with pytest.raises(DefinitionError, match="unknown merge operator 'sub'; there are add, append"):
            await tree.merge("k", "sub", 1)
        with pytest.raises(PayloadError, match="tree t, key 'k'"):
            await tree.merge("k", "add", object())
        with pytest.raises(PayloadError, match="id of a merge"):
            await tree.merge("k", "add", 1, id="")
        assert await store.revision() == 0


async def test_merges_do_not_conflict(url: str) -> None:
    """Concurrent merges add up without a retry, and one with an id that comes five times is done once."""
    async with open_store(url) as store:
        tree = store.tree("t", int)
        await asyncio.gather(*(tree.merge("k", "add", 1) for _ in range(200)))
        assert await tree.get("k") == 200
        assert store.low.stats.conflicts == 0
        revisions = await asyncio.gather(*(tree.merge("k", "add", 1, id="once") for _ in range(5)))
        assert await tree.get("k") == 201
        assert len(set(revisions)) == 1


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch_is_that_of_rfc_7396(target, patch, result) -> None:
    """The examples of its appendix A."""
    before = msgspec.json.encode(target)
    assert merge_patch(target, patch) == result
    assert msgspec.json.encode(target) == before
