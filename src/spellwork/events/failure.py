"""Owns `Failure`: what is told of an error in somebody's function that must not hurt anybody else.
It must never hold the error itself, so that it can be published, stored and sent.
"""

from __future__ import annotations

import msgspec


class Failure(msgspec.Struct, frozen=True):
    """`where` (a processor or handler) failed at an event of `topic` with `id`; `type` and `message` tell of the error."""

    where: str
    topic: str
    id: str | None
    type: str
    message: str

    @classmethod
    def of(cls, where: str, topic: str, id: str | None, error: BaseException) -> Failure:
        """The failure that an error is."""
        return cls(where, topic, id, type(error).__qualname__, str(error))
