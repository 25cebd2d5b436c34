"""Owns how the command line opens stores: with the keys that its environment names.
It must never take a key as an argument, which every user of the machine could read.
"""

from __future__ import annotations

import os
from typing import Any

from spellwork import Codec, Engine
from spellwork.cli.source import load
from spellwork.store import Encryption

KEY_VARIABLE, FILE_VARIABLE = "SPELLWORK_KEY", "SPELLWORK_KEY_FILE"


def encryption() -> Encryption | None:
    """The keys in SPELLWORK_KEY or in the file that SPELLWORK_KEY_FILE names, or None without either."""
    if os.environ.get(KEY_VARIABLE):
        return Encryption.from_env(KEY_VARIABLE)
    path = os.environ.get(FILE_VARIABLE)
    return Encryption.from_file(path) if path else None


def opened(store: str, **options: Any) -> Engine:
    """The engine of a store, to be entered."""
    return Engine(store, encryption=encryption(), **options)


def codec_of(file: str | None) -> Codec:
    """The codec that a file holds, with its types and rules of redaction; the default one without a file."""
    return (load(file)[0].codec if file is not None else None) or Codec()
