"""Owns values that must not leave the process: they can be passed around and revealed, not stored, printed or formatted.
It must never show its value in any text.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Any, Generic, NoReturn, TypeVar

T = TypeVar("T")

REFUSAL = (
    "a Secret is never stored: pass the name of the secret instead and read it where it is used, or reveal() it there "
    "if it may be stored"
)


class Secret(Generic[T]):
    """Holds a value that shows itself to `reveal()` alone: `Secret(os.environ["TOKEN"])`.

    As text it is `Secret('***')`; the codec refuses it with the path to it, pickle refuses it, and two are equal when their values
    are. An exception that holds one is stored without it.
    """

    __slots__ = ("_reveal",)

    def __init__(self, value: T) -> None:
        # in a closure, so that whoever walks over attributes (a debugger, an error report) does not meet it
        self._reveal: Callable[[], T] = lambda: value

    def reveal(self) -> T:
        """The value."""
        return self._reveal()

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__

    def __format__(self, _spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        mine, theirs = self.reveal(), other.reveal()
        if isinstance(mine, str) and isinstance(theirs, str):
            return hmac.compare_digest(mine.encode("utf-8", "surrogatepass"), theirs.encode("utf-8", "surrogatepass"))
        if isinstance(mine, bytes) and isinstance(theirs, bytes):
            return hmac.compare_digest(mine, theirs)
        return bool(mine == theirs)

    def __hash__(self) -> int:
        return hash(self.reveal())

    def __bool__(self) -> bool:
        return bool(self.reveal())

    def __copy__(self) -> Secret[T]:
        return self

    def __deepcopy__(self, _memo: Any) -> Secret[T]:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(REFUSAL)
