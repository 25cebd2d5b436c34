"""Owns the process that runs one review and may be killed at any moment.
It must never print anything but one line once it is the owner; what it has to say lies in the store.
"""

from __future__ import annotations

import asyncio
import sys

import msgspec

from spellwork import Engine, SpellworkError
from spellwork.demo.pipeline.session import LEASE_SECONDS, Session
from spellwork.demo.pipeline.workflow import review


async def work(session: Session, run_id: str) -> None:
    """Run the review to its end."""
    # Windows cannot tell that the owner before was killed; there its lease has to run out.
    standby = sys.platform == "win32"
    async with Engine(session.store, workflows=[review], standby=standby, lease=LEASE_SECONDS) as engine:
        run = await session.start(engine, run_id)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await run.result()


if __name__ == "__main__":
    try:
        asyncio.run(work(msgspec.json.decode(sys.argv[1], type=Session), sys.argv[2]))
    except SpellworkError as error:
        sys.exit(f"{error} [{error.code}]")
