"""Owns the trials under real faults: killed processes, failing system calls, power cuts, damaged files.
It must never touch anything outside the folder that it is given, nor a process that it did not start.
"""

from spellwork.testing.chaos.trial import Deadline, Figure, LawBroken, Trial

__all__ = ["Deadline", "Figure", "LawBroken", "Trial"]
