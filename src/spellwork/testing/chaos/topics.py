"""Owns kill -9 of publishers and consumers of one durable topic: three groups, ten keys, two processes each. POSIX only.
It must never judge before every group has come to the end of the topic.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from spellwork.events.durable import Consumer, DurableTopic, Topics, open_topics
from spellwork.testing.chaos.life import Life, Work
from spellwork.testing.chaos.share import Share, Tally, split
from spellwork.testing.chaos.trial import Deadline, Figure, LawBroken

LAW = "an event that was published reaches each group, in the order of its key, and again only as itself"
GROUPS = ("mail", "bill", "ship")
KEYS, PUBLISHERS, CONSUMERS = 10, 2, 2
EACH_KILL, MILLION = 500, 50
LEASE = 2.0
_LINE = 40
_WITHIN = 50
_PATIENCE = 60.0
_TOPIC = "orders"
_ALL = 1 << 60


def run(place: Path, seed: int, count: int, deadline: Deadline) -> Figure:
    """Kill `count` times while 500 events a kill (from 50 kills on a million in all) go through."""
    return split(__name__, LAW, place, seed, count, deadline, parts=1)


def share(part: Share, tally: Tally) -> None:
    """One store, one topic, all kills."""
    asyncio.run(_warm_up())
    each = (1_000_000 if part.count >= MILLION else EACH_KILL * part.count) // KEYS
    with tally.judging(f"seed {part.seed}, files in {part.place}"):
        _Scene(part.place, each, part.rng, tally).play(part.count, part.deadline)
        shutil.rmtree(part.place)


async def _warm_up() -> None:
    # what a first life would import and build; a store in memory leaves no thread behind
    async with open_topics("memory:") as topics:
        topic = await _topic(topics)
        await topic.publish_many([1], key=str, id=str)
        async with topic.consume("warm") as consumer:
            await (await anext(consumer)).ack()
    import apsw  # noqa: F401 - what the store of a life imports

    import spellwork.store.sqlite  # noqa: F401 - the same


async def _topic(topics: Topics) -> DurableTopic[int]:
    return await topics.topic(_TOPIC, type=int, partitions=4, dedup=3600)


class _Scene:
    """The processes around one topic."""

    def __init__(self, place: Path, each: int, rng: random.Random, tally: Tally):
        self.place = place
        self.each = each
        self.rng = rng
        self.tally = tally
        self.lives: dict[str, Life] = {}
        self.done: set[str] = set()

    def play(self, kills: int, deadline: Deadline) -> None:
        """Kill all along the way, then let everything end; raises `LawBroken`."""
        whole = False
        roles = [f"publisher-{n}" for n in range(PUBLISHERS)] + [f"{group}-{n}" for group in GROUPS for n in range(CONSUMERS)]
        for role in roles:
            self._start(role)
        try:
            lines = self.each * KEYS * (len(GROUPS) + 1)
            for at in sorted(self.rng.uniform(0.0, 0.9) for _ in range(kills)):
                if not self._reach(int(at * lines), deadline):
                    break
                self._kill()
            whole = self._reach(_ALL, deadline)
        finally:
            for life in self.lives.values():
                life.kill()
        self.tally.note("events", self.each * KEYS)
        self.tally.note("cut_short", not whole)
        self._judge(whole=whole)

    def _start(self, role: str) -> None:
        name, _, number = role.partition("-")
        if name == "publisher":
            work = _publisher(self.place, int(number), self.each)
        else:
            work = _consumer(self.place, name, self.each * KEYS)
        self.lives[role] = Life(work, self.place / f"log-{role}")

    def _progress(self) -> int:
        return sum(file.stat().st_size for file in self.place.glob("*.lines")) // _LINE

    def _reach(self, lines: int, deadline: Deadline) -> bool:
        """Whether the work came so far (or to its end) before the time was up."""
        last, moved = -1, time.monotonic()
        while self.lives:
            self._see_ends()
            progress = self._progress()
            if progress >= lines:
                return True
            if progress != last:
                last, moved = progress, time.monotonic()
            if time.monotonic() - moved > _PATIENCE:
                raise LawBroken(f"nothing moved for {_PATIENCE:g} s: {progress} of {lines} lines, {sorted(self.lives)} live")
            if deadline.left <= 0:
                return False
            time.sleep(0.005)
        return True

    def _see_ends(self) -> None:
        for role, life in list(self.lives.items()):
            if any("end" in words for words in life.words(0.0)) or _has_died(life.pid):
                del self.lives[role]
                ending = life.end(10.0)
                if not ending.done or ending.noise:
                    raise LawBroken(f"{role} failed: {ending}")
                self.done.add(role)

    def _kill(self) -> None:
        self._see_ends()
        role = self.rng.choice(sorted(self.lives))
        if self.rng.random() < 0.2:
            # frozen past its lease, so that others take over what it has; then it wakes, and is killed a little later
            self.lives[role].send(signal.SIGSTOP)
            time.sleep(LEASE * 1.5)
            self.lives[role].send(signal.SIGCONT)
            time.sleep(self.rng.uniform(0.0, 0.1))
            self.tally.note("frozen")
        self.lives.pop(role).kill()
        self.tally.count += 1
        self.tally.note("publishers" if role.startswith("publisher") else "consumers")
        self._start(role)

    def _judge(self, *, whole: bool) -> None:
        each = self.each if whole else 0
        published = asyncio.run(_log(self.place, each))
        for file in self.place.glob("publisher*.lines"):
            for line in _lines(file):
                key, n, offset = line.split()[:3]
                if published.get((key, int(n))) != int(offset):
                    raise LawBroken(f"{key}-{n} was acknowledged at {offset}, but is at {published.get((key, int(n)))}")
        for group in GROUPS:
            again = _judge_group(group, _lines(self.place / f"{group}.lines"), published, each)
            self.tally.note("redelivered", again)


def _judge_group(group: str, lines: Iterable[str], published: dict[tuple[str, int], int], each: int) -> int:
    """Raise `LawBroken` unless the first `each` events of each key came, in order; how many came again."""
    seen: dict[str, int] = {}
    again = 0
    for line in lines:
        key, text, offset, event_id = line.split()[:4]
        n = int(text)
        if event_id != f"{key}-{n}" or published.get((key, n)) != int(offset):
            raise LawBroken(f"group {group} got {line!r}, which is no event of the topic")
        newest = seen.get(key, 0)
        if n > newest + 1:
            raise LawBroken(f"group {group} got {key}-{n} before {key}-{newest + 1}")
        again += n <= newest
        seen[key] = max(newest, n)
    missing = [f"{key}-{seen.get(key, 0) + 1}" for key in map(_key, range(KEYS)) if seen.get(key, 0) < each]
    if missing:
        raise LawBroken(f"group {group} never got {missing}")
    return again


async def _log(place: Path, each: int) -> dict[tuple[str, int], int]:
    """Where each event stands in the topic; raises `LawBroken` unless the first `each` of each key are there, once and in order."""
    found: dict[tuple[str, int], int] = {}
    newest: dict[str, int] = {}
    async with open_topics(f"sqlite:{place / 'store.db'}", create=False, sweep_every=None) as topics:
        async for event in (await _topic(topics)).read(follow=False):
            key = str(event.key)
            if event.data != newest.get(key, 0) + 1 or event.id != f"{key}-{event.data}":
                raise LawBroken(f"the topic has {event.id} at {event.sequence}, behind {key}-{newest.get(key, 0)}")
            newest[key] = event.data
            found[key, event.data] = int(event.sequence or 0)
        for group in GROUPS:
            letters = await topics.dead_letters(_TOPIC, group)
            if letters:
                raise LawBroken(f"group {group} has given up {letters[0]}")
    short = [key for key in map(_key, range(KEYS)) if newest.get(key, 0) < each]
    if short:
        raise LawBroken(f"the topic lacks events of {short}")
    return found


def _has_died(pid: int) -> bool:
    """Whether a child has ended, said or unsaid."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _lines(file: Path) -> Iterable[str]:
    with file.open(encoding="ascii") as lines:
        yield from lines


