"""Owns a backup's manifest: what it holds, on what it builds, and the digests of its files.
It must never be written before those files are on the disk.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import msgspec

from spellwork.errors import BackupDamaged, StoreMissing, StoreTooNew
from spellwork.instant import Instant
from spellwork.store.backup.blocks import FileMark, damaged
from spellwork.store.keyspace import LAYOUT

FORMAT = LAYOUT
"""A backup holds the rows of a store: a Spellwork that must not open the one must not restore the other. Those of layouts 1 and 2
have 1.
"""
MANIFEST = "manifest.json"
ROWS_FILE, INDEX_FILE = "rows", "index"
PARTIAL = ".partial"
_NAME = re.compile(r"(\d{6})-(full|incremental)-r(\d+)")


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """One backup of a folder.

    - `number`, `kind` ("full" or "incremental"), `created` (microseconds UTC).
    - `base`: the number of the backup that an increment builds on; `base_digest`: of its manifest.
    - `revision`: of the store's newest commit in it; `since`: that of the base, 0 for a full one.
    - `rows`: how many the store had; `stored`: how many of them are in this backup; `deleted`: how many are gone since the base.
    - `encrypted`: whether its rows can be read with the store's key alone.
    """

    format: int = FORMAT
    number: int
    kind: str
    created: Instant
    revision: int
    rows: int
    stored: int
    encrypted: bool
    base: int | None = None
    base_digest: str = ""
    since: int = 0
    deleted: int = 0
    files: dict[str, FileMark]

    @property
    def name(self) -> str:
        """The folder that it is in."""
        return f"{self.number:06}-{self.kind}-r{self.revision}"

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(mark.bytes for mark in self.files.values())


def packed(manifest: Manifest) -> bytes:
    """The exact content of its file: a line of JSON, and a line with the digest of the first."""
    body = msgspec.json.encode(manifest)
    return body + b"\n" + hashlib.blake2b(body, digest_size=32).hexdigest().encode() + b"\n"


def digest(manifest: Manifest) -> str:
    """What an increment says of its base."""
    return hashlib.blake2b(packed(manifest), digest_size=32).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """The manifest in the folder of one backup; raises `BackupDamaged`, or `StoreTooNew`."""
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BackupDamaged(f"{path} cannot be read ({error}); use another backup") from error
    body, _, rest = content.partition(b"\n")
    if rest != hashlib.blake2b(body, digest_size=32).hexdigest().encode() + b"\n":
        raise damaged(path, "its digest is another one")
    try:
        if msgspec.json.decode(body, type=dict)["format"] > FORMAT:
            raise StoreTooNew(f"{path} was made by a newer Spellwork; install that one to restore it")
        manifest = msgspec.json.decode(body, type=Manifest)
    except (msgspec.MsgspecError, KeyError, TypeError) as error:
        raise damaged(path, str(error)) from error
    if manifest.name != folder.name:
        raise damaged(path, f"it belongs in a folder named {manifest.name}")
    return manifest


def folders(place: Path) -> list[Path]:
    """The folders of all backups in a place, oldest first; half-made ones are none. Raises `StoreMissing`."""
    if not os.path.isdir(place):  # noqa: PTH112 - unlike Path's it takes a name that can be none: too long, say
        raise StoreMissing(f"there is no folder {place}; `spellwork backup create` makes one")
    return sorted(path for path in place.iterdir() if _NAME.fullmatch(path.name) and path.is_dir())


def list_backups(place: str | Path) -> list[Manifest]:
    """The backups in a folder, oldest first; raises `BackupDamaged` if the manifest of one is."""
    return [read_manifest(folder) for folder in folders(Path(place))]


def chain(place: Path, number: int | None) -> list[Manifest]:
    """A backup (the newest by default) and those that it builds on, itself first.

    Raises `StoreMissing` if it is not there, `BackupDamaged` if one of those is missing or another one.
    """
    by_number = {int(folder.name[:6]): folder for folder in folders(place)}
    if not by_number or (number is not None and number not in by_number):
        which = "no backup" if number is None else f"no backup {number}"
        raise StoreMissing(f"there is {which} in {place}; `spellwork backup list` shows those there are")
    newest = read_manifest(by_number[max(by_number) if number is None else number])
    found = [newest]
    while (base := found[-1].base) is not None:
        if base not in by_number:
            raise BackupDamaged(
                f"backup {found[-1].number} in {place} builds on backup {base}, which is not there; use an older one"
            )
        manifest = read_manifest(by_number[base])
        if digest(manifest) != found[-1].base_digest:
            raise BackupDamaged(
                f"backup {found[-1].number} in {place} builds on another backup {base} than the one there; use an older one"
            )
        found.append(manifest)
    return found
