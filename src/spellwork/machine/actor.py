"""Owns an actor: one message at a time, failures to whoever supervises it, and an end that everyone concerned hears of.
It must never handle a message twice, nor lose one that it took without telling.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spellwork.errors import ActorError, ActorStopped, AskTimeout, DefinitionError, LinkBroken, MailboxFull, UsageError
from spellwork.machine.event import as_event
from spellwork.machine.life import Life, Receive, Recipe, recipe_of
from spellwork.machine.mailbox import Box, Letter, Mailbox
from spellwork.machine.supervise import Family, Restarts, Supervision, log
from spellwork.machine.waiting import Timers
from spellwork.machine.worker import Worker, current

if TYPE_CHECKING:
    from spellwork.machine.chart import Chart


@dataclass(frozen=True, slots=True)
class Down:
    """The message that an actor has ended, for those who monitor it; `error` is why, or None if it was stopped or is done."""

    actor: Actor
    error: BaseException | None


def current_actor() -> Actor:
    """The actor whose message is being handled here, in actions of its machine too.

    Raises:
        UsageError: no actor is at work here.
    """
    found: Actor | None = current.get()
    if found is None:
        raise UsageError("current_actor() was called where no actor is at work; call it while a message is handled")
    return found


class Actor(Worker):
    """Something that handles one message at a time, made by `ActorSystem.spawn` or by another actor's `spawn`.

    Its methods belong to the event loop of its system; from another thread use `loop.call_soon_threadsafe`. An actor that has
    nothing to do costs no task.
    """

    __slots__ = (
        "__weakref__", "_box", "_closing", "_draining", "_family", "_held", "_life", "_links", "_mailbox", "_over", "_reason",
        "_recipe", "_restarts", "_settling", "_siblings", "_supervision", "_waiters", "_watchers", "_watches", "name",
        "parent",
    )  # fmt: skip

    def __init__(
        self, parent: Actor | None, siblings: Family, name: str, recipe: Recipe, *, mailbox: Mailbox, supervision: Supervision
    ):
        super().__init__(siblings.system, f"{siblings.system.name if parent is None else parent.path}/{name}")
        self.parent, self.name = parent, name
        self._siblings, self._recipe, self._mailbox, self._supervision = siblings, recipe, mailbox, supervision
        self._box = Box()
        self._life: Life | None = None
        self._family: Family | None = None
        self._restarts: Restarts | None = None
        self._watchers: dict[Actor, None] | None = None
        self._watches: dict[Actor, None] | None = None
        self._links: dict[Actor, None] | None = None
        self._waiters: list[asyncio.Future[None]] | None = None
        self._reason: BaseException | None = None
        self._held = self._closing = self._draining = self._over = self._settling = False

    def __repr__(self) -> str:
        state = "ended" if self._over else "ending" if self._closing else "held" if self._held or not self._life else "running"
        return f"<Actor {self.path} {state}>"

    @property
    def running(self) -> bool:
        """Whether it takes messages; it does while it is being restarted, too."""
        return not self._closing and not self._over

    @property
    def waiting(self) -> int:
        """How many messages wait."""
        return self._box.messages

    @property
    def dropped(self) -> int:
        """How many messages found no room and were dropped, as its `Mailbox` says."""
        return self._box.dropped

    @property
    def children(self) -> tuple[Actor, ...]:
        """Its children, oldest first."""
        return tuple(self._family.children.values()) if self._family is not None else ()

    def send(self, message: Any, data: Any = None) -> bool:
        """Put a message into the mailbox; whether it was taken. With `data`, the message is an event of that name.

        Raises:
            ActorStopped: the actor has ended, or is about to.
            MailboxFull: there is no room, and its `Mailbox` refuses then.
        """
        return self._take(Letter(message if data is None else as_event(message, data)))

    async def put(self, message: Any, data: Any = None) -> None:
        """As `send`, but wait until there is room.

        Raises:
            ActorStopped: the actor has ended, or is about to.
            MailboxFull: it is the actor itself that would wait for room in its own mailbox.
        """
        while self._box.messages >= self._mailbox.size and self.running:
            if self._inside():
                raise MailboxFull(f"{self.path} would wait for itself to make room", actor=self.path, limit=self._mailbox.size)
            await self._box.room(self._mailbox, self.system.loop)
        self.send(message, data)

    async def ask(self, message: Any, data: Any = None, *, timeout: float | None = 5.0) -> Any:
        """Send a message and wait for the answer: what the function gave, or the state of the machine after the event.

        If handling it fails, the error is raised here as well as being the supervisor's. An event that a machine does not
        handle is an `InvalidTransition` here, and no failure of the actor.

        Raises:
            AskTimeout: no answer within `timeout` seconds; the message may be handled all the same.
            ActorStopped: the actor has ended, or did before it answered.
            MailboxFull: there was no room.
            UsageError: an actor asks itself.
        """
        if self._inside():
            raise UsageError(f"{self.path} asks itself, and would wait for ever; call the function, or send without waiting")
        reply: asyncio.Future[Any] = self.system.loop.create_future()
        letter = Letter(message if data is None else as_event(message, data), reply)
        self._take(letter)

        def late() -> None:
            text = f"{self.path} gave no answer to {message!r} within {timeout:g} s; {self.waiting} messages wait for it"
            letter.answer(None, AskTimeout(text, actor=self.path, seconds=timeout))

        timer = self.system.timer(timeout, late)
        try:
            return await reply
        finally:
            timer.cancel()

    async def stop(self, *, drain: bool = False, grace: float | None = None) -> None:
        """End it and all its children, and wait for that. The message under way is finished first; with `drain` so are those that
        wait. After `grace` seconds, what is under way is cancelled.

        Called by the actor itself or by one below it, it only asks for the end, which comes after the message under way.
        """
        self.finish(None, drain=drain)
        if self._inside(below=True):
            return
        timer = self.system.timer(grace, self.hurry)
        try:
            await self.ended()
        finally:
            timer.cancel()

    async def ended(self) -> BaseException | None:
        """Wait until it has ended, with all its children; why, if it did not end by itself or by a stop.

        Raises:
            UsageError: the actor itself, or one below it, would wait for ever.
        """
        if not self._over:
            if self._inside(below=True):
                raise UsageError(f"{self.path} can't end while this waits for it; use monitor() to hear of the end")
            waiter: asyncio.Future[None] = self.system.loop.create_future()
            self._waiters = self._waiters or []
            self._waiters.append(waiter)
            await waiter
        return self._reason

    @property
    def timers(self) -> Timers:
        """A clock whose calls come in the actor's turn, and end with its present life."""
        return self._alive()

    def on_end(self, clean: Callable[[], Any]) -> None:
        """Call this when the present life ends, by a stop or a restart; newest first, awaited if need be."""
        self._alive().on_end(clean)

    def spawn(
        self,
        receive: Chart | Receive | None = None,
        *,
        fresh: Callable[..., Any] | None = None,
        name: str | None = None,
        mailbox: Mailbox | None = None,
        supervision: Supervision | None = None,
    ) -> Actor:
        """Make a child, supervised as this actor's own `supervision` says; it ends with this actor's life. See `ActorSystem.spawn`.

        Raises:
            ActorStopped: this actor has ended, or is about to.
        """
        if not self.running:
            raise self._stopped()
        if self._family is None:
            self._family = Family(self.system, self, self._supervision)
        return born(self._family, self, receive, fresh, name, mailbox, supervision)

    def monitor(self, other: Actor) -> None:
        """Get a `Down` message when the other has ended, at once if it has already. A restart is no end."""
        if other._over:
            self._tell(Down(other, other._reason))
        else:
            other._watchers, self._watches = other._watchers or {}, self._watches or {}
            other._watchers[self] = self._watches[other] = None

    def unmonitor(self, other: Actor) -> None:
        """Get no `Down` message after all; one that waits already stays."""
        (other._watchers or {}).pop(self, None)
        (self._watches or {}).pop(other, None)

    def link(self, other: Actor) -> None:
        """Share fates: if one ends by a failure, the other fails with `LinkBroken`, and its supervisor decides about it."""
        if other is self:
            raise UsageError(f"{self.path} can't be linked to itself")
        for one, two in ((self, other), (other, self)):
            if two._over:
                one._order(functools.partial(one._link_broken, two))
            else:
                one._links = one._links or {}
                one._links[two] = None

    def unlink(self, other: Actor) -> None:
        """Undo `link`."""
        for one, two in ((self, other), (other, self)):
            (one._links or {}).pop(two, None)

    @property
    def alive(self) -> bool:
        """Whether it has a life."""
        return self._life is not None

    @property
    def restarts(self) -> Restarts:
        """Its restarts within the window."""
        if self._restarts is None:
            self._restarts = Restarts()
        return self._restarts

    def finish(self, reason: BaseException | None, *, drain: bool = False) -> None:
        """Let it end after the message under way, or after all that wait."""
        if self._over or (self._closing and not (self._draining and not drain)):
            return
        self._closing, self._draining = True, drain
        self._reason = self._reason or reason
        if drain:
            self._wake()
        else:
            self._order(self._end)

    def hold(self) -> bool:
        """Handle no message until told; False if it is about to end anyway."""
        if self._over or (self._closing and not self._draining):
            return False
        self._held = True
        return True

    def go_on(self) -> None:
        """Handle messages again, and let those below who waited for this do so, too."""
        self._order(self._resume)

    async def end_life(self) -> None:
        """End the present life, after the message under way."""
        await self._obeyed(self._end_life)

    async def begin_again(self) -> None:
        """Begin a new life, unless the end of the actor came between."""
        await self._obeyed(self._resume)

    def begin(self) -> None:
        """Begin the first life."""
        self._order(self._begin)

    def broke(self, error: BaseException) -> None:
        """Something failed that nobody waits for: a step that a timer or a child of its machine caused."""
        self._order(functools.partial(self._failed, error))

    def escalated(self, child: Actor, error: BaseException) -> None:  # noqa: ARG002 - the system wants to know which
        """A child failed, and its family can't mend it: that is a failure of this actor."""
        self._order(functools.partial(self._failed, error))

    def timer_due(self, call: Callable[[], None]) -> None:
        """A timer of its life is due: it waits among the messages, and counts as none."""
        if not self._over:
            self._box.add(Letter(None, timer=call))
            self._wake()

    def hurry(self) -> None:
        """Cancel what is under way, here and below, now and from now on."""
        self._hurried = True
        if self._doing is not None:
            self._doing.cancel()
        if self._draining:
            self.finish(None)
        for child in self.children:
            child.hurry()

    def abandon(self) -> None:
        """The system itself was interrupted: nothing is waited for any more."""
        for child in self.children:
            child.abandon()
        if self._doing is not None:
            self._doing.cancel()
        self._closing = self._over = True
        self._siblings.left(self)  # who closes the system again must not wait for it
        self._box.empty(self._stopped)
        self._farewell()

    async def _next(self) -> bool:
        if len(self._box):
            await self._handle(self._box.take())
        elif self._draining:
            self.finish(None)
        else:
            return False
        return True

    def _ready(self) -> bool:
        return self._life is not None and not self._held and (not self._closing or self._draining) and not self._over

    async def _handle(self, letter: Letter) -> None:
        life = self._life
        if life is None:
            return
        try:
            value, error = await (self.guarded(life.handle, letter.message) if letter.timer is None else self.guarded(letter.timer))
            letter.answer(value, self._cancelled() if isinstance(error, asyncio.CancelledError) else error)
        finally:
            if letter.reply is not None:  # the whole system may have been interrupted
                letter.answer(None, self._stopped())
        if error is not None and not (letter.reply is not None and life.refused(error, letter.message)):
            await self._failed(error)
        await self._look_after(life, error)

    async def _look_after(self, life: Life, error: BaseException | None) -> None:
        if life.unsettled and not self._settling:
            self._settling = True
            self.system.run(self._settle(life))
        elif error is None:
            await self._done(life)

    async def _settle(self, life: Life) -> None:
        await life.settle()
        self._settling = False
        self._order(functools.partial(self._done, life))

    async def _done(self, life: Life) -> None:
        if life.over and life is self._life and not self._held and not life.unsettled:
            self.finish(None)

    async def _failed(self, error: BaseException) -> None:
        if self._held or self._over or (self._closing and not self._draining):
            text = "%s failed while it was about to be stopped or restarted: %r"
            log.warning(text, self.path, error, exc_info=error, extra={"actor": self.path})
            return
        self._siblings.failed(self, error)

    async def _begin(self) -> None:
        if self._life is not None or self._held or (self._closing and not self._draining) or self._over:
            return
        life = self._life = Life(self)
        _, error = await self.guarded(life.begin, self._recipe)
        if error is not None:
            await self._end_life()
            await self._failed(error)
        else:
            await self._look_after(life, None)

    async def _resume(self) -> None:
        if self._over or (self._closing and not self._draining):
            return
        self._held = False
        await self._begin()
        if self._life is not None:
            if self._family is not None:
                self._family.resume()
            await self._look_after(self._life, None)

    async def _end_life(self) -> None:
        await self._end_children()
        life, self._life = self._life, None
        if life is not None:
            for error in await life.end():
                log.warning("the end of a life of %s failed: %r", self.path, error, exc_info=error, extra={"actor": self.path})
            await self._end_children()  # those that the end itself made

    async def _end_children(self) -> None:
        if self._family is not None:
            await self._family.stop()

    async def _end(self) -> None:
        if self._over:
            return
        await self._end_life()
        self._over, self._draining = True, False
        lost = self._box.empty(self._stopped)
        if lost:
            log.warning("%s ended with %d messages that it had not handled", self.path, lost, extra={"actor": self.path})
        if self._restarts is not None:
            self._restarts.clear()
        self._siblings.left(self)
        for watched in tuple(self._watches or ()):
            self.unmonitor(watched)
        for watcher in tuple(self._watchers or ()):
            watcher._tell(Down(self, self._reason))
            watcher.unmonitor(self)
        for other in tuple(self._links or ()):
            self.unlink(other)
            if self._reason is not None:
                other._order(functools.partial(other._link_broken, self))
        self._farewell()

    async def _link_broken(self, other: Actor) -> None:
        if other._reason is not None and not self._over:
            error = LinkBroken(f"{other.path}, to which {self.path} is linked, failed: {other._reason!r}", actor=other.path)
            error.__cause__ = other._reason
            await self._failed(error)

    def _farewell(self) -> None:
        for waiter in self._waiters or ():
            if not waiter.done():
                waiter.set_result(None)
        self._waiters = None

    def _take(self, letter: Letter) -> bool:
        if not self.running:
            raise self._stopped()
        taken = self._box.offer(letter, self._mailbox, self.path)
        self._wake()
        return taken

    def _tell(self, down: Down) -> None:
        if self.running:
            self._box.add(Letter(down))
            self._wake()

    def _alive(self) -> Life:
        if self._life is None:
            raise UsageError(f"{self.path} has no life now; ask for this while it begins or handles a message")
        return self._life

    def _inside(self, *, below: bool = False) -> bool:
        """Whether the code that calls is this actor's, or that of one below it."""
        actor: Actor | None = current.get()
        while actor is not None and actor is not self and below:
            actor = actor.parent
        return actor is self

    def _cancelled(self) -> ActorError:
        # as a CancelledError it would look to an asker as if it had been cancelled itself
        return self._stopped() if self._closing else ActorError(f"a message to {self.path} was cancelled", actor=self.path)

    def _stopped(self) -> ActorStopped:
        return ActorStopped(f"{self.path} has ended or is about to; the message was not handled", actor=self.path)


def born(
    family: Family,
    parent: Actor | None,
    receive: Chart | Receive | None,
    fresh: Callable[..., Any] | None,
    name: str | None,
    mailbox: Mailbox | None,
    supervision: Supervision | None,
) -> Actor:
    """Make an actor of a family and let it begin.

    Raises:
        DefinitionError: the family has one of this name, or it is not said what the actor is made of.
    """
    stem, recipe = recipe_of(receive, fresh)
    name = name or family.system.new_name(stem)
    if name in family.children:
        raise DefinitionError(f"{family.children[name].path} is there already; give the actor another name")
    actor = Actor(parent, family, name, recipe, mailbox=mailbox or Mailbox(), supervision=supervision or Supervision())
    family.children[name] = actor
    actor.begin()
    return actor
