"""The review of one file: every analyser over it, as one sorted list without repetitions.

It must never fail because of what is in the file: that is itself a finding.
"""

from __future__ import annotations

import hashlib
import os

from spellwork.demo.review.complexity import complexity_hits, measure
from spellwork.demo.review.discover import locate
from spellwork.demo.review.finding import FileReview, Finding, by_gravity
from spellwork.demo.review.lint import ruff_findings
from spellwork.demo.review.secrets import secret_hits
from spellwork.demo.review.source import Hit, Unreviewable, parse
from spellwork.demo.review.weaknesses import weakness_hits

# What ruff also sees where an analyser here has already said it.
_SAME_AS = {"ruff-E722": "bare-except"}


def review_file(root: str | os.PathLike[str], path: str, ruff: str | None) -> FileReview:
    """Review the file that `discover(root)` called `path`, with the ruff program if one is given.

    Raises:
        RuffFailed: ruff gave no usable answer.
    """
    try:
        data = locate(root, path).read_bytes()
    except OSError as error:
        hit = Hit(1, "unreadable", "medium", f"cannot be read: {error.strerror}")
        return FileReview(path, "", 0, _findings(path, "review", [hit]), 0, 0)
    review = review_source(path, data)
    if ruff is None or any(finding.rule in {"syntax-error", "unreadable"} for finding in review.findings):
        return review
    return _with(review, ruff_findings(root, path, ruff=ruff))


def review_source(path: str, data: bytes) -> FileReview:
    """Review a file's bytes with the analysers that need no other program."""
    digest = hashlib.sha256(data).hexdigest()
    lines = len(data.splitlines())
    try:
        source = parse(path, data)
    except Unreviewable as error:
        return FileReview(path, digest, lines, _findings(path, "review", [error.hit]), 0, 0)
    measures = measure(source)
    findings = _findings(path, "secrets", list(secret_hits(source)))
    findings += _findings(path, "weaknesses", list(weakness_hits(source)))
    findings += _findings(path, "complexity", complexity_hits(measures))
    greatest = max((each.complexity for each in measures), default=0)
    return _with(FileReview(path, digest, lines, [], len(measures), greatest), findings)


def _findings(path: str, analyser: str, hits: list[Hit]) -> list[Finding]:
    return [Finding(path, hit.line, hit.rule, hit.severity, hit.message, analyser) for hit in hits]


def _with(review: FileReview, more: list[Finding]) -> FileReview:
    kept: dict[tuple[int, str], Finding] = {}
    for finding in sorted([*review.findings, *more], key=by_gravity):
        rule = _SAME_AS.get(finding.rule, finding.rule)
        same = kept.get((finding.line, rule))
        if same is None or same.analyser == "ruff":
            kept[finding.line, rule] = finding
    ordered = sorted(kept.values(), key=by_gravity)
    return FileReview(review.path, review.sha256, review.lines, ordered, review.functions, review.max_complexity)
