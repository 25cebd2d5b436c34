"""Owns what a supervisor does about the failures of its actors: which are begun anew, when, and when it gives up.
It must never let a failure vanish: each is logged, and what it can't mend goes up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from spellwork.errors import DefinitionError
from spellwork.machine.waiting import Cancellable
from spellwork.supervision import attempt

if TYPE_CHECKING:
    from spellwork.machine.actor import Actor
    from spellwork.machine.system import ActorSystem

log = logging.getLogger("spellwork.machine")
Directive = Literal["restart", "resume", "stop", "escalate"]
_DIRECTIVES = ("restart", "resume", "stop", "escalate")
_STRATEGIES = ("one-for-one", "all-for-one")


@dataclass(frozen=True, slots=True)
class Supervision:
    """What an actor (or the system) does when one of its children fails.

    `directive`, or what `decide(error)` gives: `restart` begins a new life with the same mailbox, `resume` goes on in the old
    one, `stop` ends the child, `escalate` makes it a failure of the supervisor. `all-for-one` restarts all children: they end
    newest first, and begin oldest first. The n-th restart within `window` seconds waits `delay * factor ** (n - 1)` seconds, at
    most `max_delay`; the one after `max_restarts` is an `escalate`. One-for-one counts for each child, all-for-one for all.
    """

    directive: Directive = "restart"
    strategy: Literal["one-for-one", "all-for-one"] = "one-for-one"
    decide: Callable[[BaseException], Directive] | None = None
    max_restarts: int = 5
    window: float = 60.0
    delay: float = 0.1
    factor: float = 2.0
    max_delay: float = 30.0

    def __post_init__(self) -> None:
        if self.directive not in _DIRECTIVES:
            raise DefinitionError(f"{self.directive!r} is no directive; it is one of {', '.join(_DIRECTIVES)}")
        if self.strategy not in _STRATEGIES:
            raise DefinitionError(f"{self.strategy!r} is no strategy; it is one of {', '.join(_STRATEGIES)}")
        if self.max_restarts < 0 or self.window <= 0 or self.delay < 0 or self.factor < 1 or self.max_delay < self.delay:
            raise DefinitionError(
                "a supervision needs max_restarts >= 0, window > 0, delay >= 0, factor >= 1 and max_delay >= delay"
            )

    def pause(self, number: int) -> float:
        """Seconds before the restart of this number (1 is the first of the window)."""
        # the power of a float overflows where the delay has long been the longest
        return min(self.max_delay, self.delay * self.factor ** min(number - 1, 64)) if self.delay else 0.0

    def chosen(self, error: BaseException) -> Directive:
        """The directive for an error; what `decide` can't say goes up."""
        if self.decide is None:
            return self.directive
        chosen, failed = attempt(self.decide, error)
        if failed is not None or chosen not in _DIRECTIVES:
            error.add_note(f"decide() gave no directive for this, but {failed or chosen!r}; so it is escalated")
            return "escalate"
        directive: Directive = chosen
        return directive


class Supervisor(Protocol):
    """Who owns a family: an actor, or the system."""

    def escalated(self, child: Actor, error: BaseException) -> None:
        """A failure of the child that the family can't mend."""
        ...


class Restarts:
    """How often something was begun anew within the window; the clock makes it forget."""

    __slots__ = ("_timers",)

    def __init__(self) -> None:
        self._timers: list[Cancellable] = []

    def __len__(self) -> int:
        return len(self._timers)

    def count(self, system: ActorSystem, window: float) -> int:
        """Add one; how many there are."""

        def forget() -> None:
            del self._timers[0]  # all have the same window, so the oldest ends first

        self._timers.append(system.clock.call_later(window, forget))
        return len(self._timers)

    def clear(self) -> None:
        """Forget all at once."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()


class Family:
    """The children of one supervisor, oldest first."""

    __slots__ = ("_escalated", "_restarts", "_round", "children", "owner", "supervision", "system")

    def __init__(self, system: ActorSystem, owner: Supervisor, supervision: Supervision):
        self.system, self.owner, self.supervision = system, owner, supervision
        self.children: dict[str, Actor] = {}
        self._restarts = Restarts()
        self._escalated: list[Actor] = []
        self._round = 0

    def failed(self, child: Actor, error: BaseException) -> None:
        """A child failed: decide, and have it done."""
        plan = self.supervision
        directive = plan.chosen(error)
        if directive == "resume" and not child.alive:
            directive = "restart"  # it never began, so there is nothing to go on with
        whole = plan.strategy == "all-for-one"
        counted = self._restarts if whole else child.restarts
        if directive == "restart" and len(counted) >= plan.max_restarts:
            error.add_note(f"{child.path} was restarted {plan.max_restarts} times within {plan.window:g} s; so it is escalated")
            directive = "escalate"
        log.warning(
            "%s failed: %r; %s", child.path, error, directive, exc_info=error, extra={"actor": child.path, "directive": directive}
        )
        match directive:
            case "restart":
                number = counted.count(self.system, plan.window)
                self._round += whole
                group = list(self.children.values()) if whole else [child]
                self._restart([each for each in group if each.hold()], plan.pause(number), self._round if whole else None)
            case "stop":
                child.finish(error)
            case "escalate":
                child.hold()
                self._escalated.append(child)
                self.owner.escalated(child, error)
            case "resume":
                child.go_on()

    def left(self, child: Actor) -> None:
        """A child has ended."""
        self.children.pop(child.name, None)
        if child in self._escalated:
            self._escalated.remove(child)

    def resume(self) -> None:
        """The supervisor goes on after what was escalated to it; so do those who escalated."""
        escalated, self._escalated = self._escalated, []
        for child in escalated:
            child.go_on()

    async def stop(self) -> None:
        """End all children, newest first, each with its own."""
        while self.children:
            child = next(reversed(self.children.values()))
            child.finish(None)
            await child.ended()
        self._restarts.clear()
        self._escalated.clear()

    def _restart(self, group: list[Actor], pause: float, turn: int | None) -> None:
        self.system.run(self._anew(group, pause, turn))

    async def _anew(self, group: list[Actor], pause: float, turn: int | None) -> None:
        for child in reversed(group):
            await child.end_life()
        if pause:
            await self.system.sleep(pause)
        for child in group:
            if turn is not None and turn != self._round:
                return  # one of them failed to begin, and all begin anew again
            await child.begin_again()
