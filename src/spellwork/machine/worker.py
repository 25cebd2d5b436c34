"""Owns the turn of an actor: a task that exists only while there is something to do, orders first, then messages.
It must never do two things at a time for one actor.
"""

from __future__ import annotations

import abc
import asyncio
import contextvars
import inspect
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from spellwork.supervision import attempt

if TYPE_CHECKING:
    from spellwork.machine.system import ActorSystem

_TURN = 64  # messages before others on the loop get their turn
current: contextvars.ContextVar[Any] = contextvars.ContextVar("spellwork_actor", default=None)
Order = Callable[[], Awaitable[None]]


class Worker(abc.ABC):
    """What an actor does, in order. An order is what its supervisor wants of it, and comes before any message."""

    __slots__ = ("_doing", "_hurried", "_orders", "_task", "path", "system")

    def __init__(self, system: ActorSystem, path: str):
        self.system, self.path = system, path
        self._orders: deque[Order] | None = None
        self._task: asyncio.Task[None] | None = None
        self._doing: asyncio.Task[Any] | None = None
        self._hurried = False

    async def guarded(self, function: Callable[..., Any], *args: Any) -> tuple[Any, BaseException | None]:
        """Call user code: what it gives, awaited in a task of its own if need be, and what it raised."""
        value, error = attempt(function, *args)
        if value is None or not inspect.isawaitable(value):
            return value, error
        doing = self._doing = self.system.loop.create_task(_awaited(value))
        if self._hurried:
            self.system.loop.call_soon(doing.cancel)  # after its first step, which may be all there is
        await asyncio.wait([doing])
        self._doing = None
        if doing.cancelled():
            return None, asyncio.CancelledError(f"{self.path} was interrupted")
        error = doing.exception()
        if isinstance(error, KeyboardInterrupt):
            raise error
        return (None, error) if error is not None else (doing.result(), None)

    @abc.abstractmethod
    def _ready(self) -> bool:
        """Whether messages may be handled."""

    @abc.abstractmethod
    async def _next(self) -> bool:
        """Handle one message; False if there is none."""

    async def _work(self) -> None:
        current.set(self)
        turn = 0
        try:
            while True:
                if self._orders:
                    await self._orders.popleft()()
                elif not self._ready() or not await self._next():
                    self._orders = None
                    return
                turn += 1
                if turn % _TURN == 0:
                    await asyncio.sleep(0)
        finally:
            self._task = None

    def _wake(self) -> None:
        if self._task is None and (self._orders or self._ready()):
            self._task = self.system.run(self._work())

    def _order(self, order: Order) -> None:
        if self._orders is None:
            self._orders = deque()
        self._orders.append(order)
        self._wake()

    async def _obeyed(self, order: Order) -> None:
        done: asyncio.Future[None] = self.system.loop.create_future()

        async def obey() -> None:
            await order()
            if not done.done():
                done.set_result(None)

        self._order(obey)
        await done


async def _awaited(value: Awaitable[Any]) -> Any:
    return await value
