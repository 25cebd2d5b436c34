"""Owns the comparison of a store with a sorted dict, over random steps that hypothesis draws and shrinks.
It must never work out what is expected in the way in which the store does.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any, cast

from spellwork.errors import Conflict, StoreError, UsageError
from spellwork.store import Batch, Store, fingerprint
from spellwork.testing.laws import LawBroken

Step = tuple[Any, ...]
_NAMES = (b"", b"\0", b"a", b"a\0", b"ab", b"b" * 600, b"b" * 600 + b"\xff", b"b" * 601, b"\xff", b"\xff\xff")
KEYS = tuple(prefix + name for prefix in (b"\x40", b"\x90") for name in _NAMES)
_LOG = b"\x41log"
_PATIENCE = 2.0


class Model:
    """What a store should hold: rows with their versions, and the changes of watched keys."""

    def __init__(self) -> None:
        self.rows: dict[bytes, tuple[bytes, int]] = {}
        self.changes: list[tuple[int, bytes, bytes | None, bytes | None]] = []

    def between(self, start: bytes, end: bytes) -> list[tuple[bytes, bytes, int]]:
        """Keys, values and versions of a range."""
        return [(key, *self.rows[key]) for key in sorted(self.rows) if start <= key < end]

    def holds(self, step: Step) -> bool:
        """Whether a requirement holds."""
        match step:
            case ("absent", key):
                return key not in self.rows
            case ("version" | "unchanged", *_, right):
                return bool(right)
        return True

    def apply(self, steps: list[Step], revision: int) -> None:
        """A batch that was accepted: range deletes, then the last word on each key, then merges, then appends."""
        for _, start, end in [step for step in steps if step[0] == "range"]:
            for key, _, _ in self.between(start, end):
                del self.rows[key]
            if start >= b"\x80":
                self.changes.append((revision, start, None, end))
        written: dict[bytes, bytes | None] = {}
        for step in steps:
            if step[0] in ("put", "delete"):
                written[step[1]] = step[2] if step[0] == "put" else None
        for step in steps:
            if step[0] == "merge":
                written[step[1]] = (self._value(written, step[1]) or b"") + step[2]
        for step in steps:
            if step[0] == "append":
                number = (int.from_bytes(self._value(written, _LOG) or b"", "big") + 1).to_bytes(8, "big")
                written[_LOG], written[_LOG + number] = number, step[1]
        for key, value in written.items():
            self.rows.pop(key, None)
            if value is not None:
                self.rows[key] = (value, revision)
            if key >= b"\x80":
                self.changes.append((revision, key, value, None))

    def _value(self, written: dict[bytes, bytes | None], key: bytes) -> bytes | None:
        return written[key] if key in written else self.rows.get(key, (None, 0))[0]

    def batch(self, steps: list[Step]) -> Batch:
        """The same as a batch for the store; what it requires is true or false of this moment."""
        batch = Batch()
        for step in steps:
            match step:
                case ("put", key, value):
                    batch.put(key, value)
                case ("delete", key):
                    batch.delete(key)
                case ("range", start, end):
                    batch.delete_range(start, end)
                case ("merge", key, operand):
                    batch.merge(key, "append", operand)
                case ("append", value):
                    batch.append(_LOG, value)
                case ("absent", key):
                    batch.require_absent(key)
                case ("version", key, right):
                    batch.require_version(key, self.rows.get(key, (b"", 0))[1] + (0 if right else 1))
                case ("unchanged", start, end, right):
                    seen = fingerprint((key, version) for key, _, version in self.between(start, end))
                    batch.require_unchanged(start, end, seen if right else seen[::-1])
        return batch


class Comparison:
    """A store and its model; each method does the same to both and raises `LawBroken` where they differ."""

    def __init__(self, opened: Callable[[Path], Store], place: Path):
        place.mkdir()
        self._opened, self._place = opened, place
        self._model = Model()
        self._loop = asyncio.new_event_loop()
        self._snapshots: list[tuple[Any, list[tuple[bytes, bytes]]]] = []
        self._stack = AsyncExitStack()
        self._store: Store = self._run(self._open())

    def _run(self, work: Any) -> Any:
        return self._loop.run_until_complete(work)

    async def _open(self) -> Store:
        return self._opened(self._place)

    def commit(self, group: list[list[Step]]) -> None:
        """Commit batches side by side; requirements of all but the first are only such as nobody else changes."""
        outcomes = self._run(self._together(group))
        for steps, outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, StoreError) and not isinstance(outcome, Conflict):
                raise LawBroken(f"{steps} failed: {outcome!r}")
            if isinstance(outcome, int) is not all(self._model.holds(step) for step in steps):
                raise LawBroken(f"{steps} gave {outcome!r} over {sorted(self._model.rows)}")
            if isinstance(outcome, int):
                self._model.apply(steps, outcome)

    async def _together(self, group: list[list[Step]]) -> list[Any]:
        batches = [self._model.batch(steps) for steps in group]
        return await asyncio.gather(*map(self._store.commit, batches), return_exceptions=True)

    def look(self, start: bytes, end: bytes, limit: int | None, *, reverse: bool) -> None:
        """Compare a range."""
        expected = self._model.between(start, end)[:: -1 if reverse else 1][:limit]
        self._same(self._run(self._store.read(lambda reader: reader.rows(start, end, reverse=reverse, limit=limit))), expected)

    def snapshot(self) -> None:
        """Take a snapshot and keep it."""
        view = self._run(self._stack.enter_async_context(self._store.snapshot()))
        self._snapshots.append((view, [(key, value) for key, value, _ in self._model.between(b"\x40", b"\xff")]))

    def reopen(self) -> None:
        """Close the store and open it again."""
        self.end_snapshots()
        self._run(self._store.close())
        self._store = self._run(self._open())

    def end_snapshots(self) -> None:
        """They show what there was, and are closed."""
        for view, expected in self._snapshots:
            self._same(self._run(view.scan(b"\x40", b"\xff")), expected)
        self._snapshots.clear()
        self._run(self._stack.aclose())

    def end(self, since: int) -> None:
        """Compare everything, the change feed too, and close."""
        try:
            self.end_snapshots()
            self.look(b"\x40", b"\xff", None, reverse=False)
            since = min(since, self._run(self._store.revision()))
            self._same(self._run(self._changes(since)), [change for change in self._model.changes if change[0] > since])
        finally:
            self.close()

    def close(self) -> None:
        """Let go of everything."""
        self._run(self._stack.aclose())
        self._run(self._store.close())
        self._loop.close()

    async def _changes(self, since: int) -> list[tuple[int, bytes, bytes | None, bytes | None]]:
        seen: list[tuple[int, bytes, bytes | None, bytes | None]] = []
        last = await self._store.commit(Batch().put(b"\x90~", b""))
        with contextlib.suppress(TimeoutError):  # what did not come is missed by the comparison
            async with asyncio.timeout(_PATIENCE), aclosing(cast("Any", self._store.watch(b"\x90", since))) as changes:
                async for change in changes:
                    if change.revision == last:
                        break
                    seen.append((change.revision, change.key, change.value, change.end))
        return seen

    def _same(self, found: object, expected: object) -> None:
        if found != expected:
            raise LawBroken(f"found {str(found)[:500]}, expected {str(expected)[:500]}")


def compare(opened: Callable[[Path], Store], place: Path, *, examples: int, durable: bool, shrink: bool = True) -> None:
    """Hold stores against the model, `examples` times; raises `LawBroken`, with `shrink` after the shortest steps to it."""
    try:
        import hypothesis  # noqa: F401, PLC0415 - only this one law needs it
    except ImportError as error:
        raise UsageError("comparing a store with a dict needs hypothesis: pip install hypothesis") from error
    from hypothesis import HealthCheck, Phase, given, settings  # noqa: PLC0415
    from hypothesis import strategies as st  # noqa: PLC0415
    from hypothesis.errors import Flaky  # noqa: PLC0415

    numbers = itertools.count()
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    phases = [Phase.generate, Phase.shrink] if shrink else [Phase.generate]
    how = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=slow,
        phases=phases,
        report_multiple_bugs=False,
    )

    @how
    @given(st.lists(_actions(st, durable=durable), min_size=1, max_size=25), st.integers(0, 10))
    def law(actions: list[Step], since: int) -> None:
        comparison = Comparison(opened, place / str(next(numbers)))
        try:
            for name, *arguments in actions:
                if name == "look":
                    start, end, limit, reverse = arguments
                    comparison.look(start, end, limit, reverse=reverse)
                else:
                    getattr(comparison, name)(*arguments)
        except BaseException:
            comparison.close()
            raise
        comparison.end(since)

    try:
        law()
    except Flaky as error:
        raise LawBroken(f"the same steps broke a law and then did not, or another one: {error}") from error


def _actions(st: Any, *, durable: bool) -> Any:
    keys, values = st.sampled_from(KEYS), st.sampled_from((b"", b"1", b"x" * 3000, b"\0\xff"))
    bounds = st.tuples(keys, keys).map(sorted).filter(lambda pair: pair[0][0] == pair[1][0])
    change = st.one_of(
        st.tuples(st.just("put"), keys, values),
        st.tuples(st.just("put"), keys, values),
        st.tuples(st.just("delete"), keys),
        st.tuples(st.just("merge"), keys, values),
        st.tuples(st.just("append"), values),
        bounds.map(lambda pair: ("range", *pair)),
    )
    requirement = st.one_of(
        st.tuples(st.just("absent"), keys),
        st.tuples(st.just("version"), keys, st.booleans()),
        st.tuples(bounds, st.booleans()).map(lambda both: ("unchanged", *both[0], both[1])),
    )
    changes = st.lists(change, min_size=1, max_size=5)
    first = st.tuples(st.lists(requirement, max_size=2), changes).map(lambda both: [*both[0], *both[1]])
    group = st.tuples(first, st.lists(changes, max_size=3)).map(lambda both: ("commit", [both[0], *both[1]]))
    look = st.tuples(bounds, st.sampled_from((None, 1, 4)), st.booleans()).map(lambda parts: ("look", *parts[0], *parts[1:]))
    others = [st.just(("snapshot",)), st.just(("end_snapshots",)), *([st.just(("reopen",))] if durable else [])]
    return st.one_of(group, group, group, look, look, *others)
