"""Owns what authors write with: workflows, activities, signals, handlers, and the pure core that runs them.
It must never touch a store, a clock or a network.
"""

from spellwork.workflow.activity import Activity, ActivityContext, activity, activity_context, heartbeat
from spellwork.workflow.child import Child
from spellwork.workflow.definition import Workflow, workflow
from spellwork.workflow.execution import Execution
from spellwork.workflow.handlers import query, update
from spellwork.workflow.retry import Retry
from spellwork.workflow.signal import Signal
from spellwork.workflow.verbs import (
    WorkflowInfo,
    continue_as_new,
    info,
    now,
    patched,
    random,
    rng,
    start_child,
    uuid4,
)

__all__ = [
    "Activity",
    "ActivityContext",
    "Child",
    "Execution",
    "Retry",
    "Signal",
    "Workflow",
    "WorkflowInfo",
    "activity",
    "activity_context",
    "continue_as_new",
    "heartbeat",
    "info",
    "now",
    "patched",
    "query",
    "random",
    "rng",
    "start_child",
    "update",
    "uuid4",
    "workflow",
]
