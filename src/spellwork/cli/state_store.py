"""Owns the commands on a store as a whole: copy it to another backend, compact it, tell what is in it.
It must never make a store by reading one, nor write over anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import click

from spellwork.cli.opening import encryption
from spellwork.cli.options import StoreUrl, common, json_option
from spellwork.cli.output import note, print_json, print_table
from spellwork.cli.verb import Verb
from spellwork.store import Contents, Store, contents, copy_store, open_store

T = TypeVar("T")
_TOLD_EVERY = 100_000


def _run(url: str, work: Callable[[Store], Awaitable[T]], *, create: bool = False) -> T:
    if url.partition(":")[0] == "memory":
        raise click.UsageError("a memory: store lives in one process only; name a file")

    async def opened() -> T:
        store = open_store(url, create=create, encryption=encryption())
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(opened())


@click.command(cls=Verb, examples=("spellwork state copy sqlite:app.db rocksdb:app.rocks",))
@click.argument("source", metavar="FROM", type=StoreUrl())
@click.argument("target", metavar="TO", type=StoreUrl())
@json_option
def copy(source: str, target: str, as_json: bool) -> None:
    """Copy everything in store FROM to the new store TO, of any backend, and compare both.

    The copy is of one moment, also while others write to FROM. Versions, revision and change feed stay what they are.
    """
    seen = 0

    def told(rows: int) -> None:
        nonlocal seen
        if rows // _TOLD_EVERY > seen // _TOLD_EVERY:
            note(f"{rows:,} rows")
        seen = rows

    found = _run(source, lambda here: _copied(here, target, told))
    if as_json:
        print_json({"source": source, "target": target, **_record(found)})
    else:
        click.echo(f"copied {found.rows:,} rows of revision {found.revision:,}; both have the checksum {found.digest}")


async def _copied(here: Store, target: str, told: Callable[[int], None]) -> Contents:
    if target.partition(":")[0] == "memory":
        raise click.UsageError("a memory: store is gone when this ends; name a file to copy to")
    there = open_store(target, encryption=encryption())
    try:
        return await copy_store(here, there, told)
    finally:
        await there.close()


@click.command(cls=Verb, examples=("spellwork state compact --store sqlite:app.db",))
@common
def compact(store: str, as_json: bool) -> None:
    """Give back to the disk what deleted rows took."""

    async def work(opened: Store) -> tuple[int, int]:
        before = opened.size()
        await opened.compact()
        return before, opened.size()

    before, after = _run(store, work)
    if as_json:
        print_json({"store": store, "bytes_before": before, "bytes_after": after})
    else:
        click.echo(f"{before:,} bytes before, {after:,} after")


@click.command(cls=Verb, examples=("spellwork state stats --store lmdb:app.mdb --json",))
@common
def stats(store: str, as_json: bool) -> None:
    """Tell what is in a store: rows, bytes, revision and checksum. Reads everything once."""

    async def work(opened: Store) -> tuple[Contents, int]:
        return await contents(opened), opened.size()

    found, size = _run(store, work)
    if as_json:
        print_json({"store": store, "bytes_on_disk": size, **_record(found)})
        return
    rows = [(f"0x{prefix:02x}", f"{count:,}", f"{total:,}") for prefix, (count, total) in sorted(found.keyspaces.items())]
    print_table(("keyspace", "rows", "bytes"), [*rows, ("all", f"{found.rows:,}", f"{found.bytes:,}")])
    click.echo(f"{size:,} bytes on disk, revision {found.revision:,}, checksum {found.digest}")


def _record(found: Contents) -> dict[str, object]:
    keyspaces = {f"0x{prefix:02x}": {"rows": count, "bytes": total} for prefix, (count, total) in sorted(found.keyspaces.items())}
    return {
        "rows": found.rows, "bytes": found.bytes, "revision": found.revision, "checksum": found.digest, "keyspaces": keyspaces,
    }  # fmt: skip


COMMANDS = (copy, compact, stats)
