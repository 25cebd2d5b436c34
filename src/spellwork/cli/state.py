"""Owns `state`: reading and writing the state of a store from the terminal.
It must never make a store by reading, nor need the program's types: values are shown and given as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from spellwork.cli.exits import NotFound
from spellwork.cli.given import parse
from spellwork.cli.options import TEXT, common
from spellwork.cli.output import note, print_json, to_json, visible
from spellwork.cli.state_store import COMMANDS
from spellwork.cli.verb import Verb
from spellwork.errors import DefinitionError, PayloadError

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def state() -> None:
    """Read and write the state that programs keep in a store, also while they run.

    A tree is named by --tree and --scope. Keys are texts; with --json-key they are JSON, where a list stands for a tuple.
    """


def _place(function: F) -> F:
    """`--tree`, `--scope`, `--json-key`, and the common options."""
    function = click.option("--json-key", is_flag=True, help="Keys are JSON: a text, a number or a list of such.")(function)
    function = click.option(
        "--scope", default="global", type=TEXT, metavar="KIND:ID", show_default=True, help="Whose tree it is."
    )(function)  # fmt: skip
    function = click.option("--tree", required=True, type=TEXT, metavar="NAME", help="The tree.")(function)
    return common(function)


def _run(store: str, tree: str, scope: str, work: Callable[[Any], Awaitable[T]], *, create: bool = False) -> T:
    from spellwork.cli.opening import encryption
    from spellwork.state import Scope, open_store

    if store.startswith("memory:"):
        raise click.UsageError("a memory: store lives in one process only; name a file")
    try:
        place = Scope.parse(scope)
    except (DefinitionError, PayloadError) as error:
        raise click.UsageError(f"--scope: {error}; for example user:u-1") from error

    async def opened() -> T:
        async with open_store(store, create=create, sweep=False, encryption=encryption()) as found:
            return await work(found.scope(place.kind, place.id).tree(tree))

    return asyncio.run(opened())


def _key(given: str | None, as_json: bool) -> Any:
    if given is None or not as_json:
        return given
    return _tuples(parse(given, "KEY"))


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _shown(key: Any) -> str:
    """A key for people: a text as it is, anything else as JSON."""
    return visible(key) if isinstance(key, str) else to_json(key)


def _value(given: str) -> Any:
    if given == "-":
        return parse(sys.stdin.read(), "VALUE")
    if given.startswith("@"):
        try:
            return parse(Path(given[1:]).read_text(encoding="utf-8"), "VALUE")
        except UnicodeDecodeError as error:
            raise click.UsageError(f"VALUE {given}: not UTF-8 text: {error}") from error
        except OSError as error:
            raise NotFound(f"VALUE {given}: {error.strerror or error}") from error
    return parse(given, "VALUE")


@state.command(
    cls=Verb, examples=("spellwork state get settings --tree config", "spellwork state get '[\"u\", 7]' --json-key --tree t")
)
@click.argument("key", type=TEXT)
@_place
def get(key: str, tree: str, scope: str, json_key: bool, store: str, as_json: bool) -> None:
    """Print the value of KEY as JSON; exit code 3 if there is none. With --json its version and the store's revision as well."""
    wanted = _key(key, json_key)
    found = _run(store, tree, scope, lambda opened: opened.get_versioned(wanted))
    if not found.version:
        raise NotFound(f"the tree {tree!r} has no key {_shown(wanted)}")
    print_json({"value": found.value, "version": found.version, "revision": found.revision} if as_json else found.value)


@state.command(
    "set",
    cls=Verb,
    examples=(
        "spellwork state set limit 10 --tree config",
        "spellwork state set cart '{\"items\": []}' --tree session --scope user:u-1 --ttl 3600",
    ),
)
@click.argument("key", type=TEXT)
@click.argument("value", type=TEXT, metavar="JSON|@FILE|-")
@click.option("--ttl", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="It expires so much later.")
@click.option("--if-absent", is_flag=True, help="Only if the key has no value.")
@click.option("--if-version", type=click.IntRange(min=0), metavar="N", help="Only if its value has this version.")
@_place
def set_(
    key: str,
    value: str,
    *,
    ttl: float | None,
    if_absent: bool,
    if_version: int | None,
    tree: str,
    scope: str,
    json_key: bool,
    store: str,
    as_json: bool,
) -> None:
    """Set KEY to a value, given as JSON. The store is made if it is not there. With --json it prints the revision."""
    if if_absent and if_version is not None:
        raise click.UsageError("give either --if-absent or --if-version")
    wanted, content = _key(key, json_key), _value(value)
    revision = _run(
        store,
        tree,
        scope,
        lambda opened: opened.set(wanted, content, ttl=ttl, if_absent=if_absent, if_version=if_version),
        create=True,
    )
    if as_json:
        print_json({"revision": revision})


