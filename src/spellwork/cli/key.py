"""Owns the verbs of `key`: making keys, telling which are in use, rotating, and encrypting a store that is not.
It must never print a key but the new one that it was asked for.
"""

from __future__ import annotations

import asyncio

import click

from spellwork.cli.exits import CommandError, Exit
from spellwork.cli.opening import FILE_VARIABLE, KEY_VARIABLE, encryption
from spellwork.cli.options import StoreUrl, common
from spellwork.cli.output import note, print_json, print_table
from spellwork.cli.verb import Verb
from spellwork.store import Encryption, open_store
from spellwork.store.rotation import KeyUse, encrypt_copy, key_uses, rotate


@click.group()
def key() -> None:
    """Encrypt stores, and change their keys.

    Every command takes its keys from SPELLWORK_KEY, or from the file that SPELLWORK_KEY_FILE names: the current key first,
    older ones behind it.
    """


@key.command(cls=Verb, examples=("spellwork key new > spellwork.key",))
def new() -> None:
    """Print a new random key. Keep it where the store is not: without it the store is lost."""
    click.echo(Encryption.new_key())


@key.command(cls=Verb, examples=("spellwork key status --json",))
@common
def status(store: str, as_json: bool) -> None:
    """Show with which keys how many rows of the store are encrypted."""

    async def work() -> list[KeyUse]:
        opened = open_store(store, create=False, encryption=_given())
        try:
            return await key_uses(opened)
        finally:
            await opened.close()

    uses = asyncio.run(work())
    if as_json:
        for use in uses:
            print_json({"key": use.id, "retired": use.retired, "rows": use.rows})
        return
    print_table(("KEY", "STATE", "ROWS"), [(use.id, "retired" if use.retired else "in use", f"{use.rows:,}") for use in uses])


@key.command(name="rotate", cls=Verb, examples=("SPELLWORK_KEY=NEW,OLD spellwork key rotate",))
@common
def rotate_(store: str, as_json: bool) -> None:
    """Encrypt everything with the current key and forget the older ones.

    Programs may go on meanwhile if they use the current key already; those that write with an older one are refused from now
    on. Interrupted, begin it again.
    """

    async def work() -> int:
        opened = open_store(store, create=False, encryption=_given())
        try:
            return await rotate(opened)
        finally:
            await opened.close()

    count = asyncio.run(work())
    if as_json:
        print_json({"rewritten": count})
    else:
        note(f"{count:,} rows were encrypted anew; the older keys are not needed any more")


@key.command(cls=Verb, examples=("spellwork key encrypt sqlite:encrypted.db --store sqlite:work.db",))
@click.argument("target", metavar="NEW", type=StoreUrl())
@common
def encrypt(target: str, store: str, as_json: bool) -> None:
    """Copy the store, which is not encrypted, to a new one that is.

    Stop what writes to it first, and delete the old file (and its backups) afterwards: it still can be read.
    """
    count = encrypt_copy(store, target, _given())
    if as_json:
        print_json({"rows": count})
    else:
        note(f"{count:,} rows are in {target}, encrypted; {store} is as it was, and can be read")


def _given() -> Encryption:
    found = encryption()
    if found is None:
        raise CommandError(f"no key: set {KEY_VARIABLE}, or {FILE_VARIABLE} to a file of keys", Exit.USAGE, "usage")
    return found
