"""Owns damage to the bytes at rest: flips, cuts, zeroed tails and swapped pages in the database and its log.
It must never pass a wrong value: whatever is still readable is compared with the undamaged store.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw

from spellwork import Engine, Signal, activity, workflow
from spellwork.engine.history import Event
from spellwork.errors import RowDamaged, SpellworkError, StoreError
from spellwork.journal.rows import Keys
from spellwork.state import StateStore
from spellwork.store import Encryption
from spellwork.store import Store as Low
from spellwork.store.keyspace import REVISION
from spellwork.store.sqlite import SqliteBackend
from spellwork.testing.chaos import corpus
from spellwork.testing.chaos.power import digest_of, newest_commit
from spellwork.testing.chaos.tape import no_more_cuts
from spellwork.testing.chaos.trial import Deadline, Figure, LawBroken

LAW = "damaged bytes are refused or named, or change nothing; no other run is concerned, and none gets a wrong value"
_FRAME = 24
_LOG_HEADER = 32
_PATIENCE = 5.0
_SETTLED = 0.1
_STAND_IN = b"\xc1damaged"
_ENGINE_EVERY = 10

_STATE_ROWS = 30

go = Signal[int]("go")
_BLOCK: set[str] = set()


@activity
async def slow(name: str) -> str:
    if name in _BLOCK:
        await asyncio.Event().wait()
    return "x" * 5000 + name


@workflow
async def busy(name: str) -> list[str]:
    before = await corpus.add(1, 2)
    return [str(before), await slow(name)]


@workflow
async def waits(name: str) -> list[Any]:
    first = await go.receive()
    total = await corpus.add(first, 1)
    return [name, total, await go.receive()]


WORKFLOWS = [*corpus.WORKFLOWS, busy, waits]
_FINISHED = ("sequence", "fan_out", "nested", "retries", "continued")
_EXPECTED: dict[str, Any] = {
    **{name: corpus.SHAPES[name][3] for name in _FINISHED},
    **{f"busy-{i}": ["3", "x" * 5000 + f"busy-{i}"] for i in range(3)},
    **{f"waits-{i}": [f"waits-{i}", i + 1, 7] for i in range(4)},
}


@dataclasses.dataclass
class Store:
    """An undamaged store: its files, its rows, the digests of its commits, and what its ended runs tell."""

    files: dict[str, bytes]
    rows: dict[bytes, bytes]
    truth: dict[int, bytes]
    histories: dict[str, list[Event]]


def make(place: Path, *, crashed: bool, encryption: Encryption | None = None) -> Store:
    """A store with finished, running and parked runs, and with state.

    `crashed` keeps the log (and its index) as a killed process leaves them. Its rows are as they lie there, encrypted or not.
    """
    place.mkdir(parents=True)
    stem = place / "store.db"
    truth: dict[int, bytes] = {}
    base = apsw.vfs_names()[0]

    def probe(point: str) -> None:
        if point == "commit.after":
            truth.update([newest_commit(stem, base)])

    _BLOCK.update(name for name in _EXPECTED if name.startswith("busy"))
    try:
        killed = asyncio.run(_fill(stem, probe, encryption))
    finally:
        _BLOCK.clear()
    if crashed:
        truth = {revision: digest for revision, digest in truth.items() if revision <= killed.revision}
    files = killed.files if crashed else _files(stem)
    write(files, stem)
    backend = SqliteBackend(str(stem))
    rows = dict(backend.reader().scan(b"", b"\xff" * 64))
    backend.close()
    return Store(files, rows, truth, killed.histories)


@dataclasses.dataclass
class _Killed:
    files: dict[str, bytes]
    revision: int
    histories: dict[str, list[Event]]


async def _fill(stem: Path, probe: Callable[[str], None], encryption: Encryption | None) -> _Killed:
    async with Engine(f"sqlite:{stem}", workflows=WORKFLOWS, probe=probe, encryption=encryption) as engine:
        await corpus.drive(engine, list(_FINISHED), lambda _line: None)
        for name in _BLOCK:
            await engine.start(busy, name, id=name)
        for i in range(4):
            run = await engine.start(waits, f"waits-{i}", id=f"waits-{i}")
            await run.signal(go, i, id="first")
        await _put_state(engine.store)
        histories = {name: await (await engine.get(name)).history() for name in _FINISHED}
        await asyncio.sleep(_SETTLED)
        return _Killed(_files(stem), await engine.store.revision(), histories)


async def _put_state(store: Low) -> None:
    """Values in two scopes, some that expire, some that were merged."""
    async with StateStore(store) as state:
        tree, mine = state.tree("values", dict[str, str]), state.scope("agent", "one").tree("counts", int)
        for n in range(_STATE_ROWS):
            await tree.set(f"key-{n}", {"value": str(n) * 40}, ttl=3600 if n % 3 == 0 else None)
            await mine.merge(("count", n % 5), "add", n, id=f"merge-{n}")


def _files(stem: Path) -> dict[str, bytes]:
    files = {suffix: Path(f"{stem}{suffix}") for suffix in ("", "-wal", "-shm")}
    return {suffix: path.read_bytes() for suffix, path in files.items() if path.exists()}


def write(files: dict[str, bytes], stem: Path) -> None:
    """Lay down the files of a store."""
    for old in stem.parent.glob(f"{stem.name}*"):
        old.unlink()
    for suffix, content in files.items():
        Path(f"{stem}{suffix}").write_bytes(content)


# The damage


def hurt(files: dict[str, bytes], rng: random.Random) -> tuple[dict[str, bytes], str, str]:
    """One damage to the database or its log; returns the files, the kind, and where it was done."""
    suffix = rng.choice([name for name in files if name != "-shm" and files[name]])
    data = bytearray(files[suffix])
    kind = rng.choice(("flip", "flip", "flip", "bytes", "truncate", "zero tail", "swap"))
    place = rng.randrange(len(data))
    if kind == "flip":
        data[place] ^= 1 << rng.randrange(8)
    elif kind == "bytes":
        for _ in range(rng.randint(2, 16)):
            data[min(place + rng.randrange(64), len(data) - 1)] = rng.randrange(256)
    elif kind == "truncate":
        del data[place if rng.random() < 0.5 else place // 512 * 512 :]
    elif kind == "zero tail":
        data[place:] = bytes(len(data) - place)
    else:
        place = _swap(data, suffix, rng)
    return {**files, suffix: bytes(data)}, kind, f"{kind} in {suffix or 'the database'} at {place}"


def _swap(data: bytearray, suffix: str, rng: random.Random) -> int:
    start, size = (_LOG_HEADER, _FRAME + 4096) if suffix else (0, 4096)
    count = (len(data) - start) // size
    first, second = start + rng.randrange(count) * size, start + rng.randrange(count) * size
    data[first : first + size], data[second : second + size] = data[second : second + size], data[first : first + size]
    return first


# What came of it


@dataclasses.dataclass
class Case:
    """One damaged store. `hit` are the keys of rows that were named as damaged."""

    whole: Store
    stem: Path
    kind: str
    indexed: bool
    hit: set[bytes] = dataclasses.field(default_factory=set)

    def judge(self) -> str:
        """Read everything; returns "refused", "rows named", "older" or "harmless", or raises `LawBroken`."""
        try:
            backend = SqliteBackend(str(self.stem), create=False)
        except StoreError:
            return "refused"
        try:
            return self._read(backend)
        except StoreError:
            return "refused"
        finally:
            with contextlib.suppress(StoreError):
                backend.close()

    def _read(self, backend: SqliteBackend) -> str:
        reader = backend.reader()
        try:
            rows = dict(reader.scan(b"", b"\xff" * 64, damaged=_STAND_IN))
            self.hit = {key for key, value in rows.items() if value == _STAND_IN}
            if not self.hit and rows != self.whole.rows:
                return self._older(rows)
            for key, value in self.whole.rows.items():
                try:
                    if reader.get(key) != value:
                        raise LawBroken(f"the row at {key.hex()} reads wrong or is missing, and nothing was said")
                except RowDamaged:
                    self.hit.add(key)
            if strange := rows.keys() - self.whole.rows.keys():
                raise LawBroken(f"rows that nobody wrote: {[key.hex() for key in strange]}")
        finally:
            reader.dispose()
        return "rows named" if self.hit else "harmless"

    def _older(self, rows: dict[bytes, bytes]) -> str:
        """A log that ends early is what a crash leaves. Only its index could tell, and a power cut takes that away."""
        revision = int.from_bytes(rows.get(REVISION, b""), "big")
        behind = sum(later > revision for later in self.whole.truth)
        known = self.whole.truth.get(revision) == digest_of(sorted(rows.items()))
        cut_short = self.kind in ("truncate", "zero tail")
        if self.indexed or not (known or not rows) or not (cut_short or behind <= 1):
            raise LawBroken(f"{behind} commits are gone, and nothing was said")
        return "older"

    async def go_on(self) -> int:
        """Let an engine finish everything; runs that were not hit must end as if nothing were. Returns how many did."""
        try:
            async with Engine(f"sqlite:{self.stem}", workflows=WORKFLOWS, create=False) as engine:
                return sum(await asyncio.gather(*(self._one(engine, name) for name in _EXPECTED)))
        except StoreError:
            if self._concerned("") or not self.hit:
                return 0
            raise LawBroken(f"rows of single runs stop the whole engine: {[key.hex() for key in self.hit]}") from None

    async def _one(self, engine: Engine, name: str) -> bool:
        try:
            run = await engine.get(name)
            if name.startswith("waits"):
                await run.signal(go, 7, id="second")
            result = await run.result(_PATIENCE)
            history = await run.history() if name in self.whole.histories else None
        except (SpellworkError, TimeoutError) as error:
            if self._concerned(name):
                return False
            raise LawBroken(f"run {name} was not hit ({[key.hex() for key in self.hit]}) and got {error!r}") from error
        if result != _EXPECTED[name] or (history is not None and history != self.whole.histories[name]):
            raise LawBroken(f"run {name} gave {str(result)[:200]} or another history")
        return True

    def _concerned(self, name: str) -> bool:
        """Whether a damaged row belongs to this run, its child or its parent, or to the whole store."""
        numbers = self._numbers(name)
        for key in self.hit:
            if key[0] < Keys.ACTIVE or key[0] in (Keys.INBOX, Keys.REPLIES):
                return True
            if key[0] == Keys.IDS and name and key[1:].decode().startswith(name):
                return True
            number = key[1:9] if key[0] in (Keys.JOURNAL, Keys.RUNS) else key[-8:]
            if int.from_bytes(number, "big") in numbers:
                return True
        return False

    def _numbers(self, name: str) -> set[int]:
        """The numbers of every run whose journal begins with this id, or a child's of it."""
        from spellwork.journal import Started, unpack_entry

        found = set()
        for key, value in self.whole.rows.items():
            if key[0] == Keys.JOURNAL and key[9:] == bytes(4):
                started = unpack_entry(key, value)
                if isinstance(started, Started) and name and started.run_id.startswith(name):
                    found.add(int.from_bytes(key[1:9], "big"))
        return found


