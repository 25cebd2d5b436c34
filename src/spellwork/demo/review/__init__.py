"""The pure analysers of the durable code review: which files, what is wrong in each, one report.

It must never import the engine, write to the reviewed tree or keep state between two files.
"""

from spellwork.demo.review.discover import discover, locate
from spellwork.demo.review.finding import FileReview, Finding, Severity
from spellwork.demo.review.lint import RuffFailed, find_ruff, ruff_findings
from spellwork.demo.review.report import FileTotal, Report, merge, render_json, render_markdown
from spellwork.demo.review.review import review_file

__all__ = [
    "FileReview",
    "FileTotal",
    "Finding",
    "Report",
    "RuffFailed",
    "Severity",
    "discover",
    "find_ruff",
    "locate",
    "merge",
    "render_json",
    "render_markdown",
    "review_file",
    "ruff_findings",
]
