"""Owns the order of things: virtual time, whose callback runs next, when the disk answers, and when something goes wrong.
It must never let anything decide but the plan and its seed.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from spellwork.clock import MICROSECONDS
from spellwork.errors import SpellworkError
from spellwork.store import Batch
from spellwork.testing.sim.disk import Disk
from spellwork.testing.sim.laws import Witness
from spellwork.testing.sim.plan import Fault, Plan
from spellwork.testing.sim.process import Life
from spellwork.testing.sim.workload import Errand, Workload
from spellwork.workflow.activity import ActivityContext

_EPOCH = 1_700_000_000 * MICROSECONDS
_PATIENCE = 900 * MICROSECONDS
_LOOK_EVERY = MICROSECONDS // 2
_TURNS = 400_000


class World:
    """Runs one plan. `broken` holds what was seen to be wrong, `marks` how often each rare branch was reached."""

    def __init__(self, plan: Plan, workload: Workload):
        self.plan = plan
        self.workload = workload
        self.now = 0
        self.rng = random.Random(f"spellwork world {plan.seed}")
        self.disk = Disk()
        self.marks: Counter[str] = Counter()
        self.broken: list[str] = []
        self.lossy = False
        """Whether acknowledged commits were lost, as durability `relaxed` allows."""
        self._over = False
        self.witness = Witness(self)
        self.disk.watch = self.witness.transaction
        self.disk.committed = self._ring
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._sequence = itertools.count()
        self._processes = plan.workers + plan.clients
        self.lives: list[Life | None] = [None] * self._processes
        self._lived = [0] * self._processes
        self._graves: list[Life] = []
        self._armed: list[Fault] = []
        self._crashing: dict[int, Fault] = {}
        self._offset = [0] * self._processes
        self._slow = [0] * self._processes
        self._isolated = [0] * self._processes
        self._frozen = [0] * self._processes
        self._letters: list[tuple[bytes, bytes]] = []
        for errand in workload.errands:
            errand.homes = tuple(self.rng.sample(range(self._processes), self.rng.choice((1, 1, 2)) if self._processes > 1 else 1))

    # The run

    def run(self) -> None:
        """From the first process to the last answer."""
        for slot in range(self._processes):
            self.at(self.rng.randrange(50_000), lambda slot=slot: self._start(slot))  # type: ignore[misc]
        for fault in self.plan.faults:
            self.at(fault.at, lambda fault=fault: self._befall(fault))  # type: ignore[misc]
        quiet = max(
            (fault.at + round(abs(fault.seconds) * MICROSECONDS) for fault in self.plan.faults if fault.kind != "clock"), default=0
        )
        self.at(quiet, self._heal)
        self.at(quiet, self._look)
        turns = 0
        try:
            while not self._over and turns < _TURNS and self.now < quiet + _PATIENCE and not self.broken:
                turns += self._turn()
            if not self._over and not self.broken:
                self.witness.unfinished(turns)
            elif not self.broken:
                self.witness.at_the_end()
        finally:
            for life in [*self._graves, *filter(None, self.lives)]:
                life.bury()
        if not self.broken and not self.lossy:
            self.witness.linearizable()

    def _turn(self) -> int:
        ready = [
            life for life in self.lives
            if life is not None and life.loop.ready and not life.dead and self._frozen[life.slot] <= self.now
        ]  # fmt: skip
        if not ready:
            when, _, callback = heapq.heappop(self._events)
            self.now = max(self.now, when)
            callback()
            return 1
        life = self.rng.choice(ready) if len(ready) > 1 else ready[0]
        fault = self._crashing.pop(life.slot, None)
        if fault is None:
            return life.loop.turn()
        count = fault.count - life.loop.turn(fault.count + 1)
        if count < 0:
            self.mark("crash in a turn")
            self._kill(life, fault.seconds)
        elif not life.dead:
            self._crashing[life.slot] = Fault(fault.at, "crash", fault.slot, fault.seconds, count)
        return 1

    def _look(self) -> None:
        done = all(errand.done for errand in self.workload.errands)
        if done and (self.lossy or self.witness.all_ended()):
            self._over = True
        else:
            self.at(self.now + _LOOK_EVERY, self._look)

    def _ring(self, writer: str) -> None:
        for life in self.lives:
            if life is not None and not life.dead and life.name != writer:
                life.ring()

    # Time, and input and output

    def at(self, when: int, callback: Callable[[], None]) -> None:
        """Call back when virtual time has come to `when` microseconds."""
        heapq.heappush(self._events, (when, next(self._sequence), callback))

    def wall(self, slot: int) -> int:
        """What the wall clock of a process shows, in microseconds since 1970."""
        return _EPOCH + self.now + self._offset[slot]

    def io(self, life: Life, action: Callable[[], None]) -> None:
        """Let `action` reach the disk at a later moment."""
        delay = life.rng.randrange(50, 4000)
        if self._slow[life.slot] > self.now:
            delay *= 200
        self.at(self.now + delay, lambda: self._reach(life, action))

    def _reach(self, life: Life, action: Callable[[], None]) -> None:
        held = self._isolated[life.slot]
        if self._frozen[life.slot] > self.now and life.rng.random() < 0.5:
            held = max(held, self._frozen[life.slot])
        if held > self.now and not life.dead:
            self.at(held + life.rng.randrange(3000), lambda: self._reach(life, action))
        elif not life.dead:
            action()
        elif not life.silenced and life.rng.random() < 0.3:
            # what a dead process has sent may still arrive
            self.mark("a commit of a dead process landed")
            action()

    # Processes

    def _start(self, slot: int) -> None:
        life = self.lives[slot]
        if life is None or life.dead:
            if life is not None:
                self._graves.append(life)
            self._lived[slot] += 1
            self.lives[slot] = Life(self, slot, self._lived[slot])

    def _kill(self, life: Life, seconds: float) -> None:
        life.kill()
        self.note(f"{life.name} killed")
        self._isolated[life.slot] = self._frozen[life.slot] = 0
        self.at(self.now + round(seconds * MICROSECONDS), lambda: self._start(life.slot))

    def ended(self, life: Life) -> None:
        """A process came to its own end; its user starts it again."""
        life.kill()
        self.at(self.now + life.rng.randrange(1_000_000), lambda: self._start(life.slot))

    def errands_for(self, slot: int) -> list[Errand]:
        """What a starting process is asked to do."""
        return [errand for errand in self.workload.errands if slot in errand.homes and not errand.done]

    # Faults

    def _befall(self, fault: Fault) -> None:
        self.mark(f"fault {fault.kind}")
        until = self.now + round(fault.seconds * MICROSECONDS)
        life = self.lives[fault.slot]
        match fault.kind:
            case "crash":
                self._crashing[fault.slot] = fault
            case "fail" | "unknown" | "torn":
                self._armed.append(fault)
            case "slow":
                self._slow[fault.slot] = until
            case "isolate":
                self._isolated[fault.slot] = until
            case "freeze":
                self._frozen[fault.slot] = until
            case "clock":
                self._offset[fault.slot] += round(fault.seconds * MICROSECONDS)
            case "evict":
                self.witness.evict()
            case "duplicate":
                self._duplicate()
            case "power":
                lost = self.disk.cut(fault.count)
                if lost:
                    self.lossy = True
                    self._letters.clear()  # some may be lost with what they were about: nobody sends those again
                    self.mark("unsynced commits lost")
                self.witness.reread()
                for each in [*self._graves, *filter(None, self.lives)]:
                    each.silenced = True
                    if not each.dead:
                        self._kill(each, fault.seconds)
        self.note(f"fault {fault.kind} {life.name if life else fault.slot}")

    def _heal(self) -> None:
        """The end of all faults: from now on everything must go well."""
        self._armed.clear()
        self._crashing.clear()
        self._slow, self._isolated, self._frozen = ([0] * self._processes for _ in range(3))

    def take_fault(self, slot: int, kinds: tuple[str, ...]) -> str:
        """The fault that was armed for the next commit of a process, if any."""
        for fault in self._armed:
            if fault.slot == slot and fault.kind in kinds:
                self._armed.remove(fault)
                self.mark(f"commit {fault.kind}")
                return fault.kind
        return ""

    def take_torn(self, slot: int) -> int | None:
        """How many batches of the next group survive, if it was to be torn."""
        for fault in self._armed:
            if fault.slot == slot and fault.kind == "torn":
                self._armed.remove(fault)
                self.mark("commit torn")
                return fault.count
        return None

    def _duplicate(self) -> None:
        if self._letters:
            key, value = self.rng.choice(self._letters)
            if self.disk.tables.get(key) is None:
                self.write("the network", Batch().put(key, value))
                self.mark("a message came twice")

    def letter(self, key: bytes, value: bytes) -> None:
        """A message was put into an inbox."""
        self._letters.append((key, value))

    def write(self, writer: str, batch: Batch) -> None:
        """Commit rows from outside every process."""
        revision = self.disk.revision + 1
        rows = [(key, value, revision) for key, value in batch.rows.items() if value is not None]
        self.disk.apply(writer, (rows, [], []), revision, self.now, synced=True)

    # What is seen

    def mark(self, name: str) -> None:
        """A rare branch was reached."""
        self.marks[name] += 1

    def note(self, text: str) -> None:
        """Something worth showing when a law is broken."""
        self.witness.story.append(f"{self.now / MICROSECONDS:10.4f} {text}")

    def effect(self, life: Life, name: str, context: ActivityContext) -> None:
        """An activity begins."""
        self.witness.effect(life, name, context)

    @property
    def jumped(self) -> bool:
        """Whether a wall clock was changed."""
        return any(self._offset)

    def tolerates(self, error: SpellworkError) -> bool:
        """Whether a driver may meet this error while things go wrong."""
        return self.lossy and error.code in ("run-not-found", "run-finished")

    def broken_by(self, life: Life, context: dict[str, Any]) -> None:
        """A process let an exception escape."""
        error = context.get("exception")
        self.violated(f"process {life.name}: {context.get('message')}: {error!r}", error)

    def violated(self, what: str, error: BaseException | None = None) -> None:
        """A law is broken; the world stops."""
        where = ""
        if error is not None and error.__traceback__ is not None:
            import traceback

            where = "\n" + "".join(traceback.format_exception(error)[-6:])
        self.broken.append(f"{self.now / MICROSECONDS:.4f} s: {what}{where}")
