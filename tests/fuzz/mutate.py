"""Mutations of seeds, the same for the same seed: what every test run tries, and what stands in where atheris is not to be had."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

SEEDS = Path(__file__).parent / "seeds"
_BYTES = (0, 1, 0x7F, 0x80, 0x90, 0xA0, 0xC0, 0xC1, 0xC4, 0xC7, 0xCB, 0xCF, 0xD3, 0xD9, 0xDC, 0xDF, 0xE0, 0xFF)
_PIECES = (
    b"\xff" * 8,
    bytes(16),
    b"\xed\xa0\x80",
    b"\x7f" * 8,
    b"\x80" * 8,
    b"\xc7\x01\x04",
    b"--input",
    b"--json",
    b"\0",
    b"{}",
    b"[",
)


def seeds(target: str) -> list[bytes]:
    """The kept inputs of a target, in the order of their names."""
    return [path.read_bytes() for path in sorted((SEEDS / target).iterdir())]


def mutations(start: list[bytes], seed: int) -> Iterator[bytes]:
    """Inputs without end."""
    rng = random.Random(seed)
    while True:
        data = bytearray(rng.choice(start))
        for _ in range(rng.choice((1, 1, 2, 3, 8))):
            _mutate(data, rng, start)
        yield bytes(data[:5000])


def _mutate(data: bytearray, rng: random.Random, start: list[bytes]) -> None:
    way = rng.randrange(7)
    place = rng.randrange(len(data) + 1)
    if way == 0 and data:
        data[place % len(data)] ^= 1 << rng.randrange(8)
    elif way == 1 and data:
        data[place % len(data)] = rng.choice(_BYTES)
    elif way == 2:
        data[place:place] = rng.choice(_PIECES)
    elif way == 3:
        del data[place : place + rng.randint(1, 8)]
    elif way == 4:
        other = rng.choice(start)
        cut = rng.randrange(len(other) + 1)
        data[place:] = other[cut:]
    elif way == 5:
        data[place : place + 4] = rng.randbytes(4)
    else:
        data[place:place] = data[place : place + rng.randint(1, 16)]
