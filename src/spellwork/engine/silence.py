"""Owns the redaction of the library's own log lines while an engine with rules is open.
It must never touch the records of other loggers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from spellwork.codec import Redaction

_LOGGERS = ("spellwork", "spellwork.engine", "spellwork.events", "spellwork.machine", "spellwork.state", "spellwork.workflow")
_formatted = logging.Formatter().formatException


class _Filter(logging.Filter):
    def __init__(self, redaction: Redaction):
        super().__init__()
        self._redaction = redaction

    def filter(self, record: logging.LogRecord) -> bool:
        """Replace the message by its redacted form, and the traceback by the text of one."""
        record.msg, record.args = self._redaction.text(record.getMessage()), None
        if record.exc_info and record.exc_info[0] is not None:
            record.exc_text, record.exc_info = _formatted(record.exc_info), None
        if record.exc_text:
            record.exc_text = self._redaction.text(record.exc_text)
        return True


def redact_logs(redaction: Redaction | None) -> Callable[[], None]:
    """Redact what the engine and its workflows log from now on; returns how to stop."""
    if redaction is None:
        return lambda: None
    added = _Filter(redaction)
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addFilter(added)

    def stop() -> None:
        for logger in loggers:
            logger.removeFilter(added)

    return stop
