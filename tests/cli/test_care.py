"""fsck, backup, key, and the canary: what the command line does for the care of data."""

from __future__ import annotations

import json

import apsw
import pytest

from spellwork.journal.rows import Keys

CANARY = "canary-5e1f77c0"
KEY, OTHER = "07" * 32, "08" * 32

FLOW = """
    from spellwork.codec import Redaction
    CANARY = "canary-" + "5e1f77c0"
    RULES

    @activity
    async def step(text: str) -> str:
        return f"{text} and {CANARY}"

    @workflow
    async def flow(text: str = "", password: str = "") -> str:
        if text == "fail":
            raise ValueError(CANARY)
        return await step(text)

    @workflow
    async def asks() -> str:
        return await Signal[str]("answer").receive()
"""
RULES = "codec = Codec(redaction=Redaction(patterns=['canary-[0-9a-f]+'], fields=['password']))"


@pytest.fixture
def flow(write):
    """A file of workflows, with rules of redaction or without."""
    return lambda rules="": write("flow.py", FLOW.replace("RULES", rules))


@pytest.fixture
def key(monkeypatch):
    """Set the keys of the environment."""

    def set_keys(*keys):
        monkeypatch.setenv("SPELLWORK_KEY", ",".join(keys))

    monkeypatch.delenv("SPELLWORK_KEY", raising=False)
    monkeypatch.delenv("SPELLWORK_KEY_FILE", raising=False)
    return set_keys


def stored(folder, *texts):
    """The files of stores that hold one of the texts."""
    files = [path for path in folder.glob("*.db*") if path.is_file()]
    return [path.name for path in files if any(text.encode() in path.read_bytes() for text in texts)]


def waiting(spellwork, name):
    """A run that waits for a signal, with nobody running the store."""
    assert spellwork("start", "flow.py:asks", "--id", name).code == 0
    while spellwork("show", name).code != 0:
        spellwork("run", "flow.py:flow")  # takes up what lies in the inbox


@pytest.mark.slow
@pytest.mark.parametrize("care", ["none", "encryption", "redaction"])
def test_the_command_line_leaves_no_canary(care, folder, flow, key, spellwork, monkeypatch):
    """Run --input, start, signal, cancel, show, history, ps and fsck: it is in the store's files without care alone."""
    flow(RULES if care == "redaction" else "")
    if care == "encryption":
        key(KEY)
    rules = ("--codec", "flow.py") if care == "redaction" else ()
    assert spellwork("run", "flow.py:flow", "--input", json.dumps([CANARY, "hunter2"]), "--id", "one").code == 0
    assert spellwork("run", "flow.py:flow", "--input", json.dumps({"text": "fail", "password": CANARY}), "--id", "two").code == 1
    for name in ("three", "five"):
        waiting(spellwork, name)
    assert spellwork("signal", "three", "answer", json.dumps(CANARY), *rules).code == 0
    assert spellwork("terminate", "five", "--reason", f"because {CANARY}", *rules).code == 0
    assert spellwork("resume", "flow.py", "three").code == 0
    while "terminated" not in spellwork("show", "five").out:
        spellwork("run", "flow.py:flow")
    shown = [spellwork(verb, name) for verb in ("show", "history") for name in ("one", "two", "three", "five")]
    shown += [spellwork("ps"), spellwork("fsck")]
    assert {done.code for done in shown} == {0}
    text = "".join(done.out for done in shown)
    assert bool(stored(folder, CANARY, "hunter2")) is (care == "none")
    assert (CANARY in text) is (care != "redaction")
    if care == "encryption":
        monkeypatch.delenv("SPELLWORK_KEY")
        refused = spellwork("show", "one")
        assert (refused.code, "no key was given" in refused.err) == (5, True)


# key


def test_keys_are_made_told_rotated_and_bring_encryption(folder, flow, key, spellwork):
    """new, encrypt, status, rotate: from a store that can be read to one under another key."""
    flow()
    spellwork("run", "flow.py:flow", "--input", json.dumps([CANARY]), "--id", "one")
    made = spellwork("key", "new").out.strip()
    assert spellwork("key", "status").code == 2
    key(made)
    refused = spellwork("show", "one", "--json")
    assert (refused.code, refused.error["error"]) == (5, "not-encrypted")
    assert spellwork("key", "encrypt", "new.db").code == 0
    assert spellwork("key", "encrypt", "new.db").code == 4
    assert stored(folder, CANARY) == ["spellwork.db"]
    assert spellwork("show", "one", "--store", "new.db").code == 0
    (use,) = spellwork("key", "status", "--store", "new.db", "--json").lines
    key(OTHER, made)
    done = spellwork("key", "rotate", "--store", "new.db", "--json").value
    assert done["rewritten"] >= use["rows"]
    key(OTHER)
    table = spellwork("key", "status", "--store", "new.db").out
    assert table.splitlines()[1].split()[1:3] == ["in", "use"]
    assert spellwork("history", "one", "--store", "new.db").code == 0
    key(made)
    assert spellwork("show", "one", "--store", "new.db", "--json").error["error"] == "key-refused"


