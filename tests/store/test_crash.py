"""kill -9 in every phase of a batch, and anywhere: nothing acknowledged is lost, nothing is there by half."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from spellwork.store import Store, contents, open_store
from spellwork.testing import CRASH_POINTS
from tests.store.crash_writer import GROUP, batch_of

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX's")]


async def survivors(url: str) -> list[int]:
    """The numbers of the batches that are there, each wholly, as the log tells them in order."""
    store: Store = open_store(url, create=False)
    try:
        rows = dict(await store.scan(b"\x40", b"\x41"))
        log = [int.from_bytes(value, "big") for key, value in await store.scan(b"\x41log", b"\x42") if key != b"\x41log"]
        assert sorted(rows) == [b"\x40" + n.to_bytes(4, "big") for n in sorted(log)], "rows and log differ"
        assert all(rows[b"\x40" + n.to_bytes(4, "big")] == b"%d" % n * 300 for n in log)
        assert [key[1:] for key, _ in await store.scan(b"\x90", b"\x91")] == [key[1:] for key in sorted(rows)]
        assert int.from_bytes(await store.get(b"\x42sum") or b"", "big") == len(log)
        found = await contents(store)  # every row is whole
        assert found.revision == len(log)
        return log
    finally:
        await store.close()


@pytest.mark.parametrize("scheme", ["sqlite", "lmdb", "rocksdb"])
async def test_a_killed_writer_loses_nothing_acknowledged(tmp_path: Path, scheme: str) -> None:
    """At each crash point, and at random moments, on one store life after life."""
    url, acks = f"{scheme}:{tmp_path / 'store'}", tmp_path / "acks"
    rng = random.Random(scheme)
    deaths = [(point, rng.randint(2, 6)) for point in CRASH_POINTS] + [("", rng.randint(1, 8)) for _ in range(2)]
    first = 0
    for point, count in deaths:
        command = [sys.executable, "-m", "tests.store.crash_writer", url, str(acks), str(first), point, str(count)]
        writer: Any = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if not point:
            writer.stdout.read(count)  # so many groups are acknowledged; it is writing the next one
            writer.send_signal(signal.SIGKILL)
        _, said = writer.communicate(timeout=60)
        assert writer.returncode == -signal.SIGKILL, said.decode()
        acknowledged = {int(line) for line in acks.read_text().split()}
        there = await survivors(url)
        assert acknowledged <= set(there), f"lost at {point or 'a random moment'}"
        assert len(there) - len(acknowledged) <= 2 * GROUP * len(deaths)
        assert there == sorted(there)
        if point:
            # the group that was under way: durable behind the last point, gone before
            under_way = set(range(first + GROUP * (count - 1), first + GROUP * count))
            assert (under_way <= set(there)) is (point == "commit.after"), point
            assert point == "commit.after" or not under_way & set(there), point
        first = max(there, default=first) + 1


def test_the_writer_writes_what_is_looked_for() -> None:
    """A batch has two rows, a merge and an append."""
    batch = batch_of(7)
    assert (len(batch.rows), len(batch.merges), len(batch.appends)) == (2, 1, 1)
