"""Owns what a run of a machine begins with, and a machine's snapshot as it is stored there.
It must never hold anything that the next version of the chart could not be given.
"""

# Annotations are evaluated here: from strings, msgspec would compile each field's anew when the decoders are made.

from typing import TYPE_CHECKING, Any

import msgspec

from spellwork.codec import Codec
from spellwork.errors import MigrationMissing, SpellworkError
from spellwork.machine.action import Deliver
from spellwork.machine.configuration import Configuration
from spellwork.machine.event import Event
from spellwork.machine.snapshot import pending_of, restored, snapshot_of
from spellwork.supervision import attempt
from spellwork.workflow.parameters import Parameters, pack_call

if TYPE_CHECKING:
    from spellwork.hosted.type import MachineType

MICROSECONDS = 1_000_000


class Begin(msgspec.Struct, frozen=True, array_like=True):
    """The argument of a machine's run.

    A first run has perhaps a `context` and, if a machine invoked it, `data` and its `invokeid` there. A later one has the
    `snapshot` of the one before, taken `at` (microseconds UTC), after `count` transitions; the last `left` entries of that one
    were not processed there. `version` and `structure` (a digest) are those of the chart that the run is of.
    """

    version: str = ""
    structure: bytes = b""
    context: bytes | None = None
    data: bytes | None = None
    invokeid: str | None = None
    snapshot: bytes | None = None
    at: int = 0
    count: int = 0
    left: int = 0


class BeginParameters(Parameters):
    """The argument of a machine's run as it is stored.

    Its parts are payloads already, within the limits and redacted. As mere bytes they must not be redacted again: what seems to
    match there may reach over the end of a text, and nobody could read what is left.
    """

    def encode(self, codec: Codec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """The payload of a beginning."""
        del kwargs
        return codec.compressed(pack_call([codec.compressed(codec.pack(args[0]))]))


class Waiting(msgspec.Struct):
    """A delayed delivery: when it is due (microseconds UTC), and what then goes where."""

    due: int
    wanted: Deliver


def pack_snapshot(kind: "MachineType", codec: Codec, configuration: Configuration, waiting: list[Waiting], at: int) -> bytes:
    """The snapshot as it is stored, with what is left of each delay."""
    return _stored(kind, codec, plain_snapshot(kind, configuration, waiting, at))


def plain_snapshot(kind: "MachineType", configuration: Configuration, waiting: list[Waiting], at: int) -> dict[str, Any]:
    """The snapshot as migrations see it: that of `Machine.snapshot()`, with what is left of each delay in seconds."""
    pending = tuple(
        Deliver(each.wanted.event, (each.due - at) / MICROSECONDS, each.wanted.target, each.wanted.id) for each in waiting
    )
    return snapshot_of(kind.chart, configuration, pending)


def unpack_snapshot(kind: "MachineType", codec: Codec, payload: bytes, at: int) -> tuple[Configuration, list[Waiting]]:
    """Where the machine stood; raises `SnapshotMismatch` if this chart has no such place."""
    whole = codec.untyped.decode(payload)
    whole["context"] = kind.context_shape(codec).decode(whole["context"])
    whole["deferred"] = [_event(kind, codec, each) for each in whole.get("deferred", ())]
    whole["pending"] = [[_event(kind, codec, each[0]), *each[1:]] for each in whole.get("pending", ())]
    waiting = [
        Waiting(at + round(wanted.delay * MICROSECONDS), Deliver(wanted.event, 0.0, wanted.target, wanted.id))
        for wanted in pending_of(whole)
    ]
    return restored(kind.chart, whole), waiting


def migrated(old: "MachineType", new: "MachineType", codec: Codec, plain: dict[str, Any]) -> bytes:
    """The snapshot of one version as the other's function makes it; raises `MigrationMissing` when it does not work out."""
    migrate = new.migrate.get(old.version)
    what = f"machine {new.chart.name!r} can't move from version {old.version} to {new.version}"
    if migrate is None:
        raise MigrationMissing(
            f"{what}: register MachineType(chart, version={new.version!r}, migrate={{{old.version!r}: function}}) with a function "
            "that turns the old snapshot into the new one",
            machine=new.chart.name, version=old.version,
        )  # fmt: skip
    moved, error = attempt(lambda: _stored(new, codec, migrate(plain)))
    if error is None:
        _, error = attempt(unpack_snapshot, new, codec, moved, 0)
    if error is not None:
        told = str(error) if isinstance(error, SpellworkError) else f"{type(error).__name__}: {error}"
        raise MigrationMissing(f"{what}: its migration failed: {told}", machine=new.chart.name, version=old.version) from error
    stored: bytes = moved
    return stored


def _stored(kind: "MachineType", codec: Codec, plain: dict[str, Any]) -> bytes:
    whole = dict(plain)
    whole["context"] = kind.context_shape(codec).encode(plain.get("context"))
    whole["deferred"] = [_bytes(kind, codec, each) for each in plain.get("deferred", ())]
    whole["pending"] = [[_bytes(kind, codec, each[0]), *each[1:]] for each in plain.get("pending", ())]
    # what a user gave has been through redaction above; the rest are names, and bytes that it would break
    return codec.compressed(codec.pack(codec.exact.lower(whole)))


def _bytes(kind: "MachineType", codec: Codec, plain: dict[str, Any]) -> bytes:
    return kind.events.pack(codec, Event(**plain))


def _event(kind: "MachineType", codec: Codec, stored: bytes) -> dict[str, Any]:
    event = kind.events.unpack(codec, stored)
    names = ("name", "data", "kind", "typed", "sendid", "origin", "origintype", "invokeid")
    return {name: getattr(event, name) for name in names}
