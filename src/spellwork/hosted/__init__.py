"""Owns statecharts as code of durable runs: what is registered with an engine, and the pure core that runs a machine's entries.
It must never touch a store, a clock or a network.
"""

from spellwork.hosted.execution import MachineExecution
from spellwork.hosted.standing import MachineState
from spellwork.hosted.transition import Transition
from spellwork.hosted.type import MachineType

__all__ = ["MachineExecution", "MachineState", "MachineType", "Transition"]
