"""Owns what a figure depends on: durability as the database itself reports it, versions, load and disk.
It must never repeat what was asked for in place of what was read back.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import apsw

from spellwork import Engine, __version__
from spellwork.errors import UsageError
from spellwork.store.sqlite import SqliteBackend

Result = dict[str, Any]
_SYNCHRONOUS = {0: "off", 1: "normal", 2: "full", 3: "extra"}


def machine() -> Result:
    """What is the same for every result of one process."""
    return {
        "version": __version__,
        "python": sys.version.split()[0],
        "sqlite": apsw.sqlite_lib_version(),
        "cpus": os.cpu_count(),
        "platform": sys.platform,
    }


def load() -> list[float]:
    """The load averages of 1, 5 and 15 minutes; nothing where the system has none."""
    return [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else []


def read_back(engine: Engine) -> Result:
    """Durability, and journal mode and synchronous as the connection that commits reports them."""
    store = engine.store
    backend = store._backend  # a pragma is the connection's own: no other one can be asked
    names = ("journal_mode", "synchronous", "wal_autocheckpoint")
    asked: Result = dict.fromkeys(names)
    if isinstance(backend, SqliteBackend):
        asked = {name: backend._writer.pragma(name) for name in names}
        asked["synchronous"] = _SYNCHRONOUS[int(asked["synchronous"])]
    return {"durability": store.durability.name, **asked}


def conditions(engine: Engine) -> Result:
    """Everything that belongs to a figure measured with `engine`."""
    return {**read_back(engine), **machine(), "load": load()}


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder for a store; TMPDIR chooses the disk."""
    return tempfile.TemporaryDirectory(prefix="spellwork-bench-", ignore_cleanup_errors=True)


def filesystem(folder: str) -> str:
    """The type of the file system the folder is on, "?" where the system does not tell."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return "?"
    found = [line.split()[1:3] for line in mounts.read_text().splitlines()]
    above = [(len(point), kind) for point, kind in found if Path(folder).resolve().is_relative_to(point)]
    # Of two mounts on the same point the later one hides the earlier.
    return max(reversed(above), key=lambda pair: pair[0])[1] if above else "?"


def resident() -> int:
    """Bytes of memory that this process occupies now (Linux), or at most so far (elsewhere)."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        raise UsageError("memory cannot be measured on Windows without another package")
    import resource  # noqa: PLC0415 - not there on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
