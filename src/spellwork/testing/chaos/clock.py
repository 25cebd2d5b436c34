"""Owns wall clocks that jump under a running engine: an hour back, ten years ahead, summer time. Linux with libfaketime.
It must never fake the monotonic clock, which no administrator can set.

A timer is due at a moment of the wall clock, counted from the run's own time, which never goes backwards. So when the clock is
set ahead, what has become due fires as soon as that is noticed (`longest_wait`, a minute; less here). When it is set back, nothing
fires before the clock says so again, and what is due fires then. Summer time is no jump: stored times are UTC. Beside the timers a
run makes steps all the time: in no journal may an entry be older than the one before it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

from spellwork import Engine, activity, now, workflow
from spellwork.clock import SystemClock
from spellwork.testing.chaos import worker
from spellwork.testing.chaos.laws import Journals
from spellwork.testing.chaos.life import Inside, Life, Work
from spellwork.testing.chaos.share import Share, Tally, skipped, split
from spellwork.testing.chaos.trial import Deadline, Figure, LawBroken
from spellwork.testing.chaos.zombies import is_locked

LAW = "a wall clock that jumps fires no timer early, loses none, turns no journal back, and keeps no owner alive"
YEARS = 10 * 365 * 86_400
_LIFE = 30.0
_TICK = 0.1
_LEASE = 1.5
_PLACES = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib", "/usr/local/lib", "/usr/lib64")


class Watchful(SystemClock):
    """The system's clock, looked at more often than once in a minute."""

    longest_wait = _TICK


@workflow
async def sleeper(seconds: float) -> list[float]:
    began = now().timestamp()
    await asyncio.sleep(seconds)
    return [began, now().timestamp()]


@activity
async def step() -> None:
    await asyncio.sleep(_TICK)


@workflow
async def walker() -> None:
    while True:
        await step()


def run(place: Path, seed: int, count: int, deadline: Deadline) -> Figure:
    """Jump `count` times, in five processes: each does little but wait, and in each of five all six jumps come up."""
    found = [Path(where) / "faketime" / "libfaketimeMT.so.1" for where in _PLACES]
    library = next((path for path in found if path.exists()), None)
    if library is None:
        return skipped(__name__, LAW, seed, count, "libfaketime is not installed")
    environment = {
        "LD_PRELOAD": str(library), "DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DONT_RESET": "1", "FAKETIME_NO_CACHE": "1",
    }  # fmt: skip
    return split(__name__, LAW, place, seed, count, deadline, parts=5, environment=environment)


def share(part: Share, tally: Tally) -> None:
    """Jump in one way after the other; each way returns why it counts for nothing, if it does not."""
    worker.warm_up()
    jumps = [_ahead, _back, _ahead_and_back, _summer_time, _lease_ahead, _lease_back]
    tries = 0
    while tally.count < part.count and tally.goes_on(part):
        jump = jumps[(part.index + tally.count * part.of) % len(jumps)]  # one that counted for nothing is made again
        tries += 1
        place = part.place / f"{tries}-{jump.__name__.strip('_')}"
        place.mkdir()
        with tally.judging(f"{jump.__name__.strip('_')}, files in {place}"):
            _Wall(place).set(0)
            began = time.monotonic()
            if why := jump(place, tally):
                tally.note(why)
            else:
                tally.count += 1
                tally.note(jump.__name__.strip("_"))
            tally.note("entries", _in_order(place))
            tally.note_most("slowest_seconds", time.monotonic() - began)
            shutil.rmtree(place)


class _Wall:
    """The wall clock that a folder's lives see: so many seconds off."""

    def __init__(self, place: Path):
        self.file = place / "offset"

    def set(self, seconds: int) -> None:
        """Put it so many seconds ahead (or back) of the true time."""
        fresh = self.file.with_suffix(".new")
        fresh.write_text(f"{seconds:+d}\n")
        fresh.replace(self.file)


def _ahead(place: Path, _tally: Tally) -> str:
    """What is due within the ten years fires at once; what is due after them does not."""
    life = _sleeping(place, {"day": 86_400.0, "century": 10.0 * YEARS})
    _Wall(place).set(YEARS)
    ended = life.hear("ended", _LIFE)
    life.kill()
    if set(ended) != {"day"}:
        raise LawBroken(f"after ten years these had ended: {ended}")
    _never_early(ended, {"day": 86_400.0})
    return ""


def _back(place: Path, _tally: Tally) -> str:
    """Nothing fires before its moment; when the clock is right again, it fires."""
    nap = 2.5
    life = Life(_sleeps(place, {"soon": nap}), place / "log")
    began = life.hear("open", _LIFE)
    _Wall(place).set(-3600)
    if time.monotonic() - began > nap - 0.5:
        life.kill()
        return "too_slow_to_tell"
    _silent(life, nap + 0.6)
    _Wall(place).set(1)
    _never_early(life.hear("ended", _LIFE), {"soon": nap})
    life.kill()
    return ""


def _ahead_and_back(place: Path, _tally: Tally) -> str:
    """A wrong clock that is put right: timers that were set before and not yet due keep their moment."""
    life = _sleeping(place, {"hours": 7200.0, "soon": 2.0})
    _Wall(place).set(3600)
    ended = life.hear("ended", _LIFE)
    _never_early(ended, {"soon": 2.0})
    _Wall(place).set(0)
    _silent(life, 0.5)
    life.kill()
    _Wall(place).set(7200)
    again = Life(_sleeps(place, {"hours": 7200.0, "soon": 2.0}), place / "log-again")
    while "hours" not in (ended := again.hear("ended", _LIFE)):
        continue
    again.kill()
    _never_early(ended, {"hours": 7200.0})
    return ""