def run(place: Path, seed: int, count: int, deadline: Deadline) -> Figure:
    """Damage stores `count` times, read everything, and let an engine go on with a tenth of them."""
    rng = random.Random(seed)
    outcomes: collections.Counter[str] = collections.Counter()
    kinds: collections.Counter[str] = collections.Counter()
    broken: list[str] = []
    done = went_on = finished = 0
    with no_more_cuts():
        stores = {crashed: make(place / f"whole-{crashed}", crashed=crashed) for crashed in (False, True)}
        stem = place / "hurt" / "store.db"
        stem.parent.mkdir()
        while done < count and deadline.left > 0:
            whole = stores[rng.random() < 0.6]
            keep_index = "-shm" in whole.files and rng.random() < 0.7
            files, kind, where = hurt({k: v for k, v in whole.files.items() if k != "-shm" or keep_index}, rng)
            write(files, stem)
            case = Case(whole, stem, kind, keep_index)
            done += 1
            try:
                outcome = case.judge()
                outcomes[outcome] += 1
                kinds[f"{kind}: {outcome}"] += 1
                if outcome != "older" and (case.hit or done % _ENGINE_EVERY == 0):
                    write(files, stem)
                    finished += asyncio.run(case.go_on())
                    went_on += 1
            except (LawBroken, SpellworkError, apsw.Error) as error:
                broken.append(f"seed {seed}, damage {done}: {where}: {type(error).__name__}: {error}")
                kept = place / f"broken-{done}"
                kept.mkdir()
                write(files, kept / "store.db")
    for crashed in stores:
        shutil.rmtree(place / f"whole-{crashed}")
    facts: dict[str, Any] = {
        **dict(sorted(outcomes.items())),
        "taken up by an engine": went_on,
        "runs that ended there as expected": finished,
        "by kind": dict(sorted(kinds.items())),
    }
    return Figure("damage", LAW, seed, count, done, tuple(broken), facts, round(deadline.spent, 1))
