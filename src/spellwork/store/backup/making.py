"""Owns making a backup: one pass over a consistent view, beside the index of the backup before.
It must never show under its name what is not whole and on the disk.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from spellwork.errors import StoreUnavailable, UsageError
from spellwork.store.backend import Reader, Row
from spellwork.store.backup.blocks import MARKS, BlockWriter, Mark, digest_of, read_blocks
from spellwork.store.backup.manifest import (
    INDEX_FILE,
    MANIFEST,
    PARTIAL,
    ROWS_FILE,
    Manifest,
    chain,
    digest,
    folders,
    packed,
)
from spellwork.store.durable import alone, move, sync_file, sync_folder
from spellwork.store.encrypted import EncryptedReader
from spellwork.store.keyspace import BACKEND_ROWS, KEYS, REVISION

Probe = Callable[[str], None]
_END = b"\xff" * 64
_PAGE = 500
_LOCK = ".lock"


def create_backup(
    reader: Reader, place: str | Path, *, created: int, full: bool = False, probe: Probe = lambda _point: None
) -> Manifest:
    """Back up all rows of `reader` into a new folder in `place`; an increment if there is a backup already and not `full`.

    Give it the raw rows: `await store.examine(lambda reader: create_backup(reader, ...), raw=True)`. `created` is the time
    (microseconds UTC). Raises `UsageError` for rows that are not raw, `RowDamaged` for a damaged store (`spellwork fsck` sets such
    rows aside), `BackupDamaged` if the backup before is damaged (make a full one). Interrupted at any point, it leaves no backup;
    the next one tidies up.
    """
    if isinstance(reader, EncryptedReader):
        raise UsageError("a backup of these rows would hold them decrypted; make it of raw ones: store.examine(..., raw=True)")
    place = Path(place)
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        with alone(place / _LOCK, f"making a backup in {place}"):
            return _create(reader, place, created, probe, full=full)
    except OSError as error:
        raise StoreUnavailable(f"{place}: no backup could be made: {error}") from error


def _create(reader: Reader, place: Path, created: int, probe: Probe, *, full: bool) -> Manifest:
    partial = place / PARTIAL
    shutil.rmtree(partial, ignore_errors=True)  # what was interrupted
    there = folders(place)
    base = chain(place, None)[0] if there and not full else None
    number = int(there[-1].name[:6]) + 1 if there else 1
    partial.mkdir(mode=0o700)
    probe("folder")
    with (
        BlockWriter[Row](partial / ROWS_FILE) as rows,
        BlockWriter[Mark](partial / INDEX_FILE) as index,
        contextlib.closing(_Before(place, base)) as before,
    ):
        count = stored = 0
        for row in _all_rows(reader):
            mark = digest_of(row)
            index.add((row[0], mark), len(row[0]) + len(mark))
            count += 1
            if not before.has(row[0], mark):
                rows.add(row, len(row[0]) + len(row[1]))
                stored += 1
            if count % _PAGE == 1:
                probe("rows")
        before.finish()
    manifest = Manifest(
        number=number,
        kind="incremental" if base else "full",
        created=created,
        revision=int.from_bytes(reader.get(REVISION) or b"", "big"),
        rows=count,
        stored=stored,
        encrypted=reader.get(KEYS) is not None,
        base=base.number if base else None,
        base_digest=digest(base) if base else "",
        since=base.revision if base else 0,
        deleted=before.gone,
        files={ROWS_FILE: rows.mark, INDEX_FILE: index.mark},
    )
    probe("manifest")
    with (partial / MANIFEST).open("xb") as file:
        file.write(packed(manifest))
        sync_file(file)
    sync_folder(partial)
    probe("rename")
    move(partial, place / manifest.name)
    probe("done")
    return manifest


def _all_rows(reader: Reader) -> Iterator[Row]:
    start = b""
    while page := reader.rows(start, _END, limit=_PAGE):
        yield from (row for row in page if row[0] not in BACKEND_ROWS)
        start = page[-1][0] + b"\0"


class _Before:
    """Walks the index of the backup before along with the rows, which come in the same order. `gone` counts keys without a row."""

    def __init__(self, place: Path, base: Manifest | None):
        self._marks: Iterator[Mark] = iter(())
        if base is not None:
            self._marks = read_blocks(place / base.name / INDEX_FILE, base.files[INDEX_FILE], MARKS)
        self._next = next(self._marks, None)
        self.gone = 0

    def has(self, key: bytes, mark: bytes) -> bool:
        while self._next is not None and self._next[0] < key:
            self.gone += 1
            self._next = next(self._marks, None)
        if self._next is None or self._next[0] != key:
            return False
        same = self._next[1] == mark
        self._next = next(self._marks, None)
        return same

    def finish(self) -> None:
        # to the end of the file, since only there a damage shows for sure
        while self._next is not None:
            self.gone += 1
            self._next = next(self._marks, None)

    def close(self) -> None:
        if hasattr(self._marks, "close"):
            self._marks.close()