def _summer_time(place: Path, _tally: Tally) -> str:
    """The zone changes its offset under the process: no timer notices."""
    life = _sleeping(place, {"soon": 1.0}, zone="Europe/Berlin")
    began = time.monotonic()
    # the last Sunday of March, a second before two o'clock; TZ rules are applied to whatever time it is
    ended = life.hear("ended", _LIFE)
    life.kill()
    _never_early(ended, {"soon": 1.0})
    if time.monotonic() - began > 20.0:
        raise LawBroken("a timer of a second took more than twenty")
    return ""


def _lease_ahead(place: Path, tally: Tally) -> str:
    return _lease(place, YEARS, tally)


def _lease_back(place: Path, tally: Tally) -> str:
    return _lease(place, -3600, tally)


def _lease(place: Path, seconds: int, tally: Tally) -> str:
    """An owner is frozen while the clock jumps: its lease ends as it would have, no earlier and no later."""
    owner = Life(_sleeps(place, {"far": 100.0 * YEARS}, tells=True), place / "log")
    heir: Life | None = None
    try:
        signs = [owner.hear("open", _LIFE)]
        heir = Life(_stands_by(place), place / "log-heir")
        heir.hear("open", _LIFE)
        owner.send(signal.SIGSTOP)
        froze = time.monotonic()
        _Wall(place).set(seconds)
        try:
            taken = heir.hear("owned", _LEASE + 20.0)
        except LawBroken:
            if not is_locked(place / "store.db"):
                raise
            return "held_the_lock"  # frozen inside a transaction, see `zombies`
        signs += [words["sign"] for words in owner.words(0.1) if "sign" in words]
    finally:
        owner.kill()
        if heir is not None:
            heir.kill()
    if taken - max(signs) < _LEASE:
        raise LawBroken(f"it was replaced {taken - max(signs):.3f} s after its last sign of life, with a lease of {_LEASE} s")
    tally.note_most("slowest_takeover", taken - froze)
    return ""


def _sleeping(place: Path, naps: dict[str, float], zone: str = "") -> Life:
    life = Life(_sleeps(place, naps, zone), place / "log")
    life.hear("open", _LIFE)
    return life


def _in_order(place: Path) -> int:
    """How many entries there are; none is older than the one before it in its journal, whatever the clock said."""
    return Journals(place / "store.db").entries


def _silent(life: Life, seconds: float) -> None:
    for words in life.words(seconds):
        if "ended" in words:
            raise LawBroken(f"too early: {words}")


def _never_early(ended: dict[str, list[float]], naps: dict[str, float]) -> None:
    for name, seconds in naps.items():
        began, woke = ended[name]
        if woke - began < seconds:
            raise LawBroken(f"{name}: a timer of {seconds} s fired after {woke - began:.6f} s of the wall clock")


def _sleeps(place: Path, naps: dict[str, float], zone: str = "", *, tells: bool = False) -> Work:
    """Tells when the naps began, and with each end which have ended, and what their runs saw of the clock.

    With `tells` also of each sign of life that it has given.
    """

    async def whole(inside: Inside) -> None:
        url = f"sqlite:{place / 'store.db'}"
        async with Engine(url, workflows=[sleeper, walker], clock=Watchful(), lease=_LEASE, cache=0) as engine:
            began = time.monotonic()
            runs = {name: await engine.start(sleeper, seconds, id=name) for name, seconds in naps.items()}
            await engine.start(walker, id="walker")
            inside.say(open=began)
            if tells:
                _tell_of_signs(engine, inside)
            if zone:
                await _change_zone()
            ended: dict[str, Any] = {}
            waiting = {asyncio.create_task(run.result()): name for name, run in runs.items()}
            while waiting:
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                ended |= {waiting.pop(task): task.result() for task in done}
                inside.say(ended=ended)

    return lambda inside: asyncio.run(_with_wall(place, whole(inside)))


def _tell_of_signs(engine: Engine, inside: Inside) -> None:
    renew = engine._ownership.renew

    async def telling(lost: Any) -> None:
        began = time.monotonic()
        await renew(lost)
        inside.say(sign=began)  # nobody has seen it earlier

    engine._ownership.renew = telling  # type: ignore[method-assign]


async def _change_zone() -> None:
    for zone in ("CET-1CEST,M1.1.0,M12.5.0", "CET-1CEST,M12.5.0,M1.1.0", "UTC"):
        os.environ["TZ"] = zone
        time.tzset()
        await asyncio.sleep(0.05)


def _stands_by(place: Path) -> Work:
    async def whole(inside: Inside) -> None:
        url = f"sqlite:{place / 'store.db'}"
        async with Engine(url, workflows=[sleeper, walker], clock=Watchful(), lease=_LEASE, standby=True) as engine:
            inside.say(open=True)
            while engine.owned < 4:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.01)
            inside.say(owned=time.monotonic())

    return lambda inside: asyncio.run(_with_wall(place, whole(inside)))


async def _with_wall(place: Path, work: Any) -> None:
    os.environ["FAKETIME_TIMESTAMP_FILE"] = str(place / "offset")
    await work
