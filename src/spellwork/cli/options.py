"""Owns the options and argument types that all verbs share.
It must never open a store.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
STORE_VARIABLE = "SPELLWORK_STORE"
DEFAULT_STORE = "sqlite:spellwork.db"


class Text(click.ParamType[str]):
    """Text that can be stored; what the terminal sent as broken UTF-8 is refused here and not by a codec later."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text itself."""
        try:
            value.encode()
        except UnicodeEncodeError:
            self.fail(f"{value!r} is not valid UTF-8 text", param, ctx)
        return str(value)


class StoreUrl(click.ParamType[str]):
    """A store's URL; a bare path is an SQLite file."""

    name = "url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The URL, with its scheme."""
        text = TEXT.convert(value, param, ctx)
        # two letters or more: a single one is a Windows drive
        return text if re.match(r"[a-z][a-z0-9+]+:", text) else f"sqlite:{text}"


TEXT = Text()


def store_option(function: F) -> F:
    """`--store URL`."""
    return click.option(
        "--store", "store", type=StoreUrl(), envvar=STORE_VARIABLE, default=DEFAULT_STORE, metavar="URL",
        show_default=True, show_envvar=True, help="The store: sqlite:PATH or a bare path.",
    )(function)  # fmt: skip


def json_option(function: F) -> F:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON (lists: one document a line); errors too, on stderr.")(
        function
    )


def common(function: F) -> F:
    """`--store` and `--json`."""
    return store_option(json_option(function))


def input_option(function: F) -> F:
    """`--input JSON`."""
    return click.option(
        "--input", "given", type=TEXT, metavar="JSON|@FILE|-",
        help="Arguments: a list is positional, an object with the parameters' names is by keyword, anything else is "
        "the only argument. - reads stdin, @FILE a file.",
    )(function)  # fmt: skip


def timeout_option(default: float) -> Callable[[F], F]:
    """`--timeout SECONDS`."""
    return click.option(
        "--timeout", type=click.FloatRange(min=0, min_open=True), default=default, show_default=True, metavar="SECONDS",
        help="How long to wait for the process that runs the store.",
    )  # fmt: skip


def codec_option(function: F) -> F:
    """`--codec FILE.py`."""
    return click.option(
        "--codec", "codec", type=TEXT, metavar="FILE.py",
        help="Store values as the Codec in this file says: its types, and its rules for what is redacted.",
    )(function)  # fmt: skip
