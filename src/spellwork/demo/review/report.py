"""The whole review as one report: totals, worst files, and its two written forms.

It must never depend on the order in which the files were reviewed, or on when.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

from spellwork.demo.review.finding import SEVERITIES, FileReview, Finding, Severity, by_gravity

WORST_FILES = 10
LOW_PER_FILE = 5


class FileTotal(msgspec.Struct, frozen=True):
    """How many findings of each severity one file has."""

    path: str
    high: int
    medium: int
    low: int


class Report(msgspec.Struct, frozen=True):
    """All reviews, sorted by path, with their totals; `by_…` count findings."""

    files: int
    lines: int
    functions: int
    max_complexity: int
    by_severity: dict[str, int]
    by_rule: dict[str, int]
    worst: list[FileTotal]
    reviews: list[FileReview]


def merge(reviews: Iterable[FileReview]) -> Report:
    """Put reviews, in any order, together; of two of one path the same one always counts."""
    each = {review.path: review for review in sorted(reviews, key=lambda r: (r.path, r.sha256, len(r.findings)))}
    kept = list(each.values())
    findings = [finding for review in kept for finding in review.findings]
    severities = Counter(finding.severity for finding in findings)
    rules = Counter(finding.rule for finding in findings)
    totals = [_total(review) for review in kept if review.findings]
    totals.sort(key=lambda total: (-total.high, -total.medium, -total.low, total.path))
    return Report(
        files=len(kept),
        lines=sum(review.lines for review in kept),
        functions=sum(review.functions for review in kept),
        max_complexity=max((review.max_complexity for review in kept), default=0),
        by_severity={severity: severities[severity] for severity in SEVERITIES},
        by_rule=dict(sorted(rules.items())),
        worst=totals[:WORST_FILES],
        reviews=kept,
    )


def render_json(report: Report) -> str:
    """Return the report as indented JSON whose order depends on its content only."""
    return msgspec.json.format(msgspec.json.encode(report, order="deterministic"), indent=2).decode() + "\n"


def render_markdown(report: Report, low_per_file: int = LOW_PER_FILE) -> str:
    """Return the report for reading: totals, the worst files, then each file that has findings.

    Of a file's findings of low severity `low_per_file` are shown and the others are counted.
    """
    total = sum(report.by_severity.values())
    parts = [
        "# Code review",
        f"{_count(total, 'finding')} in {_count(report.files, 'file')} ({_count(report.lines, 'line')}, "
        f"{_count(report.functions, 'function')}, greatest complexity {report.max_complexity}).",
    ]
    if total:
        parts += [
            "## Summary",
            _severity_table(report),
            _rule_table(report),
            "## Worst files",
            _worst_table(report),
        ]
        parts += [
            "## Findings",
            *(_file(review, low_per_file) for review in report.reviews if review.findings),
        ]
    return "\n\n".join(parts) + "\n"


def _severity_table(report: Report) -> str:
    rows = [f"| {severity} | {report.by_severity[severity]} |" for severity in SEVERITIES]
    return "\n".join(["| severity | findings |", "| --- | ---: |", *rows])


def _rule_table(report: Report) -> str:
    gravest: dict[str, Severity] = {}
    for finding in sorted((f for review in report.reviews for f in review.findings), key=by_gravity):
        gravest.setdefault(finding.rule, finding.severity)
    order = sorted(gravest, key=lambda rule: (SEVERITIES.index(gravest[rule]), -report.by_rule[rule], rule))
    rows = [f"| `{rule}` | {gravest[rule]} | {report.by_rule[rule]} |" for rule in order]
    return "\n".join(["| rule | gravest | findings |", "| --- | --- | ---: |", *rows])


def _worst_table(report: Report) -> str:
    rows = [f"| {_code(file.path)} | {file.high} | {file.medium} | {file.low} |" for file in report.worst]
    return "\n".join(["| file | high | medium | low |", "| --- | ---: | ---: | ---: |", *rows])


def _file(review: FileReview, low_per_file: int) -> str:
    grave = [finding for finding in review.findings if finding.severity != "low"]
    low = [finding for finding in review.findings if finding.severity == "low"]
    rows = [_row(finding) for finding in grave + low[:low_per_file]]
    left_out = len(low) - low_per_file
    if left_out > 0:
        rows.append(f"- … and {left_out} more of low severity, left out here")
    return f"### {_code(review.path)}\n\n" + "\n".join(rows)


def _row(finding: Finding) -> str:
    return f"- **{finding.severity}** line {finding.line} `{finding.rule}`: {_plain(finding.message)}"


def _total(review: FileReview) -> FileTotal:
    counts = Counter(finding.severity for finding in review.findings)
    return FileTotal(review.path, counts["high"], counts["medium"], counts["low"])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("<", "&lt;")


def _code(path: str) -> str:
    # A path may hold anything but "/": nothing in it may end the code span or the table cell.
    return "`" + " ".join(path.split()).replace("`", "'").replace("|", "\\|") + "`"
