"""Bad input: each gets a typed error that names the thing and says what to do, and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import apsw
import pytest

from spellwork import (
    Engine,
    PayloadError,
    Retry,
    RunExists,
    RunFailed,
    RunNotFound,
    Signal,
    activity,
    workflow,
)
from spellwork.errors import (
    DefinitionError,
    ForbiddenInWorkflow,
    RunBlocked,
    RunFinished,
    StoreClosed,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreMissing,
    StoreTooNew,
    StoreUnavailable,
    UnknownWorkflow,
    UsageError,
)
from spellwork.store.keyspace import LAYOUT
from spellwork.testing import TestEngine


@activity
async def echo(x: int) -> int:
    return x


@workflow
async def adds(a: int, b: int = 1) -> int:
    return await echo(a) + b


@workflow
async def anything(value) -> object:
    return value


@workflow
async def other(a: int) -> int:
    return a


go = Signal[int]("go")


@workflow
async def waits(n: int) -> int:
    total = 0
    for _ in range(n):
        total += await go.receive()
    return total


@pytest.mark.parametrize(
    ("args", "kwargs", "path"),
    [
        (("x",), {}, "a"),
        ((1, [2]), {}, "b"),
        ((), {}, "$"),
        ((1, 2, 3), {}, "$"),
        ((1,), {"c": 3}, "$"),
    ],
)
async def test_wrong_arguments_are_refused_at_the_call(args, kwargs, path: str) -> None:
    """start() checks arguments against the annotations and writes nothing when they do not fit."""
    async with TestEngine(workflows=[adds]) as engine:
        with pytest.raises(PayloadError, match="workflow adds") as caught:
            await engine.start(adds, *args, **kwargs)
        assert caught.value.path == path
        assert await engine.list() == []


@pytest.mark.parametrize(
    ("value", "path", "words"),
    [
        (object(), "value", "type object"),
        ([1, {"a": {2: object()}}], "value[1]['a'][2]", "type object"),
        ("\ud800", "value", "surrogates"),
        ({"k": "\udfff"}, "value['k']", "surrogates"),
        (lambda: 0, "value", "type function"),
        ("x" * (1 << 20), "value", "more than the limit"),
    ],
    ids=["object", "nested", "surrogate", "nested-surrogate", "function", "too-big"],
)
async def test_unstorable_values_are_refused_with_their_path(value, path: str, words: str) -> None:
    """What cannot be stored exactly is refused before anything is written, with the path to it and the remedy."""
    async with TestEngine(workflows=[anything]) as engine:
        with pytest.raises(PayloadError) as caught:
            await engine.start(anything, value)
        assert caught.value.path == path
        assert words in str(caught.value)
        assert await engine.list() == []


async def test_too_deep_values_are_refused() -> None:
    """Containers nested deeper than 64 are refused, and 5,000 levels do not crash the process."""
    for depth in (65, 5000):
        value: object = 1
        for _ in range(depth):
            value = [value]
        async with TestEngine(workflows=[anything]) as engine:
            with pytest.raises(PayloadError):
                await engine.start(anything, value)
            assert await engine.list() == []


async def test_signals_are_checked_against_their_type() -> None:
    """A signal whose value does not fit is refused at the sender."""
    async with TestEngine(workflows=[waits]) as engine:
        run = await engine.start(waits, 1)
        with pytest.raises(PayloadError):
            await run.signal(go, "seven")
        await run.signal("go", "seven")
        await run.signal(go, 7)
        assert await run.result() == 7, "one that came by name and does not fit is skipped"


@pytest.mark.parametrize("bad", ["", "a\nb", "x" * 513, "\ud800"])
async def test_bad_run_ids_are_refused(bad: str) -> None:
    """Ids are 1 to 512 bytes of printable text."""
    async with TestEngine(workflows=[adds]) as engine:
        with pytest.raises(PayloadError, match="id"):
            await engine.start(adds, 1, id=bad)


class Loud(str):
    """A text that does not want to be one."""

    __slots__ = ()

    def encode(self, *_args, **_options) -> bytes:
        raise RuntimeError


@pytest.mark.parametrize(
    "bad", ["\ud800", "x" * 10_000_000, Loud("x"), 7, None, [[]]], ids=["surrogate", "long", "sub", "int", "none", "list"]
)
@pytest.mark.parametrize(
    "place", ["id", "get", "after", "signal", "signal id", "query", "update", "update id", "cancel", "terminate"]
)
async def test_texts_that_name_things_are_checked_everywhere(place: str, bad: Any) -> None:
    """Ids, names and reasons that are no storable text are refused with a short message, and the engine goes on."""
    async with TestEngine(workflows=[adds, waits]) as engine:
        run = await engine.start(waits, 1)
        calls = {
            "id": lambda: engine.start(adds, 1, id=bad),
            "get": lambda: engine.get(bad),
            "after": lambda: engine.list(after=bad),
            "signal": lambda: run.signal(bad, 1),
            "signal id": lambda: run.signal("go", 1, id=bad),
            "query": lambda: run.query(bad),
            "update": lambda: run.update(bad),
            "update id": lambda: run.update("u", id=bad),
            "cancel": lambda: run.cancel(bad),
            "terminate": lambda: run.terminate(bad),
        }
        if bad is None and place in ("id", "after", "signal id", "update id"):
            return  # that means: none given
        with pytest.raises(PayloadError) as caught:
            await calls[place]()
        assert len(str(caught.value)) < 400
        assert await engine.run(adds, 1) == 2


@pytest.mark.parametrize("code", ["\ud800", Loud("x")], ids=["surrogate", "sub"])
async def test_errors_with_odd_attributes_are_kept(code: str) -> None:
    """An error whose code or message cannot be stored as it is fails its run and nothing else."""

    class Odd(Exception):
        @property
        def code(self) -> str:
            return code

    @activity(retry=Retry(max_attempts=1))
    async def breaks() -> None:
        raise Odd("\ud800")

    @workflow
    async def odd() -> None:
        await breaks()

    async with TestEngine(workflows=[odd, adds]) as engine:
        with pytest.raises(RunFailed, match="Odd"):
            await engine.run(odd)
        assert await engine.run(adds, 1) == 2


async def test_workflow_cannot_name_things_badly() -> None:
    """Ids of children and patches that are no storable text fail their run, not the engine."""
    from spellwork import patched, start_child

    @workflow
    async def names(what: str) -> None:
        if what == "child":
            await start_child(adds, 1, id="\ud800")
        elif what == "patch":
            patched("\ud800")
        else:
            child = await start_child(waits, 1)
            await child.signal("\ud800", 1)

    async with TestEngine(workflows=[names, adds, waits]) as engine:
        for what in ("child", "patch", "signal"):
            with pytest.raises(RunFailed, match="no text that can be stored"):
                await engine.run(names, what)
        assert await engine.run(adds, 1) == 2


async def test_unknown_workflows_and_runs_are_named() -> None:
    """An unregistered workflow and an unknown id give errors that name them and what there is."""
    async with TestEngine(workflows=[adds]) as engine:
        with pytest.raises(UnknownWorkflow, match=r"'addz' is not registered.*Registered: adds"):
            await engine.start("addz", 1)
        with pytest.raises(UnknownWorkflow, match="'other' is not registered"):
            await engine.start(other, 1)
        with pytest.raises(DefinitionError, match="takes a @workflow"):
            await engine.start(print)  # type: ignore[call-overload]
        with pytest.raises(RunNotFound, match="no run 'nope'"):
            await engine.get("nope")
        with pytest.raises(RunNotFound):
            await engine.list(after="nope")
        with pytest.raises(ValueError, match="asleep"):
            await engine.list(status="asleep")


async def test_one_id_belongs_to_one_run() -> None:
    """The same id, workflow and arguments give the same run; anything else is RunExists."""
    async with TestEngine(workflows=[adds, other]) as engine:
        first = await engine.start(adds, 1, id="r")
        again = await engine.start(adds, 1, id="r")
        assert await first.result() == await again.result() == 2
        assert await engine.run(adds, 1, id="r") == 2
        with pytest.raises(RunExists, match="other arguments"):
            await engine.start(adds, 2, id="r")
        with pytest.raises(RunExists, match="belongs to a run of workflow adds, not other"):
            await engine.start(other, 1, id="r")
        assert len(await engine.list()) == 1


async def test_verbs_on_a_finished_run_say_that_it_has_ended() -> None:
    """Signals, updates, cancel and terminate of a finished run raise RunFinished."""
    async with TestEngine(workflows=[adds]) as engine:
        run = await engine.start(adds, 1)
        await run.result()
        for call in (run.signal("go", 1), run.update("u"), run.cancel(), run.terminate()):
            with pytest.raises(RunFinished):
                await call


async def test_closed_engine_says_so() -> None:
    """Verbs before opening and after closing say that the engine is not open; waiters are told."""
    engine = Engine(workflows=[waits])
    with pytest.raises(UsageError, match="not open"):
        await engine.start(waits, 1)
    async with engine:
        run = await engine.start(waits, 1)
        waiter = asyncio.ensure_future(run.result())
        await asyncio.sleep(0)
    with pytest.raises(StoreClosed):
        await waiter
    with pytest.raises(UsageError):
        await run.status()


@pytest.mark.parametrize(
    ("url", "error", "words"),
    [
        ("postgres:x", StoreUnavailable, "use memory: or sqlite:PATH"),
        ("sqlite:", StoreUnavailable, "use memory: or sqlite:PATH"),
        ("sqlite:{tmp}/no/such/dir.db", StoreUnavailable, "create it first"),
        ("sqlite:{tmp}", StoreUnavailable, "is a directory"),
    ],
)
async def test_bad_store_urls_are_refused(tmp_path: Path, url: str, error: type[Exception], words: str) -> None:
    """A store that cannot be is refused with what to write instead."""
    with pytest.raises(error, match=words):
        async with Engine(url.format(tmp=tmp_path)):
            raise AssertionError("it opened")


async def test_reading_never_creates_a_store(tmp_path: Path) -> None:
    """create=False refuses a missing file and leaves nothing behind."""
    with pytest.raises(StoreMissing, match="no store"):
        async with Engine(f"sqlite:{tmp_path / 'none.db'}", client=True, create=False):
            raise AssertionError("it opened")
    assert list(tmp_path.iterdir()) == []


async def test_foreign_and_damaged_files_are_refused_untouched(tmp_path: Path) -> None:
    """A text file, another application's database and a newer schema are refused, and not a byte of them changes."""
    text = tmp_path / "text.db"
    text.write_bytes(b"not a database " * 1000)
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE mine(x)")
    connection.close()
    newer = tmp_path / "newer.db"
    async with Engine(f"sqlite:{newer}"):
        pass
    handle = apsw.Connection(str(newer))
    handle.execute(f"PRAGMA user_version={LAYOUT + 1}")
    handle.close()
    for path, error, words in (
        (text, StoreCorrupt, "damaged or no SQLite database"),
        (foreign, StoreCorrupt, "another application"),
        (newer, StoreTooNew, "install a newer Spellwork"),
    ):
        before = path.read_bytes()
        with pytest.raises(error, match=words):
            async with Engine(f"sqlite:{path}"):
                raise AssertionError("it opened")
        assert path.read_bytes()[100:] == before[100:]