def _key(number: int) -> str:
    return f"k{number}"


class _Lines:
    """A file of lines of one length, so that its size tells how many there are. A killed process loses none."""

    def __init__(self, file: Path):
        self._handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, *words: object) -> None:
        os.write(self._handle, " ".join(map(str, words)).ljust(_LINE - 1).encode() + b"\n")


def _publisher(place: Path, number: int, each: int) -> Work:
    """Publishes the events of its keys, some at a time, from the first that was not acknowledged."""

    async def work() -> None:
        file = place / f"publisher-{number}.lines"
        newest = {_key(n): 0 for n in range(number, KEYS, PUBLISHERS)}
        for line in _lines(file) if file.exists() else ():
            newest[line.split()[0]] = int(line.split()[1])
        lines = _Lines(file)
        async with open_topics(f"sqlite:{place / 'store.db'}") as topics:
            topic = await _topic(topics)

            async def publish(key: str, after: int) -> None:
                while after < each:
                    batch = range(after + 1, min(after + _WITHIN, each) + 1)
                    offsets = await topic.publish_many(batch, key=lambda _n: key, id=lambda n: f"{key}-{n}")
                    for n, offset in zip(batch, offsets, strict=True):
                        lines.write(key, n, offset)
                    after = batch[-1]

            await asyncio.gather(*(publish(key, after) for key, after in newest.items()))

    return lambda _inside: asyncio.run(work())


def _consumer(place: Path, group: str, total: int) -> Work:
    """Writes down what it gets, and ends when its group has got everything."""

    async def consume(consumer: Consumer[int], lines: _Lines) -> None:
        async for delivery in consumer:
            event = delivery.event
            lines.write(event.key, event.data, event.sequence, event.id, delivery.attempt)
            await delivery.ack()

    async def work() -> None:
        lines = _Lines(place / f"{group}.lines")
        async with open_topics(f"sqlite:{place / 'store.db'}") as topics:
            topic = await _topic(topics)
            options: dict[str, Any] = {"in_flight": 200, "lease": LEASE, "ack_within": 0.02, "max_attempts": 1000}
            async with topic.consume(group, **options) as consumer:
                task = asyncio.ensure_future(consume(consumer, lines))
                while not task.done() and not await _at_the_end(topics, group, total):
                    await asyncio.wait([task], timeout=0.2)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    return lambda _inside: asyncio.run(work())


async def _at_the_end(topics: Topics, group: str, total: int) -> bool:
    stats = await topics.stats(_TOPIC)
    return stats.newest == total and any(each.group == group and each.lag == 0 for each in stats.groups)
