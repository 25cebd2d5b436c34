"""Owns the entries of a journal and their frame on disk.
It must never change the meaning of a tag or a field: journals written once are read for ever.
"""

# Annotations are evaluated here: from strings, msgspec would compile each field's anew when the decoders are made.

import zlib
from typing import Any

import msgspec

from spellwork.errors import StoreCorrupt
from spellwork.instant import Instant
from spellwork.journal.failure import Failure
from spellwork.journal.rows import Parent


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One durable fact about a run. `at` is wall time in microseconds UTC and never decreases within a journal.

    Entries that answer a command carry its number `n`, `name` and the `digest` of its arguments; replay compares all three.
    """

    at: Instant


class Started(Entry, frozen=True, tag=1):
    """The first entry: what runs, with which arguments.

    `generation` counts the runs of a chain of continue_as_new before this one; `seen` holds ids of messages that those had.
    `carried` counts the entries behind this one that were written with it: signals that the run before had not consumed.
    `correlation` is the id of what began it all, `causation` of the event or run that led to this one directly; a run that neither
    started has none.
    """

    run_id: str
    workflow: str
    version: str
    args: bytes
    seed: bytes
    parent: Parent | None = None
    generation: int = 0
    seen: tuple[str, ...] = ()
    carried: int = 0
    correlation: str | None = None
    causation: str | None = None

    @property
    def origin(self) -> str:
        """The id of what began it all: the correlation of what the run publishes and starts."""
        return self.correlation or self.run_id


class StepCompleted(Entry, frozen=True, tag=2):
    """An activity returned."""

    n: int
    name: str
    digest: bytes
    result: bytes
    attempt: int = 1
    began: int = 0


class StepFailed(Entry, frozen=True, tag=3):
    """An activity failed for good."""

    n: int
    name: str
    digest: bytes
    failure: Failure
    attempt: int = 1
    began: int = 0


class AttemptFailed(Entry, frozen=True, tag=4):
    """An attempt failed and another will follow, not before `retry_at`."""

    n: int
    name: str
    digest: bytes
    failure: Failure
    attempt: int
    retry_at: int
    heartbeat: bytes | None = None
    began: int = 0


class TimerFired(Entry, frozen=True, tag=5):
    """A timer was due."""

    n: int
    digest: bytes


class SignalReceived(Entry, frozen=True, tag=6):
    """A signal arrived; `id` is the sender's, for deduplication."""

    name: str
    payload: bytes
    id: str | None = None


class UpdateAccepted(Entry, frozen=True, tag=7):
    """An update passed its validator."""

    id: str
    name: str
    args: bytes


class UpdateCompleted(Entry, frozen=True, tag=8):
    """An update was answered."""

    id: str
    name: str
    result: bytes | None
    failure: Failure | None = None


class ChildStarted(Entry, frozen=True, tag=9):
    """A child run exists."""

    n: int
    name: str
    digest: bytes
    child_id: str
    failure: Failure | None = None


class ChildEnded(Entry, frozen=True, tag=10):
    """A child run ended."""

    n: int
    name: str
    digest: bytes
    result: bytes | None
    failure: Failure | None = None


class SignalSent(Entry, frozen=True, tag=11):
    """A signal to another run was accepted there (or refused)."""

    n: int
    name: str
    digest: bytes
    failure: Failure | None = None


class Patched(Entry, frozen=True, tag=12):
    """`patched(id)` answered True."""

    id: str


class CancelRequested(Entry, frozen=True, tag=13):
    """Somebody asked for cancellation."""

    reason: str


class Completed(Entry, frozen=True, tag=14):
    """The workflow returned."""

    result: bytes


class Failed(Entry, frozen=True, tag=15):
    """The workflow raised."""

    failure: Failure


class Cancelled(Entry, frozen=True, tag=16):
    """The workflow unwound after a cancellation."""

    reason: str


class Terminated(Entry, frozen=True, tag=17):
    """The run was ended without unwinding."""

    reason: str


class Continued(Entry, frozen=True, tag=18):
    """The workflow went on as a new run, number `next`, with fresh arguments."""

    args: bytes
    next: int


class Performed(Entry, frozen=True, tag=19):
    """Something was done to Spellwork's own data: rows of this entry's own batch, a read, or a transaction (or its failure)."""

    n: int
    name: str
    digest: bytes
    result: bytes | None = None
    failure: Failure | None = None


ENDINGS = (Completed, Failed, Cancelled, Terminated, Continued)

_AnyEntry = (
    Started | StepCompleted | StepFailed | AttemptFailed | TimerFired | SignalReceived | UpdateAccepted | UpdateCompleted
    | ChildStarted | ChildEnded | SignalSent | Patched | CancelRequested | Completed | Failed | Cancelled | Terminated
    | Continued | Performed
)  # fmt: skip

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_AnyEntry).decode
_CHECKSUM = 4


def pack_entry(key: bytes, entry: Entry) -> bytes:
    """The frame of `entry`: its msgpack form and a CRC-32 over key and form, so that swapped rows are noticed too."""
    body: bytes = _encode(_form_of_start(entry) if type(entry) is Started else entry)
    return body + zlib.crc32(body, zlib.crc32(key)).to_bytes(_CHECKSUM, "big")


def _form_of_start(started: Started) -> Any:
    """What is written. A run that nothing led to has a row as short as before there were causes, to the byte."""
    if started.correlation is None and started.causation is None:
        return Started.__struct_config__.tag, *msgspec.structs.astuple(started)[:-2]
    return started


def unpack_entry(key: bytes, frame: bytes) -> Any:
    """The entry of a frame; raises `StoreCorrupt` when it is damaged."""
    body = frame[:-_CHECKSUM]
    if len(frame) <= _CHECKSUM or zlib.crc32(body, zlib.crc32(key)).to_bytes(_CHECKSUM, "big") != frame[-_CHECKSUM:]:
        raise StoreCorrupt(f"the journal entry at {key.hex()} is damaged (checksum); restore it from a backup")
    try:
        return _decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise StoreCorrupt(
            f"the journal entry at {key.hex()} cannot be read ({error}); was it written by a newer Spellwork?"
        ) from error
