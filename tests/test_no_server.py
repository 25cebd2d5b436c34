"""No server: nothing that the library does listens, whatever processes it is done in."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from spellwork.testing.chaos import tracer

# An event loop wakes itself by a pair of connected sockets; Windows has no such pair, and there one of them listens for a moment.
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="asyncio itself listens on Windows")]

USE = '''
import asyncio
import sys

from spellwork import Engine, Signal, activity, workflow
from spellwork.workflow.events import Event, publish
from spellwork.workflow.state import state

STORE = "sqlite:store.db"
go = Signal[int]("go")


@activity
async def on_the_loop(x: int) -> int:
    return x + 1


@activity
def in_a_thread(x: int) -> int:
    return x + 1


@activity(executor="process")
def in_a_process(x: int) -> int:
    return x + 1


@workflow
async def uses() -> int:
    sums = Event("sums", int)
    await sums.subscribe()
    x = await in_a_process(await in_a_thread(await on_the_loop(0)))
    await asyncio.sleep(0.01)
    x += await go.receive()
    await state("sums", int).set("uses", x)
    await publish("sums", x)
    return (await sums.receive()).data


async def spellwork(*words: str) -> str:
    """What a verb prints, in a process of its own, while this one runs the store."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "spellwork", *words, "--store", STORE, stdout=-1)
    printed, _ = await process.communicate()
    return printed.decode()


async def main() -> None:
    async with Engine(STORE, workflows=[uses]) as engine:
        run = await engine.start(uses, id="uses")
        await spellwork("signal", "uses", "go", "4")
        print(await run.result(), await engine.state.tree("sums", int).get("uses"))
        print(await spellwork("ps", "--json"))


if __name__ == "__main__":
    asyncio.run(main())
'''

LISTENERS = {
    "on a port": """
import asyncio
async def main():
    async with await asyncio.start_server(print, "127.0.0.1", 0):
        pass
asyncio.run(main())
""",
    "on a port that the system chooses": "import socket; socket.socket().listen()",
    "on a path": "import socket; it = socket.socket(socket.AF_UNIX); it.bind('here'); it.listen()",
    "in a child": """
import subprocess, sys
subprocess.run([sys.executable, "-c", "import socket; socket.socket().listen()"], check=True)
""",
}

# No audit event tells of listen(). But a socket of AF_UNIX is bound before it can, and others are not made at all.
HOOK = """
import os, socket, sys
def tell(line):
    told = os.open(os.environ["TOLD"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(told, f"{os.getpid()} {line}\\n".encode())
    os.close(told)
def hook(event, args):
    if event == "socket.bind" or (event == "socket.__new__" and args[1] != socket.AF_UNIX):
        tell(f"{event} {args}")
tell("is heard")
sys.addaudithook(hook)
"""


lacking = functools.cache(tracer.missing)


def by_python(place: Path, program: Path) -> tuple[int, list[str], str]:
    """Run a program with an audit hook in each of its interpreters; how many there were, and what was heard in them."""
    (place / "sitecustomize.py").write_text(HOOK)
    told = place / "told"
    printed = _run(program, {"TOLD": str(told)}, sys.executable)
    lines = told.read_text().splitlines()
    heard = [line for line in lines if not line.endswith(" is heard")]
    return len(lines) - len(heard), heard, printed


def by_the_kernel(place: Path, program: Path) -> tuple[int, list[str], str]:
    """Run a program under strace; how many threads and processes it had, and which of their calls bind or listen."""
    if why := lacking():
        pytest.skip(why)
    trace = place / "trace"
    printed = _run(program, {}, "strace", "-f", "-q", "-e", "trace=bind,listen", "-o", str(trace), sys.executable)
    lines = trace.read_text().splitlines()
    return sum("+++ exited" in line for line in lines), [line for line in lines if "(" in line], printed


def _run(program: Path, environment: dict[str, str], *command: str) -> str:
    path = os.pathsep.join([str(program.parent), *filter(None, sys.path)])
    done = subprocess.run(
        [*command, str(program)], cwd=program.parent, env=os.environ | environment | {"PYTHONPATH": path},
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


Watch = Callable[[Path, Path], tuple[int, list[str], str]]
WATCHES = pytest.mark.parametrize("watch", [by_python, by_the_kernel])


@WATCHES
def test_no_socket_is_listened_on(tmp_path: Path, watch: Watch) -> None:
    """Activities in threads and processes, timers, signals, events, state and the command line: none of it binds or listens."""
    program = tmp_path / "program.py"
    program.write_text(USE)
    processes, heard, printed = watch(tmp_path, program)
    assert heard == []
    assert printed.startswith("7 7\n")
    assert '"uses"' in printed
    assert processes >= 4  # this one, the worker of the activity, and the two verbs


@WATCHES
@pytest.mark.parametrize("where", list(LISTENERS))
def test_whatever_listens_is_caught(tmp_path: Path, watch: Watch, where: str) -> None:
    """The same watch tells of a program that does listen."""
    program = tmp_path / "program.py"
    program.write_text(LISTENERS[where])
    assert watch(tmp_path, program)[1]
