"""Owns what a simulation does to state and durable topics, and the law of it: these are what the journals say, each time once.
It must never count anything that is not on the disk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from spellwork.codec import Codec
from spellwork.engine import Engine
from spellwork.engine.triggers import Trigger
from spellwork.events import Event as Published
from spellwork.events.durable.keys import events_after
from spellwork.events.durable.record import Record, unpack_record
from spellwork.journal import Performed, StepCompleted, unpack_entry
from spellwork.journal.rows import Keys, unpack_row
from spellwork.state import Scope, Transaction, TreeRows
from spellwork.state.operators import Operators
from spellwork.store import Reader
from spellwork.workflow import Retry, activity, start_child, workflow
from spellwork.workflow.events import Event, publish
from spellwork.workflow.state import state

_TOTALS, _NOTES, _TOPIC, _CALLS = "sim.totals", "sim.notes", "sim.told", "sim.calls"
_MERGED, _COUNTED, _BOUND, _NOTED, _TOLD = (
    f"merge {_TOTALS}", "commit transaction", "sim.bound", f"set {_NOTES}", f"publish {_TOPIC}",
)  # fmt: skip
_SPARE = 0.2


@activity(name=_BOUND, retry=Retry(max_attempts=1_000, initial=0.01, maximum=0.05))
async def bound() -> int:
    """Counts itself, together with its completion."""
    totals, tx = state(_TOTALS, int), state.on_completion()
    count: int = await tx[totals].get("bound", 0) + 1
    await tx[totals].set("bound", count)
    return count


@workflow(name="sim.counts")
async def counts(name: str, times: int) -> int:
    """Writes in each way there is: blindly, by merging, in a transaction, with an activity's completion, to a topic."""
    totals, notes = state(_TOTALS, int), state(_NOTES, int)

    async def count(tx: Transaction) -> None:
        await tx[totals].set("counted", await tx[totals].get("counted", 0) + 1)

    for number in range(times):
        await notes.set((name, number), number)
        await publish(_TOPIC, number, key=name)
        await totals.merge("merged", "add", 1)
        await bound()
        await state.run(count, attempts=1_000)
    return await notes.count(prefix=(name,))


@workflow(name="sim.speaks")
async def speaks(topic: str, times: int) -> None:
    """Publishes so many events."""
    for number in range(times):
        await publish(topic, number)


@workflow(name="sim.hears")
async def hears(topic: str, times: int) -> list[int]:
    """Subscribes, has somebody speak, and hears all of it, in order, and nothing else."""
    event = Event[int](topic, int)
    await event.subscribe()
    child = await start_child(speaks, topic, times)
    heard = [(await event.receive()).data for _ in range(times)]
    spare = await event.receive(timeout=_SPARE)
    await child
    return heard if spare is None else [*heard, spare.data]


@workflow(name="sim.called")
async def called(event: Published[int]) -> None:
    """Is started by an event, and answers who has published it."""
    await publish(f"sim.answers.{event.key}", event.data)


@workflow(name="sim.calls")
async def calls(name: str, times: int) -> list[int]:
    """Publishes events that start a run each, and hears from all of these, once."""
    answers = Event[int](f"sim.answers.{name}", int)
    await answers.subscribe()
    for number in range(times):
        await publish(_CALLS, number, type=int, key=name)
    heard = [(await answers.receive()).data for _ in range(times)]
    spare = await answers.receive(timeout=_SPARE)
    return sorted(heard if spare is None else [*heard, spare.data])


WORKFLOWS: tuple[Any, ...] = (counts, speaks, hears, called, calls)
TRIGGERS = (Trigger(_CALLS, called, int),)


async def count(engine: Engine, name: str, times: int) -> Any:
    """Drive a run that counts; it comes to `times`."""
    return await (await engine.start(counts, name, times, id=name)).result()


async def hear(engine: Engine, name: str, times: int) -> Any:
    """Drive a run that hears; it comes to the numbers below `times`."""
    return await (await engine.start(hears, f"sim.words.{name}", times, id=name)).result()


async def call(engine: Engine, name: str, times: int) -> Any:
    """Drive a run that calls; it comes to the numbers below `times`."""
    return await (await engine.start(calls, name, times, id=name)).result()


def differences(reader: Reader, journals: Iterable[list[Any]], *, at_rest: bool) -> Iterator[str]:
    """Where the data on the disk differ from what the journals (and the receipts, which stand for entries) say was done.

    `at_rest` says that all runs have ended: else an event may still be on its way to the run that it starts.
    """
    said: Counter[str] = Counter()
    for entry in _entries(reader, journals):
        if isinstance(entry, StepCompleted) or (isinstance(entry, Performed) and entry.failure is None):
            said[entry.name] += 1
    totals = TreeRows(Scope(), _TOTALS, int, Codec(), Operators(None))
    for key, name in (("merged", _MERGED), ("counted", _COUNTED), ("bound", _BOUND)):
        row = reader.get(totals.key(key))
        value = 0 if row is None else totals.value(key, row)
        if value != said[name]:
            yield f"state has {value} of {key!r}, and the journals have {said[name]} of {name!r}"
    notes = TreeRows(Scope(), _NOTES, int, Codec(), Operators(None))
    found = len(reader.scan(notes.prefix, notes.end))
    if found != said[_NOTED]:
        yield f"state has {found} notes, and the journals have {said[_NOTED]}"
    events = _events(reader, _TOPIC)
    if len(events) != said[_TOLD] or len({event.id for event in events}) != len(events):
        yield f"topic {_TOPIC} has {len(events)} events, the ids {[event.id for event in events]}, the journals {said[_TOLD]}"
    for run in {event.key for event in events}:
        told = [Codec().untyped.decode(event.payload) for event in events if event.key == run]
        if told != list(range(len(told))):
            yield f"run {run} told {told}, not in order"
    wanted = Counter(f"{called.name}:{event.id}" for event in _events(reader, _CALLS))
    rows = [unpack_row(row) for _, row in reader.scan(bytes((Keys.RUNS,)), bytes((Keys.RUNS + 1,)))]
    started = Counter(row.id for row in rows if row.workflow == called.name)
    missing = wanted - started if at_rest else Counter[str]()
    if missing or started - wanted:
        yield f"events have started too many runs, {started - wanted}, or too few, {missing}"


def _events(reader: Reader, topic: str) -> list[Record]:
    return [unpack_record(key, data) for key, data in reader.scan(*events_after(topic, 0))]


def _entries(reader: Reader, journals: Iterable[list[Any]]) -> Iterator[Any]:
    for entries in journals:
        yield from entries
    for key, frame in reader.scan(bytes((Keys.RECEIPTS,)), bytes((Keys.RECEIPTS + 1,))):
        yield unpack_entry(key, frame)
