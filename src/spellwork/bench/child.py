"""Owns the child processes of a benchmark: starting one of our modules and speaking with it by lines of JSON.
It must never leave one running.
"""

from __future__ import annotations

import json
import subprocess
import sys
from types import TracebackType
from typing import Any, Self

from spellwork.errors import InternalError

_PATIENCE = 10.0


class Child:
    """A process that runs a module of this package with arguments. Leaving the context kills it."""

    def __init__(self, module: str, *arguments: str):
        self.module = module
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter, our own module
            [sys.executable, "-m", module, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def answer(self) -> dict[str, Any]:
        """The next line it prints."""
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            raise InternalError(f"{self.module} ended with {self._process.wait()} before it answered")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def tell(self) -> None:
        """Send it a line: it may go on."""
        if self._process.stdin is not None:
            self._process.stdin.write("\n")
            self._process.stdin.flush()

    def end(self) -> None:
        """Wait for it to end by itself."""
        self._process.wait(_PATIENCE)

    def kill(self) -> None:
        """End it with SIGKILL, whatever it does."""
        self._process.kill()
        self._process.wait()


def say(answer: dict[str, Any]) -> None:
    """In the child: print one line of JSON at once."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