async def test_damaged_entry_blocks_its_run_and_no_other(tmp_path: Path) -> None:
    """A flipped bit in a journal is detected by its checksum: that run is blocked with the reason, the others go on."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    async with Engine(url, workflows=[waits]) as engine:
        for name in ("bad", "good"):
            await engine.start(waits, 2, id=name)
            await (await engine.get(name)).signal(go, 1)
        number = (await (await engine.get("bad")).status()).number
    handle = apsw.Connection(str(tmp_path / "store.db"))
    key = b"\x10" + number.to_bytes(8, "big") + (1).to_bytes(4, "big")
    value = bytearray(handle.execute("SELECT v FROM kv WHERE k = ?", (key,)).get)
    value[3] ^= 1
    handle.execute("UPDATE kv SET v = ? WHERE k = ?", (bytes(value), key))
    handle.close()
    async with Engine(url, workflows=[waits]) as engine:
        good, bad = await engine.get("good"), await engine.get("bad")
        await good.signal(go, 2)
        assert await good.result() == 3
        await bad.signal(go, 2)  # kept, in case a backup brings the run back
        assert (await bad.status()).status == "blocked"
        with pytest.raises(RunBlocked, match="damaged"):
            await bad.result()
        await bad.terminate("given up")
        assert (await bad.status()).status == "terminated"


@pytest.fixture
def nobody():
    """The tests' user, or nobody where that is root, who may write anywhere."""
    root = sys.platform != "win32" and os.geteuid() == 0
    if root:
        os.seteuid(65534)
    yield
    if root:
        os.seteuid(0)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX permissions")
