"""Owns `Signal`: a typed message to a running workflow.
It must never hold messages itself; they live in the journal.
"""

from __future__ import annotations

import typing
from typing import Any, Generic, TypeVar, overload

from spellwork.clock import Duration, seconds
from spellwork.codec.text import check_name
from spellwork.errors import DefinitionError, PayloadError
from spellwork.workflow.verbs import current

T = TypeVar("T")
D = TypeVar("D")


class Signal(Generic[T]):
    """A named, typed channel into a run: `approval = Signal[bool]("approval")`.

    Signals are durable and buffered from the moment the run exists, received in the order in which they were accepted, and
    deduplicated by the sender's `id`.
    """

    def __init__(self, name: str, type: Any = None):  # noqa: A002 - the field's word
        try:
            self.name = check_name(name, "a signal's name")
        except PayloadError as error:
            raise DefinitionError(str(error)) from error
        self._type = type

    @property
    def type(self) -> Any:
        """The annotation of what it carries; Any if it was not given."""
        if self._type is not None:
            return self._type
        alias = getattr(self, "__orig_class__", None)
        return typing.get_args(alias)[0] if alias is not None else Any

    @overload
    async def receive(self) -> T: ...
    @overload
    async def receive(self, timeout: None) -> T: ...
    @overload
    async def receive(self, timeout: Duration) -> T | None: ...
    @overload
    async def receive(self, timeout: Duration, default: D) -> T | D: ...
    async def receive(self, timeout: Duration | None = None, default: Any = None) -> Any:
        """Wait for the next one. After `timeout` (seconds or timedelta, durable) the answer is `default`."""
        return await current("Signal.receive()").receive(self, None if timeout is None else seconds(timeout), default)

    def __repr__(self) -> str:
        return f"<signal {self.name}>"
