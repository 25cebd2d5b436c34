"""Owns the program: its list of verbs, loading each only when it is called, and how errors reach the user.
It must never catch what it does not know: an unexpected exception shows its traceback.
"""

from __future__ import annotations

import difflib
import importlib
import io
import logging
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any, NoReturn, TextIO

import click

from spellwork import __version__
from spellwork.cli.exits import CommandError, Exit, exit_of
from spellwork.cli.output import to_json
from spellwork.errors import SpellworkError

_VERBS = {
    "run": ("spellwork.cli.run:run", "Run a workflow of a file and print its result."),
    "resume": ("spellwork.cli.run:resume", "Go on with an interrupted, blocked or quarantined run."),
    "start": ("spellwork.cli.start:start", "Start a run and leave it to the process that runs the store."),
    "worker": ("spellwork.cli.worker:worker", "Run the workflows of files until it is stopped."),
    "ps": ("spellwork.cli.runs:ps", "List runs, newest first."),
    "show": ("spellwork.cli.runs:show", "Show a run and the timeline of its steps."),
    "history": ("spellwork.cli.runs:history", "Print the journal of a run."),
    "signal": ("spellwork.cli.messages:signal", "Send a signal to a run."),
    "query": ("spellwork.cli.messages:query", "Ask a query of a run."),
    "update": ("spellwork.cli.messages:update", "Apply an update to a run and print its answer."),
    "cancel": ("spellwork.cli.messages:cancel", "Ask a run to unwind and end."),
    "terminate": ("spellwork.cli.messages:terminate", "End a run at once."),
    "state": ("spellwork.cli.state:state", "Read, write and watch the state that programs keep in a store."),
    "events": ("spellwork.cli.events:events", "Durable topics: tail, publish, topics, groups, dead letters."),
    "replay": ("spellwork.cli.replay:replay", "Check stored runs against today's code."),
    "fsck": ("spellwork.cli.fsck:fsck", "Check a store, and set aside what is damaged."),
    "backup": ("spellwork.cli.backup:backup", "Back up a store while it runs; verify, list, restore."),
    "key": ("spellwork.cli.key:key", "Encrypt stores, and change their keys."),
    "machine": ("spellwork.cli.machine:machine", "Hosted machines: send, ps, show; charts: draw, trace."),
    "bench": ("spellwork.bench.command:bench", "Measure this machine and this version."),
    "chaos": ("spellwork.testing.chaos.command:chaos", "Break it on purpose: kill -9, full disks, clock jumps, and check."),
    "demo": ("spellwork.demo.command:demo", "See durable workflows survive kill -9."),
}


class Verbs(click.Group):
    """A group whose commands are imported when they are called, and whose list needs none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The verbs in the order in which one meets them."""
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """Import one verb."""
        if cmd_name not in _VERBS:
            return None
        module, _, name = _VERBS[cmd_name][0].partition(":")
        try:
            command: click.Command = getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            if error.name is None or not module.startswith(error.name):
                raise
            raise CommandError(f"this installation has no {cmd_name!r}", Exit.NOT_FOUND, "not-found") from error
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb, or say which one may have been meant."""
        if args and args[0] not in _VERBS and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], _VERBS, 1)
            hint = f"; did you mean {close[0]}?" if close else "; `spellwork --help` lists those there are"
            raise click.UsageError(f"there is no command {args[0]!r}{hint}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; whoever stops reading its output early has seen enough."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            _hush()
            return Exit.OK

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """The list of verbs, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in _VERBS.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Examples and exit codes."""
        with formatter.section("Examples"):
            formatter.write_dl(
                [
                    ("spellwork run hello.py --input '[\"Ada\"]'", "run it; Ctrl-C and `resume` whenever you like"),
                    ("spellwork ps --status running", "what is under way"),
                    ("spellwork signal order-7 approval true", "tell a run something, from any terminal"),
                ]
            )
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(int(code)), code.meaning) for code in Exit])


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="spellwork")
def spellwork() -> None:
    """Durable workflows: start, watch and steer them."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with a code of `Exit`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in given
    # the engine's own log lines would double the message that ends a command; a worker turns them on
    logging.getLogger("spellwork").addHandler(logging.NullHandler())
    sys.stdout, sys.stderr = sys.stdout or _nowhere(), sys.stderr or _nowhere()  # each is None where it was closed
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _invoke(given, as_json)
        sys.stdout.flush()
    except BrokenPipeError:
        _hush()
        code = Exit.OK
    except OSError as error:  # a full disk behind it, say
        _hush()
        code = _report(as_json, "output", f"the output cannot be written: {error.strerror or error}", Exit.DAMAGED)
    _leave(code)


def _invoke(given: list[str], as_json: bool) -> int:
    try:
        code: Any = spellwork.main(given, prog_name="spellwork", standalone_mode=False)
    except SpellworkError as error:
        return _report(as_json, error.code, str(error), exit_of(error))
    except CommandError as error:
        return _report(as_json, error.code, error.message, error.exit_code)
    except click.ClickException as error:
        return _report_usage(as_json, error)
    except (click.Abort, KeyboardInterrupt):
        return _report(as_json, "interrupted", "interrupted", Exit.INTERRUPTED)
    return code if isinstance(code, int) else Exit.OK


def _report_usage(as_json: bool, error: click.ClickException) -> int:
    if as_json:
        return _report(as_json, "usage", error.format_message(), Exit.USAGE)
    error.show()
    return Exit.USAGE


def _report(as_json: bool, code: str, message: str, exit_code: int) -> int:
    if as_json:
        click.echo(to_json({"error": code, "message": message}), err=True)
    else:
        click.echo(f"{click.style('spellwork:', fg='red')} {message}", err=True)
    return exit_code


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123 - for as long as the program lives


def _hush() -> None:
    # whoever read us is gone; the interpreter must not complain when it flushes at exit
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _leave(code: int) -> NoReturn:
    # The interpreter would wait for activities in threads and processes, perhaps for ever. What they do is not recorded
    # any more, the store is closed, and everything is prepared for an end at any moment.
    multiprocessing = sys.modules.get("multiprocessing")
    children = multiprocessing.active_children() if multiprocessing else []
    if children or any(thread.name.startswith("spellwork-activity") for thread in threading.enumerate()):
        for child in children:
            child.terminate()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    sys.exit(code)
