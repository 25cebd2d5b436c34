"""Applies every mutant and prints what became of it: `python -m tests.mutants [NAME...]`; exit 1 if one is not killed."""

from __future__ import annotations

import sys
import time

from tests.mutants.catalog import MUTANTS
from tests.mutants.mutant import judge_all, sound


def main(names: list[str]) -> int:
    began = time.monotonic()
    chosen = [mutant for mutant in MUTANTS if not names or any(name in mutant.name for name in names)]
    unsound = sound(mutant.check for mutant in chosen)
    for check, said in unsound.items():
        print(f"unsound   {check}\n{said}")
    counts = {"killed": 0, "survived": 0, "invalid": len(unsound)}
    for outcome in judge_all(mutant for mutant in chosen if mutant.check not in unsound):
        counts[outcome.verdict] += 1
        hung = " (hung)" if outcome.said == "it hangs" else ""
        print(f"{outcome.verdict:8} {outcome.seconds:6.1f} s  {outcome.mutant.name}: {outcome.mutant.law}{hung}", flush=True)
        if outcome.verdict == "invalid":
            print(outcome.said)
    print(f"mutants: {', '.join(f'{n} {what}' for what, n in counts.items())}, in {time.monotonic() - began:.0f} s")
    return 0 if counts["killed"] == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
