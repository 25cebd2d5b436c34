"""Owns ordered bytes: atomic fenced batches, group commit, snapshots and a change feed over one small backend contract.
It must never know what the bytes mean.
"""

from spellwork.store.backend import Backend, Reader
from spellwork.store.batch import Batch
from spellwork.store.committer import CommitStats
from spellwork.store.keyspace import Keyspace
from spellwork.store.store import Change, Durability, Store, open_store

__all__ = [
    "Backend",
    "Batch",
    "Change",
    "CommitStats",
    "Durability",
    "Keyspace",
    "Reader",
    "Store",
    "open_store",
]
