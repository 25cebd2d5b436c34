"""Owns which run a review is: a new one, or the unfinished one of the same path and folder.
It must never start a second run beside an unfinished one.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import msgspec

from spellwork import Engine, Run, RunInfo
from spellwork.demo.pipeline.ledger import Ledger
from spellwork.demo.pipeline.standing import Standing, standing
from spellwork.demo.pipeline.workflow import LEDGER, Outcome, review

WIDTH = 8
LEASE_SECONDS = 2.0  # on Windows a killed owner is only known to be gone once its lease has run out
_PAGE = 200


class Session(msgspec.Struct, frozen=True):
    """Where a review reads and writes. Paths are absolute: the command that resumes may stand elsewhere."""

    root: str
    out: str
    store: str
    width: int = WIDTH

    @classmethod
    def of(cls, root: Path, out: Path, store: str | None) -> Session:
        """The session of a command line, with the store in the folder unless one is named."""
        folder = out.absolute()
        return cls(str(root.absolute()), str(folder), store or f"sqlite:{folder / 'review.db'}")

    @property
    def ledger(self) -> Ledger:
        """The ledger of every review into this folder."""
        return Ledger(Path(self.out) / LEDGER)

    @property
    def stem(self) -> str:
        """How the ids of this path's and folder's runs begin."""
        digest = hashlib.blake2b(os.fsencode(f"{self.root}\0{self.out}"), digest_size=3).hexdigest()
        name = re.sub(r"[^A-Za-z0-9_.]+", "-", Path(self.root).name)[:40].strip("-") or "tree"
        return f"review-{name}-{digest}"

    def engine(self, *, owner: bool) -> Engine:
        """An engine that runs the review, or one that only watches the store."""
        return Engine(self.store, workflows=[review], client=not owner, lease=LEASE_SECONDS)

    async def choose(self, engine: Engine) -> tuple[str, bool]:
        """The id of the unfinished run and True, or that of the next one and False."""
        found = await self._mine(engine)
        if found and not found[0].status.ended:
            return found[0].id, True
        return f"{self.stem}-{1 + max((_ordinal(each.id) for each in found), default=0)}", False

    async def _mine(self, engine: Engine) -> list[RunInfo]:
        found: list[RunInfo] = []
        after = None
        while True:
            page = await engine.list(workflow=review.name, limit=_PAGE, after=after)
            found += [each for each in page if each.id.rpartition("-")[0] == self.stem]
            if len(page) < _PAGE:
                return sorted(found, key=lambda each: _ordinal(each.id), reverse=True)
            after = page[-1].id

    async def start(self, engine: Engine, run_id: str) -> Run[Outcome]:
        """Start the run, or find the one of this id."""
        return await engine.start(review, self.root, self.out, self.width, id=run_id)


async def look(run: Run[Outcome]) -> Standing:
    """How far the run has come."""
    return standing(await run.history())


def _ordinal(run_id: str) -> int:
    number = run_id.rpartition("-")[2]
    return int(number) if number.isdecimal() else 0
