"""Owns the tape: an SQLite VFS that notes each write, sync and size change of a store's files, and what a power cut leaves of them.
It must never change what SQLite does: the files on disk are those of the ordinary VFS.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw

_SECTOR = 512
_JOURNALS = ("-wal", "-journal")


@dataclasses.dataclass(frozen=True, slots=True)
class Op:
    """One event: "write" (offset, data), "truncate" (offset: the new size), "create", "delete", "sync", "directory" or "mark".

    A sync stands where it *returned*, so a cut before it may lose what it was to save. `note` says what a mark means.
    """

    kind: str
    file: str
    offset: int = 0
    data: bytes = b""
    note: Any = None
    at: float = 0.0


class Tape:
    """What happened to the files whose names start with `stem`, in order. Threads may write side by side."""

    def __init__(self, stem: Path):
        self.stem = str(stem)
        self.ops: list[Op] = []
        self._lock = threading.Lock()

    def add(self, kind: str, file: str, offset: int = 0, data: bytes = b"", note: Any = None) -> None:
        """Note one event."""
        with self._lock:
            self.ops.append(Op(kind, file, offset, data, note, time.monotonic()))

    def mark(self, note: Any) -> None:
        """Note what was told to somebody at this moment."""
        self.add("mark", "", note=note)

    def suffix(self, name: str | None) -> str | None:
        """The part of a taped file's name behind the stem ("" for the database), None for others."""
        if name is None or not name.startswith(self.stem) or name.endswith("-shm"):
            return None
        return name[len(self.stem) :]

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Tape every connection that is opened within."""
        vfs = _TapedVFS(self, apsw.vfs_names()[0])
        try:
            yield
        finally:
            vfs.unregister()


class _TapedVFS(apsw.VFS):
    def __init__(self, tape: Tape, base: str):
        self._tape = tape
        self._base = base
        super().__init__(f"tape-{id(tape):x}", base, makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - SQLite's name
        filename = name.filename() if isinstance(name, apsw.URIFilename) else name
        suffix = self._tape.suffix(filename)
        if suffix is None:
            return apsw.VFSFile(self._base, name, flags)
        if not Path(filename).exists():
            self._tape.add("create", suffix)
        return _TapedFile(self._tape, suffix, self._base, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802 - SQLite's name
        super().xDelete(filename, syncdir)
        suffix = self._tape.suffix(filename)
        if suffix is not None:
            self._tape.add("delete", suffix)
            if syncdir:
                self._tape.add("directory", "")


class _LazyVFS(apsw.VFS):
    def __init__(self, base: str):
        self._base = base
        super().__init__(f"lazy-{id(self):x}", base, makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - SQLite's name
        return _LazyFile(self._base, name, flags)


class _LazyFile(apsw.VFSFile):
    def xSync(self, flags: int) -> None:  # noqa: N802 - SQLite's name
        """Say yes."""


@contextlib.contextmanager
def no_more_cuts() -> Iterator[None]:
    """Syncs within cost nothing: for looking at what a cut has left."""
    vfs = _LazyVFS(apsw.vfs_names()[0])
    try:
        yield
    finally:
        vfs.unregister()


class _TapedFile(apsw.VFSFile):
    def __init__(self, tape: Tape, suffix: str, base: str, name: Any, flags: list[int]):
        self._tape = tape
        self._suffix = suffix
        # SQLite's unix VFS syncs the directory with the first sync of a journal
        self._new = suffix in _JOURNALS
        super().__init__(base, name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's name
        super().xWrite(data, offset)
        self._tape.add("write", self._suffix, offset, bytes(data))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 - SQLite's name
        super().xTruncate(newsize)
        self._tape.add("truncate", self._suffix, newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802 - SQLite's name
        super().xSync(flags)
        self._tape.add("sync", self._suffix)
        if self._new:
            self._new = False
            self._tape.add("directory", "")


@dataclasses.dataclass
class _File:
    """One file on the imagined disk: what is certain, and what was written since the last sync."""

    image: bytearray = dataclasses.field(default_factory=bytearray)
    pending: list[Op] = dataclasses.field(default_factory=list)
    linked: bool = False
    """Whether the directory is certain to have its name."""
    named: bool = False
    """Whether it has a name at this moment."""


class Disk:
    """The state of the files along a tape. `advance` moves on, `cut` says what the power leaves, in one of many ways."""

    def __init__(self, ops: list[Op]):
        self._ops = ops
        self._files: dict[str, _File] = {}
        self._ghosts: dict[str, bytearray] = {}
        self.position = 0

    def advance(self, position: int) -> None:
        """Let everything before `position` happen."""
        for op in self._ops[self.position : position]:
            self._apply(op)
        self.position = position

    def _apply(self, op: Op) -> None:
        if op.kind == "mark":
            return
        if op.kind == "directory":
            self._ghosts.clear()
            for file in self._files.values():
                file.linked = file.named
            return
        file = self._files.setdefault(op.file, _File())
        if op.kind == "create":
            file.named = True
        elif op.kind == "delete":
            if file.linked:
                self._ghosts[op.file] = file.image
            self._files[op.file] = _File()
        elif op.kind == "sync":
            for earlier in file.pending:
                _put(file.image, earlier, 0, len(earlier.data))
            file.pending = []
        else:
            file.named = True
            file.pending.append(op)

    def cut(self, rng: random.Random) -> dict[str, bytes]:
        """The files after a power cut at this moment: what was synced, and of the rest whatever `rng` says."""
        # one mood for the whole disk makes the pure cases common; a mood a file gives the mixed ones
        moods = ("drop", "keep", "some", "torn", "prefix", "suffix")
        common = rng.choice(moods) if rng.random() < 0.5 else None
        files: dict[str, bytes] = {}
        for name, file in self._files.items():
            if file.named and (file.linked or rng.random() < 0.7):
                files[name] = self._survivor(file, common or rng.choice(moods), rng)
        for name, image in self._ghosts.items():
            if name not in files and rng.random() < 0.5:
                files[name] = bytes(image)
        return files

    def _survivor(self, file: _File, mood: str, rng: random.Random) -> bytes:
        image = bytearray(file.image)
        total = len(file.pending)
        bound = rng.randint(0, total)
        for index, op in enumerate(file.pending):
            if mood == "drop" or (mood == "prefix" and index > bound) or (mood == "suffix" and index < bound):
                continue
            if mood in ("some", "torn") and rng.random() < 0.4:
                continue
            torn = mood == "torn" or (mood == "prefix" and index == bound)
            if torn and op.kind == "write":
                _tear(image, op, rng)
            else:
                _put(image, op, 0, len(op.data))
        return bytes(image)


def _put(image: bytearray, op: Op, start: int, end: int) -> None:
    if op.kind == "truncate":
        if op.offset < len(image):
            del image[op.offset :]
        else:
            image.extend(bytes(op.offset - len(image)))
        return
    first = op.offset + start
    if first > len(image):
        image.extend(bytes(first - len(image)))
    image[first : op.offset + end] = op.data[start:end]


def _tear(image: bytearray, op: Op, rng: random.Random) -> None:
    size = len(op.data)
    way = rng.random()
    if way < 0.3:  # up to some byte
        _put(image, op, 0, rng.randint(0, size))
    elif way < 0.8:  # some sectors, in whatever order the drive chose
        for start in range(0, size, _SECTOR):
            if rng.random() < 0.5:
                _put(image, op, start, min(start + _SECTOR, size))
    else:  # the length came to be, the content did not
        garbage = dataclasses.replace(op, data=rng.choice((bytes(size), rng.randbytes(size))))
        start = rng.randrange(0, size, _SECTOR)
        _put(image, op, 0, size)
        _put(image, garbage, start, min(start + _SECTOR, size))


def write_files(files: dict[str, bytes], stem: Path) -> None:
    """Lay the files of a cut down at `stem`."""
    for old in stem.parent.glob(f"{stem.name}*"):
        old.unlink()
    for suffix, content in files.items():
        handle = os.open(f"{stem}{suffix}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(handle, "wb") as file:  # noqa: PTH123 - by its handle
            file.write(content)
