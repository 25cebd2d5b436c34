"""Owns where a machine stands as plain data, and back.
It must never import or call what the data name.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from spellwork.errors import SnapshotMismatch
from spellwork.machine.action import Deliver
from spellwork.machine.configuration import Configuration
from spellwork.machine.event import Event
from spellwork.machine.table import Vertex

if TYPE_CHECKING:
    from spellwork.machine.chart import Chart


def snapshot_of(
    chart: Chart,
    configuration: Configuration,
    pending: tuple[Deliver, ...] = (),
    queued: tuple[tuple[Event, int], ...] = (),
) -> dict[str, Any]:
    """The snapshot: names and numbers only, and the context as it is. What is empty is left out."""
    vertices = chart.table.vertices
    history = {vertices[index].id: [vertices[i].id for i in below] for index, below in configuration.node.history}
    whole = {
        "chart": chart.name,
        "states": list(configuration.leaves),
        "context": configuration.context,
        "history": history,
        "deferred": [_plain(event) for event in configuration.deferred],
        "children": [list(child) for child in configuration.children],
        "pending": [[_plain(wanted.event), wanted.delay, wanted.target, wanted.id] for wanted in pending],
        "queued": [[_plain(event), priority] for event, priority in queued],
        "serial": configuration.serial,
        "session": configuration.session,
        "bound": list(configuration.bound),
        "ended": not configuration.running,
        "result": configuration.result,
    }
    kept = ("context", "result")  # these may be 0, "" or False, and must come back so
    return {name: value for name, value in whole.items() if value or (name in kept and value is not None)}


def restored(chart: Chart, snapshot: dict[str, Any]) -> Configuration:
    """The configuration of a snapshot.

    Raises:
        SnapshotMismatch: it names another chart, or states that this one has not.
    """
    if snapshot.get("chart") != chart.name:
        raise SnapshotMismatch(f"the snapshot is of {snapshot.get('chart')!r}, not of {chart.name!r}", machine=chart.name)
    by_id = chart.table.by_id
    named = [*snapshot.get("states", ()), *(i for k, below in snapshot.get("history", {}).items() for i in (k, *below))]
    named += [child[1] for child in snapshot.get("children", ())]
    unknown = [id_ for id_ in named if id_ not in by_id]
    if unknown or not snapshot.get("states"):
        raise SnapshotMismatch(
            f"the snapshot of {chart.name!r} names {', '.join(unknown) or 'no state'}, which this version has not",
            machine=chart.name,
        )
    leaves = [by_id[id_] for id_ in snapshot["states"]]
    active = {vertex for leaf in leaves for vertex in (leaf, *leaf.above) if vertex.parent is not None}
    _legal(chart, active)
    history = tuple(
        sorted((by_id[k].index, tuple(by_id[i].index for i in below)) for k, below in snapshot.get("history", {}).items())
    )
    children = tuple(
        (child[0], child[1], child[2]) for child in snapshot.get("children", ()) if _invoked(by_id[child[1]], child[2], active)
    )
    return Configuration(
        chart.table.node(active, history), snapshot.get("context"), tuple(map(_event, snapshot.get("deferred", ()))),
        children, snapshot.get("serial", 0),
        snapshot.get("session", ""), tuple(snapshot.get("bound", ())), not snapshot.get("ended", False), snapshot.get("result"),
    )  # fmt: skip


def _invoked(state: Vertex, number: int, active: set[Vertex]) -> bool:
    # what a child that is over was invoked by may be gone in another version, or its state was left by the migration
    return state in active and number < len(state.invokes)


def _legal(chart: Chart, active: set[Vertex]) -> None:
    # Another version may have given a state children or regions since; a machine in half a state would never move again.
    for vertex in (chart.table.root, *active):
        inside = sum(child in active for child in vertex.children)
        wanted = len(vertex.children) if vertex.kind == "parallel" else 1 if vertex.compound else 0
        if inside != wanted or vertex.kind == "history":
            raise SnapshotMismatch(
                f"the snapshot of {chart.name!r} is in {inside} of the states of {vertex.id!r}, where this version is in {wanted}",
                machine=chart.name,
            )


def queued_of(snapshot: dict[str, Any]) -> tuple[tuple[Event, int], ...]:
    """The events of a snapshot that waited to be processed, with their priorities."""
    return tuple((_event(event), priority) for event, priority in snapshot.get("queued", ()))


def pending_of(snapshot: dict[str, Any]) -> tuple[Deliver, ...]:
    """The delayed events of a snapshot."""
    return tuple(Deliver(_event(event), delay, target, id_) for event, delay, target, id_ in snapshot.get("pending", ()))


def _plain(event: Event) -> dict[str, Any]:
    fields = {field.name: (getattr(event, field.name), field.default) for field in dataclasses.fields(event) if field.init}
    return {name: value for name, (value, default) in fields.items() if value is not default}


def _event(plain: dict[str, Any]) -> Event:
    return Event(**plain)
