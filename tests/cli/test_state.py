"""`state`: reading and writing a program's state from the terminal."""

import asyncio
import dataclasses
import signal

import pytest

from spellwork.state import open_store

TREE = ("--tree", "t")


@dataclasses.dataclass
class Note:
    text: str


def test_what_is_set_is_read(spellwork, folder):
    """Values are JSON; the store is made by the first write, never by a read."""
    assert spellwork("state", "get", "k", *TREE).code == 3
    assert spellwork("state", "scan", *TREE).code == 3
    assert spellwork("state", "delete", "k", *TREE).code == 3
    assert not list(folder.iterdir())
    assert spellwork("state", "set", "k", '{"a": [1, null]}', *TREE).code == 0
    assert spellwork("state", "get", "k", *TREE).value == {"a": [1, None]}
    found = spellwork("state", "get", "k", *TREE, "--json").value
    assert found == {"value": {"a": [1, None]}, "version": 1, "revision": 1}
    missing = spellwork("state", "get", "l", *TREE)
    assert (missing.code, missing.out) == (3, "")
    assert "has no key l" in missing.err
    assert spellwork("state", "delete", "k", *TREE, "--json").value == {"revision": 2}
    assert spellwork("state", "get", "k", *TREE).code == 3


def test_scopes_and_keys(spellwork):
    """A scope is KIND:ID; with --json-key a list is a tuple."""
    spellwork("state", "set", "k", "1", *TREE, "--scope", "user:u:1")
    spellwork("state", "set", '["a", 7, "x"]', "2", *TREE, "--json-key")
    assert spellwork("state", "get", "k", *TREE, "--scope", "user:u:1").value == 1
    assert spellwork("state", "get", "k", *TREE).code == 3
    assert spellwork("state", "get", '["a",7,"x"]', *TREE, "--json-key").value == 2
    bad = spellwork("state", "get", "k", *TREE, "--scope", "nobody:x")
    assert bad.code == 2
    assert "there are global, user, session" in bad.err
    assert spellwork("state", "get", "{", *TREE, "--json-key").code == 2
    assert spellwork("state", "get", '{"a": 1}', *TREE, "--json-key").code == 5
    assert spellwork("state", "get", "k", "--tree", "").code == 5
    assert spellwork("state", "get", "k", *TREE, "--store", "memory:").code == 2


def test_conditions(spellwork):
    """--if-absent and --if-version are refused with exit code 5 where they don't hold."""
    revision = spellwork("state", "set", "k", "1", *TREE, "--if-absent", "--json").value["revision"]
    assert spellwork("state", "set", "k", "2", *TREE, "--if-absent").code == 5
    assert spellwork("state", "set", "k", "2", *TREE, "--if-version", revision + 5).code == 5
    assert spellwork("state", "set", "k", "2", *TREE, "--if-version", revision).code == 0
    refused = spellwork("state", "delete", "k", *TREE, "--if-version", revision, "--json")
    assert (refused.code, refused.error["error"]) == (5, "store-conflict")
    assert spellwork("state", "set", "k", "2", *TREE, "--if-version", 1, "--if-absent").code == 2
    assert spellwork("state", "get", "k", *TREE).value == 2


def test_values_from_files_and_bad_ones(spellwork, folder):
    """@FILE is read; what is no JSON is refused before anything is written."""
    (folder / "value.json").write_text('["from a file"]')
    assert spellwork("state", "set", "k", "@value.json", *TREE).code == 0
    assert spellwork("state", "get", "k", *TREE).value == ["from a file"]
    assert spellwork("state", "set", "k", "@nothing.json", *TREE).code == 3
    bad = spellwork("state", "set", "k", "text", *TREE)
    assert bad.code == 2
    assert "VALUE is not JSON" in bad.err
    assert spellwork("state", "set", "k", "1", *TREE, "--ttl", 0).code == 2
    assert spellwork("state", "get", "k", *TREE).value == ["from a file"]


def test_scan_lists_in_order(spellwork):
    """People get a line a key and how to go on; --json a document a line."""
    for i in range(4):
        spellwork("state", "set", f"k{i}", i, *TREE)
    assert spellwork("state", "scan", *TREE).out == "k0  0\nk1  1\nk2  2\nk3  3\n"
    page = spellwork("state", "scan", *TREE, "--limit", 2, "--reverse")
    assert (page.out, page.err) == ("k3  3\nk2  2\n", "there may be more: --after k2\n")
    assert spellwork("state", "scan", *TREE, "--reverse", "--after", "k2", "--json").lines == [
        {"key": "k1", "value": 1},
        {"key": "k0", "value": 0},
    ]
    assert spellwork("state", "scan", *TREE, "--prefix", "k1").out == "k1  1\n"
    assert spellwork("state", "scan", *TREE, "--start", "k1", "--stop", "k3").out == "k1  1\nk2  2\n"
    assert spellwork("state", "scan", *TREE, "--prefix", "k", "--stop", "k3").code == 2


def test_watch_tells_what_was_changed(spellwork):
    """From a revision on, so many changes; sets with their values."""
    spellwork("state", "set", "k", '"v\\u001b"', *TREE)
    spellwork("state", "delete", "k", *TREE)
    assert spellwork("state", "watch", *TREE, "--since", 0, "--count", 2).out.split() == [
        "1",
        "set",
        "k",
        '"v\\u001b"',
        "2",
        "delete",
        "k",
    ]
    lines = spellwork("state", "watch", *TREE, "--since", 0, "--count", 2, "--json").lines
    assert lines[1] == {"revision": 2, "kind": "delete", "key": "k", "value": None, "resume": 2}
    assert spellwork("state", "watch", *TREE, "--since", 99).code == 5


def test_it_works_beside_a_program_that_uses_its_own_types(spellwork, folder):
    """The program's structs are JSON objects here, and what is written here fits its annotation there."""

    async def program():
        async with open_store("sqlite:spellwork.db") as store:
            notes = store.tree("t", Note)
            await notes.set("mine", Note("x"))
            shown = await asyncio.to_thread(spellwork, "state", "get", "mine", *TREE)
            assert shown.value == {"text": "x"}
            await asyncio.to_thread(spellwork, "state", "set", "theirs", '{"text": "y"}', *TREE)
            assert await notes.get("theirs") == Note("y")

    asyncio.run(program())


@pytest.mark.slow
def test_watch_follows_until_it_is_interrupted(process, spellwork, eventually):
    """It prints changes of other processes as they come, and ends with 130 at Ctrl-C."""
    spellwork("state", "set", "a", "1", *TREE)
    watching = process("state", "watch", *TREE, "--since", 0)
    eventually(lambda: "set      a  1" in watching.out, "the first change")
    spellwork("state", "set", "b", "2", *TREE)
    eventually(lambda: "set      b  2" in watching.out, "the second change")
    watching.send(signal.SIGINT)
    assert watching.end().code == 130
