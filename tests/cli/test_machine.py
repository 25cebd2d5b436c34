"""Hosted machines from the command line: with a process that runs them, and without one."""

import asyncio
from pathlib import Path

import pytest

from spellwork import Engine
from spellwork.hosted import MachineType
from spellwork.machine import Assign, ChartBuilder, Log

DOORS = """
    from spellwork.machine import Assign, ChartBuilder, Log

    def _door():
        chart = ChartBuilder("door", context=lambda: {"opened": 0}).initial("closed")
        more = [Assign(lambda c: {"opened": c["opened"] + 1}), Log("opened", lambda c: c["opened"])]
        chart.state("closed").on("open", "open", do=more).on("lock", "locked")
        chart.state("open").on("close", "closed")
        chart.state("locked").on("unlock", "closed", guard=lambda c, e: e.data == "key")
        return chart.build()

    DOOR = _door()
"""


def door():
    chart = ChartBuilder("door", context=lambda: {"opened": 0}).initial("closed")
    more, log = Assign(lambda c: {"opened": c["opened"] + 1}), Log("opened", lambda c: c["opened"])
    chart.state("closed").on("open", "open", do=[more, log]).on("lock", "locked")
    chart.state("open").on("close", "closed")
    chart.state("locked").on("unlock", "closed", guard=lambda c, e: e.data == "key")
    return MachineType(chart.build())


@pytest.fixture
def doors(write):
    """A store with two machines and a workflow's run, and the file that declares the chart."""
    write("doors.py", DOORS)

    async def fill():
        async with Engine("sqlite:spellwork.db", machines=[door()]) as engine:
            await engine.machine("door", "front").send("open")
            await engine.machine("door", "back").send("lock")

    asyncio.run(fill())


def test_a_running_owner_takes_events_and_tells_where_they_led(doors, process, spellwork):
    """Send, refuse, list and show, against the process that runs the store."""
    process("worker", "doors.py").says("running machine:door")
    assert spellwork("machine", "send", "front", "close").out == "closed\n"
    sent = spellwork("machine", "send", "back", "unlock", "--data", '"key"', "--event-id", "e1", "--json").value
    assert (sent["sent"], sent["state"]["active"]) == ("delivered", ["closed"])
    again = spellwork("machine", "send", "back", "unlock", "--data", '"key"', "--event-id", "e1")
    assert (again.code, again.out) == (0, "closed\n")
    refused = spellwork("machine", "send", "front", "close", "--json")
    assert (refused.code, refused.error["error"]) == (5, "invalid-transition")
    assert "it handles open, lock" in refused.error["message"]
    listed = spellwork("machine", "ps").out.splitlines()
    assert [line.split()[:5] for line in listed[1:]] == [
        ["back", "door", "1", "running", "closed"], ["front", "door", "1", "running", "closed"],
    ]  # fmt: skip
    shown = spellwork("machine", "show", "front")
    assert "takes     open, lock" in shown.out
    assert [line.split()[3:] for line in shown.out.splitlines() if line.startswith(("1 ", "2 "))] == [
        ["open", "closed", "open"], ["close", "open", "closed"],
    ]  # fmt: skip
    record = spellwork("machine", "show", "front", "--last", "1", "--json").value
    assert (record["machine"], record["state"]["context"], [t["event"] for t in record["last"]]) == (
        "door",
        {"opened": 1},
        ["close"],
    )


def test_without_an_owner_events_wait_and_the_chart_tells(doors, spellwork):
    """An event is queued; where a machine stands is worked out from the file."""
    sent = spellwork("machine", "send", "front", "close", "--json")
    assert (sent.value["sent"], sent.value["state"]) == ("queued", None)
    assert "queued" in spellwork("machine", "send", "back", "unlock", "--data", '"key"').err
    silent = spellwork("machine", "show", "front")
    assert (silent.code, silent.out) == (4, "")
    assert "--file FILE.py" in silent.err
    shown = spellwork("machine", "show", "front", "--file", "doors.py", "--json").value
    assert (shown["state"]["active"], [t["event"] for t in shown["last"]]) == (["open"], [None, "open"])
    assert shown["last"][1]["notes"] == [["opened", 1]]
    replayed = spellwork("replay", "doors.py", "--all")
    assert (replayed.code, "front" in replayed.out) == (0, True)
    listed = spellwork("machine", "ps", "--json").lines
    assert [(line["id"], line["machine"], line["state"]) for line in listed] == [("back", "door", None), ("front", "door", None)]

    async def states():
        async with Engine("sqlite:spellwork.db", machines=[door()]) as engine:
            async with asyncio.timeout(10):
                while (await engine.machine("door", "back").state()).active != ("closed",):
                    await asyncio.sleep(0.01)
            return [(await engine.machine("door", id).state()).active for id in ("front", "back")]

    assert asyncio.run(states()) == [("closed",), ("closed",)]


def test_events_are_stored_as_the_codec_says(doors, write, spellwork):
    """With an owner or without, `--codec` has the rules of redaction; and a store that is encrypted is opened with its key."""
    write("rules.py", "from spellwork.codec import Redaction\ncodec = Codec(redaction=Redaction(patterns=['canary-[0-9]+']))")
    sent = spellwork("machine", "send", "back", "unlock", "--data", '{"key": "canary-71"}', "--codec", "rules.py")
    assert sent.code == 0, sent.err
    assert [path.name for path in Path().glob("spellwork.db*") if b"canary-71" in path.read_bytes()] == []
    spellwork("machine", "send", "back", "unlock", "--data", '{"key": "canary-71"}')
    assert [path.name for path in Path().glob("spellwork.db*") if b"canary-71" in path.read_bytes()]


def test_an_encrypted_store_is_opened_with_its_key(doors, spellwork, monkeypatch):
    """By each verb of machines, as by all others."""
    monkeypatch.setenv("SPELLWORK_KEY", "07" * 32)
    assert spellwork("key", "encrypt", "closed.db").code == 0
    for words in (("ps",), ("show", "front", "--file", "doors.py"), ("send", "front", "close")):
        done = spellwork("machine", *words, "--store", "closed.db")
        assert done.code == 0, done.err


def test_what_is_no_machine_is_refused(write, spellwork):
    """Runs of workflows, ids that nobody has, and lists of nothing."""
    write("plain.py", "\n@workflow\nasync def plain() -> int:\n    await asyncio.sleep(100)\n    return 1\n")
    assert spellwork("start", "plain.py", "--id", "p").code == 0
    assert "no machines yet" in spellwork("machine", "ps").err
    assert spellwork("machine", "show", "nobody").code == 3
    assert spellwork("machine", "send", "nobody", "open").code == 3
    assert spellwork("machine", "send", "p", "open", "--data", "{").code == 2

    async def run():
        async with Engine("sqlite:spellwork.db", machines=[door()]) as engine:
            await engine.machine("door", "front").send("open")

    asyncio.run(run())
    assert [line["id"] for line in spellwork("machine", "ps", "--machine", "door", "--json").lines] == ["front"]
    assert "no such machines" in spellwork("machine", "ps", "--machine", "gate").err
    assert spellwork("machine", "--help").code == 0
    for verb in ("send", "ps", "show"):
        assert "spellwork machine" in spellwork("machine", verb, "--help").out
