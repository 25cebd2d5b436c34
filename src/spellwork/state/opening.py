"""Owns opening a store for its state.
It must never leave anything open if that fails.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping
from types import TracebackType
from typing import Any, Literal

from spellwork.clock import Clock, Duration
from spellwork.codec import Codec
from spellwork.state.operators import Operator
from spellwork.state.store import MAX_PENDING, MERGE_WINDOW, StateStore
from spellwork.store import Encryption, Store
from spellwork.store import open_store as open_low_level
from spellwork.store.committer import Probe


class Opening:
    """A store that is about to be opened: `await` it, or use it with `async with`."""

    def __init__(self, low: Callable[[], Store], options: dict[str, Any]):
        self._low = low
        self._options = options
        self._store: StateStore | None = None

    async def _open(self) -> StateStore:
        async with contextlib.AsyncExitStack() as undo:
            low = self._low()
            undo.push_async_callback(low.close)
            store = await StateStore(low, owns=True, **self._options).__aenter__()
            undo.pop_all()
        return store

    def __await__(self) -> Generator[Any, None, StateStore]:
        return self._open().__await__()

    async def __aenter__(self) -> StateStore:
        self._store = await self._open()
        return self._store

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._store is not None:
            await self._store.__aexit__(kind, error, traceback)


def open_store(  # noqa: PLR0913 - each is an option with a default
    url: str,
    *,
    durability: str | None = None,
    clock: Clock | None = None,
    create: bool = True,
    probe: Probe | None = None,
    encryption: Encryption | None = None,
    codec: Codec | None = None,
    operators: Mapping[str, Operator] | None = None,
    max_pending: int = MAX_PENDING,
    when_full: Literal["wait", "refuse"] = "wait",
    merge_window: Duration = MERGE_WINDOW,
    sweep: bool = True,
) -> Opening:
    """Open a store for its state, `memory:` or `sqlite:PATH`: await it, or use it with `async with`.

    `url`, `durability`, `clock`, `create` and `encryption` are those of `spellwork.store.open_store`; the others are explained at
    `StateStore`.
    """
    options = {
        "codec": codec,
        "operators": operators,
        "max_pending": max_pending,
        "when_full": when_full,
        "merge_window": merge_window,
        "sweep": sweep,
    }

    def low() -> Store:
        return open_low_level(url, durability=durability, clock=clock, create=create, probe=probe, encryption=encryption)

    return Opening(low, options)
