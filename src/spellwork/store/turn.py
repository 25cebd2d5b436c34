"""Owns fairness between the processes that write one file: whoever waits raises a hand, and the others let it in.
The hand must never be held longer than it takes to get the write lock.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator

from spellwork.errors import StoreUnavailable
from spellwork.store.pause import pause

if sys.platform == "win32":
    import msvcrt

    def try_lock(handle: int) -> bool:
        """Lock an open file unless another process has."""
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def unlock(handle: int) -> None:
        """Let others in."""
        os.lseek(handle, 0, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)

    def try_record_lock(handle: int, start: int = 0, size: int = 1) -> bool:
        """Lock some bytes of an open file, in the way that database libraries lock theirs, unless another process has."""
        os.lseek(handle, start, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, size)
        except OSError:
            return False
        return True

else:
    import fcntl

    def try_lock(handle: int) -> bool:
        """Lock an open file unless another process has."""
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def unlock(handle: int) -> None:
        """Let others in."""
        fcntl.flock(handle, fcntl.LOCK_UN)

    def try_record_lock(handle: int, start: int = 0, size: int = 1) -> bool:
        """Lock some bytes of an open file, in the way that database libraries lock theirs, unless another process has."""
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, size, start)
        except OSError:
            return False
        return True


_LOOK_EVERY = 0.002
_PAUSE = 0.0003
_YIELD_LIMIT = 0.05
_STOPPED = 1.0


class Turn:
    """A hand that at most one waiting writer raises.

    SQLite's busy handler starves a newcomer beside a writer that commits in a loop (8,513 commits against 165, measured).
    """

    def __init__(self, path: str):
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._looked = 0.0

    def let_others_in(self) -> None:
        """Before a transaction: pause while another process has its hand raised (at most 50 ms)."""
        now = time.monotonic()
        if now - self._looked < _LOOK_EVERY:
            return
        self._looked = now
        while time.monotonic() - now < _YIELD_LIMIT:
            if try_lock(self._handle):
                unlock(self._handle)
                return
            pause(_PAUSE)
        # nobody waits that long for a lock that was free all the time: whoever raised the hand was stopped with it
        self._looked = time.monotonic() + _STOPPED

    @contextlib.contextmanager
    def raised(self) -> Iterator[None]:
        """Raise the hand while trying to get the write lock. Without the hand (it is taken) one tries all the same."""
        mine = try_lock(self._handle)
        try:
            yield
        finally:
            if mine:
                unlock(self._handle)

    def close(self) -> None:
        """Give the file handle back."""
        os.close(self._handle)


class WriteLock:
    """One writer among the threads and processes of a file, for libraries whose own lock is waited for without an end."""

    def __init__(self, path: str):
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._threads = threading.Lock()

    def take(self, turn: Turn, seconds: float, what: str) -> None:
        """Wait at most so long, with the hand raised; raises `StoreUnavailable`. A process that dies gives it up."""
        deadline = time.monotonic() + seconds
        if not self._threads.acquire(timeout=seconds):
            raise _held(what, seconds)
        try:
            if not try_lock(self._handle):
                with turn.raised():
                    self._wait(deadline, seconds, what)
        except BaseException:
            self._threads.release()
            raise

    def _wait(self, deadline: float, seconds: float, what: str) -> None:
        while not try_lock(self._handle):
            if time.monotonic() > deadline:
                raise _held(what, seconds)
            pause(_PAUSE)

    def give(self) -> None:
        """Let the next one in."""
        unlock(self._handle)
        self._threads.release()

    def close(self) -> None:
        """Give the file handle back."""
        os.close(self._handle)


def _held(what: str, seconds: float) -> StoreUnavailable:
    return StoreUnavailable(f"{what}: another process has held the write lock for {seconds:.0f} s; find and stop it")
