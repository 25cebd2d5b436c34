"""`spellwork state copy`, `compact` and `stats`: a store as a whole, from the terminal."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from spellwork.store import Batch, open_store


def filled(url: str) -> str:
    """A store with some rows, some of them deleted."""

    async def fill() -> None:
        store = open_store(url)
        rng = random.Random(7)
        for number in range(30):
            await store.commit(Batch().put(b"\x40%02d" % number, rng.randbytes(20_000)).put(b"\x90%d" % number, b"v"))
        await store.commit(Batch().delete_range(b"\x40", b"\x4020"))
        await store.close()

    asyncio.run(fill())
    return url


@pytest.mark.parametrize("target", ["lmdb", "rocksdb", "sqlite"])
def test_a_copy_has_the_same_checksum(tmp_path: Path, spellwork, target: str) -> None:
    """What copy prints is what stats says of both, and versions and revision are kept."""
    source, target = filled(f"sqlite:{tmp_path / 'a.db'}"), f"{target}:{tmp_path / 'b'}"
    copied = spellwork("state", "copy", source, target, "--json")
    assert copied.code == 0, copied.err
    both = [spellwork("state", "stats", "--store", url, "--json").value for url in (source, target)]
    assert both[0]["checksum"] == both[1]["checksum"] == copied.value["checksum"]
    assert both[0]["keyspaces"] == both[1]["keyspaces"]
    assert both[0]["revision"] == both[1]["revision"] == 31
    assert both[0]["keyspaces"]["0x40"] == {"rows": 10, "bytes": 10 * 20_003}
    table = spellwork("state", "stats", "--store", target)
    assert both[0]["checksum"] in table.out
    assert "0x90" in table.out


def test_nothing_is_written_over_and_nothing_is_made_by_reading(tmp_path: Path, spellwork) -> None:
    """A target that holds something, a source that is not there, and a store in memory are refused."""
    source, other = filled(f"sqlite:{tmp_path / 'a.db'}"), filled(f"lmdb:{tmp_path / 'b'}")
    refused = spellwork("state", "copy", source, other, "--json")
    assert refused.error["error"] == "store-not-empty"
    none = str(tmp_path / "none")
    copying = ("copy", f"rocksdb:{none}", f"lmdb:{tmp_path / 'new'}")
    for words in (copying, ("stats", "--store", f"lmdb:{none}"), ("compact", "--store", none)):
        missing = spellwork("state", *words, "--json")
        assert (missing.code, missing.error["error"]) == (3, "store-missing")
    assert spellwork("state", "copy", source, "memory:").code == 2
    assert spellwork("state", "copy", "memory:", source).code == 2
    assert not (tmp_path / "none").exists()
    assert not (tmp_path / "new").exists()


def test_compact_gives_room_back(tmp_path: Path, spellwork) -> None:
    """It says how much, and the contents stay."""
    url = filled(f"sqlite:{tmp_path / 'a'}")
    before = spellwork("state", "stats", "--store", url, "--json").value
    compacted = spellwork("state", "compact", "--store", url, "--json").value
    assert compacted["bytes_after"] < compacted["bytes_before"]
    assert spellwork("state", "stats", "--store", url, "--json").value["checksum"] == before["checksum"]


def test_compact_of_lmdb_says_what_to_do(tmp_path: Path, spellwork) -> None:
    """It cannot shrink in place."""
    refused = spellwork("state", "compact", "--store", filled(f"lmdb:{tmp_path / 'a'}"))
    assert refused.code == 2
    assert "copy it to a new store" in refused.err
