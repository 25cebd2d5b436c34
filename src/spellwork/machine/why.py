"""Owns the explanation of a refusal: which transitions an event has here, and what stops each.
It must never change the machine that it explains.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spellwork.machine.configuration import Configuration
from spellwork.machine.event import Event, matches
from spellwork.machine.view import named

if TYPE_CHECKING:
    from spellwork.machine.chart import Chart


@dataclass(frozen=True, slots=True)
class Refusal:
    """`accepted` says that the event would be handled after all. `reasons` holds a sentence for each obstacle."""

    event: str
    state: tuple[str, ...]
    accepted: bool
    reasons: tuple[str, ...]
    allowed: tuple[str, ...]

    def __str__(self) -> str:
        where = ", ".join(self.state)
        if self.accepted:
            return f"{self.event!r} is handled in {where}"
        return f"{self.event!r} is not handled in {where}: " + "; ".join(self.reasons)


def why_not(chart: Chart, configuration: Configuration, event: Event) -> Refusal:
    """Explain what the event would meet."""
    from spellwork.machine.step import Step  # noqa: PLC0415 - a step imports the chart

    node, step = configuration.node, Step(chart, configuration)
    step.see(event)
    allowed = chart.allowed(node) if configuration.running else ()
    reasons: list[str] = []
    if not configuration.running:
        return Refusal(event.name, configuration.leaves, False, ("the machine has ended",), ())
    accepted = node.defers(event.name)
    for path in node.paths(event.name):
        for arrow in path:
            if arrow.guard is None or step.holds(arrow.guard):
                accepted = True
                break
            reasons.append(f"in {arrow.source.id} the guard {named(arrow.transition.guard)} does not hold")
    if not accepted and not reasons:
        elsewhere = [v.id for v in chart.table.vertices for a in v.arrows if any(matches(e, event.name) for e in a.events)]
        reasons.append(
            f"only {', '.join(dict.fromkeys(elsewhere))} would handle it" if elsewhere else "no state of the chart handles it"
        )
    return Refusal(event.name, configuration.leaves, accepted, tuple(dict.fromkeys(reasons)), allowed)
