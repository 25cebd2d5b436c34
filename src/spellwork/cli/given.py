"""Owns reading JSON that users give, and turning it into the arguments of a call.
It must never guess: what is no JSON is either plainly text or an error that shows where it breaks.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import math
import sys
from pathlib import Path
from typing import Any, NamedTuple

import click

from spellwork.cli.exits import NotFound
from spellwork.workflow import Workflow

# a workflow's parameter of such a name would be taken for one of `Engine.start` itself
_START_PARAMETERS = {"self", "workflow", "id"}


class Call(NamedTuple):
    """The arguments of a call."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}  # noqa: RUF012 - a NamedTuple's default, never written to


NO_ARGUMENTS = Call()


def parse(text: str, what: str) -> Any:
    """The value of some JSON; raises a usage error that shows where it breaks."""
    try:
        return _loaded(text)
    except json.JSONDecodeError as error:
        hint = "; text needs its own quotes: '\"...\"'" if not text.lstrip().startswith(("{", "[", '"')) else ""
        raise click.UsageError(
            f"{what} is not JSON: {error.msg} at line {error.lineno} column {error.colno} of {_shortened(text)}{hint}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"{what} cannot be read: {error}") from error


def lenient(text: str) -> Any:
    """JSON where it is JSON, else the text itself."""
    try:
        return _loaded(text)
    except (ValueError, RecursionError):
        return text


def _loaded(text: str) -> Any:
    """JSON as it is defined: `json.loads` also takes NaN and Infinity, which no JSON could show again."""
    return json.loads(text, parse_constant=_refused, parse_float=_finite)


def _refused(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is larger than a number can be")
    return number


def call_of(given: str | None, workflow: Workflow[Any, Any] | None) -> Call:
    """The call that `--input` describes. Without a known workflow an object is always by keyword."""
    if given is None:
        return NO_ARGUMENTS
    value = parse(_content(given), "--input")
    if isinstance(value, list):
        return Call(tuple(value))
    if isinstance(value, dict) and (workflow is None or _are_parameters(value, workflow)):
        return _by_keyword(value, workflow)
    return Call((value,))


def _by_keyword(value: dict[str, Any], workflow: Workflow[Any, Any] | None) -> Call:
    taken = value.keys() & _START_PARAMETERS
    if not taken:
        return Call((), value)
    if workflow is not None:
        with contextlib.suppress(TypeError):
            bound = inspect.signature(workflow.fn).bind(**value)
            if not bound.kwargs.keys() & _START_PARAMETERS:
                return Call(bound.args, bound.kwargs)
    raise click.UsageError(f"--input: {', '.join(sorted(taken))} cannot be given by keyword; use a list")


def _are_parameters(value: dict[str, Any], workflow: Workflow[Any, Any]) -> bool:
    parameters = inspect.signature(workflow.fn).parameters
    if value:
        return value.keys() <= parameters.keys()
    # an empty object is "no arguments" only where none are needed
    return all(p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values())


def _content(given: str) -> str:
    try:
        if given == "-":
            return sys.stdin.read()
        if given.startswith("@"):
            return Path(given[1:]).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"--input {given}: not UTF-8 text: {error}") from error
    except OSError as error:
        raise NotFound(f"--input {given}: {error.strerror or error}") from error
    return given


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