async def test_read_only_directory_is_refused(tmp_path: Path, nobody) -> None:
    """A directory without write permission gives StoreUnavailable with the path."""
    place = tmp_path / "locked"
    if os.geteuid() != 65534:
        place.mkdir(mode=0o500)
    with pytest.raises(StoreUnavailable, match="permissions") as caught:
        async with Engine(f"sqlite:{place / 'store.db'}"):
            raise AssertionError("it opened")
    assert str(place) in str(caught.value)


async def test_store_files_are_private(tmp_path: Path) -> None:
    """Database, log and turn file are readable by their owner alone."""
    async with Engine(f"sqlite:{tmp_path / 'store.db'}", workflows=[adds]) as engine:
        await engine.run(adds, 1)
        if sys.platform != "win32":
            assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
                "store.db": 0o600,
                "store.db-wal": 0o600,
                "store.db-shm": 0o600,
                "store.db-turn": 0o600,
            }


_FULL = """
import asyncio, resource, signal, sys
from spellwork import Engine
from spellwork.errors import StoreError
from tests.test_bad_input import anything
async def main():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    async with Engine(sys.argv[1], workflows=[anything]) as engine:
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
        done = 0
        try:
            for i in range(1000):
                await engine.run(anything, "x" * 5000 + str(i), id=f"r{i}")
                done = i + 1
        except StoreError as error:
            print(type(error).__name__, done)
            try:
                await engine.start(anything, 1)
            except StoreError as again:
                print(type(again).__name__)
asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
async def test_disk_that_takes_no_more_fails_loudly_and_loses_nothing(tmp_path: Path) -> None:
    """When a write is refused the engine stops with a typed error, and every acknowledged run is there when it opens again."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", _FULL, url], capture_output=True, text=True, env=environment, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    first, again = done.stdout.splitlines()
    kind, count = first.split()
    assert kind in ("StoreFull", "StoreFailed")
    assert again == kind
    async with Engine(url, workflows=[anything]) as engine:
        for i in range(int(count)):
            assert await (await engine.get(f"r{i}")).result() == "x" * 5000 + str(i)
        assert await engine.run(anything, 1) == 1


