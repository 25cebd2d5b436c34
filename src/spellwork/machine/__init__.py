"""Statecharts: a pure interpreter with SCXML's semantics, several ways to write a chart, and machines in memory.
This face only imports; it must never need more than the standard library.
"""

from spellwork.machine import action
from spellwork.machine.action import Action
from spellwork.machine.actor import Actor, Down, current_actor
from spellwork.machine.builder import ChartBuilder, StateBuilder, TransitionBuilder
from spellwork.machine.chart import Chart
from spellwork.machine.check import Fault
from spellwork.machine.compact import from_text
from spellwork.machine.configuration import Configuration
from spellwork.machine.content import Assign, Cancel, Do, Log, Raise, Send
from spellwork.machine.dot import dot, svg
from spellwork.machine.event import Event
from spellwork.machine.jsonform import from_json, to_json
from spellwork.machine.lifecycle import agent_lifecycle
from spellwork.machine.locked import LockedMachine
from spellwork.machine.log import Entry, TransitionLog
from spellwork.machine.machine import Machine
from spellwork.machine.mailbox import Mailbox
from spellwork.machine.mermaid import mermaid
from spellwork.machine.paths import Coverage, TestPath, paths_of
from spellwork.machine.scxml import Expressions, from_scxml
from spellwork.machine.scxml_export import to_scxml
from spellwork.machine.supervise import Supervision
from spellwork.machine.system import ActorSystem
from spellwork.machine.tasks import AsyncMachine
from spellwork.machine.typed import (
    Handled,
    Super,
    To,
    after,
    chart,
    entry,
    every,
    exit_,
    final,
    handler,
    history,
    initial,
    on,
    parallel,
)
from spellwork.machine.view import View, active, not_active
from spellwork.machine.waiting import Timers, VirtualTime
from spellwork.machine.why import Refusal

__all__ = [
    "Action",
    "Actor",
    "ActorSystem",
    "Assign",
    "AsyncMachine",
    "Cancel",
    "Chart",
    "ChartBuilder",
    "Configuration",
    "Coverage",
    "Do",
    "Down",
    "Entry",
    "Event",
    "Expressions",
    "Fault",
    "Handled",
    "LockedMachine",
    "Log",
    "Machine",
    "Mailbox",
    "Raise",
    "Refusal",
    "Send",
    "StateBuilder",
    "Super",
    "Supervision",
    "TestPath",
    "Timers",
    "To",
    "TransitionBuilder",
    "TransitionLog",
    "View",
    "VirtualTime",
    "action",
    "active",
    "after",
    "agent_lifecycle",
    "chart",
    "current_actor",
    "dot",
    "entry",
    "every",
    "exit_",
    "final",
    "from_json",
    "from_scxml",
    "from_text",
    "handler",
    "history",
    "initial",
    "mermaid",
    "not_active",
    "on",
    "parallel",
    "paths_of",
    "svg",
    "to_json",
    "to_scxml",
]
