"""Fuzz targets for Spellwork's own data: rows of topics, of state, of an encrypted store, and the files of backups.

A row is given another value (or another key) with a checksum that fits, so that what lies behind the checksum is reached.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from spellwork.clock import SystemClock
from spellwork.codec import Codec
from spellwork.errors import SpellworkError
from spellwork.events.durable.dead import dead_letters
from spellwork.events.durable.decoded import event_of
from spellwork.events.durable.groups import group_names, read_group, read_progress, restored, revived
from spellwork.events.durable.membership import view
from spellwork.events.durable.options import unpack_options
from spellwork.events.durable.reading import before_revision, before_time, page, require_kept
from spellwork.events.durable.stats import topic_stats
from spellwork.events.durable.subscription import Cursor, found_after
from spellwork.events.durable.topics import Topics, topic_names
from spellwork.state.store import StateStore
from spellwork.store import Durability, Encryption, Row, Store
from spellwork.store.backup.making import create_backup
from spellwork.store.backup.restoring import restore_backup, verify_backup
from spellwork.store.encrypted import ListedKey, encrypted, pack
from spellwork.store.keyring import Keyring
from spellwork.store.keyspace import KEYS
from spellwork.store.memory import MemoryBackend

_CODEC = Codec()
_END = b"\xff" * 64
_KEY = bytes(range(32))
_RING = Keyring([_KEY])


def apart(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """What `work` gives, in a thread of its own: a test's event loop may be running on this one."""
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(1))
        return pool.submit(lambda: asyncio.run(work())).result()


def _store(backend: MemoryBackend) -> Store:
    return Store("memory:", backend, Durability.parse("memory"), SystemClock())


@functools.cache
def rows_of_topics() -> list[Row]:
    """A topic with a group that has events out, dead and revived ones; one that is compacted, swept, and knows ids."""

    async def fill() -> list[Row]:
        store = _store(MemoryBackend())
        topics = Topics(store)
        orders = await topics.topic("orders", partitions=2)
        async with orders.consume("billing", max_attempts=1) as deliveries:
            await orders.publish_many([{"n": n} for n in range(6)], key=lambda each: str(each["n"]))
            for _ in range(2):
                await (await anext(deliveries)).nack(reason="no")
            await (await anext(deliveries)).ack()
        await topics.replay("orders", "billing", 1)
        latest = await topics.topic("latest", compact=True, dedup=60)
        for n in range(3):
            await latest.publish(n, key="a", id=f"id-{n}")
        await topics.sweep()
        topics.close()
        rows = await store.read(lambda reader: reader.rows(b"", _END))
        await store.close()
        return rows

    found: list[Row] = apart(fill)
    return found


@functools.cache
def rows_of_state() -> list[Row]:
    """Trees of several types in two scopes, with an expiry, an operation that is remembered, and versions."""

    async def fill() -> list[Row]:
        async with StateStore(_store(MemoryBackend()), sweep=False) as state:
            await state.tree("plain").set("a", {"n": 1})
            await state.tree("bytes", bytes).set(("a", 1), b"raw", ttl=3600)
            await state.tree("numbers", int).merge("n", "add", 2, id="once")
            await state.scope("session", "7").tree("plain", list[int]).set("a", [1, 2])
            rows = await state.read(lambda reader: reader.rows(b"", _END))
            await state.low.close()
            return rows

    found: list[Row] = apart(fill)
    return found


def _patched(rows: list[Row], data: bytes) -> MemoryBackend:
    """A store of these rows: the first byte of `data` chooses one, an odd second one changes its key and not its value."""
    which, changes_key, rest = data[0] % len(rows), data[1] % 2, data[2:]
    key, value, version = rows[which]
    changed = (key[:1] + rest, value, version) if changes_key else (key, rest, version)
    backend = MemoryBackend()
    backend.begin(sync=True)
    backend.write([*rows[:which], changed, *rows[which + 1 :]], [])
    backend.commit(max(row[2] for row in rows))
    return backend


def topics(data: bytes) -> None:
    """A row of a topic or a group, and whatever reads it."""
    if len(data) < 2:
        return
    reader = _patched(rows_of_topics(), data).reader()
    with contextlib.suppress(SpellworkError):
        names = topic_names(reader)
        for name in names:
            _read_topic(reader, name)
        for found in found_after(reader, lambda _topic: True, Cursor()):
            event_of(found, _CODEC.untyped)


def _read_topic(reader: Any, name: str) -> None:
    reads: list[Callable[[], Any]] = [
        lambda: unpack_options(name, reader.get(b"\x30" + name.encode() + b"\0")),
        lambda: [event_of(found, _CODEC.untyped) for found in page(reader, name, 0)],
        lambda: topic_stats(reader, name),
        lambda: require_kept(reader, name, 1),
        lambda: before_time(reader, name, 1),
        lambda: before_revision(reader, name, 1),
        lambda: _read_groups(reader, name),
    ]
    for read in reads:
        with contextlib.suppress(SpellworkError):
            read()


