"""Owns the verbs of `backup`: create, verify, list, restore.
It must never ask for a key: backups hold what the store holds, encrypted where that is.
"""

from __future__ import annotations

from typing import Any

import click

from spellwork.cli.options import TEXT, StoreUrl, common, json_option
from spellwork.cli.output import moment, note, print_json, print_table
from spellwork.cli.verb import Verb
from spellwork.clock import SystemClock
from spellwork.instant import datetime_of
from spellwork.store.backup import Manifest, create_backup, list_backups, restore_backup, verify_backup
from spellwork.store.opening import open_backend


@click.group()
def backup() -> None:
    """Back up a store while it runs, check backups, and restore them."""


@backup.command(cls=Verb, examples=("spellwork backup create backups --store sqlite:work.db",))
@click.argument("folder", metavar="FOLDER", type=TEXT)
@click.option("--full", is_flag=True, help="Not an increment, though there is a backup already.")
@common
def create(folder: str, full: bool, store: str, as_json: bool) -> None:
    """Back up the store into FOLDER: all of it the first time, what has changed after that.

    The program that runs the store need not stop. An encrypted store is backed up encrypted, without its key.
    """
    _, backend = open_backend(store, create=False)
    try:
        reader = backend.reader()
        try:
            manifest = create_backup(reader, folder, created=SystemClock().now(), full=full)
        finally:
            reader.dispose()
    finally:
        backend.close()
    _tell(manifest, as_json, f"{manifest.kind} backup {manifest.number} of revision {manifest.revision:,}")


@backup.command(cls=Verb, examples=("spellwork backup verify backups",))
@click.argument("folder", metavar="FOLDER", type=TEXT)
@click.argument("number", metavar="[NUMBER]", type=click.IntRange(min=1), required=False)
@json_option
def verify(folder: str, number: int | None, as_json: bool) -> None:
    """Read backup NUMBER (the newest one) and those that it builds on, and compare every byte."""
    manifest = verify_backup(folder, number)
    _tell(manifest, as_json, f"backup {manifest.number} is whole")


@backup.command(name="list", cls=Verb, examples=("spellwork backup list backups --json",))
@click.argument("folder", metavar="FOLDER", type=TEXT)
@json_option
def list_(folder: str, as_json: bool) -> None:
    """List the backups in FOLDER, oldest first."""
    found = list_backups(folder)
    if as_json:
        for manifest in found:
            print_json(_record(manifest))
        return
    rows = [
        (
            str(each.number),
            each.kind,
            f"{each.revision:,}",
            _moment(each),
            f"{each.rows:,}",
            f"{each.stored:,}",
            f"{each.deleted:,}",
            f"{each.size:,}",
        )
        for each in found
    ]
    print_table(("NUMBER", "KIND", "REVISION", "MADE", "ROWS", "STORED", "DELETED", "BYTES"), rows)


@backup.command(
    cls=Verb,
    examples=(
        "spellwork backup restore backups --to sqlite:restored.db",
        "spellwork backup restore backups --to work.db --replace",
    ),
)
@click.argument("folder", metavar="FOLDER", type=TEXT)
@click.argument("number", metavar="[NUMBER]", type=click.IntRange(min=1), required=False)
@click.option("--to", "target", type=StoreUrl(), required=True, metavar="URL", help="Where the store is built.")
@click.option("--replace", is_flag=True, help="If a store is there, move it aside (to a name with .replaced-N).")
@json_option
def restore(folder: str, number: int | None, target: str, replace: bool, as_json: bool) -> None:
    """Build the store of backup NUMBER (the newest one), with the same keys, values and versions.

    It is moved to its place when it is whole; interrupted before, nothing is there.
    """
    manifest = restore_backup(folder, target, number=number, replace=replace)
    _tell(manifest, as_json, f"backup {manifest.number} (revision {manifest.revision:,}) is restored to {target}")


def _tell(manifest: Manifest, as_json: bool, text: str) -> None:
    if as_json:
        print_json(_record(manifest))
    else:
        note(f"{text}: {manifest.rows:,} rows, {manifest.stored:,} of them in {manifest.name} ({manifest.size:,} bytes)")


def _record(manifest: Manifest) -> dict[str, Any]:
    return {
        "number": manifest.number,
        "name": manifest.name,
        "kind": manifest.kind,
        "base": manifest.base,
        "created": datetime_of(manifest.created).isoformat(),
        "since": manifest.since,
        "revision": manifest.revision,
        "rows": manifest.rows,
        "stored": manifest.stored,
        "deleted": manifest.deleted,
        "encrypted": manifest.encrypted,
        "bytes": manifest.size,
    }


def _moment(manifest: Manifest) -> str:
    return moment(datetime_of(manifest.created))
