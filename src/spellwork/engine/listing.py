"""Owns pages of runs.
It must never read a journal.
"""

from __future__ import annotations

from spellwork.engine import rows
from spellwork.errors import RunNotFound
from spellwork.journal import RunRow, Status
from spellwork.journal.rows import Keys, run_key, unpack_row
from spellwork.store import Reader

_CHUNK = 500


def page(reader: Reader, status: Status | None, workflow: str | None, limit: int, after: str | None) -> list[RunRow]:
    """Up to `limit` rows, newest first, behind the run `after`. Runs that continued as new show only where asked for."""
    end = bytes((Keys.RUNS + 1,))
    if after is not None:
        address = rows.find(reader, after)
        if address is None:
            raise RunNotFound(f"after={after!r}: there is no such run", run_id=after)
        end = run_key(address.number)
    found: list[RunRow] = []
    while len(found) < limit:
        chunk = reader.scan(bytes((Keys.RUNS,)), end, reverse=True, limit=_CHUNK)
        for key, data in chunk:
            row = unpack_row(data)
            end = key
            wanted = row.status is status if status is not None else row.status is not Status.CONTINUED
            if wanted and (workflow is None or row.workflow == workflow):
                found.append(row)
                if len(found) == limit:
                    break
        if len(chunk) < _CHUNK:
            break
    return found
