"""Owns the watch for real I/O inside workflow code: an audit hook that refuses files, sockets, processes, threads and sleeps there.
It must never touch code outside workflow loops: elsewhere it looks at the event's name and one thread-local value, and returns.

Python announces blocking sleeps only since 3.13 and new threads since 3.12; before, those two go unnoticed here.
"""

from __future__ import annotations

import sys
from asyncio import events
from typing import Any

from spellwork.errors import ForbiddenInWorkflow
from spellwork.workflow.loop import WorkflowLoop, caller

_FORBIDDEN = {
    "open": "opening a file",
    "socket.__new__": "a socket",
    "socket.connect": "a socket",
    "socket.bind": "a socket",
    "socket.getaddrinfo": "a name lookup",
    "subprocess.Popen": "a subprocess",
    "os.system": "a subprocess",
    "os.exec": "a subprocess",
    "os.fork": "a fork",
    "os.remove": "removing a file",
    "os.rename": "renaming a file",
    "os.mkdir": "making a directory",
    "os.listdir": "reading a directory",
    "os.scandir": "reading a directory",
    "time.sleep": "blocking sleep",
    "_thread.start_new_thread": "a thread",
    "_thread.start_joinable_thread": "a thread",
    "sqlite3.connect": "a database",
}
# Imports, log lines and tracebacks read or write files on their own; what they do does not reach the workflow's decisions.
_HARMLESS = (
    "importlib",
    "linecache",
    "logging",
    "traceback",
    "warnings",
    "tokenize",
    "zipimport",
    "inspect",
    "_frozen_importlib",
)

_installed: list[bool] = []


def install_guard() -> None:
    """Install the hook, once per process; audit hooks cannot be removed."""
    if not _installed:
        _installed.append(True)
        sys.addaudithook(_audit)


def _audit(event: str, _args: tuple[Any, ...]) -> None:
    if event not in _FORBIDDEN or type(events._get_running_loop()) is not WorkflowLoop:
        return
    frame = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.partition(".")[0] in _HARMLESS:
            return
        if module == "spellwork.workflow.loop":
            break
        frame = frame.f_back  # type: ignore[assignment]
    where = caller()
    raise ForbiddenInWorkflow(
        f"{where}: {_FORBIDDEN[event]} ({event}) inside a workflow would not replay; do it in an activity",
        what=event,
        where=where,
    )
