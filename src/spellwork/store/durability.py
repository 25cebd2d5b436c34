"""Owns the levels of durability: when a commit is acknowledged, and what a power cut may take.
It must never let a level pass for another one.
"""

from __future__ import annotations

import re

import msgspec

from spellwork.errors import DefinitionError


class Durability(msgspec.Struct, frozen=True):
    """When a commit is acknowledged.

    - `full`: after the disk has it. The default.
    - `batched(ms)`: at once; the disk has it at most about `ms` milliseconds later. A power cut loses at most that window.
    - `relaxed`: at once; the disk has it at the next checkpoint. A power cut may lose the last moments, a killed process nothing.
    - `memory`: only for `memory:` stores, which survive nothing.
    """

    name: str
    sync_every: float | None

    @classmethod
    def parse(cls, text: str) -> Durability:
        """A level from its name, such as "full" or "batched(10)"."""
        if text == "full":
            return cls("full", 0.0)
        if text in ("relaxed", "memory"):
            return cls(text, None)
        match = re.fullmatch(r"batched\((\d+(?:\.\d+)?)\)", text)
        if match and float(match[1]) > 0:
            return cls(text, float(match[1]) / 1000)
        raise DefinitionError(f'unknown durability {text!r}; use "full", "batched(MILLISECONDS)", "relaxed" or "memory"')
