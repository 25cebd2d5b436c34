"""Writes the first seeds from a real store: `python -m tests.fuzz.make_seeds`. Those found by fuzzing were added by hand."""

from __future__ import annotations

import datetime as dt
import decimal
import sqlite3
import struct
import tempfile
import uuid
from pathlib import Path
from typing import Any

from spellwork.codec import Codec
from spellwork.engine import messages as m
from spellwork.journal import Failure, Started, pack_entry
from spellwork.journal.rows import Keys
from tests.fuzz import own_data
from tests.fuzz.base import base_store
from tests.fuzz.mutate import SEEDS


def write(target: str, name: str, data: bytes) -> None:
    """Keep one seed."""
    (SEEDS / target).mkdir(parents=True, exist_ok=True)
    (SEEDS / target / name).write_bytes(data)


def stored() -> list[tuple[bytes, bytes]]:
    """The rows of the base store."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "store.db"
        path.write_bytes(base_store())
        connection = sqlite3.connect(path)
        rows: list[Any] = connection.execute("SELECT k, v FROM kv ORDER BY k").fetchall()
        connection.close()
    return rows


def main() -> None:
    """Write them all."""
    journals: dict[bytes, bytes] = {}
    kinds = set()
    for key, value in stored():
        if key[0] == Keys.JOURNAL:
            body = value[:-4]
            if body[1] not in kinds:
                kinds.add(body[1])
                write("entry", f"tag-{body[1]}", body)
            journals[key[1:9]] = journals.get(key[1:9], b"") + struct.pack(">H", len(body)) + body
        elif key[0] in (2, Keys.RUNS, Keys.IDS):
            write("row", f"space-{key[0]}", value)
        elif key[0] == Keys.TIMERS:
            write("row", "timer", key)
    for number, data in enumerate(journals.values()):
        write("journal", f"run-{number}", data)
    failure = Failure("ValueError", "", "no", ["no"], Failure("spellwork.errors.StoreFull", "store-full", "full", {"a": 1}))
    write("row", "reply", m.encode(m.Reply(b"\x01", failure)))
    started = Started(1, "r", "w", "1", b"\x92\x90\x80", b"s", correlation="o", causation="e")
    write("entry", "tag-1-with-a-cause", pack_entry(b"", started)[:-4])
    write("row", "start", m.encode(m.Envelope(m.AskStart("r", "w", "1", b"\x92\x90\x80", b"d", None, "o", "e"), b"reply")))
    write("row", "signal", m.encode(m.Envelope(m.AskSignal("waiting", "go", b"\x01", None), b"reply")))
    codec = Codec()
    values: dict[str, Any] = {
        "plain": {"a": [1, 2.5, None, True, "text", b"bytes"]}, "big": 2**80, "moment": dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
        "time": dt.time(1, 2, 3), "span": dt.timedelta(days=3), "decimal": decimal.Decimal("1.5"), "uuid": uuid.UUID(int=7),
        "set": {1, 2}, "pairs": {(1, 2): 3}, "complex": 1 + 2j, "long": "x" * 5000,
    }  # fmt: skip
    for name, value in values.items():
        write("codec", name, codec.untyped.encode(value))
    for name, patches in {"header": [(18, b"\x09")], "cells": [(4096, b"\0\0"), (5000, b"\xff\xff")], "none": []}.items():
        write("store", name, b"".join(place.to_bytes(3, "big") + bytes((len(data) - 1,)) + data for place, data in patches))
    for target, rows in (("topics", own_data.rows_of_topics()), ("state", own_data.rows_of_state())):
        for number, (key, value, _) in enumerate(rows):
            write(target, f"value-{number}", bytes((number, 0)) + value)
            write(target, f"key-{number}", bytes((number, 1)) + key[1:])
    write("sealed", "row", own_data.sealed_row())
    write("sealed", "keys", own_data.listed_keys())
    hurt = {"manifest": b"\0\0\0\x10\0x", "rows": b"\1\0\0\x08\3abcd", "other": b'\0\1{"format": 1}'}
    for name, data in hurt.items():
        write("backup", name, data)
    lines: dict[str, tuple[int, list[str]]] = {
        "ps": (0, ["--status", "running", "--json"]), "show": (1, ["waiting"]), "history": (2, ["ended", "--json"]),
        "signal": (3, ["waiting", "go", "2", "--id", "x"]), "query": (4, ["waiting", "q", "[1]"]),
        "update": (5, ["waiting", "put", '{"a": 1}']), "cancel": (6, ["waiting", "--reason", "r"]),
        "terminate": (7, ["waiting"]), "start": (8, ["sequence", "--input", "[1, 2]", "--id", "new"]),
        "replay": (9, ["file.py", "ended"]), "run": (10, ["file.py", "--input", "{}"]), "resume": (11, ["waiting"]),
    }  # fmt: skip
    for name, (verb, words) in lines.items():
        write("cli", name, bytes((verb,)) + "\0".join(words).encode())


if __name__ == "__main__":
    main()
