"""Owns one task that follows the topics: it looks, does what is to be done, and waits for news.
It must never end while its engine is open: what the store did not let it do is tried again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from spellwork.errors import StoreClosed, StoreError

if TYPE_CHECKING:
    from spellwork.events.durable.topics import Topics
    from spellwork.events.durable.watch import Listener

log = logging.getLogger("spellwork.engine")
_PAUSE = 1.0


class Follower:
    """Calls `look` whenever something was published; it says whether there may be more, or None when the store did not let it."""

    def __init__(self, topics: Topics, look: Callable[[], Awaitable[bool | None]], ended: Callable[[BaseException], None]):
        self._topics = topics
        self._look = look
        self._ended = ended
        self._task: asyncio.Task[None] | None = None
        self._awaited: Listener | None = None
        self._waker: Callable[[], None] = lambda: None

    def wake(self) -> None:
        """There may be something to do."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="spellwork-dispatch")
            self._task.add_done_callback(self._over)
        self._waker()

    @property
    def is_awake(self) -> bool:
        """Whether it was ever woken, and has not ended."""
        return self._task is not None and not self._task.done()

    @property
    def busy(self) -> bool:
        """Whether it may have something to do: all that was committed is not known to be done."""
        return self.is_awake and (self._awaited is None or self._awaited.woken)

    async def close(self) -> None:
        """Stop, for good."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _over(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._ended(error)

    async def _run(self) -> None:
        while True:
            try:
                with self._topics.watch.listening(lambda _topic, group: not group) as news:
                    self._waker = news.wake
                    await self._follow(news)
            except StoreClosed:
                return
            except StoreError as error:  # it has ended what listened
                log.warning("events are not noticed for now, once more in a second: %s", error)
                await asyncio.sleep(_PAUSE)

    async def _follow(self, news: Listener) -> None:
        while True:
            news.clear()
            more = await self._look()
            if more is None:
                await asyncio.sleep(_PAUSE)
            elif not more:
                self._awaited = news
                await news.wait()
                self._awaited = None
