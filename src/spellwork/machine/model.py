"""Owns the model of a statechart, which every way of writing one produces: states, transitions and what they do.
It must never decide what happens next; that is the interpreter's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from spellwork.machine.content import Block, Content, Datum, Done, Expression, Invoke

Kind: TypeAlias = Literal["state", "parallel", "final", "history"]
Guard: TypeAlias = Callable[..., Any] | str | Expression


@dataclass(frozen=True, slots=True)
class Transition:
    """A way out of a state. Without `events` it is eventless, without `targets` it stays where it is."""

    events: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    guard: Guard | None = None
    content: Block = ()
    internal: bool = False


@dataclass(frozen=True, slots=True)
class State:
    """A state with everything below it. The root of a chart is one, too."""

    id: str
    kind: Kind = "state"
    children: tuple[State, ...] = ()
    initial: Transition | None = None
    transitions: tuple[Transition, ...] = ()
    entry: tuple[Block, ...] = ()
    exit: tuple[Block, ...] = ()
    invokes: tuple[Invoke, ...] = ()
    data: tuple[Datum, ...] = ()
    done: Done | None = None
    defer: tuple[str, ...] = ()
    deep: bool = False

    @property
    def real_children(self) -> tuple[State, ...]:
        """The children that a machine can be in: all but history."""
        return tuple(child for child in self.children if child.kind != "history")

    def walk(self) -> Iterator[State]:
        """This state and all below it in document order."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True, slots=True)
class Options:
    """What holds for a chart as a whole.

    `strict`: an event that nothing handles is an `InvalidTransition`. `events`: what the chart declares to understand.
    `error_events`: errors of guards and content become SCXML's error events instead of being raised.
    `script`: content that runs once before anything else. `late`: data get their values when their state is first entered.
    `limit`: microsteps of one step after which it counts as endless.
    """

    name: str = ""
    strict: bool = True
    events: tuple[str, ...] = ()
    kinds: tuple[type, ...] = ()
    error_events: bool = False
    late: bool = False
    script: tuple[Content, ...] = ()
    limit: int = 10_000
    context: Any = None
    implicit_initial: bool = False
    datamodel: str = ""
