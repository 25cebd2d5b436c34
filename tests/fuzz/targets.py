"""What is fuzzed: each target takes any bytes and lets through only errors that a user may see."""

from __future__ import annotations

import contextlib
import datetime as dt
import decimal
import functools
import io
import os
import struct
import tempfile
import uuid
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spellwork.cli.exits import Exit
from spellwork.cli.program import _invoke
from spellwork.codec import Codec
from spellwork.engine import messages, ownership
from spellwork.engine.history import readable
from spellwork.engine.replay import replay_journal
from spellwork.engine.run import RunInfo
from spellwork.errors import PayloadError, SpellworkError, StoreCorrupt, StoreError
from spellwork.journal import ErrorRegistry, RunRow, Started, unpack_entry
from spellwork.journal import rows as journal_rows
from spellwork.store.memory import MemoryBackend
from spellwork.store.sqlite import SqliteBackend
from spellwork.testing.chaos import corpus
from tests.fuzz import own_data
from tests.fuzz.base import base_store

CODEC = Codec()
ERRORS = ErrorRegistry()
KEY = journal_rows.journal_key(7, 0)


def entry(data: bytes) -> None:
    """A journal entry: as it lies there, and with a checksum that fits, so that what lies behind it is reached."""
    for frame in (data, data + zlib.crc32(data, zlib.crc32(KEY)).to_bytes(4, "big")):
        with contextlib.suppress(StoreCorrupt):
            readable(0, unpack_entry(KEY, frame), CODEC)


def journal(data: bytes) -> None:
    """A whole journal, its entries each behind two bytes of length, replayed against real workflows."""
    entries = []
    while len(data) > 2:
        size = struct.unpack(">H", data[:2])[0]
        body, data = data[2 : 2 + size], data[2 + size :]
        with contextlib.suppress(StoreCorrupt):
            entries.append(unpack_entry(KEY, body + zlib.crc32(body, zlib.crc32(KEY)).to_bytes(4, "big")))
    if entries and isinstance(entries[0], Started):
        definition = next((w for w in corpus.WORKFLOWS if w.name == entries[0].workflow), corpus.sequence)
        with contextlib.suppress(SpellworkError):
            replay_journal(7, definition, entries, CODEC, ERRORS)


def row(data: bytes) -> None:
    """Every other kind of row."""
    reads: list[Callable[[bytes], Any]] = [
        journal_rows.unpack_row,
        journal_rows.unpack_address,
        journal_rows.timer_of,
        messages.unpack_envelope,
        messages.unpack_reply,
        _claims,
    ]
    for read in reads:
        with contextlib.suppress(StoreCorrupt):
            found = read(data)
            if isinstance(found, RunRow):
                RunInfo.of(found)
            if isinstance(found, messages.Reply) and found.failure is not None:
                str(ERRORS.rebuild(found.failure))


def _claims(data: bytes) -> None:
    backend = MemoryBackend()
    backend.begin(sync=True)
    backend.write([(ownership.partition_key(0), data, 1)], [])
    backend.commit(1)
    ownership.read_claims(backend.reader(), 1)


@dataclass
class Point:
    """A dataclass with some annotations."""

    x: int
    label: str | None = None
    at: dt.datetime | None = None


SHAPES = (
    Any, int, str, bytes, float, bool, list[int], dict[str, int], tuple[int, str], set[int], Point, dt.datetime, dt.date,
    dt.timedelta, decimal.Decimal, uuid.UUID, list[Any], int | str | None, complex, dict[Any, Any],
)  # fmt: skip


def codec(data: bytes) -> None:
    """A payload under each kind of annotation; what comes out of an untyped one goes in again and comes out the same."""
    for annotation in SHAPES:
        with contextlib.suppress(PayloadError):
            CODEC.shape(annotation).decode(data)
    with contextlib.suppress(PayloadError):
        value = CODEC.untyped.decode(data)
        again = CODEC.untyped.decode(CODEC.untyped.encode(value))
        if repr(again) != repr(value) and not isinstance(value, (set, frozenset, dict, list, tuple)):
            raise AssertionError(f"{value!r} came back as {again!r}")


def store(data: bytes) -> None:
    """A store file with patches: each is three bytes of position, one of length and so many bytes."""
    image = bytearray(base_store())
    while len(data) >= 5:
        place, size = int.from_bytes(data[:3], "big") % len(image), data[3] % 32 + 1
        patch, data = data[4 : 4 + size], data[4 + size :]
        image[place : place + len(patch)] = patch[: len(image) - place]
    path = _scratch() / "store.db"
    for old in path.parent.glob("store.db*"):
        old.unlink()
    path.write_bytes(image)
    with contextlib.suppress(StoreError):
        backend = SqliteBackend(str(path), create=False)
        try:
            reader = backend.reader()
            for key, _ in reader.scan(b"", b"\xff" * 64, damaged=b""):
                with contextlib.suppress(StoreError):
                    reader.get(key)
                    reader.version(key)
            backend.begin(sync=True)
            backend.rollback()
        finally:
            with contextlib.suppress(StoreError):
                backend.close()


VERBS = ("ps", "show", "history", "signal", "query", "update", "cancel", "terminate", "start", "replay", "run", "resume")


def cli(data: bytes) -> None:
    """A command line: the first byte chooses the verb, zero bytes divide its arguments."""
    if not data:
        return
    place = _scratch()
    words = [word.decode("utf-8", "surrogateescape").replace("/", "_") for word in data[1:].split(b"\0")][:12]
    # what reads standard input or waits for an end is not for a loop
    given = [VERBS[data[0] % len(VERBS)], *(word for word in words if word not in ("-", "--follow", "--wait", "-f", "-w"))]
    (place / "cli.db").unlink(missing_ok=True)
    (place / "cli.db").write_bytes(base_store())
    before, variable = Path.cwd(), os.environ.get("SPELLWORK_STORE")
    os.chdir(place)
    os.environ["SPELLWORK_STORE"] = f"sqlite:{place / 'cli.db'}"
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            try:
                code = _invoke(given, as_json="--json" in given)
            except SystemExit as error:
                code = int(error.code or 0)
        Exit(code)
    finally:
        os.chdir(before)
        os.environ.pop("SPELLWORK_STORE")
        if variable is not None:
            os.environ["SPELLWORK_STORE"] = variable


@functools.cache
def _scratch() -> Path:
    return Path(tempfile.mkdtemp(prefix="spellwork-fuzz-"))


TARGETS: dict[str, Callable[[bytes], None]] = {
    "entry": entry, "journal": journal, "row": row, "codec": codec, "store": store, "cli": cli,
    "topics": own_data.topics, "state": own_data.state, "sealed": own_data.sealed, "backup": own_data.backup,
}  # fmt: skip
