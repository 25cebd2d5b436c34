"""Owns what a step of a machine asks its host to do, as frozen records in the order in which they arose.
It must never do any of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from spellwork.machine.event import Event


@dataclass(frozen=True, slots=True)
class Call:
    """Call the action `fn(context, event)`; `fn` is None where the chart has only its name.

    `declared` is what the chart was written with: a host may know a better way to perform it than to call it.
    """

    name: str
    fn: Callable[[Any, Any], Any] | None
    context: Any
    event: Any
    declared: Any = None

    def __call__(self) -> Any:
        """What the action gives; awaitable if it is asynchronous."""
        if self.fn is None:
            raise LookupError(f"no function is known for the action {self.name!r}; give it in `actions`")
        return self.fn(self.context, self.event)


@dataclass(frozen=True, slots=True)
class Deliver:
    """Deliver the event after `delay` seconds. `target` None is the machine itself, "#_parent" who invoked it,
    "#_ID" a child, "#_scxml_SESSION" another machine. `id` is what `Withdraw` names.
    """

    event: Event
    delay: float = 0.0
    target: str | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Forget a delayed delivery, unless it is on its way already."""

    id: str


@dataclass(frozen=True, slots=True)
class Start:
    """Start a child; its events come back with `invokeid`, and it ends with `done.invoke.ID`."""

    id: str
    type: str | None
    src: Any
    content: Any
    data: Any
    autoforward: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop a child: its state was left."""

    id: str


@dataclass(frozen=True, slots=True)
class Forward:
    """Hand the external event to a child that wants all of them."""

    id: str
    event: Event


@dataclass(frozen=True, slots=True)
class Note:
    """Write to the log."""

    label: str
    value: Any


Action: TypeAlias = Call | Deliver | Withdraw | Start | Stop | Forward | Note
