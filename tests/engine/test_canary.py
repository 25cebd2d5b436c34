"""A canary secret, put wherever a user can put one, is found nowhere on the disk: with encryption on, and with redaction on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import Any

import pytest

from spellwork import Codec, Engine, Retry, Signal, Workflow, activity, activity_context, heartbeat, workflow
from spellwork.codec import Redaction, Secret
from spellwork.engine.fsck import check
from spellwork.errors import DefinitionError, PayloadError, RunBlocked, RunFailed, RunTerminated, UpdateRejected
from spellwork.store import Encryption
from spellwork.store.backup import create_backup, list_backups
from spellwork.store.backup.blocks import ROWS, read_blocks
from spellwork.store.backup.manifest import ROWS_FILE
from spellwork.workflow import query, update

CANARY = "canary-5e1f77c0"
KEY = b"\x07" * 32
RULES = Redaction(patterns=[r"canary-[0-9a-f]+"], fields=["password"])
note = Signal[str]("note")


@activity(retry=Retry(max_attempts=2, initial=0.001))
async def echo(text: str) -> str:
    if activity_context().attempt == 1:
        heartbeat({"seen": text, "canary": CANARY})
        raise ValueError(f"once more with {CANARY}", {"password": "canary-in-data"})
    return f"{text} and {CANARY}"


@activity(retry=Retry(max_attempts=1))
async def fails() -> None:
    try:
        raise KeyError(CANARY)
    except KeyError as error:
        raise RuntimeError(f"cannot use {CANARY}") from error


@workflow
async def child(text: str) -> str:
    return text


@workflow
async def everything(text: str, options: dict[str, str], password: str = "") -> dict[str, Any]:
    seen: dict[str, Any] = {"text": text, "options": options, "password": password}

    @query
    def told() -> str:
        return f"{text} {CANARY}"

    @update
    def change(value: str) -> str:
        seen["changed"] = value
        return f"{value} {CANARY}"

    @change.validator
    def no_bad(value: str) -> None:
        if value.startswith("bad"):
            raise ValueError(f"{CANARY} is bad")

    seen["echo"] = await echo(text)
    seen["child"] = await child(f"child {CANARY}")
    seen["note"] = await note.receive()
    try:
        await fails()
    except RuntimeError as error:
        seen["error"] = [str(error), str(error.__cause__)]
    return seen


@workflow
async def broken() -> None:
    raise RuntimeError(f"broken by {CANARY}")


@workflow
async def refuses(text: str) -> None:
    for name in ("workflow", "engine", "events", "state", "machine"):
        logging.getLogger(f"spellwork.{name}").warning("a line about %s and %s", text, CANARY)
    raise PayloadError(f"$: {CANARY} cannot be")


WORKFLOWS: list[Workflow[Any, Any]] = [everything, child, broken, refuses]


def heard(history: list[Any]) -> Any:
    """The details of the last heartbeat of the attempt that failed."""
    return next(event.data["heartbeat"] for event in history if event.kind == "AttemptFailed")


def found_in(place: Path) -> list[str]:
    """The files below a folder that hold the canary in any of the forms that it could be written in."""
    forms = [CANARY.encode(form) for form in ("utf-8", "utf-16-le", "utf-16-be")] + [CANARY.encode().hex().encode()]
    return [path.name for path in place.rglob("*") if path.is_file() and any(form in path.read_bytes() for form in forms)]


def backed_up(place: Path) -> list[bytes]:
    """The values in the backup, out of their compressed blocks."""
    manifest = list_backups(place / "backups")[-1]
    return [row[1] for row in read_blocks(place / "backups" / manifest.name / ROWS_FILE, manifest.files[ROWS_FILE], ROWS)]


async def put_everywhere(place: Path, secret: str = CANARY, scheme: str = "sqlite", **options: Any) -> dict[str, Any]:
    """Arguments, results, attempts, heartbeats, signals, updates, queries, children, errors, reasons, state, log lines, backups."""
    seen: dict[str, Any] = {}
    log = logging.FileHandler(place / "engine.log")
    logging.getLogger("spellwork").addHandler(log)
    try:
        async with Engine(f"{scheme}:{place / 'store.db'}", workflows=WORKFLOWS, **options) as engine:
            run = await engine.start(everything, secret, {"a": secret, "password": "hunter2-canary"}, secret, id="everything")
            while "echo" not in str(await run.history()) or "ChildEnded" not in {e.kind for e in await run.history()}:
                await asyncio.sleep(0.01)
            async with contextlib.AsyncExitStack() as stack:
                client = engine
                if scheme == "sqlite":  # its mail goes over the disk
                    client = await stack.enter_async_context(Engine(f"sqlite:{place / 'store.db'}", client=True, **options))
                there = await client.get("everything")
                seen["query"] = await there.query("told")
                seen["update"] = await there.update("change", secret)
                with pytest.raises(UpdateRejected):
                    await there.update("change", "bad")
                await there.signal(note, f"note {secret}")
            seen["result"] = await run.result(10)
            seen["heartbeat"] = heard(await run.history())
            seen["history"] = [event.data for event in await run.history()]
            with pytest.raises(RunFailed) as failed:
                await engine.run(broken, id="broken")
            seen["failure"] = str(failed.value)
            other = await engine.start(everything, "x", {}, id="ended")
            await other.terminate(f"because of {secret}")
            with pytest.raises(RunTerminated) as terminated:
                await other.result()
            seen["terminated"] = str(terminated.value)
            blocked = await engine.start(refuses, secret, id="refuses")
            with pytest.raises((RunFailed, RunBlocked)):
                await blocked.result(5)
            tree = engine.state.tree("tree", dict[str, str])
            await tree.set("k", {"text": secret, "password": secret})
            seen["state"] = await tree.get("k")
            await engine.state.tree("list").merge("k", "append", secret, id="once")
            topic = await engine.topics.topic("news", type=str)
            await topic.publish(f"event {secret}", headers={"about": secret, "password": secret})
            async for event in topic.read(follow=False):
                seen["event"] = [event.data, dict(event.headers or {})]
            seen["files"] = found_in(place)
            assert (await engine.store.examine(check)).findings == []
            await engine.store.examine(lambda reader: create_backup(reader, place / "backups", created=1), raw=True)
    finally:
        logging.getLogger("spellwork").removeHandler(log)
        log.close()
    return seen


async def test_without_care_the_canary_is_found(tmp_path: Path) -> None:
    """So the search finds what there is."""
    seen = await put_everywhere(tmp_path)
    assert "store.db-wal" in seen["files"]
    assert found_in(tmp_path)
    assert any(CANARY.encode() in value for value in backed_up(tmp_path))


@pytest.mark.parametrize("scheme", ["sqlite", "lmdb", "rocksdb"])
async def test_with_encryption_the_canary_is_nowhere(tmp_path: Path, scheme: str) -> None:
    """Not in the database nor in its log, while it runs and afterwards, nor in a backup; and everybody gets the true values."""
    seen = await put_everywhere(tmp_path, scheme=scheme, encryption=Encryption(KEY))
    assert not any(CANARY.encode() in value for value in backed_up(tmp_path))
    # a file of log lines is the program's own, and takes redaction
    assert set(seen["files"]) | set(found_in(tmp_path)) == {"engine.log"}
    assert seen["result"]["text"] == seen["state"]["text"] == CANARY
    assert seen["result"]["error"] == [f"cannot use {CANARY}", f"'{CANARY}'"]


async def test_with_redaction_the_canary_is_nowhere(tmp_path: Path) -> None:
    """Nor anywhere in what is answered: what runs live sees what is stored."""
    seen = await put_everywhere(tmp_path, redaction=RULES)
    assert seen["files"] == []
    assert found_in(tmp_path) == []
    assert not any(CANARY.encode() in value or b"hunter2" in value for value in backed_up(tmp_path))
    assert not any(b"hunter2" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    result = seen["result"]
    assert result == {
        "text": "***", "options": {"a": "***", "password": "***"}, "password": "***", "echo": "*** and ***", "child": "child ***",
        "changed": "***", "note": "note ***", "error": ["cannot use ***", "'***'"],
    }  # fmt: skip
    assert CANARY not in str(seen)
    assert "RuntimeError: broken by ***" in seen["failure"]
    assert seen["state"] == {"text": "***", "password": "***"}
    assert seen["event"] == ["event ***", {"about": "***", "password": "***"}]
    assert seen["heartbeat"] == {"seen": "***", "canary": "***"}
    assert seen["query"] == "*** ***"
    assert seen["update"] == "*** ***"
    assert (tmp_path / "engine.log").read_text().count("a line about *** and ***") == 5


async def test_live_equals_replay_under_redaction(tmp_path: Path) -> None:
    """Reopened, the run is replayed to the same place, and its result is the same."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    async with Engine(url, workflows=WORKFLOWS, redaction=RULES) as engine:
        run = await engine.start(everything, CANARY, {}, id="one")
        while "ChildEnded" not in {event.kind for event in await run.history()}:
            await asyncio.sleep(0.01)
        live = await run.query("told")
    async with Engine(url, workflows=WORKFLOWS, redaction=RULES) as engine:
        run = await engine.get("one")
        assert await run.query("told") == live == "*** ***"
        await run.signal(note, CANARY)
        assert (await run.result(10))["note"] == "***"