def _read_groups(reader: Any, name: str) -> None:
    for group in group_names(reader, name):
        _read_group(reader, name, group)


def _read_group(reader: Any, name: str, group: str) -> None:
    row = None
    with contextlib.suppress(SpellworkError):
        row = read_group(reader, name, group)
    if row is None:
        return
    reads: list[Callable[[], Any]] = [
        lambda: read_progress(reader, name, group, row),
        lambda: restored(reader, name, group, 0),
        lambda: revived(reader, name, group),
        lambda: view(reader, name, group, row.partitions),
        lambda: dead_letters(reader, name, group, _CODEC.untyped, 0, 10),
    ]
    for read in reads:
        with contextlib.suppress(SpellworkError):
            read()


def state(data: bytes) -> None:
    """A row of a tree, and every way to read it, to write over it and to sweep it."""
    if len(data) < 2:
        return
    asyncio.run(_use_state(_patched(rows_of_state(), data)))


async def _use_state(backend: MemoryBackend) -> None:
    store = _store(backend)
    async with StateStore(store, sweep=False) as state:
        plain, raw, numbers = state.tree("plain"), state.tree("bytes", bytes), state.tree("numbers", int)
        inner = state.scope("session", "7").tree("plain", list[int])
        uses: list[Callable[[], Any]] = [
            state.trees, plain.scan, raw.scan, numbers.scan, inner.scan, raw.count, plain.stats,
            lambda: plain.get("a"), lambda: raw.get_versioned(("a", 1)), lambda: numbers.get("n"), lambda: inner.exists("a"),
            lambda: numbers.merge("n", "add", 2, id="once"), lambda: numbers.merge("n", "add", 1), lambda: raw.delete(("a", 1)),
            lambda: plain.set("a", 2, if_absent=True), lambda: state.schema(plain),
        ]  # fmt: skip
        for use in uses:
            with contextlib.suppress(SpellworkError):
                await use()
    await store.close()


def sealed_row() -> bytes:
    """A row as an encrypted store has it."""
    return _RING.seal(b"\x40key", b"value")


def listed_keys() -> bytes:
    """The list of its keys."""
    return pack([ListedKey(_RING.current, _RING.ids[_RING.current])])


def sealed(data: bytes) -> None:
    """A row of an encrypted store as it lies there, and the list of its keys."""
    with contextlib.suppress(SpellworkError):
        _RING.open(b"\x40key", data)
    backend = MemoryBackend()
    backend.begin(sync=True)
    backend.write([(b"\x40key", _RING.seal(b"\x40key", b"value"), 1), (b"\x40other", data, 1), (KEYS, data, 1)], [])
    backend.commit(1)
    with contextlib.suppress(SpellworkError):
        reader = encrypted(backend, Encryption(_KEY)).reader()
        assert reader.get(b"\x40key") == b"value"
        reader.scan(b"\x40", b"\x41", damaged=b"")
        reader.get(b"\x40other")


@functools.cache
def _backups() -> Path:
    """A full backup and an increment."""
    place = Path(tempfile.mkdtemp(prefix="spellwork-fuzz-backups-"))

    async def fill() -> None:
        store = _store(MemoryBackend())
        async with StateStore(store, sweep=False) as state:
            for number in range(2):
                await state.tree("plain").set(str(number), [number] * 20)
                await store.examine(lambda reader: create_backup(reader, place, created=1), raw=True)
        await store.close()

    apart(fill)
    return place


@functools.cache
def _scratch() -> Path:
    return Path(tempfile.mkdtemp(prefix="spellwork-fuzz-restored-"))


def backup(data: bytes) -> None:
    """A file of a backup with patches (two bytes of position, one of length), or with another content altogether."""
    files = sorted(path for path in _backups().rglob("*") if path.is_file() and path.parent != _backups())
    if len(data) < 2:
        return
    place = _scratch() / "backups"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(_backups(), place)
    hurt = place / files[data[0] % len(files)].relative_to(_backups())
    hurt.write_bytes(data[2:] if data[1] % 2 else _with_patches(hurt.read_bytes(), data[2:]))
    for old in _scratch().glob("restored.db*"):
        old.unlink()
    with contextlib.suppress(SpellworkError):
        verify_backup(place)
    with contextlib.suppress(SpellworkError):
        restore_backup(place, f"sqlite:{_scratch() / 'restored.db'}")


def _with_patches(content: bytes, data: bytes) -> bytes:
    image = bytearray(content)
    while len(data) >= 4 and image:
        place, size = int.from_bytes(data[:2], "big") % len(image), data[2] % 16 + 1
        patch, data = data[3 : 3 + size], data[3 + size :]
        image[place : place + len(patch)] = patch[: len(image) - place]
    return bytes(image)
