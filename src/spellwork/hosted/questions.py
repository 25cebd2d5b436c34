"""Owns the queries that every hosted machine answers, for whoever has no chart at hand.
It must never let an answer change the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from spellwork.hosted.standing import unpack_standing
from spellwork.workflow.handlers import Handler

if TYPE_CHECKING:
    from spellwork.hosted.execution import MachineExecution

STATE, TRANSITIONS = "state", "transitions"


def question(machine: MachineExecution, name: str) -> Handler | None:
    """The query of this name: "state" or "transitions"."""

    def state() -> dict[str, Any]:
        return plain_state(machine)

    def transitions(limit: int = 20) -> list[dict[str, Any]]:
        return [plain(each) for each in machine.record[max(0, len(machine.record) - limit) :]]

    known: dict[str, Callable[..., Any]] = {STATE: state, TRANSITIONS: transitions}
    found = known.get(name)
    return None if found is None else Handler(found, name)


def plain_state(machine: MachineExecution) -> dict[str, Any]:
    """Where a machine stands, for people."""
    return plain(unpack_standing(machine.type, machine.codec, machine.standing() or b""))


def plain(value: Any) -> dict[str, Any]:
    """A state or a transition as plain data; what has no plain form becomes text."""
    told: dict[str, Any] = msgspec.to_builtins(value, enc_hook=str, str_keys=True)
    return told
