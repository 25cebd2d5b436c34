"""Handlers in order, once, off, errors that stay where they are, and changes while an event is emitted."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
from collections.abc import Callable
from typing import Any

import pytest

from spellwork.errors import DefinitionError, PayloadError, UsageError
from spellwork.events import Emitter, Failure, Topic
from tests.events.timeline import nothing_is_left


@dataclasses.dataclass
class Moved:
    x: int


def noting(log: list[str], name: str) -> Callable[[Any], None]:
    return lambda payload: log.append(f"{name} {payload}")


async def test_handlers_are_called_in_order() -> None:
    """Plain and async ones alike, each when the one before it is done; the number of those that did is returned."""
    emitter, log = Emitter(), list[str]()

    @emitter.on("news")
    async def slow(payload: str) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        log.append(f"slow {payload}")

    emitter.on("news", noting(log, "plain"))
    emitter.on("news", functools.partial(slow))
    emitter.on("news", lambda payload: slow(payload.upper()))
    emitter.on("other", noting(log, "other"))
    assert await emitter.emit("news", "a") == 4
    assert log == ["slow a", "plain a", "slow a", "slow A"]
    assert await emitter.emit("nobody", 1) == 0
    assert nothing_is_left()


async def test_once_is_once() -> None:
    """Also when the handler emits the same event again, and when two emit at once."""
    emitter, log = Emitter(), list[int]()

    async def again(payload: int) -> None:
        log.append(payload)
        await emitter.emit("n", payload + 1)

    emitter.once("n", again)
    await emitter.emit("n", 1)
    assert log == [1]
    assert emitter.handlers("n") == []
    emitter.on("m", lambda payload: asyncio.sleep(0))
    emitter.once("m", log.append)
    assert sorted(await asyncio.gather(emitter.emit("m", 5), emitter.emit("m", 5))) == [1, 2]
    assert log == [1, 5]


async def test_off_takes_handlers_away() -> None:
    """One handler as often as it was added, or all; those that remain keep their order."""
    emitter, log = Emitter(), list[str]()
    one, two = noting(log, "one"), noting(log, "two")
    for handler in (one, two, one):
        emitter.on("n", handler)
    assert emitter.off("n", one) == 2
    assert emitter.off("n", one) == 0
    assert await emitter.emit("n", 1) == 1
    assert log == ["two 1"]
    assert emitter.off("n") == 1
    assert emitter.off("never") == 0


async def test_changes_while_an_event_is_emitted() -> None:
    """A handler that is removed meanwhile is not called, its neighbours are; one that is added is called the next time."""
    emitter, log = Emitter(), list[str]()
    late = noting(log, "late")

    def change(payload: int) -> None:
        log.append(f"change {payload}")
        emitter.off("n", gone)
        emitter.off("n", change)
        emitter.on("n", late)

    gone = noting(log, "gone")
    for handler in (change, gone, noting(log, "stays")):
        emitter.on("n", handler)
    await emitter.emit("n", 1)
    await emitter.emit("n", 2)
    assert log == ["change 1", "stays 1", "stays 2", "late 2"]


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_an_error_stays_where_it_is(asynchronous: bool, caplog: pytest.LogCaptureFixture) -> None:
    """The other handlers are called, and a `Failure` is emitted as `error`; without a handler for that it is logged."""
    emitter, log, failures = Emitter(), list[str](), list[Failure]()

    def plain(payload: int) -> None:
        raise ValueError("broken")

    async def later(payload: int) -> None:
        await asyncio.sleep(0)
        raise ValueError("broken")

    handler: Any = later if asynchronous else plain
    emitter.on("n", handler)
    emitter.on("n", noting(log, "next"))
    with caplog.at_level(logging.ERROR):
        assert await emitter.emit("n", 1) == 1
    assert [record.exc_info[1].args for record in caplog.records if record.exc_info and record.exc_info[1]] == [("broken",)]
    emitter.on("error", failures.append)
    assert await emitter.emit("n", 2) == 1
    assert log == ["next 1", "next 2"]
    assert [(failure.topic, failure.type, failure.message) for failure in failures] == [("n", "ValueError", "broken")]
    assert failures[0].where.endswith(handler.__name__)
    emitter.on("error", plain)
    with caplog.at_level(logging.ERROR):
        await emitter.emit("n", 3)
    assert len(caplog.records) == 2
    assert nothing_is_left()


async def test_a_handler_that_is_cancelled_from_within_is_a_failure() -> None:
    """Only who cancels `emit` itself cancels it; then no other handler is called."""
    emitter, log = Emitter(), list[Any]()
    forever = asyncio.get_running_loop().create_future()

    async def gives_up(payload: int) -> None:
        forever.cancel()
        await forever

    emitter.on("n", gives_up)
    emitter.on("n", noting(log, "next"))
    emitter.on("error", lambda failure: log.append(failure.type))
    assert await emitter.emit("n", 1) == 1
    assert log == ["CancelledError", "next 1"]
    emitter.on("m", lambda payload: asyncio.sleep(1000))
    emitter.on("m", noting(log, "never"))
    emitting = asyncio.create_task(emitter.emit("m", 1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    emitting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await emitting
    assert log == ["CancelledError", "next 1"]
    assert nothing_is_left()


async def test_events_are_typed() -> None:
    """A topic checks what is emitted, and is the event of its name."""
    emitter, moved, log = Emitter(), Topic[Moved]("moved"), list[int]()

    @emitter.on(moved)
    def note(event: Moved) -> None:
        log.append(event.x)

    await emitter.emit(moved, Moved(3))
    with pytest.raises(PayloadError, match="expected int"):
        await emitter.emit(moved, Moved("3"))  # type: ignore[arg-type]
    assert log == [3]
    assert emitter.handlers("moved") == [note]


def test_without_a_loop() -> None:
    """`emit_sync` calls plain handlers, and refuses when one would have to be awaited, before any is called."""
    emitter, log = Emitter(), list[Any]()

    async def later(payload: int) -> None:
        raise AssertionError

    emitter.on("n", noting(log, "plain"))
    assert emitter.emit_sync("n", 1) == 1
    emitter.once("n", later)
    with pytest.raises(UsageError, match="async"):
        emitter.emit_sync("n", 2)
    assert log == ["plain 1"]
    emitter.off("n", later)
    emitter.on("n", lambda payload: later(payload))
    emitter.on("error", lambda failure: log.append(failure.type))
    assert emitter.emit_sync("n", 3) == 1
    assert log == ["plain 1", "plain 3", "UsageError"]


def test_what_means_nothing_is_refused() -> None:
    """A handler that can't be called, a name that is a pattern."""
    with pytest.raises(DefinitionError):
        Emitter().on("n", 5)  # type: ignore[call-overload]
    with pytest.raises(DefinitionError):
        Emitter().on("a.*", print)


def test_an_interrupt_is_no_failure() -> None:
    """What ends the program goes through."""
    emitter = Emitter()

    def leave(payload: Any) -> None:
        raise SystemExit(3)

    emitter.on("n", leave)
    with pytest.raises(SystemExit):
        emitter.emit_sync("n", 1)
