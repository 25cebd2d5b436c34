"""Statecharts: the pure interpreter, the ways to write a chart, and machines in memory.
This face only imports; it must never need more than the standard library.
"""

from spellwork.machine.chart import Chart

__all__ = ["Chart"]
