"""An open SQLite store keeps the locks by which other processes see that it is open, whatever this process does with the file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from spellwork.errors import StoreTooNew
from spellwork.store import open_store
from spellwork.store.sqlite import SqliteBackend

# byte 128 of the index of the log is SQLite's "somebody has this mapped"; another process that gets it alone truncates the file
_PROBE = """
import fcntl, sys
with open(sys.argv[1], "rb+") as file:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 128)
    except OSError:
        print("in use")
"""


def in_use(path: Path) -> bool:
    """Whether another process finds the index of the log in use."""
    done = subprocess.run([sys.executable, "-c", _PROBE, f"{path}-shm"], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip() == "in use"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX locks")
async def test_an_open_store_is_seen_as_open_by_other_processes(tmp_path: Path) -> None:
    """From its opening on, also while a second one is open in this process and after that was closed."""
    path = tmp_path / "store.db"
    first = open_store(f"sqlite:{path}")
    assert in_use(path)
    second = open_store(f"sqlite:{path}")
    assert in_use(path)
    await second.close()
    assert in_use(path)
    await first.close()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX locks")
async def test_an_opening_that_fails_takes_no_lock_away(tmp_path: Path) -> None:
    """Nor does it keep handles for ever."""
    path = tmp_path / "store.db"
    store = open_store(f"sqlite:{path}")
    (path.parent / "link.db").symlink_to(path)
    backend = SqliteBackend(str(path))
    backend._writer.execute("PRAGMA user_version=99")
    backend.close()
    with pytest.raises(StoreTooNew):
        SqliteBackend(str(path.parent / "link.db"))
    assert in_use(path)
    await store.close()


@pytest.mark.skipif(sys.platform != "linux", reason="counts in /proc")
async def test_handles_are_closed_with_the_last_store(tmp_path: Path) -> None:
    """What had to stay open is closed then."""

    def count() -> int:
        return sum(str(tmp_path) in str(link.resolve()) for link in Path("/proc/self/fd").iterdir())

    for _ in range(3):
        first, second = (open_store(f"sqlite:{tmp_path / 'store.db'}") for _ in range(2))
        await second.close()
        await first.close()
        assert count() == 0
