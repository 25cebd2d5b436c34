"""Machines under rules of redaction: what runs is what is stored, and what is stored can be read again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from spellwork import Engine
from spellwork.codec import Redaction
from spellwork.hosted import MachineType
from spellwork.machine import Assign, Chart, ChartBuilder, Send
from spellwork.store.backup import create_backup, restore_backup
from spellwork.store.opening import open_backend
from spellwork.testing import TestEngine, replays

CANARY = "canary-" + "5e1f77c0"
_COUNT = Assign(lambda context: {**context, "n": context["n"] + 1})


def counter(**more: Any) -> Chart:
    chart = ChartBuilder("counter", context=lambda: {"n": 0, **more}).initial("on")
    chart.state("on").on("up", do=_COUNT)
    return chart.build()


@pytest.mark.parametrize(
    "rules",
    [
        Redaction(fields=["version", "structure", "context", "data", "snapshot", "at", "left", "begin"]),
        Redaction(fields=["chart", "states", "history", "pending", "session", "deferred"]),
        Redaction(patterns=[r"\d{16}"]),
        Redaction(patterns=[r"(?<=password=)\S+"]),
        Redaction(patterns=[r"counter", r"\bon\b", r"only-one"]),
    ],
)
async def test_no_rule_breaks_what_a_machine_is_made_of(rules: Redaction, tmp_path: Path) -> None:
    """Names of our own fields are none of the user's, and stored bytes are no text, whatever seems to match in them."""
    kind = MachineType(counter(digits=[0x31] * 20, words=["password=", "and", "more"]), trim=2)
    url = f"sqlite:{tmp_path / 'store.db'}"
    for life in range(1, 3):
        async with Engine(url, machines=[kind], redaction=rules) as engine:
            machine = engine.machine("counter", "only-one")
            for _ in range(4):
                await machine.send("up")
            state = await machine.ask("up")
            assert state.active == ("on",)
            assert state.context == {"n": 5 * life, "digits": [0x31] * 20, "words": ["password=", "and", "more"]}
            assert all(verdict.ok for verdict in await replays(engine))


async def test_guards_and_timers_see_what_is_stored(tmp_path: Path) -> None:
    """From the first event on, and not from the next time on that the journal is trimmed."""
    seen: list[Any] = []

    def see(value: Any) -> bool:
        seen.append(value)
        return True

    chart = ChartBuilder("seen", context=lambda: {"password": "", "told": 0}).initial("on")
    state = chart.state("on")
    state.on("set", do=[Assign(lambda c: {**c, "password": CANARY}), Send("told", data=CANARY, delay="5s")])
    state.on("look", guard=lambda context: see(context["password"]))
    state.on("told", guard=lambda _context, event: see(event.data), do=_TOLD)
    rules = Redaction(patterns=["canary-[0-9a-f]+"], fields=["password"])
    for trim in (100, 1):
        seen.clear()
        async with TestEngine(machines=[MachineType(chart.build(), trim=trim)], redaction=rules) as engine:
            machine = engine.machine("seen", "m")
            await machine.send("set")
            await machine.send("look")
            await engine.advance(6)
            assert (await machine.state()).context == {"password": "***", "told": 1}
        assert set(seen) == {"***"}


async def test_a_secret_that_is_set_in_place_again_is_not_seen_either() -> None:
    """The stored form is the same as before, and so must be what guards and timers see."""
    seen: list[str] = []

    def tell(account: Account) -> Account:
        account.password = CANARY
        return account

    def look(account: Account) -> bool:
        seen.append(account.password)
        return True

    chart = ChartBuilder("seen", context=Account).initial("on")
    chart.state("on").on("set", do=Assign(tell)).on("look", guard=look)
    async with TestEngine(machines=[chart.build()], redaction=Redaction(fields=["password"])) as engine:
        machine = engine.machine("seen", "m")
        for _ in range(2):
            await machine.send("set")
            await machine.send("look")
    assert seen == ["***", "***"]


@dataclasses.dataclass
class Account:
    password: str = ""


_TOLD = Assign(lambda context: {**context, "told": context["told"] + 1})


@pytest.mark.parametrize("scheme", ["sqlite", "lmdb", "rocksdb"])
async def test_the_canary_of_a_machine_is_nowhere(scheme: str, tmp_path: Path) -> None:
    """Not in rows, logs of databases, backups and restored stores: of events, contexts, timers, children and results."""
    child = ChartBuilder("below", context=lambda: {}).initial("on")
    child.state("on").on_entry(Send("found", data=CANARY, target="#_parent"))
    chart = ChartBuilder("keeps", context=lambda: {"kept": f"as {CANARY}"}).initial("on")
    state = chart.state("on").invoke(child.build(), id="b", data={"password": "hunter2", "text": CANARY})
    state.on("keep", do=Assign(lambda c, e: {**c, "data": e.data})).on("found", do=Assign(lambda c, e: {**c, "found": e.data}))
    state.on("wait", do=Send("keep", data={"api": CANARY, "password": "hunter2"}, delay="1h")).on("end", "over")
    chart.final("over", lambda context: {"result": context, "secret": CANARY})
    url, rules = f"{scheme}:{tmp_path / 'store'}", Redaction(patterns=["canary-[0-9a-f]+"], fields=["password"])

    def holding() -> set[str]:
        content = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        return {path.name for path, found in content.items() if CANARY.encode() in found or b"hunter2" in found}

    async with Engine(url, machines=[MachineType(chart.build(), trim=1)], redaction=rules) as engine:
        machine = engine.machine("keeps", "m")
        await machine.send("keep", {"text": CANARY, "password": "hunter2"})
        await machine.send("wait")
        await machine.send("keep", f"{CANARY} again", id="once")
        assert holding() == set()
        await engine.store.examine(lambda reader: create_backup(reader, tmp_path / "backups", created=1), raw=True)
        await machine.send("end")
        assert (await machine.result(10))["secret"] == "***"
    restore_backup(tmp_path / "backups", f"{scheme}:{tmp_path / 'restored'}")
    assert holding() == set()
    _, backend = open_backend(f"{scheme}:{tmp_path / 'restored'}", create=False)
    backend.close()
