"""Owns one forked life of a process: what it says, when it pauses, how it dies. POSIX only.
It must never be started from a process that has threads, nor outlive it.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import faulthandler
import json
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from spellwork.errors import SpellworkError
from spellwork.supervision import attempt
from spellwork.testing.chaos.trial import LawBroken

_PR_SET_PDEATHSIG, _PR_SET_PTRACER = 1, 0x59616D61


class Hung(LawBroken):
    """A life did not end; the message shows where each of its threads was."""


@dataclasses.dataclass(frozen=True, slots=True)
class Ending:
    """How a life ended.

    `value` is what its work returned, `typed` the code of the `SpellworkError` it raised, `raw` the traceback of anything else.
    `signal` is what killed it, and `noise` every traceback that it left on standard error.
    """

    value: Any = None
    typed: str = ""
    message: str = ""
    raw: str = ""
    signal: int = 0
    code: int = 0
    noise: str = ""

    @property
    def done(self) -> bool:
        """Whether the work came to its end."""
        return not (self.typed or self.raw or self.signal or self.code)


class Inside:
    """What a life's work can say to the process that forked it."""

    def __init__(self, reading: int, writing: int):
        self._reading = reading
        self._writing = writing

    def say(self, **words: Any) -> None:
        """Say something."""
        os.write(self._writing, json.dumps(words).encode() + b"\n")

    def pause(self, point: str) -> None:
        """Say where it is, and wait until it may go on."""
        self.say(at=point)
        os.read(self._reading, 1)


Work = Callable[[Inside], Any]


class Life:
    """A child process that does `work`; its standard error goes to `log`."""

    def __init__(self, work: Work, log: Path):
        if threading.active_count() > 1:
            raise RuntimeError(f"a process with threads cannot fork lives: {threading.enumerate()}")
        self.log = log
        self._buffer = b""
        self._ended: Ending | None = None
        self._answer: dict[str, Any] = {}
        self._heard, writing = os.pipe()
        reading, self._told = os.pipe()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._heard)
            os.close(self._told)
            _live(work, Inside(reading, writing), log)
        os.close(writing)
        os.close(reading)

    def words(self, seconds: float) -> Iterator[dict[str, Any]]:
        """What it says, until it ends or `seconds` are over."""
        until = time.monotonic() + seconds
        while True:
            line, newline, rest = self._buffer.partition(b"\n")
            if newline:
                self._buffer = rest
                words: dict[str, Any] = json.loads(line)
                if "end" in words:
                    self._answer = words["end"]
                yield words
                continue
            ready, _, _ = select.select([self._heard], [], [], max(0.0, until - time.monotonic()))
            chunk = os.read(self._heard, 65536) if ready else b""
            if not chunk:
                return
            self._buffer += chunk

    def hear(self, word: str, seconds: float = 30.0) -> Any:
        """Wait for a word; raises `LawBroken` when it does not come."""
        for words in self.words(seconds):
            if word in words:
                return words[word]
        if "raw" in self._answer or "typed" in self._answer:
            raise LawBroken(f"it never said {word!r}, but: {self._answer}")
        raise LawBroken(f"it never said {word!r}: {self.log.read_text()[-2000:]}")

    def reach(self, point: str, seconds: float = 30.0) -> None:
        """Wait until it pauses at `point`."""
        while (at := self.hear("at", seconds)) != point:
            self.go_on()
            if not at:
                return

    def go_on(self) -> None:
        """Let it go on from where it pauses."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._told, b".")

    def send(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self._ended is None:
            os.kill(self.pid, number)

    def kill(self) -> Ending:
        """Kill -9."""
        self.send(signal.SIGKILL)
        return self.end(30.0)

    def end(self, seconds: float) -> Ending:
        """Wait for its end; raises `Hung` when it does not come."""
        if self._ended is not None:
            return self._ended
        for _ in self.words(seconds):
            continue
        if not self._gone(5.0 if self._answer else 0.5):
            os.kill(self.pid, signal.SIGUSR1)
            self._gone(0.3)
            stacks = self.log.read_text(errors="replace")[-3000:]
            if self._ended is None:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                self._ended = Ending(signal=signal.SIGKILL)
            self._close()
            raise Hung(f"it hung: {stacks}")
        self._close()
        return self._ended  # type: ignore[return-value] # `_gone` has set it

    def _gone(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                self._ended = Ending(**self._answer, signal=max(0, -code), code=max(0, code), noise=_tracebacks(self.log))
                return True
            if time.monotonic() > until:
                return False
            select.select([], [], [], 0.001)  # libfaketime's sleep may refuse its argument

    def _close(self) -> None:
        os.close(self._heard)
        os.close(self._told)


def _live(work: Work, inside: Inside, log: Path) -> NoReturn:
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(handle, 2)
    faulthandler.register(signal.SIGUSR1)  # where it is, should it hang
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        libc.prctl(_PR_SET_PTRACER, -1)  # where Yama restricts it, strace is not our ancestor
    value, error = attempt(work, inside)
    answer: dict[str, Any] = {"value": value}
    if isinstance(error, SpellworkError):
        answer = {"typed": error.code, "message": str(error)}
    elif error is not None:  # told to the parent, which judges it
        answer = {"raw": "".join(traceback.format_exception(error))[-4000:]}
    with contextlib.suppress(BrokenPipeError):
        inside.say(end=answer)
    os._exit(0)


def _tracebacks(log: Path) -> str:
    text = log.read_text(errors="replace") if log.exists() else ""
    found = text.find("Traceback (most recent call last)")
    return text[found : found + 3000] if found >= 0 else ""
