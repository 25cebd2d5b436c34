"""What a type checker sees: `mypy` checks this file, and the assertions hold nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, assert_type

import pytest

import spellwork
from spellwork.events import Broadcast, Bus, Event, Stream, Subscription, Topic, ops
from spellwork.events.channel import Channel, bounded


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


async def test_types_of_events_and_channels() -> None:
    """A typed topic types what is published and received; a channel has the type it is annotated with."""
    bus, topic = Bus(), Topic[int]("n")
    assert_type(bus.subscribe(topic), Subscription[Event[int]])
    assert_type(bus.subscribe("n.*", ">"), Subscription[Event[Any]])
    assert_type(await bus.publish(topic, 1), Event[int])
    channel: Channel[str] = bounded(1)
    await channel.send("a")
    assert_type(await channel.recv(), str)
    async with Broadcast[bytes]().subscribe() as items:
        assert_type(items, Subscription[bytes])
        assert_type(Stream(items).batch(2), Stream[list[bytes]])


GOOD = """
from dataclasses import dataclass
from spellwork.events import Bus, Emitter, Event, Topic

@dataclass(frozen=True)
class Started:
    agent: str

started = Topic[Started]("agent.started")

async def main(bus: Bus, emitter: Emitter) -> None:
    await bus.publish(started, Started("a"))
    bus.publish_nowait(started, Started("a"), key="k", priority=1)
    async with bus.subscribe(started) as events:
        async for event in events:
            print(event.data.agent)

    @emitter.on(started)
    def note(payload: Started) -> None: ...

    await emitter.emit(started, Started("a"))
"""
MISTAKES = [
    ('await bus.publish(started, Started("a"))', 'await bus.publish(started, "a")'),
    ('Started("a"), key="k", priority=1', 'Started("a"), key="k", priority="1"'),
    ('Started("a"), key="k"', 'Started("a"), durable=True, key="k"'),
    ("event.data.agent", "event.data.name"),
    ("def note(payload: Started)", "def note(payload: int)"),
    ('await emitter.emit(started, Started("a"))', "await emitter.emit(started, 5)"),
]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_type_checker_refuses_wrong_payloads(tmp_path: Path) -> None:
    """The sample is clean; each mistake in it is found on its line (a decorator's on the line of the decorator)."""
    (tmp_path / "good.py").write_text(GOOD)
    for number, (right, wrong) in enumerate(MISTAKES):
        assert GOOD.count(right) == 1
        (tmp_path / f"wrong{number}.py").write_text(GOOD.replace(right, wrong))
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", *sorted(path.name for path in tmp_path.glob("*.py"))],
        cwd=tmp_path, env={"MYPYPATH": str(Path(spellwork.__file__).parents[1]), "PATH": ""},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    errors = sorted({line.split(": ")[0] for line in found.stdout.splitlines() if ": error: " in line})
    lines = [GOOD[: GOOD.index(right)].count("\n") + 1 - ("def note" in right) for right, _ in MISTAKES]
    assert errors == [f"wrong{number}.py:{line}" for number, line in enumerate(lines)], found.stdout + found.stderr
