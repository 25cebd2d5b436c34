"""Owns the benchmark `import`: what `import spellwork` adds to the start of Python, and which modules it goes to.
It must never measure in this process, where everything is imported already.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time

from spellwork.bench.conditions import Result, load, machine

TIMES = 11
_LINE = re.compile(r"import time:\s*(\d+) \|\s*(\d+) \|\s*(\S+)")


def _start(code: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603 - this interpreter, our own code
    return (time.perf_counter() - began) * 1e3


def slowest(report: str, number: int = 5) -> list[dict[str, object]]:
    """The modules that took longest by themselves, from what `-X importtime` prints."""
    found = sorted(((int(own), name) for own, _, name in _LINE.findall(report)), reverse=True)
    return [{"module": name, "ms": own / 1e3} for own, name in found[:number]]


def run_import(times: int = TIMES) -> list[Result]:
    """Medians of alternating starts, with and without the import."""
    _start("import spellwork")  # compiles what was never imported before
    bare, full = [], []
    for _ in range(times):
        bare.append(_start("pass"))
        full.append(_start("import spellwork"))
    command = [sys.executable, "-X", "importtime", "-c", "import spellwork"]
    report = subprocess.run(command, check=True, capture_output=True, text=True).stderr  # noqa: S603 - as above
    python, total = statistics.median(bare), statistics.median(full)
    return [
        {
            "bench": "import",
            "times": times,
            "import_ms": total - python,
            "python_ms": python,
            "total_ms": total,
            "slowest": slowest(report),
            "durability": None,
            **machine(),
            "load": load(),
        }
    ]
