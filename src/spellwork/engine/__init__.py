"""Owns running things: partitions, journals, activities, timers, messages, recovery.
It must never be imported by what authors write with.
"""

from spellwork.engine.engine import Engine
from spellwork.engine.history import Event
from spellwork.engine.run import Run, RunInfo

__all__ = ["Engine", "Event", "Run", "RunInfo"]
