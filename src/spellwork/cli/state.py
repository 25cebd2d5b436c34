"""Owns the group `state`: which commands on a store's state there are.
It must never hold one itself.
"""

from __future__ import annotations

import click

from spellwork.cli.state_store import COMMANDS


@click.group()
def state() -> None:
    """Look at, copy and care for what a store holds."""


for _command in COMMANDS:
    state.add_command(_command)
