"""Owns the form of a backup's files: records in key order, in compressed blocks, and a digest over the whole file.
It must never hold more than a block in memory.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import msgspec

from spellwork.errors import BackupDamaged
from spellwork.store.backend import Row
from spellwork.store.durable import sync_file

R = TypeVar("R")
Mark = tuple[bytes, bytes]
"""A key, and the digest of its row."""

_BLOCK_BYTES = 1 << 18
_LENGTH = 4
_RECORDS_AT_MOST = 4096
_encode = msgspec.msgpack.Encoder().encode
ROWS = msgspec.msgpack.Decoder(list[tuple[bytes, bytes, int]])
MARKS = msgspec.msgpack.Decoder(list[tuple[bytes, bytes]])


class FileMark(msgspec.Struct, frozen=True):
    """What a file must be: its size in bytes, and its BLAKE2b digest (256 bits)."""

    bytes: int
    digest: str


def digest_of(row: Row) -> bytes:
    """What stands for a row in an index."""
    key, value, version = row
    digest = hashlib.blake2b(digest_size=16)
    digest.update(len(key).to_bytes(4, "big") + key + version.to_bytes(8, "big"))
    digest.update(value)
    return digest.digest()


class BlockWriter(Generic[R]):
    """Writes records. After the block `mark` says what the file is; it is on the disk then."""

    def __init__(self, path: Path):
        self._path = path
        self._digest = hashlib.blake2b(digest_size=32)
        self._records: list[R] = []
        self._size = self._written = 0

    def __enter__(self) -> Self:
        self._file = self._path.open("xb")
        return self

    def add(self, record: R, size: int) -> None:
        """One more record, of about `size` bytes."""
        self._records.append(record)
        self._size += size
        if self._size >= _BLOCK_BYTES or len(self._records) >= _RECORDS_AT_MOST:
            self._flush()

    def _flush(self) -> None:
        if self._records:
            packed = zlib.compress(_encode(self._records), 1)
            block = len(packed).to_bytes(_LENGTH, "big") + packed
            self._file.write(block)
            self._digest.update(block)
            self._written += len(block)
            self._records, self._size = [], 0

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._flush()
                sync_file(self._file)
        finally:
            self._file.close()

    @property
    def mark(self) -> FileMark:
        """The size and digest of what was written."""
        return FileMark(self._written, self._digest.hexdigest())


def read_blocks(path: Path, mark: FileMark, decoder: msgspec.msgpack.Decoder[list[R]]) -> Iterator[R]:
    """The records of a file; raises `BackupDamaged` at the latest at its end if a single bit is not as it was written."""
    digest, size = hashlib.blake2b(digest_size=32), 0
    try:
        with path.open("rb") as file:
            while head := file.read(_LENGTH):
                # a damaged length must not ask for more memory than the file has bytes
                packed = file.read(min(int.from_bytes(head, "big"), mark.bytes))
                digest.update(head + packed)
                size += len(head) + len(packed)
                yield from _unpacked(path, packed, decoder)
    except OSError as error:
        raise BackupDamaged(f"{path} cannot be read ({error}); use another backup") from error
    if FileMark(size, digest.hexdigest()) != mark:
        raise damaged(path, "its digest is another one than its manifest says")


def _unpacked(path: Path, packed: bytes, decoder: Any) -> Any:
    try:
        return decoder.decode(zlib.decompress(packed))
    except (zlib.error, msgspec.MsgspecError, ValueError) as error:
        raise damaged(path, str(error)) from error


def damaged(path: Path, what: str) -> BackupDamaged:
    """The error of a file that is not as it was written."""
    return BackupDamaged(f"{path} is damaged ({what}); use another backup")
