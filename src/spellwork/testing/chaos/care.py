"""Owns damage to the bytes at rest as `fsck` sees it: it names what was hit, and sets aside that and nothing else.
It must never let a value through that differs from the undamaged store's, before or after.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import random
import shutil
from pathlib import Path
from typing import Any

import apsw

from spellwork.clock import SystemClock
from spellwork.engine.fsck import Report, check
from spellwork.engine.ownership import COUNT
from spellwork.engine.quarantine import quarantine
from spellwork.errors import SpellworkError, StoreError
from spellwork.journal.rows import Keys
from spellwork.state.scopes import SCHEMAS
from spellwork.store import Encryption, Reader, open_store
from spellwork.store.fsck import ASIDE
from spellwork.store.keyspace import FEED, FEED_FLOOR, KEYS, META, PARTITIONS, REVISION
from spellwork.testing.chaos.damage import Case, Store, hurt, make, write
from spellwork.testing.chaos.tape import no_more_cuts
from spellwork.testing.chaos.trial import Deadline, Figure, LawBroken

LAW = "fsck names every damaged row and nothing that is whole, and a quarantine touches only what was hit"
_KEY = Encryption(b"chaos trial" + b"!" * 21)
_INDEXES = (Keys.ACTIVE, Keys.BLOCKED, Keys.TIMERS)
_END = b"\xff" * 64


def _values(reader: Reader) -> dict[bytes, bytes | None]:
    """Every row, None where it is damaged."""
    stand_in = b"\xc1 stands for a damaged row"
    return {key: None if value == stand_in else value for key, value in reader.scan(b"", _END, damaged=stand_in)}


class _Look:
    """One damaged store, through fsck."""

    def __init__(self, case: Case, encryption: Encryption | None, whole: dict[bytes, bytes | None]):
        self._url = f"sqlite:{case.stem}"
        self._case = case
        self._encryption = encryption
        self._whole = whole

    async def judge(self, outcome: str) -> str:
        """Check, and set aside what was hit; raises `LawBroken`."""
        store = open_store(self._url, create=False, encryption=self._encryption)
        try:
            await store.check_now()
            report = await store.examine(check)
            named = {finding.key for finding in report.findings if finding.kind == "damaged"}
            if named != self._case.hit:
                raise LawBroken(f"fsck named {_hex(named)}, hit were {_hex(self._case.hit)}")
            if not named:
                if report.damage:
                    raise LawBroken(f"fsck calls a store damaged whose every row is whole: {report.damage}")
                return outcome
            before = await store.examine(_values)
            if any(before.get(key) != value for key, value in self._whole.items() if key not in named):
                raise LawBroken("a row that is not named reads differently")
            done = await quarantine(store, SystemClock())
            self._compare(named, before, await store.examine(_values), done.report)
        finally:
            await store.close()
        return "set aside"

    def _compare(
        self, named: set[bytes], before: dict[bytes, bytes | None], after: dict[bytes, bytes | None], report: Report
    ) -> None:
        left = {finding.key for finding in report.damage}
        if any(key[0] not in (META.prefix, SCHEMAS.prefix) for key in left):
            raise LawBroken(f"a quarantine left {_hex(left)}")
        numbers = {_number(key) for key in named} - {0}
        expected = named | {REVISION} | ({FEED_FLOOR} if any(key[0] == FEED.prefix for key in named) else set())
        for key in before.keys() | after.keys():
            ours = key in expected or key[0] in (PARTITIONS.prefix, ASIDE.prefix, FEED.prefix)
            of_run = key[0] in (Keys.RUNS, *_INDEXES) and _number(key) in numbers
            if not ours and not of_run and before.get(key) != after.get(key):
                raise LawBroken(f"the row at {key.hex()} was not hit and was changed; hit were {_hex(named)}")
        for key in named - left:
            value, was = after.get(key), self._whole.get(key)
            if value is not None and value != was and key[0] not in (Keys.RUNS, PARTITIONS.prefix, *_INDEXES):
                raise LawBroken(f"the row at {key.hex()} has another value after it was set aside")


def _number(key: bytes) -> int:
    return int.from_bytes(key[1:9] if key[0] in (Keys.JOURNAL, Keys.RUNS) else key[-8:], "big")


def _hex(keys: set[bytes]) -> list[str]:
    return sorted(key.hex() for key in keys)


_VITAL = (REVISION, COUNT, KEYS)
"""Without these rows no engine opens the store, whatever else is whole."""


def _outcome(case: Case, encryption: Encryption | None, whole: dict[bytes, bytes | None]) -> str:
    outcome = case.judge()
    if outcome in ("refused", "older"):
        return outcome
    if case.hit.intersection(_VITAL):
        with contextlib.suppress(StoreError):
            asyncio.run(_Look(case, encryption, whole).judge(outcome))
        return "refused"
    return asyncio.run(_Look(case, encryption, whole).judge(outcome))


def _whole(store: Store, stem: Path, encryption: Encryption | None) -> dict[bytes, bytes | None]:
    """The rows of an undamaged store, as whoever has the key reads them."""
    write(store.files, stem)

    async def read() -> dict[bytes, bytes | None]:
        opened = open_store(f"sqlite:{stem}", create=False, encryption=encryption)
        try:
            return await opened.examine(_values)
        finally:
            await opened.close()

    return asyncio.run(read())


def run(place: Path, seed: int, count: int, deadline: Deadline) -> Figure:
    """Damage stores `count` times, plain and encrypted, closed and as a kill leaves them, and let fsck look at each."""
    rng = random.Random(seed)
    outcomes: collections.Counter[str] = collections.Counter()
    broken: list[str] = []
    done = 0
    with no_more_cuts():
        stem = place / "hurt" / "store.db"
        stem.parent.mkdir(parents=True)
        stores: list[tuple[Store, Encryption | None, dict[bytes, bytes | None]]] = []
        for crashed in (False, True):
            for encryption in (None, _KEY):
                whole = make(place / f"whole-{len(stores)}", crashed=crashed, encryption=encryption)
                stores.append((whole, encryption, _whole(whole, stem, encryption)))
        while done < count and deadline.left > 0:
            whole, encryption, rows = rng.choice(stores)
            files, kind, where = hurt(whole.files, rng)
            write(files, stem)
            done += 1
            try:
                outcomes[_outcome(Case(whole, stem, kind, "-shm" in whole.files), encryption, rows)] += 1
            except (LawBroken, SpellworkError, apsw.Error) as error:
                broken.append(f"seed {seed}, damage {done}: {where}: {type(error).__name__}: {error}")
                kept = place / f"broken-{done}"
                kept.mkdir()
                write(files, kept / "store.db")
        for index in range(len(stores)):
            shutil.rmtree(place / f"whole-{index}")
    facts: dict[str, Any] = dict(sorted(outcomes.items()))
    return Figure("care", LAW, seed, count, done, tuple(broken), facts, round(deadline.spent, 1))
