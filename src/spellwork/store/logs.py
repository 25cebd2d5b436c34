"""Owns what the rows of a log (see `Batch.append`) say of it when the row that counts them is damaged.
It must never guess: a log without any row tells nothing.
"""

from __future__ import annotations

from spellwork.store.backend import Reader
from spellwork.store.batch import SEQUENCE_BYTES
from spellwork.store.keyspace import successor


def last_number(reader: Reader, log: bytes) -> int | None:
    """The number of the last row of a log, read from that row's key; None if there is none. Its value may be damaged as well."""
    for key, _ in reader.scan(log + b"\0" * SEQUENCE_BYTES, successor(log), reverse=True, limit=1, damaged=b""):
        return int.from_bytes(key[len(log) :], "big")
    return None
