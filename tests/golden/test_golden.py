"""Stores that earlier versions wrote open, list, replay and go on for ever."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from spellwork.engine.replay import check_runs
from spellwork.store.sqlite import SqliteBackend
from spellwork.testing import TestEngine
from spellwork.testing.chaos import corpus
from tests.golden.write import GOLDEN, PARKED, fill

FILES = sorted(GOLDEN.glob("*.sqlite.gz"))


def opened(file: Path, place: Path) -> TestEngine:
    """An engine over a copy of a golden store."""
    path = place / "store.sqlite"
    path.write_bytes(gzip.decompress(file.read_bytes()))
    return TestEngine(f"sqlite:{path}", workflows=corpus.WORKFLOWS, create=False)


def test_there_is_a_golden_store_of_this_version() -> None:
    """Each released version leaves one behind; they stay small."""
    from spellwork import __version__

    assert f"{__version__}.sqlite.gz" in {file.name for file in FILES}
    assert all(file.stat().st_size < 50_000 for file in FILES)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name.removesuffix(".sqlite.gz"))
async def test_golden_store_opens_lists_and_replays(tmp_path: Path, file: Path) -> None:
    """Every run is listed with its result, and replays against the code of today without a difference."""
    async with opened(file, tmp_path) as engine:
        listed = {info.id: info.status for info in await engine.list(limit=1000)}
        assert set(corpus.SHAPES) | set(PARKED) <= set(listed)
        for name, (_, _, _, expected) in corpus.SHAPES.items():
            assert listed[name] == ("cancelled" if name == "cancelled" else "completed")
            if name != "cancelled":
                assert await (await engine.get(name)).result() == expected
            assert await (await engine.get(name)).history()
        verdicts = await check_runs(engine.store, engine.registry, engine.codec)
        assert len(verdicts) >= len(listed)
        assert [verdict for verdict in verdicts if not verdict.ok] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name.removesuffix(".sqlite.gz"))
async def test_parked_runs_of_a_golden_store_can_be_finished(tmp_path: Path, file: Path) -> None:
    """Runs that wait in a golden store take signals, cancellations and updates, and end as they should."""
    from spellwork import RunCancelled

    async with opened(file, tmp_path) as engine:
        signals, sleeper, updates = [await engine.get(name) for name in PARKED]
        await signals.signal(corpus.go, 9, id="first")  # it had this one
        await signals.signal(corpus.go, 3, id="second")
        assert await signals.result() == PARKED[signals.id]
        assert await updates.update("put", 9, id="first") == 2, "answered from the journal"
        await updates.update("put", 4, id="second")
        assert await updates.result() == PARKED[updates.id]
        await sleeper.cancel("enough")
        with pytest.raises(RunCancelled) as caught:
            await sleeper.result()
        assert f"cancelled: {caught.value.reason}" == PARKED[sleeper.id]


async def test_writing_again_gives_the_same_journals(tmp_path: Path) -> None:
    """The script is deterministic in what counts: two stores hold the same entries, up to times and run numbers."""
    from spellwork.journal import unpack_entry
    from spellwork.journal.rows import Keys

    stores = []
    for name in ("one", "two"):
        await fill(tmp_path / name)
        backend = SqliteBackend(str(tmp_path / name))
        found = backend.reader().scan(bytes((Keys.JOURNAL,)), bytes((Keys.JOURNAL + 1,)))
        stores.append(sorted(type(unpack_entry(key, frame)).__name__ for key, frame in found))
        backend.close()
    assert stores[0] == stores[1]
