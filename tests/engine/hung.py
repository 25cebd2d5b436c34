"""A program whose activity hangs in a worker process; run by `test_hunt`."""

from __future__ import annotations

import asyncio
import sys
import time

from spellwork import Engine, Retry, activity, workflow
from spellwork.errors import RunFailed


@activity(executor="process", timeout=float(sys.argv[1]) if len(sys.argv) > 1 else 1, retry=Retry(max_attempts=1))
def hangs() -> None:
    while True:
        time.sleep(0.1)


@workflow
async def hung() -> None:
    await hangs()


async def main() -> None:
    async with Engine("memory:", workflows=[hung], processes=1) as engine:
        try:
            await engine.run(hung)
        except RunFailed:
            print("timed out", flush=True)  # noqa: T201 - it is listened to
    print("closed", flush=True)  # noqa: T201 - it is listened to


if __name__ == "__main__":
    asyncio.run(main())
