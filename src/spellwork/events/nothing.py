"""Owns the value that says that there is no item now, as None may be an item.
It must never reach a user.
"""

from __future__ import annotations

import enum
from typing import Final, Literal, TypeAlias


class Nothing(enum.Enum):
    """No item."""

    NOTHING = "nothing"


NOTHING: Final = Nothing.NOTHING
NoItem: TypeAlias = Literal[Nothing.NOTHING]
