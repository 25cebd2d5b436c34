"""Virtual time: what it waits for, and what it does not wait for."""

from __future__ import annotations

import asyncio
import time

import pytest

from spellwork import ActivityTimeout, Retry, activity, workflow
from spellwork.testing import TestEngine


@activity(timeout=30, retry=Retry(max_attempts=2, initial=5))
async def call() -> str:
    return "answered"


@workflow
async def asks() -> str:
    try:
        return await call()
    except ActivityTimeout as error:
        return f"{error.limit} {error.seconds:g}"


async def test_an_activity_that_waits_for_what_never_comes_runs_into_its_timeout() -> None:
    """Both attempts do, with the wait between them, and it takes no time."""

    async def hangs() -> str:
        await asyncio.Event().wait()
        return "never"

    async with TestEngine(workflows=[asks], fakes={call: hangs}) as engine:
        began = engine.clock.monotonic()
        assert await engine.run(asks) == "timeout 30"
        assert engine.clock.monotonic() - began == pytest.approx(65, abs=1)  # the wait has jitter


async def test_what_is_really_under_way_is_waited_for() -> None:
    """A real timer, a thread, a socket: virtual time does not run out on any of them."""

    async def on_a_timer() -> str:
        await asyncio.sleep(0.1)
        return "timer"

    async def in_a_thread() -> str:
        await asyncio.to_thread(time.sleep, 0.1)
        return "thread"

    async def over_a_socket() -> str:
        async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await asyncio.to_thread(time.sleep, 0.1)
            writer.write(b"socket")
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            text = await reader.read()
            writer.close()
        return text.decode()

    for fake, answer in ((on_a_timer, "timer"), (in_a_thread, "thread"), (over_a_socket, "socket")):
        async with TestEngine(workflows=[asks], fakes={call: fake}) as engine:
            assert await engine.run(asks) == answer
