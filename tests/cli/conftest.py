"""How the command line is called in these tests: in this process, or as a process of its own."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from spellwork.cli import main
from spellwork.cli.options import STORE_VARIABLE

PATIENCE = 20.0


@dataclasses.dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def value(self):
        return json.loads(self.out)

    @property
    def lines(self):
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self):
        return json.loads(self.err)


def eventually(condition, what="the condition"):
    """Wait, with a bound, until `condition()` is true, and return what it gave."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        threading.Event().wait(0.02)
    raise AssertionError(f"{what} did not come true within {PATIENCE:g} s")


@pytest.fixture(name="eventually")
def eventually_fixture():
    """The function above, for tests."""
    return eventually


def forget_modules(folder):
    """What was imported from the folder is imported anew, as each process does."""
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(folder)):
            del sys.modules[name]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current directory, with the environment and the import system put back afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(STORE_VARIABLE, raising=False)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    forget_modules(tmp_path)


@pytest.fixture
def write(folder):
    """Write a Python file that begins with `from spellwork import *`."""

    def write_file(name, text):
        head = "import asyncio\nfrom pathlib import Path\nfrom spellwork import *\n"
        (folder / name).write_text(head + textwrap.dedent(text))
        forget_modules(folder)
        return name

    return write_file


@pytest.fixture
def spellwork(folder, capsys):
    """Call the command line in this process."""

    def call(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(int(ended.value.code or 0), captured.out, captured.err)

    return call


class Process:
    """The command line as a process in a group of its own, its output in files."""

    def __init__(self, arguments, cwd, **options):
        self.files = [cwd / f"process-{time.monotonic_ns()}.{name}" for name in ("out", "err")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"}
        environment.pop(STORE_VARIABLE, None)
        with self.files[0].open("wb") as out, self.files[1].open("wb") as err:
            streams = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err} | options
            command = [sys.executable, "-m", "spellwork.cli", *map(str, arguments)]
            self.popen = subprocess.Popen(command, cwd=cwd, env=environment, process_group=0, **streams)

    @property
    def out(self):
        return self.files[0].read_text()

    @property
    def err(self):
        return self.files[1].read_text()

    def says(self, text):
        """Wait until it has said `text` on stderr."""
        eventually(lambda: text in self.err or self.popen.poll() is not None, f"{text!r} on stderr")
        assert text in self.err
        return self

    def send(self, number):
        """A signal to its whole group, as the terminal sends Ctrl-C."""
        os.killpg(self.popen.pid, number)

    def end(self):
        """Wait for its end."""
        code = self.popen.wait(PATIENCE)
        return Outcome(code, self.out, self.err)

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            self.send(signal.SIGKILL)
        self.popen.wait(PATIENCE)


@pytest.fixture
def process(folder):
    """Start the command line as a process; killed at the end of the test."""
    started = []

    def start(*arguments, **options):
        started.append(Process(arguments, folder, **options))
        return started[-1]

    yield start
    for each in started:
        each.kill()


@pytest.fixture
def lines_of(folder):
    """The lines of a file of the test, none if it is not there yet."""

    def read(name):
        file = Path(folder / name)
        return file.read_text().splitlines() if file.exists() else []

    return read