def test_full_disk_is_told_from_other_failures() -> None:
    """SQLITE_FULL becomes StoreFull, with what to do about it."""
    from spellwork.store.sqlite import translated

    with pytest.raises(StoreFull, match="free some space"), translated("x.db"):
        raise apsw.FullError("disk full")
    assert issubclass(StoreFull, StoreError)


def _forbidden() -> dict[str, object]:
    def opens() -> None:
        Path(__file__).read_text()

    def sleeps() -> None:
        import time

        time.sleep(0.01)

    def connects() -> None:
        import socket

        socket.create_connection(("127.0.0.1", 9))

    def forks_a_process() -> None:
        subprocess.run(["true"], check=False)

    def starts_a_thread() -> None:
        import threading

        threading.Thread(target=int).start()

    return {f.__name__: f for f in (opens, sleeps, connects, forks_a_process, starts_a_thread)}


@pytest.mark.parametrize("name", list(_forbidden()))
async def test_real_io_in_a_workflow_is_refused_with_file_and_line(name: str) -> None:
    """Files, sockets, sleeps, processes and threads inside workflow code raise ForbiddenInWorkflow with the place."""
    since = {"sleeps": (3, 13), "starts_a_thread": (3, 12)}.get(name, (3, 11))
    if sys.version_info < since:
        pytest.skip(f"Python tells of this only since {since[0]}.{since[1]}")

    @workflow
    async def careless() -> None:
        _forbidden()[name]()  # type: ignore[operator]

    async with TestEngine(workflows=[careless]) as engine:
        with pytest.raises(RunFailed) as caught:
            await engine.run(careless)
        cause = caught.value.__cause__
        assert isinstance(cause, ForbiddenInWorkflow)
        assert "test_bad_input.py:" in str(cause) or "python3" in str(cause)
        assert "activity" in str(cause)


@pytest.mark.parametrize("call", ["to_thread", "run_in_executor", "open_connection"])
async def test_asyncio_io_in_a_workflow_is_refused_with_file_and_line(call: str) -> None:
    """Asyncio's own ways out of the loop raise ForbiddenInWorkflow with the place."""

    @workflow
    async def careless() -> None:
        if call == "to_thread":
            await asyncio.to_thread(int)
        elif call == "run_in_executor":
            await asyncio.get_running_loop().run_in_executor(None, int)
        else:
            await asyncio.open_connection("127.0.0.1", 9)

    async with TestEngine(workflows=[careless]) as engine:
        with pytest.raises(RunFailed) as caught:
            await engine.run(careless)
        assert isinstance(caught.value.__cause__, ForbiddenInWorkflow)
        assert "test_bad_input.py:" in str(caught.value.__cause__)


