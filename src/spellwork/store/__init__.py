"""Owns ordered bytes: atomic fenced batches, group commit, snapshots and a change feed over one small backend contract.
It must never know what the bytes mean.
"""

from spellwork.store.backend import Backend, Reader, Row
from spellwork.store.batch import SEQUENCE_BYTES, Batch, Operator, fingerprint
from spellwork.store.committer import CommitStats
from spellwork.store.keyring import Encryption
from spellwork.store.keyspace import Keyspace, successor
from spellwork.store.store import Change, Durability, Store, open_store

__all__ = [
    "SEQUENCE_BYTES",
    "Backend",
    "Batch",
    "Change",
    "CommitStats",
    "Durability",
    "Encryption",
    "Keyspace",
    "Operator",
    "Reader",
    "Row",
    "Store",
    "fingerprint",
    "open_store",
    "successor",
]
