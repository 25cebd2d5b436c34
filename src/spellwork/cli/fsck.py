"""Owns the verb `fsck`: what the check of a store finds, and setting it aside on request.
It must never write without being told to.
"""

from __future__ import annotations

import asyncio
from typing import Any

import click

from spellwork.cli.exits import Exit
from spellwork.cli.opening import encryption
from spellwork.cli.options import common
from spellwork.cli.output import note, print_json, visible
from spellwork.cli.verb import Verb
from spellwork.clock import SystemClock
from spellwork.engine.fsck import Report, check
from spellwork.engine.quarantine import quarantine
from spellwork.store import open_store
from spellwork.store.fsck import Finding


@click.command(
    cls=Verb,
    examples=("spellwork fsck", "spellwork fsck --quarantine --store sqlite:work.db"),
)
@click.option("--quarantine", "aside", is_flag=True, help="Set aside or rebuild what is damaged; nobody may run the store.")
@common
def fsck(aside: bool, store: str, as_json: bool) -> int:
    """Check every row of the store and everything that refers to something else.

    It writes nothing and may run beside a program, unless --quarantine is given: that sets aside what was hit, and only that.
    The exit code is 6 as long as something is damaged that was not set aside.
    """
    done, report = asyncio.run(_check(store, aside))
    if as_json:
        print_json(_record(done, report))
    else:
        _print(done, report)
    return Exit.DAMAGED if report.damage else Exit.OK


async def _check(url: str, aside: bool) -> tuple[list[str], Report]:
    store = open_store(url, create=False, encryption=encryption())
    try:
        await store.check_now()
        if not aside:
            return [], await store.examine(check)
        outcome = await quarantine(store, SystemClock())
        return outcome.done, outcome.report
    finally:
        await store.close()


def _record(done: list[str], report: Report) -> dict[str, Any]:
    return {
        "ok": not report.damage,
        "revision": report.revision,
        "rows": report.rows,
        "unknown": {f"{prefix:#04x}": count for prefix, count in report.unknown.items()},
        "findings": [_finding(finding) for finding in report.findings],
        "done": done,
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "kind": finding.kind,
        "message": finding.message,
        "key": finding.key.hex(),
        "run_id": finding.run_id or None,
        "number": finding.number or None,
        "position": finding.position,
        "aside": finding.aside,
    }


def _print(done: list[str], report: Report) -> None:
    for line in done:
        click.echo(f"done      {visible(line)}")
    for finding in report.findings:
        mark = "set aside" if finding.aside else finding.kind
        click.echo(f"{mark:<9} {visible(finding.message)}  [{finding.key.hex()}]")
    counted = ", ".join(f"{count:,} {name}" for name, count in report.rows.items())
    note(f"revision {report.revision:,}; rows: {counted or 'none'}")
    if report.unknown:
        others = ", ".join(f"{count:,} under {prefix:#04x}" for prefix, count in report.unknown.items())
        note(f"checksums alone could be checked of {others}")
    damage = len(report.damage)
    if damage:
        note(f"{damage} found; `spellwork fsck --quarantine` sets aside what was hit, `spellwork backup restore` brings it back")
    else:
        note("nothing is damaged" if not report.findings else "nothing is damaged that was not set aside")
