"""Owns reading backups: checking every byte, and building a store from a chain.
It must never put a store in its place that is not exactly what was backed up.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from pathlib import Path

from spellwork.errors import BackupDamaged
from spellwork.store.backend import Backend, Row
from spellwork.store.backup.blocks import MARKS, ROWS, digest_of, read_blocks
from spellwork.store.backup.making import Probe
from spellwork.store.backup.manifest import INDEX_FILE, ROWS_FILE, Manifest, chain
from spellwork.store.placing import built

_ROWS_AT_ONCE = 5_000
_BYTES_AT_ONCE = 16 << 20


def verify_backup(place: str | Path, number: int | None = None) -> Manifest:
    """Read a backup (the newest by default) and those that it builds on, and compare every byte with what was written.

    Raises `BackupDamaged` that names the file, or `StoreMissing`.
    """
    manifests = chain(Path(place), number)
    for _ in _rows(Path(place), manifests):
        pass
    for older in manifests[1:]:  # which restoring does not need
        for _ in read_blocks(Path(place) / older.name / INDEX_FILE, older.files[INDEX_FILE], MARKS):
            pass
    return manifests[0]


def restore_backup(
    place: str | Path, url: str, *, number: int | None = None, replace: bool = False, probe: Probe = lambda _point: None
) -> Manifest:
    """Build the store of a backup (the newest by default) at `url`: the same keys, values and versions.

    It is built beside its place and moved there when it is whole and checked: interrupted before, there is nothing. A store
    that is there is refused, unless `replace`: then it is moved aside, to the same name with `.replaced-N`. Raises
    `StoreUnavailable` if it is in use, `BackupDamaged`, or `StoreMissing`.
    """
    manifests = chain(Path(place), number)
    with built(url, replace=replace, probe=probe) as backend:
        _fill(backend, _rows(Path(place), manifests), manifests[0].revision, probe)
        probe("filled")
    return manifests[0]


def _fill(backend: Backend, rows: Iterator[Row], revision: int, probe: Probe) -> None:
    group: list[Row] = []
    size = 0
    for row in rows:
        group.append(row)
        size += len(row[0]) + len(row[1])
        if len(group) >= _ROWS_AT_ONCE or size >= _BYTES_AT_ONCE:
            _write(backend, group, revision)
            group, size = [], 0
            probe("rows")
    _write(backend, group, revision)


def _write(backend: Backend, rows: list[Row], revision: int) -> None:
    backend.begin(sync=True)
    backend.write(rows, [])
    backend.commit(revision)


def _rows(place: Path, manifests: list[Manifest]) -> Iterator[Row]:
    """The rows of the newest of a chain, in key order; each is compared with its index."""
    newest = manifests[0]
    sources = [read_blocks(place / each.name / ROWS_FILE, each.files[ROWS_FILE], ROWS) for each in manifests]
    merged = heapq.merge(*sources, key=lambda row: row[0])  # of equal keys that of the newest comes first
    count, row = 0, next(merged, None)
    for key, mark in read_blocks(place / newest.name / INDEX_FILE, newest.files[INDEX_FILE], MARKS):
        while row is not None and row[0] < key:  # deleted since, or an older version
            row = next(merged, None)
        if row is None or row[0] != key or digest_of(row) != mark:
            raise BackupDamaged(f"{place / newest.name}: the row at {key.hex()} is missing or another one; use another backup")
        yield row
        count += 1
        row = next(merged, None)
    for _ in merged:  # to the end of each file, since only there a damage shows for sure
        pass
    if count != newest.rows:
        raise BackupDamaged(f"{place / newest.name}: it has {count} rows, its manifest says {newest.rows}; use another backup")
