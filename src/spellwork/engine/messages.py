"""Owns the messages that reach a run from outside its owner's process, and their replies.
It must never hold anything that cannot be sent twice: every message is idempotent.
"""

# Annotations are evaluated here: from strings, msgspec would compile each field's anew when the decoders are made.

import msgspec

from spellwork.errors import SpellworkError, StoreCorrupt
from spellwork.journal import Failure, Parent


class Deferred(SpellworkError):
    """The run cannot take the message yet; its row stays, and the run asks for it when it can."""

    code = "deferred"


class Told(SpellworkError):
    """The answer to a message is a failure of user code; whoever asked rebuilds it from `failure`."""

    code = "told"
    failure: Failure


class Message(msgspec.Struct, frozen=True, array_like=True):
    """Something asked of a run, which `run_id` names."""

    run_id: str


class AskStart(Message, frozen=True, array_like=True, tag=1):
    """Start a run; `correlation` and `causation` are those of `Started`."""

    workflow: str
    version: str | None
    args: bytes
    digest: bytes
    parent: Parent | None = None
    correlation: str | None = None
    causation: str | None = None


class AskSignal(Message, frozen=True, array_like=True, tag=2, gc=False):
    """Deliver a signal, and tell where it led if an `answer` is wanted."""

    name: str
    payload: bytes
    id: str | None
    answer: bool = False


class AskQuery(Message, frozen=True, array_like=True, tag=3):
    """Answer a query."""

    name: str
    args: bytes


class AskUpdate(Message, frozen=True, array_like=True, tag=4):
    """Apply an update."""

    name: str
    args: bytes
    id: str


class AskCancel(Message, frozen=True, array_like=True, tag=5):
    """Cancel the run, letting it unwind; if `parent` is given, only a child of the run of that number."""

    reason: str
    parent: int = 0


class AskTerminate(Message, frozen=True, array_like=True, tag=6):
    """End the run at once; if `parent` is given, only a child of the run of that number."""

    reason: str
    parent: int = 0


class AskResume(Message, frozen=True, array_like=True, tag=7):
    """Try a blocked or quarantined run again."""


class TellChildEnded(Message, frozen=True, array_like=True, tag=8):
    """A child ended; `run_id`, `number` and `n` name the parent and its command."""

    number: int
    n: int
    child_id: str
    result: bytes | None
    failure: Failure | None


AnyMessage = AskStart | AskSignal | AskQuery | AskUpdate | AskCancel | AskTerminate | AskResume | TellChildEnded


class Envelope(msgspec.Struct, frozen=True, array_like=True):
    """A message in an inbox, and the key under which the reply is awaited (empty: nobody waits)."""

    message: AnyMessage
    reply_to: bytes = b""


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """The answer to a message."""

    value: bytes | None = None
    failure: Failure | None = None


encode = msgspec.msgpack.Encoder().encode
_envelope = msgspec.msgpack.Decoder(Envelope).decode
_reply = msgspec.msgpack.Decoder(Reply).decode


def unpack_envelope(data: bytes) -> Envelope:
    """The envelope of its stored form; raises `StoreCorrupt`."""
    try:
        return _envelope(data)
    except (msgspec.MsgspecError, ValueError) as error:
        raise StoreCorrupt(f"a message in an inbox cannot be read: {error}") from error


def unpack_reply(data: bytes) -> Reply:
    """The reply of its stored form; raises `StoreCorrupt`."""
    try:
        return _reply(data)
    except (msgspec.MsgspecError, ValueError) as error:
        raise StoreCorrupt(f"a reply cannot be read: {error}") from error
