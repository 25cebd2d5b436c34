"""Owns the retry policy of activities.
It must never sleep: it only says whether and how long to wait.
"""

from __future__ import annotations

import msgspec

from spellwork.clock import LONGEST, Duration, is_duration, seconds
from spellwork.errors import DefinitionError, PayloadError, SpellworkError

_STEEPEST = 1000.0


class Retry(msgspec.Struct, frozen=True):
    """How often an activity is tried, and how long to wait between attempts.

    The wait before attempt k+1 is `initial * backoff ** (k - 1)` seconds, at most `maximum`, spread by `jitter` (0.2: ±20 %).
    `max_attempts=0` tries for ever. Errors of a class in `non_retryable` (and values that cannot be stored) are final at once.
    """

    max_attempts: int = 3
    initial: Duration = 0.5
    backoff: float = 2.0
    maximum: Duration = 60.0
    jitter: float = 0.2
    non_retryable: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        problems = [
            (type(self.max_attempts) is not int or self.max_attempts < 0, "max_attempts must be 0 (for ever) or a number above it"),
            (not is_duration(self.initial), f"initial must be 0 to {LONGEST:g} seconds"),
            (not is_duration(self.backoff) or not 1 <= self.backoff <= _STEEPEST, f"backoff must be 1 to {_STEEPEST:g}"),
            (not is_duration(self.maximum), f"maximum must be 0 to {LONGEST:g} seconds"),
            (not is_duration(self.jitter) or self.jitter > 1, "jitter must be between 0 and 1"),
        ]
        for wrong, message in problems:
            if wrong:
                raise DefinitionError(f"Retry: {message}")

    def wait_after(self, attempt: int, error: BaseException, spread: float) -> float | None:
        """Seconds to wait after the failed `attempt` (from 1), or None when it was the last. `spread` is in [0, 1)."""
        if self.max_attempts and attempt >= self.max_attempts:
            return None
        if isinstance(error, (*self.non_retryable, PayloadError)):
            return None
        if isinstance(error, SpellworkError) and error.code == "definition":
            return None
        # the exponent is bounded so that a float cannot overflow on the way to the maximum
        wait = min(seconds(self.initial) * self.backoff ** min(attempt - 1, 64), seconds(self.maximum))
        return wait * (1 + self.jitter * (2 * spread - 1))
