"""Owns `python -m spellwork.testing.sim`: many seeds, one line of result, and an account of each broken law.
It must never end with success when a law was broken or a branch that must be reached was not.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

from spellwork.testing.sim.seeds import OFTEN, RARE, Tally, run_seeds


def main() -> int:
    """Run the seeds; 1 when something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m spellwork.testing.sim", description="Simulate seeds, twice each.")
    parser.add_argument("--seeds", type=int, default=500, help="how many seeds (default 500)")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first seed (default 0)")
    parser.add_argument("--jobs", type=int, help="processes (default: one a processor)")
    parser.add_argument("--marks", action="store_true", help="print how often each branch was reached")
    options = parser.parse_args()
    began, total = time.monotonic(), Tally()
    for tally in run_seeds(
        range(options.first, options.first + options.seeds), jobs=options.jobs, over=lambda: len(total.broken) > 2
    ):
        total.add(tally)
    for account in total.broken:
        print(account, end="\n\n")
    wanted = OFTEN | RARE if options.seeds >= 5000 else OFTEN if options.seeds >= 300 else frozenset()
    missing = total.missing(wanted)
    if options.marks:
        for name, count in sorted(total.marks.items(), key=lambda item: -item[1]):
            print(f"{count:8} {name}")
    report = {
        "seeds": total.seeds, "violations": len(total.broken), "commits": total.commits,
        "virtual_hours": round(total.virtual_seconds / 3600, 1), "branches": len(total.marks), "not_reached": missing,
        "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip
    print(json.dumps(report))
    return 1 if total.broken or missing else 0


if __name__ == "__main__":
    sys.exit(main())
