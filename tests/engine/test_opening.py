"""What opening costs: it must not grow with what the store holds."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from spellwork import Engine, Signal, workflow
from spellwork.store import Place, register_backend
from spellwork.store.lmdb import LmdbBackend
from spellwork.store.rocksdb import RocksBackend
from spellwork.store.sqlite import SqliteBackend

KINDS: dict[str, Any] = {"sqlite": SqliteBackend, "lmdb": LmdbBackend, "rocksdb": RocksBackend}
go = Signal[int]("go")
touched: list[str] = []  # one item a row


class Counted:
    """A backend, or a reader of it, that notes each row that it gives."""

    def __init__(self, inner: Any):
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        made = getattr(self._inner, name)
        if name in ("reader", "again"):
            return lambda: Counted(made())
        if name in ("get", "version"):
            return lambda key: _noted(made(key), 1)
        if name in ("scan", "rows", "versions"):
            return lambda *args, **options: _noted(found := made(*args, **options), len(found))
        return made


def _noted(found: Any, rows: int) -> Any:
    touched.extend([""] * rows)
    return found


def counted(place: Place) -> Any:
    kind = Path(place.path).name.partition("-")[0]
    return Counted(KINDS[kind](str(place.path)))


register_backend("counted", counted)


@workflow
async def waits(number: int) -> int:
    return number + await go.receive()


@pytest.mark.parametrize("kind", list(KINDS))
async def test_opening_touches_less_than_a_hundredth_of_the_keys(tmp_path: Path, kind: str) -> None:
    """An engine over thousands of runs that wait and values in state reads a few rows until it is open, and goes on."""
    url = f"counted:{tmp_path}/{kind}-store"
    async with Engine(url, workflows=[waits], cache=10) as engine:
        await asyncio.gather(*(engine.start(waits, n, id=f"w{n}") for n in range(1_000)))
        tree = engine.state.tree("numbers", int)
        for first in range(0, 10_000, 1_000):
            batch = engine.state.batch()
            for n in range(first, first + 1_000):
                batch.put(tree, n, n)
            await batch.commit()
        keys = await engine.store.read(lambda reader: len(reader.scan(b"", b"\xff" * 64)))
    assert keys > 12_000
    touched.clear()
    async with Engine(url, workflows=[waits], cache=10) as engine:
        assert 0 < len(touched) < keys / 100
        run = await engine.get("w7")
        await run.signal(go, 1)
        assert await run.result(timeout=20) == 8
