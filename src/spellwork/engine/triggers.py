"""Owns `Trigger`: which workflow is started by which events.
It must never start two runs for one event.
"""

from __future__ import annotations

from typing import Any

import msgspec

from spellwork.errors import DefinitionError
from spellwork.events.pattern import pattern_tokens
from spellwork.workflow import Workflow


class Trigger(msgspec.Struct, frozen=True):
    """Each event of a durable topic that matches `pattern` starts one run of `workflow`, with the event as its argument.

    The run's id is `WORKFLOW:EVENT_ID`. `type` is the annotation of the events' payloads. A trigger begins with the events that are
    published after an engine with it was first opened, and goes on where it was after each restart.
    """

    pattern: str
    workflow: Workflow[Any, Any]
    type: Any = Any

    def __post_init__(self) -> None:
        pattern_tokens(self.pattern)
        given: Any = self.workflow
        if not isinstance(given, Workflow) or hasattr(given, "chart"):  # a machine takes no event as its argument
            raise DefinitionError(f"Trigger({self.pattern!r}): workflow= takes a @workflow, not {self.workflow!r}")

    @property
    def name(self) -> str:
        """What stands for the trigger in the store."""
        return f"{self.pattern} {self.workflow.name}"
