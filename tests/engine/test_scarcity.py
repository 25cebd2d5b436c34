"""What the engine does when the machine gives it nothing more: disk, threads."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from spellwork import Engine, activity, update, workflow
from spellwork.errors import StoreFailed, StoreUnavailable


async def test_update_whose_answer_cannot_be_stored_is_told_why(tmp_path: Path) -> None:
    """The disk fails under the batch with an update's answer: whoever waits gets the disk's error, and does not wait for ever."""
    failing = False

    def probe(point: str) -> None:
        if failing:
            raise StoreFailed(f"no disk at {point}")

    @activity
    async def fail_from_now_on() -> None:
        nonlocal failing
        failing = True

    @workflow
    async def counter() -> None:
        @update
        async def put() -> int:
            await fail_from_now_on()
            return 1

        await asyncio.Event().wait()

    async with Engine(f"sqlite:{tmp_path / 'store.db'}", workflows=[counter], probe=probe) as engine:
        run = await engine.start(counter)
        with pytest.raises(StoreFailed, match="no disk"):
            await asyncio.wait_for(run.update("put"), 10)
        with pytest.raises(StoreFailed, match="no disk"):
            await run.result()


def _no_threads(monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith(prefix):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)


@pytest.mark.parametrize("name", ["spellwork-committer", "spellwork-reader"])
async def test_store_without_a_thread_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Where no thread can be started, opening says so and leaves nothing open."""
    _no_threads(monkeypatch, name)
    with pytest.raises(StoreUnavailable, match="no thread can be started"):
        async with Engine(f"sqlite:{tmp_path / 'store.db'}"):
            raise AssertionError("it opened")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("spellwork-committer", "spellwork-reader"))]


async def test_activity_without_a_thread_stops_the_engine_and_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain activity that gets no thread is not charged with it: the engine stops, and the next one finishes the run."""

    @activity
    def plain() -> int:
        return 5

    @workflow
    async def works() -> int:
        return await plain()

    url = f"sqlite:{tmp_path / 'store.db'}"
    with monkeypatch.context() as scarce:
        _no_threads(scarce, "spellwork-activity")
        async with Engine(url, workflows=[works]) as engine:
            with pytest.raises(StoreUnavailable, match="an activity cannot run: no thread"):
                await (await engine.start(works, id="r")).result(10)
    async with Engine(url, workflows=[works]) as engine:
        assert await (await engine.get("r")).result(10) == 5
