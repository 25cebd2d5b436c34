"""Owns the process that runs one review and may be killed at any moment.
It must never print anything but one line once it is the owner; what it has to say lies in the store.
"""

from __future__ import annotations

import asyncio
import sys

import msgspec

from spellwork import Engine
from spellwork.demo.pipeline.session import LEASE_SECONDS, Session
from spellwork.demo.pipeline.workflow import review


async def work(session: Session, run_id: str) -> None:
    """Run the review to its end."""
    # As a standby it also takes over on a system that cannot tell that the owner before was killed.
    async with Engine(session.store, workflows=[review], standby=True, lease=LEASE_SECONDS) as engine:
        run = await session.start(engine, run_id)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await run.result()


if __name__ == "__main__":
    asyncio.run(work(msgspec.json.decode(sys.argv[1], type=Session), sys.argv[2]))