@pytest.mark.parametrize(("module", "is_ours"), [("spellwork.workflow.guard", True), ("theirs", False)])
def test_the_place_is_the_users_also_where_spellwork_is_installed(module: str, is_ours: bool) -> None:
    """As a wheel it lies in site-packages, like code of the user's that must be named."""
    text = "from spellwork.workflow.loop import caller\ndef find():\n    return caller()\n"
    space: dict[str, Any] = {"__name__": module}
    exec(compile(text, f"/venv/lib/python3/site-packages/{module}.py", "exec"), space)
    assert ("test_bad_input.py:" in space["find"]()) is is_ours


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workflows": echo}, r"workflows= takes a list; write workflows=\[echo\]"),
        ({"store": "work.db"}, "did you mean 'sqlite:work.db'"),
        ({"durability": "ful"}, "unknown durability 'ful'"),
    ],
)
async def test_options_of_the_wrong_form_say_what_is_meant(options: dict[str, Any], message: str) -> None:
    """In the words of whoever wrote them."""
    with pytest.raises((DefinitionError, StoreUnavailable), match=message):
        async with Engine(**options):
            pass


async def test_a_status_that_there_is_not_is_refused_with_those_there_are() -> None:
    """`list(status="foo")` is a typing error."""
    async with Engine() as engine:
        with pytest.raises(ValueError, match="running, completed"):
            await engine.list(status="foo")


async def test_missing_child_definition_parks_the_parent_until_it_is_there(tmp_path: Path) -> None:
    """A child workflow that is not registered blocks its parent with the reason; registering it lets both go on."""

    @workflow
    async def child() -> int:
        return await echo(5)

    @workflow
    async def parent() -> int:
        return await child()

    url = f"sqlite:{tmp_path / 'store.db'}"
    async with Engine(url, workflows=[parent]) as engine:
        run = await engine.start(parent, id="p")
        with pytest.raises(RunBlocked, match="'child' is not registered"):
            await run.result(5)
    async with Engine(url, workflows=[parent, child]) as engine:
        assert await (await engine.get("p")).result(5) == 5


async def test_spinning_workflow_is_blocked_and_the_engine_lives() -> None:
    """Code that never waits for anything durable is stopped and named."""

    @workflow
    async def spins() -> None:
        while True:
            await asyncio.sleep(0)

    async with TestEngine(workflows=[spins, adds]) as engine:
        run = await engine.start(spins)
        with pytest.raises(RunBlocked, match="spin"):
            await run.result()
        assert await engine.run(adds, 1) == 2


async def test_swallowed_control_flow_fails_loudly() -> None:
    """A workflow that swallows continue_as_new fails and says why."""
    from spellwork import continue_as_new

    @workflow
    async def swallows(n: int) -> str:
        try:
            continue_as_new(n - 1)
        except BaseException:  # noqa: BLE001 - the mistake under test
            return "swallowed"

    async with TestEngine(workflows=[swallows]) as engine:
        with pytest.raises(RunFailed, match="swallowed by an except clause"):
            await engine.run(swallows, 3)


async def test_two_workflows_under_one_name_are_refused() -> None:
    """Two different functions under one name and version are a DefinitionError when the engine is made."""

    @workflow(name="adds")
    async def imposter(a: int) -> int:
        return a

    with pytest.raises(DefinitionError, match="two workflows are named adds"):
        Engine(workflows=[adds, imposter])
    with pytest.raises(DefinitionError, match="async def"):
        workflow(lambda: 0)  # type: ignore[arg-type, return-value]


async def test_retry_for_ever_means_for_ever_but_bad_values_are_final() -> None:
    """max_attempts=0 has no end; a value that cannot be stored is not tried again."""
    calls: list[int] = []

    @activity(retry=Retry(max_attempts=0))
    async def returns_nonsense() -> object:
        calls.append(1)
        return object()

    @workflow
    async def tries() -> None:
        await returns_nonsense()

    async with TestEngine(workflows=[tries]) as engine:
        with pytest.raises(RunFailed, match="returns_nonsense, result"):
            await engine.run(tries)
    assert calls == [1]
