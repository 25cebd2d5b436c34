"""Owns strace attached to a life: which system calls on which files are counted, failed or made fatal. Linux only.
It must never let the life go on before every one of its threads is traced.
"""

from __future__ import annotations

import collections
import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from spellwork.testing.chaos.life import Life

CALLS = ("pwrite64", "fdatasync", "fsync", "ftruncate", "rename", "unlink")
FILES = ("store.db", "store.db-wal", "store.db-shm")


def missing() -> str:
    """What keeps strace from being used here, or nothing."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    sleeper = subprocess.Popen(["sleep", "30"])
    try:
        tried = subprocess.run(
            ["timeout", "--signal=INT", "0.3", "strace", "-qq", "-o", os.devnull, "-p", str(sleeper.pid)],
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        sleeper.kill()
        sleeper.wait()
    return f"strace may not attach: {tried.stderr.strip()}" if "attach" in tried.stderr else ""


class Tracer:
    """Follows all threads of `life`. strace counts the calls of each thread apart, and so does `counts`."""

    def __init__(self, life: Life, place: Path, options: Sequence[str] = ()):
        self._trace = place / "trace"
        files = [f"--trace-path={place / name}" for name in FILES]
        self._process = subprocess.Popen(
            [
                "strace",
                "-f",
                "-qq",
                "-o",
                str(self._trace),
                "-e",
                f"trace={','.join(CALLS)}",
                *files,
                *options,
                "-p",
                str(life.pid),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while not _traced(life.pid) and self._process.poll() is None:
            time.sleep(0.001)

    def close(self) -> None:
        """Wait for its end, which is that of the life."""
        try:
            self._process.wait(10)
        finally:
            self._process.kill()
            self._process.wait()

    def counts(self) -> dict[str, int]:
        """How often each call was made by the thread that made it most often."""
        by_thread: collections.Counter[tuple[str, str]] = collections.Counter()
        for line in self._trace.read_text().splitlines():
            if found := re.match(r"(\d+) +(\w+)\(", line):
                by_thread[found[1], found[2]] += 1
        most: dict[str, int] = {}
        for (_, call), number in by_thread.items():
            most[call] = max(number, most.get(call, 0))
        return most


def _traced(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return all("TracerPid:\t0\n" not in path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status"))
    return True  # it is gone
