"""Owns the users' state: typed trees of values over a store, with transactions, merges, expiry and watch.
It must never be needed to run a workflow.
"""

from spellwork.state.attempts import transactional
from spellwork.state.batch import StateBatch
from spellwork.state.keys import KEY_BYTES, Key
from spellwork.state.look import Look, Seen, perform
from spellwork.state.migration import Migration, MigrationReport, Schema
from spellwork.state.opening import open_store
from spellwork.state.operators import Operator, merge_patch
from spellwork.state.reading import Reads, Scan, Versioned
from spellwork.state.rows import TreeRows
from spellwork.state.scopes import SCOPE_KINDS, Scope, TreeName
from spellwork.state.snapshot import StateSnapshot
from spellwork.state.store import ScopeView, StateStats, StateStore
from spellwork.state.transaction import Transaction, TreeIn
from spellwork.state.tree import Tree, TreeStats
from spellwork.state.watching import StateChange

__all__ = [
    "KEY_BYTES",
    "SCOPE_KINDS",
    "Key",
    "Look",
    "Migration",
    "MigrationReport",
    "Operator",
    "Reads",
    "Scan",
    "Schema",
    "Scope",
    "ScopeView",
    "Seen",
    "StateBatch",
    "StateChange",
    "StateSnapshot",
    "StateStats",
    "StateStore",
    "Transaction",
    "Tree",
    "TreeIn",
    "TreeName",
    "TreeRows",
    "TreeStats",
    "Versioned",
    "merge_patch",
    "open_store",
    "perform",
    "transactional",
]
