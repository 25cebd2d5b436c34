"""Owns deterministic simulation: the real engine in one thread, on a seeded order of events, virtual time and a faulty disk.
It must never use a thread, a real clock, or anything whose order is not the seed's.
"""

from spellwork.testing.sim.plan import Fault, Plan
from spellwork.testing.sim.run import Outcome, simulate
from spellwork.testing.sim.workload import Errand, Workload

__all__ = ["Errand", "Fault", "Outcome", "Plan", "Workload", "simulate"]
