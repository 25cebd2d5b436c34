"""Owns what users test their workflows with: virtual time, fake activities, a replayer, laws, crash points, a ledger.
It must never be imported by anything that ships to production.
"""

from spellwork.testing.clock import VirtualClock
from spellwork.testing.crash import CRASH_POINTS, CrashAt
from spellwork.testing.engine import TestEngine
from spellwork.testing.laws import LawBroken, check_laws
from spellwork.testing.ledger import Ledger
from spellwork.testing.replayer import check_replay, replays
from spellwork.testing.store_conformance import StoreConformance

__all__ = [
    "CRASH_POINTS",
    "CrashAt",
    "LawBroken",
    "Ledger",
    "StoreConformance",
    "TestEngine",
    "VirtualClock",
    "check_laws",
    "check_replay",
    "replays",
]
