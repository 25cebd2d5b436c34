"""Owns the messages that wait for an actor: how many there may be, and what becomes of one that finds no room.
It must never lose a message that nobody hears of: it is refused, or counted and its asker told.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from spellwork.errors import DefinitionError, InternalError, MailboxFull

Overflow = Literal["refuse", "drop-oldest", "drop-newest"]
_OVERFLOWS = ("refuse", "drop-oldest", "drop-newest")


@dataclass(frozen=True, slots=True)
class Mailbox:
    """How many messages may wait for an actor (`size`), and what `send` does when there is no room.

    `refuse` raises `MailboxFull`, `drop-oldest` and `drop-newest` drop a message; `Actor.dropped` counts them. `Actor.put`
    waits for room, whatever the overflow.
    """

    size: int = 1000
    overflow: Overflow = "refuse"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise DefinitionError(f"a mailbox holds at least one message, not {self.size}")
        if self.overflow not in _OVERFLOWS:
            raise DefinitionError(f"{self.overflow!r} is no way to overflow; it is one of {', '.join(_OVERFLOWS)}")


class Letter:
    """A message under way. `reply` is what an asker waits for; `timer` is a call that is due, in place of a message."""

    __slots__ = ("message", "reply", "timer")

    def __init__(self, message: Any, reply: asyncio.Future[Any] | None = None, timer: Callable[[], None] | None = None):
        self.message, self.reply, self.timer = message, reply, timer

    def answer(self, value: Any, error: BaseException | None = None) -> None:
        """Tell the asker, if there is one and it still waits."""
        if self.reply is None or self.reply.done():
            return
        if error is None:
            self.reply.set_result(value)
        else:
            # a future can't hold a StopIteration
            self.reply.set_exception(RuntimeError(repr(error)) if isinstance(error, StopIteration) else error)


class Box:
    """What waits for one actor, oldest first."""

    __slots__ = ("_kept", "_putters", "dropped", "messages")

    def __init__(self) -> None:
        self._kept: deque[Letter] | None = None  # most actors are idle, and an empty deque takes 700 bytes
        self._putters: deque[asyncio.Future[None]] | None = None
        self.messages = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._kept) if self._kept is not None else 0

    def add(self, letter: Letter) -> None:
        """Put a letter in without asking for room."""
        if self._kept is None:
            self._kept = deque()
        self._kept.append(letter)
        self.messages += letter.timer is None

    def offer(self, letter: Letter, policy: Mailbox, actor: str) -> bool:
        """Put a letter in if there is room, or do what the policy says; whether it is in.

        Raises:
            MailboxFull: there is no room, and the policy is to refuse.
        """
        if self.messages >= policy.size:
            error = MailboxFull(
                f"{policy.size} messages wait for {actor} already; use put() to wait for room, or another Mailbox",
                actor=actor, limit=policy.size,
            )  # fmt: skip
            if policy.overflow == "refuse":
                raise error
            self.dropped += 1
            if policy.overflow == "drop-newest":
                letter.answer(None, error)
                return False
            self._oldest().answer(None, error)
        self.add(letter)
        return True

    def take(self) -> Letter:
        """The oldest letter; whoever waits for room gets it."""
        if not self._kept:
            raise InternalError("a letter was taken from an empty mailbox")
        letter = self._kept.popleft()
        if not self._kept:
            self._kept = None
        if letter.timer is None:
            self.messages -= 1
            self.wake()
        return letter

    async def room(self, policy: Mailbox, loop: asyncio.AbstractEventLoop) -> None:
        """Wait until there may be room, behind those that wait already."""
        while self.messages >= policy.size:
            waiter = loop.create_future()
            if self._putters is None:
                self._putters = deque()
            self._putters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.cancelled() and waiter in self._putters:
                    self._putters.remove(waiter)
                else:
                    self.wake()  # the room that was given to a waiter that is gone is the next one's
                raise

    def wake(self) -> None:
        """Tell the first of those that wait for room."""
        while self._putters:
            waiter = self._putters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def empty(self, error: Callable[[], BaseException]) -> int:
        """The actor has ended: tell the askers of all letters, and those that wait for room; how many messages are lost."""
        lost, self.messages = self.messages, 0
        kept, self._kept = self._kept or (), None
        for letter in kept:
            letter.answer(None, error())
        while self._putters:
            self.wake()
        return lost

    def _oldest(self) -> Letter:
        kept = self._kept or deque()
        oldest = next(letter for letter in kept if letter.timer is None)
        kept.remove(oldest)
        self.messages -= 1
        return oldest
