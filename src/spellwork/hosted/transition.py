"""Owns the record of what a hosted machine did: one macrostep, told for people and for watchers.
It must never be needed to run the machine: it follows from the journal and the chart.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec

from spellwork.instant import datetime_of
from spellwork.machine import action
from spellwork.machine.event import Event
from spellwork.machine.log import told
from spellwork.machine.step import Outcome
from spellwork.machine.table import Node


class Transition(msgspec.Struct, frozen=True):
    """One macrostep in the life of a machine.

    `position` counts them from 0, where the machine began. `at` is the time of the entry (UTC), `event` what was processed
    (None for the beginning), `data` its payload or the object that it was. `before` and `after` are the active leaf states,
    `transitions` texts like "Closed -> Open [is_full]", `notes` what `Log` wrote.
    """

    position: int
    at: dt.datetime
    event: str | None
    data: Any
    before: tuple[str, ...]
    after: tuple[str, ...]
    transitions: tuple[str, ...]
    exited: tuple[str, ...]
    entered: tuple[str, ...]
    actions: tuple[str, ...]
    notes: tuple[tuple[str, Any], ...]
    version: str


def transition_of(position: int, at: int, event: Event | None, before: Node, outcome: Outcome, version: str) -> Transition:
    """The record of a step."""
    return Transition(
        position,
        datetime_of(at),
        event.name if event else None,
        event.data if event else None,
        before.leaves,
        outcome.configuration.leaves,
        tuple(told(arrow) for taken in outcome.taken for arrow in taken.arrows if arrow is not arrow.source.initial),
        tuple(vertex.id for taken in outcome.taken for vertex in taken.exited),
        tuple(vertex.id for taken in outcome.taken for vertex in taken.entered),
        tuple(wanted.name for wanted in outcome.actions if isinstance(wanted, action.Call)),
        tuple((wanted.label, wanted.value) for wanted in outcome.actions if isinstance(wanted, action.Note)),
        version,
    )
