"""Owns the one place where user code is called with everything it may raise caught.
It must never hide an error: the outcome carries it to whoever asked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any


def attempt(function: Callable[..., Any], *args: Any) -> tuple[Any, BaseException | None]:
    """Call `function`: its value and None, or None and what it raised. Only KeyboardInterrupt passes."""
    try:
        return function(*args), None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - the supervision point
        return None, error


async def each_in_turn(steps: Iterable[Callable[[], Awaitable[Any] | None]]) -> None:
    """Do one after the other, whatever becomes of those before; raises the first error in the end.

    A coroutine that is dropped in the middle (`GeneratorExit`) has no loop any more on which the others could be waited for.
    """
    problems: list[BaseException] = []
    for step in steps:
        try:
            waiting = step()
            if waiting is not None:
                await waiting
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001 - a supervision point: all of them have their turn
            problems.append(error)
    if problems:
        raise problems[0]
