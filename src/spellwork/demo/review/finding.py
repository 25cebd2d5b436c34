"""What a review says: a finding at one line, and the findings of one file.

It holds plain data only and must never carry a syntax tree, an open file or the text of a secret.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Severity = Literal["high", "medium", "low"]

SEVERITIES: tuple[Severity, ...] = ("high", "medium", "low")


class Finding(msgspec.Struct, frozen=True):
    """One thing wrong at one line (counted from 1) of one file, and which analyser saw it."""

    path: str
    line: int
    rule: str
    severity: Severity
    message: str
    analyser: str


class FileReview(msgspec.Struct, frozen=True):
    """All that one file's review found; `sha256` is of the reviewed bytes ("" if unreadable).

    `functions` counts functions and methods; `max_complexity` is the greatest cyclomatic
    complexity among them, 0 where there are none.
    """

    path: str
    sha256: str
    lines: int
    findings: list[Finding]
    functions: int
    max_complexity: int


def by_gravity(finding: Finding) -> tuple[int, int, str, str]:
    """Sort key within one file: gravest first, then by line and rule."""
    return (SEVERITIES.index(finding.severity), finding.line, finding.rule, finding.message)
