"""Owns the check of texts that name things: ids, names, reasons.
It must never call a method of what it checks: a subclass of str may do anything in it.
"""

from __future__ import annotations

from typing import Any

from spellwork.errors import PayloadError

NAME_BYTES = 512
REASON_BYTES = 8192


def check_name(value: Any, what: str) -> str:
    """`value` if it can name something: 1 to 512 bytes of text without control characters; raises `PayloadError`."""
    text = _checked(value, what, NAME_BYTES)
    if not text or any(ord(letter) < 32 for letter in text):
        raise PayloadError(f"{what}: must be 1 to {NAME_BYTES} bytes of text without control characters", path=what)
    return text


def check_reason(value: Any, what: str = "reason") -> str:
    """`value` if it is a text of at most 8 KiB; raises `PayloadError`."""
    return _checked(value, what, REASON_BYTES)


def _checked(value: Any, what: str, most: int) -> str:
    if type(value) is not str:
        raise PayloadError(f"{what}: must be a text (str), not {type(value).__qualname__}", path=what)
    if len(value) <= most:
        try:
            size = len(value.encode())
        except UnicodeEncodeError as error:
            raise PayloadError(f"{what}: {value[:80]!r} is no text that can be stored: {error.reason}", path=what) from error
        if size <= most:
            return value
    limits = f"1 to {most} bytes of text without control characters" if most == NAME_BYTES else f"at most {most} bytes of text"
    raise PayloadError(f"{what}: must be {limits}", path=what)
