"""That a report is the same for the same files, complete as JSON and readable as Markdown."""

import random
from pathlib import Path

import msgspec

from spellwork.demo.review import (
    FileReview,
    Finding,
    Report,
    discover,
    merge,
    render_json,
    render_markdown,
    review_file,
)

PLANTED = Path(__file__).parent / "planted"


def reviews() -> list[FileReview]:
    """Review a grave, a clean and a merely untidy file."""
    found = [review_file(PLANTED, path, None) for path in discover(PLANTED)]
    low = [Finding("low.py", n, "assert-in-code", "low", "a | b <c>", "weaknesses") for n in range(9)]
    return [*found, FileReview("low.py", "00", 9, low, 0, 0)]


def test_a_report_does_not_depend_on_the_order_of_reviews():
    """Files that finish in any order, even twice, give the same bytes."""
    expected = merge(reviews())
    for seed in range(10):
        shuffled = reviews() * 2
        random.Random(seed).shuffle(shuffled)
        report = merge(shuffled)
        assert render_json(report) == render_json(expected)
        assert render_markdown(report) == render_markdown(expected)


def test_a_report_counts_by_severity_and_rule_and_ranks_the_worst():
    """Three grave findings outrank nine slight ones; a clean file is not among the worst."""
    report = merge(reviews())
    assert report.by_severity == {"high": 3, "medium": 0, "low": 9}
    assert report.by_rule["weak-hash"] == 1
    assert [total.path for total in report.worst] == ["auth.py", "low.py"]


def test_a_json_report_can_be_read_back():
    """The JSON form holds the whole report."""
    report = merge(reviews())
    assert msgspec.json.decode(render_json(report), type=Report) == report


def test_a_markdown_report_shows_lines_and_says_what_it_leaves_out():
    """Grave findings are all shown; of the slight ones five, and the number of the others."""
    text = render_markdown(merge(reviews()))
    assert "12 findings in 3 files" in text
    assert "- **high** line 15 `weak-hash`:" in text
    assert text.count("`assert-in-code`: a | b &lt;c>") == 5
    assert "… and 4 more of low severity" in text


def test_a_report_on_nothing_says_so():
    """No files and no findings still make a report."""
    assert render_markdown(merge([])).startswith("# Code review\n\n0 findings in 0 files")
