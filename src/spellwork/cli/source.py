"""Owns loading a user's file as a module, and finding what is declared in it.
It must never choose between several workflows on the user's behalf.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from spellwork import Activity, Codec, Workflow
from spellwork.cli.exits import CommandError, Exit, NotFound
from spellwork.errors import SpellworkError


@dataclasses.dataclass(frozen=True)
class Source:
    """What files declare. `codec` is the one `Codec` they hold, if they hold one."""

    path: str
    workflows: list[Workflow[Any, Any]]
    activities: list[Activity[Any, Any]]
    errors: list[type[Exception]]
    codec: Codec | None = None
    aliases: dict[str, Workflow[Any, Any]] = dataclasses.field(default_factory=dict)
    machines: list[Any] = dataclasses.field(default_factory=list)

    def engine_options(self) -> dict[str, Any]:
        """What an `Engine` needs to run all of it."""
        return {
            "workflows": self.workflows,
            "activities": self.activities,
            "errors": self.errors,
            "codec": self.codec,
            "machines": self.machines,
        }

    @property
    def machine_types(self) -> list[Workflow[Any, Any]]:
        """The machines as the workflows that they are to an engine, with those that they invoke."""
        if not self.machines:
            return []
        from spellwork.hosted.type import machine_type

        return [kind for each in self.machines for kind in machine_type(each).family]

    def choose(self, name: str | None) -> Workflow[Any, Any]:
        """The named workflow (its newest version), or the only one there is."""
        newest = {workflow.name: workflow for workflow in self.workflows}
        if not newest:
            raise NotFound(f"{self.path} declares no workflow; write an `async def` function under @workflow")
        listing = ", ".join(newest)
        if name is None:
            if len(newest) > 1:
                raise click.UsageError(
                    f"{self.path} has several workflows: {listing}; name one, such as {self.path}:{next(iter(newest))}"
                )
            return next(iter(newest.values()))
        found = newest.get(name) or self.aliases.get(name)
        if found is None:
            close = difflib.get_close_matches(name, [*newest, *self.aliases], 1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            raise NotFound(f"{self.path} has no workflow {name!r}{hint}; it has: {listing}")
        return newest.get(found.name, found)


def is_file(target: str) -> bool:
    """Whether a target names a file (with or without `:workflow`) rather than a registered workflow."""
    return _split(target)[0].endswith(".py") or names_a_file(target)


def names_a_file(text: str) -> bool:
    """Whether there is such a file. Text that can name none (too long, no access) is no error, as it is to `Path.is_file`."""
    return os.path.isfile(text)  # noqa: PTH113 - see above


def load(target: str) -> tuple[Source, str | None]:
    """Load FILE.py[:workflow]; gives what it declares, and the name behind the colon."""
    path, name = _split(target)
    module = _load_module(path)
    named = {key: value for key, value in vars(module).items() if isinstance(value, (Workflow, Activity))}
    workflows = _once(value for value in named.values() if type(value) is Workflow)
    activities = _once(value for value in named.values() if isinstance(value, Activity))
    aliases = {key: value for key, value in named.items() if type(value) is Workflow}
    codecs = _once(value for value in vars(module).values() if isinstance(value, Codec))
    kinds = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Exception) and value.__module__ == module.__name__
    ]
    codec = codecs[0] if len(codecs) == 1 else None
    return Source(path, workflows, activities, kinds, codec, aliases, _machines(module)), name


def _machines(module: ModuleType) -> list[Any]:
    """The charts of a file, and their types: a chart that has one is registered by it."""
    if "spellwork.machine" not in sys.modules:
        return []  # nobody has made one
    from spellwork.hosted.type import MachineType
    from spellwork.machine import Chart

    types = _once(value for value in vars(module).values() if isinstance(value, MachineType))
    typed = {id(kind.chart) for each in types for kind in each.family}
    return [*types, *(each for each in _once(v for v in vars(module).values() if isinstance(v, Chart)) if id(each) not in typed)]


def module_of(target: str) -> tuple[ModuleType, str, str | None]:
    """Load FILE.py[:name] for what is in it besides workflows: the module, the path, and the name behind the colon."""
    path, name = _split(target)
    return _load_module(path), path, name


def load_all(targets: tuple[str, ...]) -> Source:
    """Load several files as one source."""
    sources = [load(target)[0] for target in targets]
    codecs = _once(source.codec for source in sources if source.codec is not None)
    if len(codecs) > 1:
        raise click.UsageError("the files hold different codecs, but one store has one; run a worker for each file")
    return Source(
        ", ".join(source.path for source in sources),
        _once(workflow for source in sources for workflow in source.workflows),
        _once(activity for source in sources for activity in source.activities),
        _once(kind for source in sources for kind in source.errors),
        codecs[0] if codecs else None,
        machines=_once(each for source in sources for each in source.machines),
    )


def _split(target: str) -> tuple[str, str | None]:
    path, colon, name = target.rpartition(":")
    if colon and name.isidentifier() and len(path) > 1:
        return path, name
    return target, None


def _once(values: Any) -> list[Any]:
    return list({id(value): value for value in values}.values())


def _load_module(path: str) -> ModuleType:
    file = Path(path)
    if not names_a_file(path):
        what = "is a directory" if os.path.isdir(path) else "does not exist"  # noqa: PTH112 - it may be no name at all
        raise NotFound(f"{path} {what}; give a Python file that declares workflows")
    file = file.resolve()
    name = file.stem
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == str(file):
        return known
    if known is not None or name in sys.stdlib_module_names or not name.isidentifier():
        name = f"_spellwork_{name}"
    # a process pool imports activities by their module's name, so that must be found as it is for `python FILE.py`
    if str(file.parent) not in sys.path:
        sys.path.insert(0, str(file.parent))
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise NotFound(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise _unloadable(path, file, error) from error
    return module


def _unloadable(path: str, file: Path, error: Exception) -> CommandError:
    """What whoever wrote the file needs to know: the error, and the way to it from their own file on."""
    said = str(error) if isinstance(error, SpellworkError) else f"{type(error).__name__}: {error}"
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != str(file):
        trace = trace.tb_next
    way = "".join(traceback.format_tb(trace)).rstrip()
    return CommandError(f"{path} cannot be loaded: {said}" + (f"\n{way}" if way else ""), Exit.USAGE, "usage")
