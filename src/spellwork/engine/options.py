"""Owns the bounds of an engine's options.
It must never let one pass that would only be noticed when something is run.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from spellwork.clock import LONGEST, is_duration
from spellwork.errors import DefinitionError

if TYPE_CHECKING:
    from spellwork.engine.triggers import Trigger

_LEAST = {"partitions": 1, "max_partitions": 1, "threads": 1, "processes": 1, "cache": 0, "max_recoveries": 3}
_MOST = {"partitions": 1024}
_WHY = {
    "max_partitions": " (with client=True an engine takes none)",
    "max_recoveries": " (two to notice that something kills the process, one to find out which run)",
}


def check_options(counts: Mapping[str, Any], optional: Mapping[str, Any], *, lease: Any, grace: Any) -> None:
    """Raise `DefinitionError` that names every option beyond its bounds; an `optional` one may be None."""
    given = [*counts.items(), *((name, value) for name, value in optional.items() if value is not None)]
    wrong = [_said(name, value) for name, value in given if not _is_count(name, value)]
    if not _is_seconds(lease) or not lease:
        wrong.append(f"lease must be more than 0 seconds and at most {LONGEST:g}, not {lease!r}")
    if not _is_seconds(grace):
        wrong.append(f"grace must be 0 to {LONGEST:g} seconds, not {grace!r}")
    if wrong:
        raise DefinitionError(f"Engine: {'; '.join(wrong)}")


def check_lists(**given: Any) -> None:
    """Raise `DefinitionError` for what was given by itself where a list of such is taken."""
    for name, value in given.items():
        if not isinstance(value, Iterable):
            raise DefinitionError(f"Engine: {name}= takes a list; write {name}=[{getattr(value, 'name', value)}]")


def check_triggers(triggers: Sequence[Trigger], *, client: bool) -> None:
    """Raise `DefinitionError` for triggers of which one would never start anything."""
    if client and triggers:
        raise DefinitionError("Engine: a client owns no runs, so its triggers would start none; leave out client= or triggers=")
    if len({trigger.name for trigger in triggers}) < len(triggers):
        raise DefinitionError("Engine: two triggers have the same pattern and workflow; the second would never start anything")


def _is_count(name: str, value: Any) -> bool:
    return type(value) is int and value >= _LEAST[name] and value <= _MOST.get(name, value)


def _said(name: str, value: Any) -> str:
    bounds = f"{_LEAST[name]} to {_MOST[name]}" if name in _MOST else f"at least {_LEAST[name]}"
    return f"{name} must be {bounds}{_WHY.get(name, '')}, not {value!r}"


def _is_seconds(value: Any) -> bool:
    return is_duration(value) and not isinstance(value, dt.timedelta)
