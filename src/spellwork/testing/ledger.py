"""Owns the ledger: a file to which each effect appends one line and syncs, so that repeated effects can be counted.
It must never buffer.
"""

from __future__ import annotations

import collections
import os
from pathlib import Path


class Ledger:
    """Lines of text that survive a killed process."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)

    def write(self, line: str) -> None:
        """Append one line durably."""
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(handle, line.replace("\n", " ").encode() + b"\n")
            os.fsync(handle)
        finally:
            os.close(handle)

    def lines(self) -> list[str]:
        """All complete lines so far."""
        if not self.path.exists():
            return []
        return self.path.read_text().splitlines()

    def counts(self) -> dict[str, int]:
        """How often each line stands there."""
        return dict(collections.Counter(self.lines()))
