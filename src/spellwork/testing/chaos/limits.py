"""Owns limits of a process: open files, memory, threads and the size of a file, from nearly none to nearly enough. Linux only.
It must never judge the interpreter: the limit is set when the event loop runs and the workflows are loaded.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

from spellwork.testing import Ledger
from spellwork.testing.chaos import worker
from spellwork.testing.chaos.errors import TYPED
from spellwork.testing.chaos.life import Ending, Hung, Life
from spellwork.testing.chaos.share import Share, Tally, skipped, split
from spellwork.testing.chaos.sweep import finish
from spellwork.testing.chaos.trial import Deadline, Figure, LawBroken

LAW = "a process that runs out of files, memory or threads ends with a typed error, loses nothing, and the next one finishes"
SHAPES = ["sequence", "signals", "updates", "fan_out"]
_LIFE = 20.0
_eaten: list[bytearray] = []
_NOBODY = 54_321  # a user without any process: its limit on threads counts ours alone


def run(place: Path, seed: int, count: int, deadline: Deadline) -> Figure:
    """Run `count` limited lives, in two processes."""
    if not Path("/proc/self/statm").exists():
        return skipped(__name__, LAW, seed, count, "/proc, from which the limits are reckoned")
    return split(__name__, LAW, place, seed, count, deadline)


def share(part: Share, tally: Tally) -> None:
    """Limit one thing after the other, each to another level."""
    worker.warm_up()
    rng = part.rng
    kinds: dict[str, tuple[Callable[[int], None], range]] = {
        "files": (_files, range(16)),
        "memory": (_memory, range(64)),
        "file_size": (_file_size, range(400)),
        "threads": (_threads, range(6)),
    }
    if os.geteuid() != 0:
        del kinds["threads"]  # the limit counts every process of the user
        tally.note("threads_not_limited_without_root")
    for number in range(part.count):
        if not tally.goes_on(part):
            break
        kind = list(kinds)[number % len(kinds)]
        limit, levels = kinds[kind]
        level = rng.choice(levels)
        place = part.place / f"{number}-{kind}-{level}"
        place.mkdir()
        with tally.judging(f"{kind} limited to level {level}, files in {place}"):
            tally.count += 1
            try:
                ending = _limited(place, lambda limit=limit, level=level: limit(level), 8.0 if kind == "memory" else _LIFE)  # type: ignore[misc]
                tally.note(f"{kind}_{_judge(ending, kind)}")
            except Hung as hung:
                if kind != "memory" or "threading.py" not in str(hung) or " in start" not in str(hung):
                    raise
                # CPython waits for ever for a new thread that died of a MemoryError before it said that it had started
                tally.note("memory_interpreter_hung")
            finish(place, SHAPES)
            shutil.rmtree(place)


def _limited(place: Path, limit: Callable[[], None], seconds: float) -> Ending:
    place.chmod(0o777)
    for above in place.parents:
        if above.stat().st_uid == os.geteuid() and not above.stat().st_mode & 0o1:
            above.chmod(above.stat().st_mode | 0o11)  # the user of limited threads has to get here
    acks = Ledger(place / "acks")
    life = Life(worker.life_of(place, SHAPES, limited=limit), place / "log")
    for words in life.words(seconds):
        if "ack" in words:
            acks.write(words["ack"])
    return life.end(seconds)


def _judge(ending: Ending, kind: str) -> str:
    if kind == "memory" and (ending.raw or ending.noise).rstrip().endswith("MemoryError"):
        return "interpreter"  # Python says it in its own way wherever it comes to need more
    if ending.raw or ending.signal or ending.code:
        raise LawBroken(f"no typed error, but: {ending.raw or ending}")
    if ending.typed and ending.typed not in TYPED:
        raise LawBroken(f"{ending.typed} does not tell that {kind} ran out: {ending.message}")
    if ending.noise:
        raise LawBroken(f"a traceback on standard error: {ending.noise}")
    return "typed" if ending.typed else "went_on"


def _files(level: int) -> None:
    used = max(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208 - one call, at a limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + level, used + level))


def _memory(level: int) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (level << 18), used + (level << 18)))
    with contextlib.suppress(MemoryError):
        while True:
            _eaten.append(bytearray(1 << 18))
    del _eaten[len(_eaten) - level :]


def _file_size(level: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (level << 10, resource.RLIM_INFINITY))


def _threads(level: int) -> None:
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    resource.setrlimit(resource.RLIMIT_NPROC, (level + 1, level + 1))
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)