@state.command(cls=Verb, examples=("spellwork state delete settings --tree config",))
@click.argument("key", type=TEXT)
@click.option("--if-version", type=click.IntRange(min=0), metavar="N", help="Only if its value has this version.")
@_place
def delete(key: str, if_version: int | None, tree: str, scope: str, json_key: bool, store: str, as_json: bool) -> None:
    """Remove KEY, if it is there. With --json it prints the revision."""
    wanted = _key(key, json_key)
    revision = _run(store, tree, scope, lambda opened: opened.delete(wanted, if_version=if_version))
    if as_json:
        print_json({"revision": revision})


@state.command(
    cls=Verb, examples=("spellwork state scan --tree config --prefix limit", "spellwork state scan --tree t --reverse --limit 5")
)
@click.option("--prefix", type=TEXT, metavar="KEY", help="Keys that begin with this text (with --json-key: these elements).")
@click.option("--start", type=TEXT, metavar="KEY", help="From this key on.")
@click.option("--stop", type=TEXT, metavar="KEY", help="Up to this key, without it.")
@click.option("--after", type=TEXT, metavar="KEY", help="Only what comes behind this key, to go on where a page ended.")
@click.option("--reverse", is_flag=True, help="From the last key to the first.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, metavar="N", help="At most so many.")
@_place
def scan(
    *,
    prefix: str | None,
    start: str | None,
    stop: str | None,
    after: str | None,
    reverse: bool,
    limit: int,
    tree: str,
    scope: str,
    json_key: bool,
    store: str,
    as_json: bool,
) -> None:
    """List keys and values in the order of the keys."""
    bounds = {"prefix": prefix, "start": start, "stop": stop, "after": after}
    selected = {name: _key(given, json_key) for name, given in bounds.items()}

    async def work(opened: Any) -> list[tuple[Any, Any]]:
        try:
            scanning = opened.scan(**selected, reverse=reverse, limit=limit)
        except DefinitionError as error:
            raise click.UsageError(str(error)) from error
        pairs: list[tuple[Any, Any]] = await scanning
        return pairs

    found = _run(store, tree, scope, work)
    for key, value in found:
        if as_json:
            print_json({"key": key, "value": value})
        else:
            click.echo(f"{_shown(key)}  {to_json(value)}")
    if len(found) == limit and not as_json:
        last = found[-1][0]
        if isinstance(last, str) and not json_key:
            note(f"there may be more: --after {shlex.quote(last)}")
        else:
            note(f"there may be more: --json-key --after {shlex.quote(to_json(last))}")


@state.command(
    cls=Verb,
    examples=("spellwork state watch --tree config", "spellwork state watch --tree t --since 120 --json"),
)
@click.option("--prefix", type=TEXT, metavar="KEY", help="Keys that begin with this text (with --json-key: these elements).")
@click.option("--since", type=click.IntRange(min=0), metavar="REVISION", help="Begin behind this revision. Default: now.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after so many changes.")
@_place
def watch(
    *, prefix: str | None, since: int | None, count: int | None, tree: str, scope: str, json_key: bool, store: str, as_json: bool
) -> None:
    """Print each change of a tree as it is committed, until it is interrupted.

    With --json each line has a `resume`, which goes on behind it when it is given as --since.
    """

    async def work(opened: Any) -> None:
        left = count
        async with contextlib.aclosing(opened.watch(_key(prefix, json_key), since=since)) as changes:
            async for change in changes:
                if as_json:
                    record = {name: getattr(change, name) for name in ("revision", "kind", "key", "value", "resume")}
                    click.echo(to_json(record))
                else:
                    shown = "" if change.key is None else _shown(change.key)
                    content = f"  {to_json(change.value)}" if change.kind == "set" else ""
                    click.echo(f"{change.revision:>8}  {change.kind:<7}  {shown}{content}".rstrip())
                left = None if left is None else left - 1
                if left == 0:
                    return

    _run(store, tree, scope, work)


for _command in COMMANDS:
    state.add_command(_command)
