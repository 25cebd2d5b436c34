"""Owns ordered bytes: atomic fenced batches, group commit, snapshots and a change feed over one small backend contract.
It must never know what the bytes mean.
"""

from spellwork.store.backend import Backend, Reader, Row
from spellwork.store.batch import SEQUENCE_BYTES, Batch, Operator, fingerprint
from spellwork.store.committer import CommitStats
from spellwork.store.copy import Contents, contents, copy_store
from spellwork.store.durability import Durability
from spellwork.store.keyring import Encryption
from spellwork.store.keyspace import Keyspace, successor
from spellwork.store.opening import Place, open_store, register_backend
from spellwork.store.store import Change, Store

__all__ = [
    "SEQUENCE_BYTES",
    "Backend",
    "Batch",
    "Change",
    "CommitStats",
    "Contents",
    "Durability",
    "Encryption",
    "Keyspace",
    "Operator",
    "Place",
    "Reader",
    "Row",
    "Store",
    "contents",
    "copy_store",
    "fingerprint",
    "open_store",
    "register_backend",
    "successor",
]