def test_keys_come_from_a_file(folder, flow, key, spellwork, monkeypatch):
    """SPELLWORK_KEY_FILE names it; nothing that is no key is taken, or shown."""
    flow()
    (folder / "key").write_text(KEY)
    monkeypatch.setenv("SPELLWORK_KEY_FILE", "key")
    assert spellwork("run", "flow.py:flow", "--input", json.dumps([CANARY])).code == 0
    assert stored(folder, CANARY) == []
    (folder / "key").write_text("hunter2")
    refused = spellwork("ps")
    assert (refused.code, "hunter2" in refused.err) == (5, False)


# backup


def test_backups_are_made_listed_checked_and_restored(folder, flow, key, spellwork):
    """Create twice, list, verify, restore; what is there is kept unless --replace, and damage has its exit code."""
    flow()
    spellwork("run", "flow.py:flow", "--id", "one")
    assert spellwork("backup", "create", "backups", "--json").value["kind"] == "full"
    spellwork("run", "flow.py:flow", "--id", "two")
    second = spellwork("backup", "create", "backups", "--json").value
    assert (second["kind"], second["base"]) == ("incremental", 1)
    assert [line["number"] for line in spellwork("backup", "list", "backups", "--json").lines] == [1, 2]
    assert len(spellwork("backup", "list", "backups").out.splitlines()) == 3
    assert spellwork("backup", "verify", "backups").code == 0
    assert spellwork("backup", "restore", "backups", "--to", "restored.db").code == 0
    assert [line["id"] for line in spellwork("ps", "--store", "restored.db", "--json").lines] == ["two", "one"]
    assert spellwork("fsck", "--store", "restored.db").code == 0
    assert spellwork("backup", "restore", "backups", "1", "--to", "restored.db").code == 4
    assert spellwork("backup", "restore", "backups", "1", "--to", "restored.db", "--replace").code == 0
    assert [line["id"] for line in spellwork("ps", "--store", "restored.db", "--json").lines] == ["one"]
    assert (folder / "restored.db.replaced-1").exists()
    assert spellwork("backup", "list", "nowhere").code == 3
    assert spellwork("backup", "create", "backups", "--store", "nowhere.db").code == 3
    rows = folder / "backups" / second["name"] / "rows"
    rows.write_bytes(rows.read_bytes()[:-1])
    refused = spellwork("backup", "verify", "backups", "--json")
    assert (refused.code, refused.error["error"]) == (6, "backup-damaged")


# fsck


def test_fsck_names_damage_and_sets_it_aside_on_request(folder, flow, key, spellwork):
    """Exit code 6 until it was dealt with; the run is named, and the others go on."""
    flow()
    spellwork("run", "flow.py:flow", "--id", "one")
    waiting(spellwork, "two")
    assert spellwork("fsck", "--json").value["findings"] == []
    connection = apsw.Connection("spellwork.db")
    number = connection.execute("SELECT v FROM kv WHERE k = ?", (bytes((Keys.IDS,)) + b"two",)).get[:8]
    connection.execute("UPDATE kv SET v = x'00' WHERE k = ?", (bytes((Keys.JOURNAL,)) + number + bytes(4),))
    connection.close()
    found = spellwork("fsck")
    assert (found.code, "damaged" in found.out, "--quarantine" in found.err) == (6, True, True)
    (finding,) = spellwork("fsck", "--json").value["findings"]
    assert (finding["kind"], finding["position"], finding["number"]) == ("damaged", 0, int.from_bytes(number, "big"))
    done = spellwork("fsck", "--quarantine")
    assert (done.code, "the run is quarantined" in done.out, "set aside" in done.out) == (0, True, True)
    again = spellwork("fsck", "--json")
    assert (again.code, again.value["ok"], again.value["findings"][0]["aside"]) == (0, True, True)
    statuses = {line["id"]: line["status"] for line in spellwork("ps", "--json").lines}
    assert (statuses["one"], statuses["two"]) == ("completed", "quarantined")
    assert spellwork("fsck", "--store", "nowhere.db").code == 3


def test_fsck_of_a_ruined_file_says_so(folder, flow, key, spellwork):
    """What cannot even be opened is damage."""
    flow()
    spellwork("run", "flow.py:flow", "--id", "one")
    content = bytearray((folder / "spellwork.db").read_bytes())
    content[4096:8192] = bytes(4096)
    (folder / "spellwork.db").write_bytes(content)
    assert spellwork("fsck", "--json").code == 6
