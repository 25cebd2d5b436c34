"""Owns backups: full and incremental copies of a store's rows in a folder, checked, and the way back.
It must never need a key: the rows of an encrypted store stay encrypted.
"""

from spellwork.store.backup.making import create_backup
from spellwork.store.backup.manifest import Manifest, list_backups
from spellwork.store.backup.restoring import restore_backup, verify_backup

__all__ = ["Manifest", "create_backup", "list_backups", "restore_backup", "verify_backup"]
