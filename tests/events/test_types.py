"""What a type checker sees: `mypy` checks this file, and the assertions hold nothing else."""

from __future__ import annotations

from typing import assert_type

from spellwork.events import Stream, ops


async def text(item: int) -> str:
    return str(item)


def plain(item: int) -> str:
    return str(item)


async def total(so_far: float, item: int) -> float:
    return so_far + item


async def letters(item: int) -> list[str]:
    return [str(item)]


def test_types_go_through_a_chain() -> None:
    """A function may be plain or async; the type of the items is what it gives."""
    numbers = Stream([1, 2, 3])
    assert_type(numbers, Stream[int])
    assert_type(numbers.map(text), Stream[str])
    assert_type(numbers.map(plain).take(1), Stream[str])
    assert_type(numbers.scan(total, 0.0), Stream[float])
    assert_type(numbers.flat_map(letters), Stream[str])
    assert_type(numbers.zip("ab"), Stream[tuple[int, str]])
    assert_type(numbers.merge(["a"]), Stream[int | str])
    assert_type(numbers.batch(2, within=1.0), Stream[list[int]])
    assert_type(numbers | ops.map(text) | ops.window(2), Stream[list[str]])
    assert_type(numbers | ops.map(plain) | ops.take(2) | ops.share(), Stream[str])
