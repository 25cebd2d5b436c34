"""Owns waking whoever waits for events: one look at the touched rows for everybody, whenever something was committed.
It must never wake without need: a look costs one read, however many wait.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from spellwork.errors import StoreClosed, StoreError
from spellwork.events.durable.keys import names_of
from spellwork.events.durable.reading import touched
from spellwork.store import Store

_PAUSE = 0.002

Wanted = Callable[[str, str], bool]
"""Whether news of a topic and a group (empty: of the topic's log) are wanted."""


class Listener:
    """Waits for news: `clear` it, read, and then `wait`, so that nothing that comes in between is missed."""

    def __init__(self, wanted: Wanted):
        self.wanted = wanted
        self._woken = asyncio.Event()
        self._end: StoreError | None = None

    def wake(self) -> None:
        """There may be something to do."""
        self._woken.set()

    def end(self, error: StoreError) -> None:
        """There will be no news any more."""
        self._end = error
        self._woken.set()

    def clear(self) -> None:
        """From here on, news count; raises what ended the watch."""
        self._woken.clear()
        if self._end is not None:
            raise self._end

    @property
    def woken(self) -> bool:
        """Whether there are news that were not taken up."""
        return self._woken.is_set()

    async def wait(self) -> None:
        """Wait for news."""
        await self._woken.wait()


class Watch:
    """Wakes listeners when a topic or a group they want has changed, by this process or another one."""

    def __init__(self, store: Store):
        self._store = store
        self._listeners: list[Listener] = []
        self._seen: dict[bytes, int] = {}
        self._stop: Callable[[], None] | None = None
        self._task: asyncio.Task[bool] | None = None
        self._again = False
        self._pause: asyncio.TimerHandle | None = None

    @contextlib.contextmanager
    def listening(self, wanted: Wanted) -> Iterator[Listener]:
        """A listener to what is wanted."""
        listener = Listener(wanted)
        self._listeners.append(listener)
        if self._stop is None:
            self._stop = self._store.on_change(self._changed, calm=True)
        try:
            yield listener
        finally:
            if listener in self._listeners:
                self._listeners.remove(listener)
            if not self._listeners:
                self._rest()

    @property
    def busy(self) -> bool:
        """Whether something was committed that was not looked at."""
        return self._task is not None or self._pause is not None

    def close(self, error: StoreError | None = None) -> None:
        """Look no more; who listens gets `error`."""
        error = error or StoreClosed("the store is closed; open it again to read on")
        listeners, self._listeners = self._listeners, []
        self._rest()
        for listener in listeners:
            listener.end(error)

    def _rest(self) -> None:
        if self._stop is not None:
            self._stop()
            self._stop = None
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None

    def _changed(self) -> None:
        self._again = True
        if self._task is None and self._pause is None and self._stop is not None:
            self._task = asyncio.get_running_loop().create_task(self._look())
            self._task.add_done_callback(self._looked)

    def _looked(self, task: asyncio.Task[bool]) -> None:
        self._task = None
        if task.cancelled() or not self._again or self._stop is None:
            return
        if task.result():
            self._changed()
        else:  # others commit what is none of our business: not at each of their commits
            self._pause = asyncio.get_running_loop().call_later(_PAUSE, self._rested)

    def _rested(self) -> None:
        self._pause = None
        self._changed()

    async def _look(self) -> bool:
        """Wake who is concerned; whether there were any news."""
        self._again = False
        try:
            rows = await self._store.read(touched)
        except StoreError as error:
            self.close(error)
            return False
        current = dict(rows)
        gone = [names_of(key) for key in self._seen.keys() - current.keys()]  # topics that were deleted
        # a group's row that is damaged has lost its version (0): it may always have changed
        news = [names_of(key) for key, version in rows if self._seen.get(key) != version or not version] + gone
        self._seen = current
        for listener in self._listeners:
            wanted = [listener.wanted(*names) for names in news]  # all of them: a listener may note which they were
            if any(wanted):
                listener.wake()
        return bool(news)
