"""Owns the list of the verbs under `machine`, each imported when it is called.
It must never do what a verb does.
"""

from __future__ import annotations

import importlib

import click

_COMMANDS = {
    "send": "spellwork.cli.hosted:send",
    "ps": "spellwork.cli.hosted:ps",
    "show": "spellwork.cli.hosted:show",
    "draw": "spellwork.cli.chart:draw",
    "trace": "spellwork.cli.chart:trace",
}


class Group(click.Group):
    """The verbs of machines, imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """In the order in which one meets them."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """Import one."""
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command


@click.group(cls=Group)
def machine() -> None:
    """Hosted machines: send, ps, show. Charts: draw them and try them out."""
