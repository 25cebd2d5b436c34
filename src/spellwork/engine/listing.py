"""Owns pages of runs.
It must never read a journal.
"""

from __future__ import annotations

from spellwork.engine import rows
from spellwork.errors import RunNotFound, StoreCorrupt
from spellwork.journal import RunRow, Status
from spellwork.journal.rows import Keys, number_of, run_key, unpack_row
from spellwork.store import Reader

_CHUNK = 500


def page(reader: Reader, status: Status | None, workflow: str | None, limit: int, after: str | None) -> list[RunRow]:
    """Up to `limit` rows, newest first, behind the run `after`. Runs that continued as new show only where asked for.

    A `workflow` that ends with * stands for all names that begin so.
    """
    stem = workflow[:-1] if workflow is not None and workflow.endswith("*") else None
    end = bytes((Keys.RUNS + 1,))
    if after is not None:
        address = rows.find(reader, after)
        if address is None:
            raise RunNotFound(f"after={after!r}: there is no such run", run_id=after)
        end = run_key(address.number)
    found: list[RunRow] = []
    while len(found) < limit:
        chunk = reader.scan(bytes((Keys.RUNS,)), end, reverse=True, limit=_CHUNK, damaged=b"")
        for key, data in chunk:
            row = _row(key, data)
            end = key
            wanted = row.status is status if status is not None else row.status is not Status.CONTINUED
            named = workflow is None or row.workflow == workflow or (stem is not None and row.workflow.startswith(stem))
            if wanted and named:
                found.append(row)
                if len(found) == limit:
                    break
        if len(chunk) < _CHUNK:
            break
    return found


def _row(key: bytes, data: bytes) -> RunRow:
    """The row of a run, or one that stands for a damaged row: a page shows the damage and the others."""
    try:
        return unpack_row(data)
    except StoreCorrupt as error:
        number = number_of(key)
        return RunRow(f"<damaged {number:x}>", number, 0, "", "", Status.BLOCKED, 0, 0, b"", None, str(error))
