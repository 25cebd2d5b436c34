"""Owns the ledger: one synced line for each analysis that was carried out, written by the analysis itself.
It must never rewrite or remove a line: it is the witness against the journal.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

import msgspec

_append = threading.Lock()


class Line(msgspec.Struct, frozen=True):
    """One analysis: of which run and file (by its bytes), under which idempotency key, by which process.

    `token` is made anew for each attempt; the attempt whose token the journal holds is the one that was committed.
    """

    run: str
    path: str
    sha256: str
    key: str
    token: str
    pid: int


class Ledger:
    """A file of JSON lines."""

    def __init__(self, file: Path):
        self.file = file

    def append(self, line: Line) -> None:
        """Write `line` and return once the disk has it."""
        data = msgspec.json.encode(line) + b"\n"
        with _append:
            handle = os.open(self.file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                size = os.fstat(handle).st_size
                # A process killed while it wrote leaves half a line, and the next one must not grow onto it.
                torn = size > 0 and _byte_before(handle, size) != b"\n"
                os.write(handle, b"\n" + data if torn else data)
                os.fsync(handle)
            finally:
                os.close(handle)

    def lines(self, run: str) -> list[Line]:
        """The lines of one run, in the order in which they were written; half-written ones count for nothing."""
        if not self.file.exists():
            return []
        found = []
        for data in self.file.read_bytes().splitlines():
            try:
                line = msgspec.json.decode(data, type=Line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
            if line.run == run:
                found.append(line)
        return found


def _byte_before(handle: int, position: int) -> bytes:
    os.lseek(handle, position - 1, os.SEEK_SET)
    return os.read(handle, 1)
