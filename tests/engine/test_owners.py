"""Two processes on one SQLite file: who owns what, takeover, and fencing."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from spellwork.testing import Ledger

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL and SIGSTOP are POSIX's"),
]
LEASE = 1.5


class Process:
    """A running `tests.engine.owner`; what it prints is read line by line."""

    def __init__(self, url: str, *, limit: int = 0, mode: str = "owner"):
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.engine.owner", url, str(LEASE), str(limit), mode],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self._lines.put(line.strip())

    def ask(self, line: str) -> str:
        """Send a line and wait for the answer."""
        stdin = self.process.stdin
        if stdin is None:
            raise AssertionError("no stdin")
        stdin.write(line + "\n")
        stdin.flush()
        return self.heard()

    def heard(self, timeout: float = 30.0) -> str:
        """The next line that it prints."""
        return self._lines.get(timeout=timeout)

    def until(self, line: str, answer: str, timeout: float = 30.0) -> float:
        """Ask again and again until the answer comes; returns after how many seconds."""
        began = time.monotonic()
        while (heard := self.ask(line)) != answer:
            if time.monotonic() - began > timeout:
                raise AssertionError(f"{line}: still {heard}")
            threading.Event().wait(0.05)
        return time.monotonic() - began

    def stop(self) -> None:
        """End it, whatever state it is in."""
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGCONT)
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def processes():
    """Starts owners and stops them all at the end."""
    started: list[Process] = []

    def start(url: str, **options) -> Process:
        started.append(Process(url, **options))
        return started[-1]

    yield start
    for process in started:
        process.stop()


def test_second_owner_is_told_who_has_the_store(tmp_path: Path, processes) -> None:
    """While one engine owns every partition, a second one is refused with a message that names the process."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    first = processes(url)
    assert first.heard() == "owns 4"
    second = processes(url).heard()
    assert second.startswith("refused store-owned")
    assert f"process {first.process.pid}" in second
    assert "standby=True" in second


def test_second_owner_gets_only_free_partitions(tmp_path: Path, processes) -> None:
    """Two engines share a store, each with its own partitions, and reach each other's runs by inbox."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    ledger = tmp_path / "ledger"
    first = processes(url, limit=2)
    assert first.heard() == "owns 2"
    second = processes(url)
    assert second.heard() == "owns 2"
    for i in range(6):
        assert first.ask(f"start patient run-{i} {ledger}") == f"started run-{i}"
    for i in range(6):
        assert second.ask(f"signal run-{i} {i}") == "signalled"
    for i in range(6):
        assert first.ask(f"result run-{i}") == f"result got {i}"
    assert sorted(Ledger(ledger).lines()) == ["first"] * 6 + [f"got {i}" for i in range(6)]


def test_killed_owner_is_replaced_within_the_lease(tmp_path: Path, processes) -> None:
    """Kill -9 of the owner: the one that stands by takes over, and the runs go on where they were."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    ledger = tmp_path / "ledger"
    first = processes(url)
    assert first.heard() == "owns 4"
    assert first.ask(f"start busy long {ledger} 40") == "started long"
    assert first.ask(f"start patient still {ledger}") == "started still"
    second = processes(url, mode="standby")
    assert second.heard() == "owns 0"
    first.process.kill()
    first.process.wait()
    assert second.until("owns", "owns 4") <= LEASE + 1.0
    assert second.ask("result long") == "result 40"
    assert second.ask("signal still 7") == "signalled"
    assert second.ask("result still") == "result got 7"
    counts = Ledger(ledger).counts()
    assert sum(counts.values()) <= 43, "at most the step in flight may stand twice"


def test_stopped_owner_is_fenced_when_it_wakes(tmp_path: Path, processes) -> None:
    """A frozen owner that wakes after its lease cannot write: its runs have gone on elsewhere, once.

    Its steps are far apart: frozen inside a transaction, it would hold SQLite's write lock for as long as it is frozen.
    """
    url = f"sqlite:{tmp_path / 'store.db'}"
    ledger = tmp_path / "ledger"
    first = processes(url)
    assert first.heard() == "owns 4"
    assert first.ask(f"start busy long {ledger} 20 200") == "started long"
    second = processes(url, mode="standby")
    assert second.heard() == "owns 0"
    os.kill(first.process.pid, signal.SIGSTOP)
    second.until("owns", "owns 4")
    os.kill(first.process.pid, signal.SIGCONT)
    assert second.ask("result long") == "result 20"
    assert first.until("owns", "owns 0") < 10
    assert first.ask("result long") == "result 20", "what it no longer owns it still reads"
    extra = [line for line, count in Ledger(ledger).counts().items() if count > 1]
    assert len(extra) <= 2, f"only steps in flight at the freeze may stand twice: {extra}"