async def test_rules_are_given_once() -> None:
    """To the codec or to the engine, not to both."""
    with pytest.raises(DefinitionError, match="give them once"):
        Engine("memory:", codec=Codec(redaction=RULES), redaction=RULES)


async def test_secrets_never_reach_a_store() -> None:
    """As an argument, a result, a signal or in an error a Secret is refused or left out, and the error says what to do."""

    @activity(retry=Retry(max_attempts=1))
    async def careless() -> Any:
        return {"token": Secret(CANARY)}

    @activity(retry=Retry(max_attempts=1))
    async def worse() -> None:
        raise ValueError("bad token", Secret(CANARY))

    @workflow
    async def tries() -> list[str]:
        said = []
        for attempt in (careless, worse):
            try:
                await attempt()
            except (PayloadError, ValueError) as error:
                said.append(str(error))
        return said

    async with Engine("memory:", workflows=[tries, everything]) as engine:
        with pytest.raises(PayloadError, match=r"everything: options\['a'\]: a Secret is never stored"):
            await engine.start(everything, "x", {"a": Secret(CANARY)})
        first, second = await engine.run(tries)
        assert "activity test_secrets_never_reach_a_store" in first or "['token']: a Secret is never stored" in first
        assert "***" in second
        rows = await engine.store.scan(b"", b"\xff" * 64)
        assert not any(CANARY.encode() in value for _, value in rows)
