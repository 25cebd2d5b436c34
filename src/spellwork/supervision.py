"""Owns the one place where user code is called with everything it may raise caught.
It must never hide an error: the outcome carries it to whoever asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def attempt(function: Callable[..., Any], *args: Any) -> tuple[Any, BaseException | None]:
    """Call `function`: its value and None, or None and what it raised. Only KeyboardInterrupt passes."""
    try:
        return function(*args), None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - the supervision point
        return None, error
