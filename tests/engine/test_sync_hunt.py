"""The synchronous face where it must not wait for what never comes."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spellwork import RunFailed, Signal, activity, workflow
from spellwork.errors import StoreClosed, UsageError
from spellwork.sync import Engine

go = Signal[str]("go")
open_engine: list[Engine] = []


@activity
async def inside() -> str:
    return open_engine[0].start(waiting).id


@workflow
async def waiting() -> str:
    return await go.receive()


@workflow
async def nested() -> str:
    return await inside()


def told(work: Callable[[], Any], seconds: float = 20) -> Any:
    """What `work` gives or raises in a thread of its own; fails if it hangs."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test looks at it
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert outcome, "it hangs"
    return outcome[0]


def test_on_its_own_loop_it_is_refused() -> None:
    with Engine("memory:", workflows=[waiting, nested]) as engine:
        open_engine[:] = [engine]
        error = told(lambda: engine.run(nested))
    assert isinstance(error, RunFailed)
    assert isinstance(error.__cause__, UsageError)


def test_handles_of_a_closed_engine_tell_so() -> None:
    with Engine("memory:", workflows=[waiting]) as engine:
        run = engine.start(waiting)
    assert isinstance(told(run.result), StoreClosed)


def test_whoever_waits_for_another_owner_hears_of_the_closing(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'store.db'}"
    with Engine(url, workflows=[waiting]):
        pass
    client = Engine(url, workflows=[waiting], client=True)
    client.__enter__()
    outcome: list[Any] = []
    thread = threading.Thread(target=lambda: outcome.append(told(lambda: client.start(waiting, id="run"))))
    thread.start()
    thread.join(0.3)
    client.__exit__(None, None, None)
    thread.join()
    assert isinstance(outcome[0], StoreClosed)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_in_a_forked_process_it_is_refused(tmp_path: Path) -> None:
    with Engine("memory:", workflows=[waiting]) as engine:
        child = os.fork()
        if not child:
            os._exit(0 if isinstance(told(engine.list), UsageError) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
