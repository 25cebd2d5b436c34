"""Owns generated workflow programs: plain data that one workflow performs, with the result that is due whatever breaks on the way.
It must never let time, chance or the order of arrival into a result.
"""

from spellwork.testing.shapes.perform import WORKFLOWS, drive, observers, perform
from spellwork.testing.shapes.program import Node, Program, expected, generate, of_steps, signals_wanted, updates_wanted

__all__ = [
    "WORKFLOWS",
    "Node",
    "Program",
    "drive",
    "expected",
    "generate",
    "observers",
    "of_steps",
    "perform",
    "signals_wanted",
    "updates_wanted",
]
