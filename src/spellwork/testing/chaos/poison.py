"""Owns poison payloads: values that cannot be stored, at every place where a value comes in.
It must never accept a value that comes back as another one, nor an error that a user could not have been told of.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import datetime as dt
import decimal
import enum
import itertools
import math
import random
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from spellwork import Run, Signal, activity, continue_as_new, heartbeat, patched, query, start_child, update, workflow
from spellwork.errors import InternalError, SpellworkError
from spellwork.testing.chaos.trial import Deadline, Figure, LawBroken
from spellwork.testing.engine import TestEngine

LAW = "a value that cannot be kept exactly is refused with a typed error before anything is written, and the worker goes on"
_PATIENCE = 20.0


class Evil:
    """Nothing that anybody could store."""

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[int]:
        raise RuntimeError("no iteration here")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison here")

    def __hash__(self) -> int:
        raise RuntimeError("no hash here")

    def __str__(self) -> str:
        raise RuntimeError("no text here")

    __repr__ = __str__


class Loud(str):
    """A text with a will of its own."""

    __slots__ = ()

    def encode(self, *_args: Any, **_options: Any) -> bytes:
        raise RuntimeError("no bytes here")


class Shifty(dict[str, int]):
    """A dict whose items are not what it holds."""

    def items(self) -> Any:
        raise RuntimeError("no items here")

    def __iter__(self) -> Iterator[str]:
        return itertools.repeat("x")


class Endless(list[int]):
    """A list that says it is empty."""

    def __len__(self) -> int:
        return 0


class Number(int):
    """An int that is one more."""


class Colour(enum.Enum):
    RED = 1


class Zone(dt.tzinfo):
    """A time zone that nobody knows."""

    def utcoffset(self, _at: dt.datetime | None) -> dt.timedelta:
        return dt.timedelta(hours=1)

    def dst(self, _at: dt.datetime | None) -> dt.timedelta:
        return dt.timedelta(0)

    def tzname(self, _at: dt.datetime | None) -> str:
        return "nowhere"


@dataclasses.dataclass
class Ring:
    me: Any = None


def _circle() -> list[Any]:
    ring: list[Any] = []
    ring.append(ring)
    return ring


def _ring() -> Ring:
    ring = Ring()
    ring.me = ring
    return ring


def _deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def _loop_dict() -> dict[str, Any]:
    loop: dict[str, Any] = {}
    loop["self"] = loop
    return loop


PAYLOADS: dict[str, Callable[[], Any]] = {
    "nan": lambda: math.nan, "inf": lambda: math.inf, "minus zero": lambda: -0.0, "huge int": lambda: 10**400,
    "int of 64 bits": lambda: 2**64, "surrogate": lambda: "\ud800", "nested surrogate": lambda: {"k": ["\udfff"]},
    "surrogate key": lambda: {"\ud800": 1}, "lone bytes": lambda: b"\xff\xfe\x00", "bytearray": lambda: bytearray(b"\xff"),
    "memoryview": lambda: memoryview(b"abc"), "int keys": lambda: {1: 2, "1": 3}, "tuple keys": lambda: {(1, 2): 3},
    "none key": lambda: {None: 1}, "mixed keys": lambda: {1: 1, 1.5: 2, b"x": 3}, "nan key": lambda: {math.nan: 1},
    "circle": _circle, "circular dict": _loop_dict, "circular dataclass": _ring, "64 deep": lambda: _deep(64),
    "65 deep": lambda: _deep(65), "10,000 deep": lambda: _deep(10_000), "1 MiB": lambda: "x" * (1 << 20),
    "10 MB": lambda: "x" * 10_000_000, "wide": lambda: list(range(400_000)), "object": object, "function": lambda: (lambda: 0),
    "generator": lambda: (i for i in range(3)), "class": lambda: int, "module": lambda: math, "coroutine function": lambda: _noop,
    "liar": Evil, "liars in a list": lambda: [1, Evil()], "liar as value": lambda: {"a": Evil()}, "loud text": lambda: Loud("hm"),
    "shifty dict": lambda: Shifty(a=1), "endless list": lambda: Endless([1, 2]), "sub-int": lambda: Number(5),
    "enum": lambda: Colour.RED, "decimal nan": lambda: decimal.Decimal("NaN"), "decimal snan": lambda: decimal.Decimal("sNaN"),
    "decimal huge": lambda: decimal.Decimal("1e999999"), "naive": lambda: dt.datetime(2026, 1, 1),  # noqa: DTZ001
    "first year": lambda: dt.datetime(1, 1, 1, tzinfo=dt.UTC), "last year": lambda: dt.datetime.max,  # noqa: DTZ901
    "odd zone": lambda: dt.datetime(2026, 1, 1, tzinfo=Zone()), "folded": lambda: dt.datetime(2026, 1, 1, fold=1),  # noqa: DTZ001
    "second of offset": lambda: dt.datetime(2026, 1, 1, tzinfo=dt.timezone(dt.timedelta(seconds=1))),
    "longest span": lambda: dt.timedelta.max, "control characters": lambda: "\x00\x1b[2J\r\n", "exception": lambda: ValueError("x"),
    "complex nan": lambda: complex(math.nan, 1), "range": lambda: range(3), "frozenset": lambda: frozenset({1, (2, 3)}),
    "set of mixed": lambda: {1, "a", None}, "not implemented": lambda: NotImplemented, "ellipsis": lambda: ...,
}  # fmt: skip
"""Each makes one value anew, since some are used up by being looked at."""


async def _noop() -> None:
    return None


# What takes the values in. Code of a workflow cannot be handed a value that cannot be stored: it makes it by its name.

told = Signal[Any]("told")


@activity
async def take(value: Any) -> str:
    return type(value).__name__


@activity
async def give(name: str) -> Any:
    return PAYLOADS[name]()


@activity
async def beat(name: str) -> str:
    heartbeat(PAYLOADS[name]())
    return "beaten"


@activity
async def fail(name: str) -> None:
    error = ValueError(PAYLOADS[name]())
    error.code = PAYLOADS[name]()  # type: ignore[attr-defined]
    raise error


@workflow
async def alive(value: int) -> int:
    return len(await take(value)) + value


@workflow
async def keeps(value: Any = None) -> Any:
    return value


@workflow
async def makes(name: str) -> Any:
    return PAYLOADS[name]()


@workflow
async def through(way: str, name: str) -> Any:  # noqa: PLR0911 - one answer a way
    value = PAYLOADS[name]()
    if way == "argument":
        return await take(value)
    if way == "result":
        return await give(name)
    if way == "heartbeat":
        return await beat(name)
    if way == "error":
        return await fail(name)
    if way == "child":
        return await keeps(value)
    if way == "child id":
        return await start_child(keeps, 1, id=value)
    if way == "patched":
        return patched(value)
    if way in ("child signal", "child reason"):
        child = await start_child(listens)
        return await child.signal(value, 1) if way == "child signal" else child.cancel(value)
    if way == "raise":
        raise ValueError(value)
    return continue_as_new("value", "nan") if way == "done" else _again(value)


def _again(value: Any) -> Any:
    continue_as_new("argument", value)


@workflow
async def listens() -> Any:
    @query
    def echo(value: Any) -> Any:
        return value

    @query
    def made(name: str) -> Any:
        return PAYLOADS[name]()

    @update
    async def put(value: Any) -> Any:
        return value

    @update
    async def put_made(name: str) -> Any:
        return PAYLOADS[name]()

    return await told.receive()


WORKFLOWS = [alive, keeps, makes, through, listens]
Entry = Callable[["Bench", str], Awaitable[Any]]
NOTHING = object()
"""Accepted, and there is nothing to compare."""


class Bench:
    """One engine under test, and a run that listens."""

    def __init__(self, engine: TestEngine):
        self.engine = engine
        self._count = itertools.count()

    def fresh(self) -> str:
        """An id of its own."""
        return f"run-{next(self._count)}"

    async def listener(self) -> Run[Any]:
        """A run that waits for a signal and answers questions."""
        run = await self.engine.start(listens, id=self.fresh())
        await self.engine.settle()
        return run


async def _result(run: Run[Any]) -> Any:
    return await run.result()


async def _into_start(bench: Bench, name: str) -> Any:
    return await _result(await bench.engine.start(keeps, PAYLOADS[name](), id=bench.fresh()))


async def _into_keyword(bench: Bench, name: str) -> Any:
    return await bench.engine.run(keeps, value=PAYLOADS[name]())


async def _as_id(bench: Bench, name: str) -> Any:
    await bench.engine.run(keeps, 1, id=PAYLOADS[name]())
    return NOTHING


async def _as_found(bench: Bench, name: str) -> Any:
    await bench.engine.get(PAYLOADS[name]())
    return NOTHING


async def _as_page(bench: Bench, name: str) -> Any:
    await bench.engine.list(after=PAYLOADS[name]())
    return NOTHING


async def _as_workflow(bench: Bench, name: str) -> Any:
    await bench.engine.start(PAYLOADS[name](), 1)
    return NOTHING


async def _into_signal(bench: Bench, name: str) -> Any:
    run = await bench.listener()
    await run.signal(told, PAYLOADS[name]())
    return await run.result()


def _as_text(call: Callable[[Run[Any], Any], Awaitable[Any]]) -> Entry:
    async def entry(bench: Bench, name: str) -> Any:
        await call(await bench.listener(), PAYLOADS[name]())
        return NOTHING

    return entry


def _asked(verb: str, *, made: bool) -> Entry:
    async def entry(bench: Bench, name: str) -> Any:
        run = await bench.listener()
        ask = run.query if verb == "query" else run.update
        if made:
            return await ask("made" if verb == "query" else "put_made", name)
        return await ask("echo" if verb == "query" else "put", PAYLOADS[name]())

    return entry


def _inside(way: str) -> Entry:
    async def entry(bench: Bench, name: str) -> Any:
        back = await bench.engine.run(through, way, name, id=bench.fresh())
        return back if way in ("result", "child") else NOTHING

    return entry


async def _out_of_workflow(bench: Bench, name: str) -> Any:
    return await bench.engine.run(makes, name, id=bench.fresh())


ENTRIES: dict[str, tuple[bool, Entry]] = {
    "start": (True, _into_start),
    "start by keyword": (True, _into_keyword),
    "id": (True, _as_id),
    "id to find": (True, _as_found),
    "id to page behind": (True, _as_page),
    "workflow name": (True, _as_workflow),
    "signal": (True, _into_signal),
    "signal name": (True, _as_text(lambda run, value: run.signal(value, 1))),
    "signal id": (True, _as_text(lambda run, value: run.signal("told", 1, id=value))),
    "query": (True, _asked("query", made=False)),
    "query name": (True, _as_text(lambda run, value: run.query(value))),
    "query result": (True, _asked("query", made=True)),
    "update": (True, _asked("update", made=False)),
    "update name": (True, _as_text(lambda run, value: run.update(value, 1))),
    "update id": (True, _as_text(lambda run, value: run.update("put", 1, id=value))),
    "update result": (False, _asked("update", made=True)),
    "cancel reason": (True, _as_text(lambda run, value: run.cancel(value))),
    "terminate reason": (True, _as_text(lambda run, value: run.terminate(value))),
    "activity argument": (False, _inside("argument")),
    "activity result": (False, _inside("result")),
    "activity error": (False, _inside("error")),
    "heartbeat": (False, _inside("heartbeat")),
    "child": (False, _inside("child")),
    "child id": (False, _inside("child id")),
    "child signal name": (False, _inside("child signal")),
    "child cancel reason": (False, _inside("child reason")),
    "patch id": (False, _inside("patched")),
    "argument name": (True, _as_text(lambda run, value: run.query("echo", **({value: 1} if isinstance(value, str) else {})))),
    "workflow result": (False, _out_of_workflow),
    "workflow error": (False, _inside("raise")),
    "continue_as_new": (False, _inside("continue")),
}
"""Name: whether a refusal must leave the store as it was, and how a value goes in there."""


def same(given: Any, back: Any) -> bool:
    """Whether a value came back as itself, down to the type and the sign of zero."""
    if type(given) is not type(back):
        return False
    if isinstance(given, (list, tuple)):
        return len(given) == len(back) and all(map(same, given, back))
    if isinstance(given, dict):
        return len(given) == len(back) and all(
            same(a, b) and same(x, y) for (a, x), (b, y) in zip(given.items(), back.items(), strict=True)
        )
    if isinstance(given, (float, complex, decimal.Decimal)):
        return repr(given) == repr(back)
    if isinstance(given, dt.datetime):
        return bool(given == back and given.fold == back.fold and given.utcoffset() == back.utcoffset())
    return bool(given == back)


async def check(bench: Bench, entry: str, name: str) -> str:
    """Put one value in at one place; returns "refused" or "kept", or raises `LawBroken`."""
    refusal_is_clean, call = ENTRIES[entry]
    engine = bench.engine
    verdict = "kept"
    before = await _rows(engine)
    outcomes = await asyncio.gather(asyncio.wait_for(call(bench, name), _PATIENCE), return_exceptions=True)
    back: Any = outcomes[0]
    if isinstance(back, InternalError):
        raise LawBroken(f"{name} into {entry}: a bug in the engine: {back}") from back
    if isinstance(back, SpellworkError):
        verdict = "refused"
        _readable(entry, name, back)
        await engine.settle()
        if refusal_is_clean and (wrote := await _rows(engine) - before - _LISTENER):
            raise LawBroken(f"{name} into {entry}: refused, and yet it wrote {wrote}") from back
    elif isinstance(back, LawBroken):
        raise back
    elif isinstance(back, BaseException):
        raise LawBroken(f"{name} into {entry}: an untyped {type(back).__name__}") from back
    elif back is not NOTHING and not same(PAYLOADS[name](), back):
        raise LawBroken(f"{name} into {entry}: came back as a {type(back).__name__} that differs")
    if await engine.run(alive, 5, id=bench.fresh()) != 8:
        raise LawBroken(f"{name} into {entry}: the worker gives wrong results afterwards")
    return verdict


_LISTENER = collections.Counter({"started": 1})


async def _rows(engine: TestEngine) -> collections.Counter[str]:
    """What has been written that counts: runs, and entries beyond the first."""
    from spellwork.journal.rows import Keys

    keys = [key for key, _ in await engine.store.scan(b"\x04", b"\xff")]
    counts = collections.Counter("started" for key in keys if key[0] == Keys.RUNS)
    counts["entries"] = sum(key[0] == Keys.JOURNAL and key[9:] != bytes(4) for key in keys)
    counts["letters"] = sum(key[0] in (Keys.INBOX, Keys.REPLIES) for key in keys)
    return counts


def _readable(entry: str, name: str, error: SpellworkError) -> None:
    text = str(error)
    if len(text) > 20_000:
        raise LawBroken(f"{name} into {entry}: a message of {len(text):,} characters")


async def _all(pairs: list[tuple[str, str]], deadline: Deadline) -> tuple[collections.Counter[str], list[str]]:
    outcomes: collections.Counter[str] = collections.Counter()
    broken: list[str] = []
    left = list(reversed(pairs))
    while left and deadline.left > 0:
        async with TestEngine(workflows=WORKFLOWS, activities=[take, give, beat, fail]) as engine:
            bench = Bench(engine)
            place = left[-1][0]
            while left and left[-1][0] == place and deadline.left > 0:  # an engine a place, and a new one after a violation
                entry, name = left.pop()
                try:
                    outcomes[await check(bench, entry, name)] += 1
                except (LawBroken, SpellworkError) as error:
                    outcomes["broken"] += 1
                    broken.append(str(error) if isinstance(error, LawBroken) else f"{name} into {entry}: afterwards: {error}")
                    break
    return outcomes, broken


def run(_place: Path, seed: int, count: int, deadline: Deadline) -> Figure:
    """Put `count` of all pairs of value and place together, chosen by `seed` when there are more."""
    pairs = list(itertools.product(ENTRIES, PAYLOADS))
    chosen = sorted(random.Random(seed).sample(pairs, min(count, len(pairs))))
    outcomes, broken = asyncio.run(_all(chosen, deadline))
    facts = {**dict(sorted(outcomes.items())), "values": len(PAYLOADS), "places": len(ENTRIES)}
    return Figure("poison", LAW, seed, len(chosen), sum(outcomes.values()), tuple(broken), facts, round(deadline.spent, 1))
