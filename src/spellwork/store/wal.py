"""Owns the verdict on SQLite's write-ahead log: whole, torn at its end as a crash leaves it, or damaged in the middle.
It must never write; SQLite takes the first bad frame for the end of the log, whatever lies behind it.

The format is that of sqlite.org/walformat.html: a header of 32 bytes, then frames of a header of 24 bytes and a page each.
"""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path

from spellwork.store import handles

_HEADER, _FRAME = 32, 24
_MAGIC = 0x377F0682
_SHM_HEADER = 48


@dataclasses.dataclass(frozen=True, slots=True)
class Log:
    """A log before SQLite opens it. `indexed` is how many frames its index (the -shm file) knows to be committed."""

    path: Path
    header: bytes
    indexed: int

    @classmethod
    def of(cls, database: str) -> Log:
        """The log of a database as it lies there."""
        path = Path(f"{database}-wal")
        header, index = _head(path, _HEADER), _index(database)
        # SQLite brings the index up to date after each sync
        indexed = int(struct.unpack("=I", index[16:20])[0]) if index[32:40] == header[16:24] != b"" else 0
        return cls(path, header, indexed)

    def lost(self, kept: int) -> str:
        """What is missing when SQLite found `kept` committed frames; "" if nothing is that a crash would not explain.

        Each commit at `full` is on the disk before the next is written. So a damaged one with a whole one behind it is no crash's.
        """
        if len(self.header) < _HEADER or _head(self.path, _HEADER) != self.header:
            return ""  # there was none, or another process has begun it anew since
        frames = _Frames(self.path, self.header)
        if not frames.header_is_whole:
            return frames.unsaved()
        if _index(self._database)[32:40] != self.header[16:24]:
            return ""  # another process is about to begin it anew
        if kept < self.indexed:
            return f"{self.indexed} pages were committed to it, {kept} can be read"
        return frames.behind(kept)

    @property
    def _database(self) -> str:
        return str(self.path)[: -len("-wal")]


class _Frames:
    def __init__(self, path: Path, header: bytes):
        self._data = path.read_bytes() if path.exists() else b""
        magic, _, size = struct.unpack(">III", header[:12])
        self._order = ">" if magic & 1 else "<"
        self._is_known = magic & ~1 == _MAGIC
        self._size = size if 512 <= size <= 65536 and size & (size - 1) == 0 else 4096
        self._header, self._salt = header, header[16:24]
        self._path = path
        self.header_is_whole = self._is_known and self._sum(header[:24], (0, 0)) == struct.unpack(">II", header[24:])

    @property
    def count(self) -> int:
        return max(0, (len(self._data) - _HEADER) // (_FRAME + self._size))

    def _frame(self, index: int) -> tuple[bytes, bytes]:
        start = _HEADER + index * (_FRAME + self._size)
        return self._data[start : start + _FRAME], self._data[start + _FRAME : start + _FRAME + self._size]

    def _sum(self, data: bytes, seed: tuple[int, int]) -> tuple[int, int]:
        first, second = seed
        words = struct.unpack(f"{self._order}{len(data) // 4}I", data)
        for even, odd in zip(words[::2], words[1::2], strict=True):
            first = (first + even + second) & 0xFFFFFFFF
            second = (second + odd + first) & 0xFFFFFFFF
        return first, second

    def _is_whole(self, index: int) -> bool:
        header, page = self._frame(index)
        seed = self._frame(index - 1)[0][16:24] if index else self._header[24:32]
        return self._sum(header[:8] + page, struct.unpack(">II", seed)) == struct.unpack(">II", header[16:24])

    def behind(self, kept: int) -> str:
        """Whether a whole frame lies behind the commit that was damaged."""
        ours = [i for i in range(kept, self.count) if self._has_salt(i)]
        stray = next((i for i in range(kept, self.count) if not self._has_salt(i)), None)
        if stray is not None and all(self._is_whole(i) for i in range(kept, stray + 1)):
            # It continues the sums of this log, so it is no frame of an older one: just its salt is damaged, which no sum covers.
            # (Behind a frame that is torn, whose sum may still be the one of before, an old one may seem to continue it.)
            ours = sorted([*ours, stray])
        ends = [i for i in ours if self._frame(i)[0][4:8] != bytes(4)]
        if not ends or all(self._has_salt(i) and self._is_whole(i) for i in range(kept, ends[0] + 1)):
            return ""  # nothing, or what another process has committed since
        for index in ours:
            if index > ends[0] and self._is_whole(index):
                return f"it is damaged at page {kept + 1}, and later commits lie behind that"
        return ""

    def _has_salt(self, index: int) -> bool:
        return self._frame(index)[0][8:16] == self._salt

    def unsaved(self) -> str:
        """With a torn header all frames are old ones, so the database must have their pages."""
        if not self._is_known and self.count > 1:  # the header does not even tell the order of bytes in its sums
            self._order = "<"
            if not self._is_whole(1):
                self._order = ">"
        newest: dict[int, bytes] = {}
        group: dict[int, bytes] = {}
        salt = self._frame(0)[0][8:16] if self.count else b""
        for index in range(self.count):
            header, page = self._frame(index)
            if header[8:16] != salt or (index and not self._is_whole(index)):
                break
            group[int.from_bytes(header[:4], "big")] = page
            if header[4:8] != bytes(4):
                newest |= group
                group = {}
        database = str(self._path)[: -len("-wal")]
        for number, page in newest.items():
            if handles.read(database, database, self._size, (number - 1) * self._size) != page:
                return f"its header is damaged, and page {number} of the database is older than in the log"
        return ""


def _head(path: Path, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(size)
    except FileNotFoundError:
        return b""


def _index(database: str) -> bytes:
    """The header of the log's index, empty when it is being changed."""
    try:
        both = handles.read(database, f"{database}-shm", 2 * _SHM_HEADER)
    except FileNotFoundError:
        return b""
    index = both[:_SHM_HEADER]
    return index if len(both) == 2 * _SHM_HEADER and index == both[_SHM_HEADER:] else b""
