"""Owns the workflow of a review and its activities: discover, analyse each file, wait for approval, write the report.
It must never decide in the workflow by anything but its arguments, its activities' results and its signal.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from pathlib import Path
from typing import Literal

import msgspec

from spellwork import Retry, Signal, activity, activity_context, workflow
from spellwork.demo.pipeline.ledger import Ledger, Line
from spellwork.demo.review import (
    FileReview,
    FileTotal,
    Report,
    discover,
    find_ruff,
    merge,
    render_json,
    render_markdown,
    review_file,
)

APPROVAL = Signal[bool]("approval")
LEDGER = "ledger.jsonl"
REPORT = "report.md"
FINDINGS = "findings.json"


class Plan(msgspec.Struct, frozen=True):
    """What is to be reviewed, and by which ruff: chosen once, so that a resumed review does not mix two programs."""

    paths: list[str]
    ruff: str | None


class Analysis(msgspec.Struct, frozen=True):
    """The review of one file, and the token of the ledger line that its attempt wrote."""

    review: FileReview
    token: str


class Outcome(msgspec.Struct, frozen=True):
    """What became of a review: where its two files are (if it was approved), and its totals."""

    status: Literal["written", "rejected"]
    files: int
    lines: int
    by_severity: dict[str, int]
    worst: list[FileTotal]
    report: str | None = None
    findings: str | None = None


@activity
def discover_files(root: str) -> Plan:
    """Choose what is reviewed."""
    return Plan(discover(root), find_ruff())


@activity(retry=Retry(max_attempts=5, initial=0.2))
def analyse_file(root: str, path: str, ruff: str | None, out: str) -> Analysis:
    """Review one file, and put it on the ledger before the result can be committed."""
    result = review_file(root, path, ruff)
    context = activity_context()
    token = secrets.token_hex(8)
    line = Line(context.run_id, path, result.sha256, context.idempotency_key, token, os.getpid())
    Ledger(Path(out) / LEDGER).append(line)
    return Analysis(result, token)


@activity
def write_report(report: Report, out: str) -> tuple[str, str]:
    """Write both forms of the report, each as a whole or not at all; a second attempt writes the same bytes."""
    folder = Path(out)
    return _write(folder / REPORT, render_markdown(report)), _write(folder / FINDINGS, render_json(report))


def _write(file: Path, text: str) -> str:
    draft = file.with_name(f".{file.name}.draft")
    with draft.open("w", encoding="utf-8", newline="\n") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    draft.replace(file)
    return str(file)


ACTIVITIES = (discover_files, analyse_file, write_report)


@workflow
async def review(root: str, out: str, width: int) -> Outcome:
    """Review the Python files under `root`, `width` at a time, and report into `out` once a person approves."""
    plan = await discover_files(root)
    slots = asyncio.Semaphore(width)

    async def analyse(path: str) -> FileReview:
        async with slots:
            analysis = await analyse_file(root, path, plan.ruff, out)
        return analysis.review

    report = merge(await asyncio.gather(*(analyse(path) for path in plan.paths)))
    outcome = Outcome("rejected", report.files, report.lines, report.by_severity, report.worst)
    if not await APPROVAL.receive():
        return outcome
    written, findings = await write_report(report, out)
    return msgspec.structs.replace(outcome, status="written", report=written, findings=findings)
