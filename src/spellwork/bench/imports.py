"""Owns the benchmark `import`: what `import spellwork` adds to the start of Python, and which modules it goes to.
It must never measure in this process, where everything is imported already.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import time

from spellwork.bench.conditions import Result, load, machine, scratch

TIMES = 11
_LINE = re.compile(r"import time:\s*(\d+) \|\s*(\d+) \|\s*(\S+)")


def _environment(cache: str) -> dict[str, str]:
    """Ours, but with compiled modules, as an installer leaves them, in a folder of this measurement."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": cache}


def _start(code: str, environment: dict[str, str], *options: str) -> tuple[float, str]:
    command = [sys.executable, *options, "-c", code]
    began = time.perf_counter()
    done = subprocess.run(command, check=True, env=environment, stderr=subprocess.PIPE, text=True)  # noqa: S603 - our own
    return (time.perf_counter() - began) * 1e3, done.stderr


def slowest(report: str, number: int = 5) -> list[dict[str, object]]:
    """The modules that took longest by themselves, from what `-X importtime` prints."""
    found = sorted(((int(own), name) for own, _, name in _LINE.findall(report)), reverse=True)
    return [{"module": name, "ms": own / 1e3} for own, name in found[:number]]


def run_import(times: int = TIMES) -> list[Result]:
    """Medians of alternating starts, with and without the import."""
    with scratch() as cache:
        environment = _environment(cache)
        _start("import spellwork", environment)  # compiles
        bare, full = [], []
        for _ in range(times):
            bare.append(_start("pass", environment)[0])
            full.append(_start("import spellwork", environment)[0])
        _, report = _start("import spellwork", environment, "-X", "importtime")
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
