"""Owns the digest of a chart's structure, by which a chart that was changed under a running machine is noticed.
It must never depend on what a function does, nor on its name: only on states, transitions and the kinds of what they do.
"""

from __future__ import annotations

import hashlib
from typing import Any

from spellwork.machine.chart import Chart
from spellwork.machine.model import State, Transition


def structure_of(chart: Chart) -> bytes:
    """Eight bytes that differ when the chart has other states, transitions or events."""
    return hashlib.blake2b(repr(_state(chart.root)).encode(), digest_size=8).digest()


def _state(state: State) -> tuple[Any, ...]:
    return (
        state.id, state.kind, state.deep, state.defer, len(state.invokes),
        None if state.initial is None else _transition(state.initial),
        tuple(map(_transition, state.transitions)),
        tuple(map(_kinds, state.entry)), tuple(map(_kinds, state.exit)),
        tuple(map(_state, state.children)),
    )  # fmt: skip


def _transition(move: Transition) -> tuple[Any, ...]:
    return move.events, move.targets, move.guard is not None, move.internal, _kinds(move.content)


def _kinds(block: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(type(content).__name__ for content in block)
