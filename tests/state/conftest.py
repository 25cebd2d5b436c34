"""The backends that each test of the state runs on."""

from __future__ import annotations

from pathlib import Path

import pytest

BACKENDS = ("memory", "sqlite", "lmdb", "rocksdb")


@pytest.fixture(params=BACKENDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new store on each backend."""
    return "memory:" if request.param == "memory" else f"{request.param}:{tmp_path / 'store.db'}"
