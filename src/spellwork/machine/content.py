"""Owns the executable content of a chart: what entering, leaving and moving may do, as frozen data.
It must never execute anything.

A value in content is a constant, a function of `(context, event)` (it may take fewer), or an `Expression`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from spellwork.machine.model import State
    from spellwork.machine.view import View


@dataclass(frozen=True, slots=True)
class Expression:
    """Text in some language with what it compiles to. A guard or value that needs more than context and event is one."""

    text: str
    fn: Callable[[View], Any]


@dataclass(frozen=True, slots=True)
class Place:
    """Something in the context that can be assigned to: `fn(view, value)` gives the new context."""

    text: str
    fn: Callable[[View, Any], Any]


@dataclass(frozen=True, slots=True)
class Do:
    """An action with effects: a function of `(context, event)`, or the name of one. It is handed to whoever runs the machine."""

    action: Callable[..., Any] | str


@dataclass(frozen=True, slots=True)
class Assign:
    """A pure change of the context: a function of `(context, event)` that gives the new one, or a dict of changed fields."""

    change: Callable[..., Any] | str | Expression


@dataclass(frozen=True, slots=True)
class Let:
    """SCXML's `<assign>`: a place gets a value."""

    place: Place
    value: Any


@dataclass(frozen=True, slots=True)
class Raise:
    """Puts an event at the end of the internal queue."""

    event: Any
    data: Any = None


@dataclass(frozen=True, slots=True)
class Send:
    """Sends an event, after `delay` seconds: to the machine itself, or to what `target` names. The host does it."""

    event: Any = None
    data: Any = None
    delay: Any = 0.0
    id: Any = None
    target: Any = None
    type: Any = None
    params: tuple[tuple[str, Any], ...] = ()
    id_place: Place | None = None


@dataclass(frozen=True, slots=True)
class Cancel:
    """Withdraws a delayed `Send` by its id, if it is not on its way yet."""

    id: Any


@dataclass(frozen=True, slots=True)
class Log:
    """A line for the log."""

    label: str
    value: Any = None


@dataclass(frozen=True, slots=True)
class If:
    """The first branch whose condition holds; a condition of None always does."""

    branches: tuple[tuple[Any, tuple[Content, ...]], ...]


@dataclass(frozen=True, slots=True)
class Each:
    """Runs its body once for each item of a list; `item` and `index` are declared where they are missing."""

    array: Any
    item: Place
    index: Place | None
    body: tuple[Content, ...]


Content: TypeAlias = Do | Assign | Let | Raise | Send | Cancel | Log | If | Each
Block: TypeAlias = tuple[Content, ...]


@dataclass(frozen=True, slots=True)
class Invoke:
    """A child that lives as long as its state is active: another chart, or whatever the host knows by `src`."""

    src: Any = None
    type: Any = None
    content: State | Any = None
    id: str | None = None
    id_place: Place | None = None
    params: tuple[tuple[str, Any], ...] = ()
    autoforward: bool = False
    finalize: Block = ()
    finalize_params: bool = False


@dataclass(frozen=True, slots=True)
class Datum:
    """A variable of the context with its first value (SCXML's `<data>`)."""

    id: str
    place: Place
    value: Any = None


@dataclass(frozen=True, slots=True)
class Done:
    """The payload of a final state's done event: one value, or named ones."""

    value: Any = None
    params: tuple[tuple[str, Any], ...] = ()
