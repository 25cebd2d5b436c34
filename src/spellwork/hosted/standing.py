"""Owns where a hosted machine stands, as it is told to whoever asks.
It must never hold what is not durable: it is told after the commit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from spellwork.codec import Codec

if TYPE_CHECKING:
    from spellwork.hosted.type import MachineType
    from spellwork.machine.configuration import Configuration


class MachineState(msgspec.Struct, frozen=True):
    """Where a machine stands.

    `active` are the leaf states that it is in, `states` all that are active. `allowed` are the events that some transition waits
    for there, whatever its guard says. `transitions` counts the macrosteps of its whole life. `version` is its chart's.
    """

    active: tuple[str, ...]
    states: tuple[str, ...]
    context: Any
    running: bool
    result: Any
    allowed: tuple[str, ...]
    transitions: int
    version: str

    def is_in(self, state: str) -> bool:
        """Whether the state is active."""
        return state in self.states

    def __str__(self) -> str:
        return ", ".join(self.active)


class Stored(msgspec.Struct, frozen=True, array_like=True):
    """The same as bytes."""

    active: tuple[str, ...]
    states: tuple[str, ...]
    context: bytes
    running: bool
    result: bytes
    allowed: tuple[str, ...]
    transitions: int
    version: str


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Stored).decode


def pack_standing(kind: MachineType, codec: Codec, configuration: Configuration, count: int) -> bytes:
    """Where it stands, as bytes."""
    result = b"" if configuration.result is None else codec.shape(kind.result).encode(configuration.result)
    return _pack(
        Stored(
            configuration.leaves,
            configuration.states,
            kind.context_shape(codec).encode(configuration.context),
            configuration.running,
            result,
            kind.chart.allowed(configuration.node) if configuration.running else (),
            count,
            kind.version,
        )
    )


def unpack_standing(kind: MachineType | None, codec: Codec, data: bytes) -> MachineState:
    """Where it stands. Without its type the context is plain data."""
    told = _unpack(data)
    shape = codec.untyped if kind is None else kind.context_shape(codec)
    result = codec.untyped if kind is None else codec.shape(kind.result)
    return MachineState(
        told.active, told.states, shape.decode(told.context), told.running,
        result.decode(told.result) if told.result else None, told.allowed, told.transitions, told.version,
    )  # fmt: skip
