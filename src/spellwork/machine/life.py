"""Owns one life of an actor: what receives its messages, its timers, and what is cleaned up when it ends.
It must never outlive a restart; the next life begins with nothing of it but the mailbox.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from spellwork.errors import DefinitionError, InvalidTransition, UsageError
from spellwork.machine.chart import Chart
from spellwork.machine.event import Event, event_name
from spellwork.machine.host import World
from spellwork.machine.machine import Machine
from spellwork.machine.tasks import AsyncMachine
from spellwork.machine.view import named, two_arguments
from spellwork.machine.waiting import Cancellable

if TYPE_CHECKING:
    from spellwork.machine.actor import Actor
    from spellwork.machine.configuration import Configuration

Receive = Callable[..., Any]
Recipe = Callable[["Actor"], Any]
_INVOKED = "actor"


def recipe_of(receive: Any, fresh: Callable[..., Any] | None) -> tuple[str, Recipe]:
    """A name for the actor, and what gives each life its receiver.

    Raises:
        DefinitionError: none is given, or both are.
    """
    if (receive is None) == (fresh is None):
        raise DefinitionError("an actor is made of a Chart or a function, or of what `fresh` makes for each life: give one of them")
    if fresh is None:
        stem = receive.name if isinstance(receive, Chart) else named(receive)
        return stem.strip("<>"), lambda _actor: receive
    makes = two_arguments(fresh)
    return named(fresh).strip("<>"), lambda actor: makes(actor, None)


class LifeTimer:
    """A call that is due later, in the actor's turn; not at all if it is withdrawn or its life ends before."""

    __slots__ = ("_callback", "_life", "_pending")

    def __init__(self, life: Life, callback: Callable[[], None]):
        self._life, self._callback = life, callback
        self._pending: Cancellable | None = None

    def set(self, pending: Cancellable) -> None:
        """What the clock will call."""
        self._pending = pending

    def due(self) -> None:
        """The time is up: the call waits among the messages."""
        self._pending = None
        self._life.actor.timer_due(self.run)

    def run(self) -> None:
        """Call back, unless the timer was withdrawn while it waited for its turn."""
        callback, alive = self._callback, self._life.timers.pop(self, None)
        if alive is not None:
            callback()

    def cancel(self) -> None:
        """Forget it."""
        self._life.timers.pop(self, None)
        if self._pending is not None:
            self._pending.cancel()


class Life:
    """From a begin to an end. It is the clock of the actor's machine, and the one whom that machine tells of its end."""

    __slots__ = ("_machine", "_on_end", "_receive", "actor", "over", "timers")

    def __init__(self, actor: Actor):
        self.actor = actor
        self.over = False  # its machine is in a final state
        self.timers: dict[LifeTimer, LifeTimer] = {}
        self._machine: Machine | AsyncMachine | None = None
        self._receive: Receive | None = None
        self._on_end: list[Callable[[], Any]] = []

    def begin(self, recipe: Recipe) -> Any:
        """Make what receives, and start it; something to await if that takes time."""
        made = recipe(self.actor)
        return self._later(made) if inspect.isawaitable(made) else self._start(made)

    async def _later(self, made: Awaitable[Any]) -> None:
        started = self._start(await made)
        if started is not None:
            await started

    def _start(self, made: Any) -> Awaitable[None] | None:
        if isinstance(made, Chart):
            made = AsyncMachine(made, clock=self) if made.awaited else self._machine_of(made)
        if isinstance(made, Machine):
            self._machine = made
            made._surroundings().parent = (self, _INVOKED)
            self.over = self.over or not made.running
        elif isinstance(made, AsyncMachine):
            self._machine = made
            made._host.parent, made._on_error = (self, _INVOKED), self.actor.broke
            if made.configuration.node is made.chart.table.nowhere:
                return made.start()
        elif callable(made):
            self._receive = two_arguments(made)
        else:
            raise DefinitionError(
                f"{self.actor.path} is made of {made!r}; an actor needs a Chart, a machine, or a function of (message, actor)"
            )
        return None

    def handle(self, message: Any) -> Any:
        """Hand over a message; the answer, or something to await for it. A machine answers with its state."""
        machine = self._machine
        if machine is None:
            return self._receive(message, self.actor) if self._receive is not None else None
        if isinstance(machine, Machine):
            machine.send(message)
            return machine.state
        return self._awaited(machine, message)

    async def end(self) -> list[BaseException]:
        """End the machine with its exit actions, then clean up, newest first; what failed of it."""
        errors: list[BaseException] = []
        machine = self._machine
        if machine is not None:
            _, error = await self.actor.guarded(machine.stop if isinstance(machine, Machine) else machine.close)
            errors += [error] if error is not None else []
        self._on_end.reverse()
        for clean in self._on_end:
            _, error = await self.actor.guarded(clean)
            errors += [error] if error is not None else []
        for timer in list(self.timers):
            timer.cancel()
        return errors

    def refused(self, error: BaseException, message: Any) -> bool:
        """Whether the error says that the machine does not handle this message, and stays where it was."""
        return (
            self._machine is not None
            and isinstance(error, InvalidTransition)
            and (error.machine, error.event) == (self._machine.chart.name, event_name(message))
        )

    def on_end(self, clean: Callable[[], Any]) -> None:
        """Call this when the life ends."""
        self._on_end.append(clean)

    @property
    def unsettled(self) -> bool:
        """Whether steps that timers and children caused are under way beside the messages."""
        return isinstance(self._machine, AsyncMachine) and bool(self._machine._tasks)

    async def settle(self) -> None:
        """Wait for those steps."""
        if isinstance(self._machine, AsyncMachine):
            await self._machine._rest()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Cancellable:
        """Call back in the actor's turn, if this life lasts as long; a call that fails is a failure of the actor."""
        timer = LifeTimer(self, callback)
        self.timers[timer] = timer
        timer.set(self.actor.system.clock.call_later(seconds, timer.due))
        return timer

    @property
    def configuration(self) -> Configuration:
        """Asked of members of a world; nobody asks it of the one above."""
        raise UsageError("an actor has no configuration; its machine has")

    def receive(self, event: Event, priority: int = 0) -> None:  # noqa: ARG002 - a mailbox has no priorities
        """Take what the machine sends to `#_parent`: its end is the actor's, anything else is for the parent actor."""
        if event.name == f"done.invoke.{_INVOKED}":
            self.over = True
        elif self.actor.parent is None:
            raise UsageError(f"{self.actor.path} has no parent to send {event.name!r} to")
        else:
            self.actor.parent.send(event)

    def stop(self) -> None:
        """Asked of children; nobody asks it of the one above."""
        raise UsageError("a machine does not stop its actor; its final state does")

    def _machine_of(self, chart: Chart) -> Machine:
        # its first step, too, may tell the one above something, even that it has ended
        return Machine._spawn(chart, World(self, None), (self, _INVOKED), None)

    @staticmethod
    async def _awaited(machine: AsyncMachine, message: Any) -> tuple[str, ...]:
        await machine.send(message)
        return machine.state
