"""Owns one life of a simulated process: the real engine on a loop, a clock and a writer that the world turns.
It must never clean up when it is killed: a dead life is only forgotten.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import random
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from spellwork.clock import MICROSECONDS
from spellwork.engine import Engine
from spellwork.errors import Conflict, Fenced, InternalError, SpellworkError, StoreClosed, StoreError, StoreFailed
from spellwork.store import Store
from spellwork.store.committer import Committer, Done, Item, Outcome, Probe
from spellwork.store.durability import Durability
from spellwork.supervision import attempt
from spellwork.testing.sim.disk import SimBackend
from spellwork.testing.sim.loop import SimLoop
from spellwork.workflow.activity import activity_context

if TYPE_CHECKING:
    from spellwork.testing.sim.world import World

LEASE = 2.0


class SimClock:
    """Implements `spellwork.clock.Clock` for one process: the world's time, and a wall clock that may be wrong."""

    longest_wait = 60.0

    def __init__(self, life: Life):
        self._life = life

    def now(self) -> int:
        """Microseconds since 1970 by this process's wall clock."""
        return self._life.world.wall(self._life.slot)

    def monotonic(self) -> float:
        """Virtual seconds."""
        return self._life.world.now / MICROSECONDS

    def call_later(self, seconds: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Call back on the loop of this process."""
        return self._life.loop.call_later(max(seconds, 0.0), callback)

    def entropy(self, size: int) -> bytes:
        """Seeded bytes."""
        return self._life.rng.randbytes(size)


def _queue(loop: asyncio.AbstractEventLoop, callback: Callable[..., None], *args: Any) -> None:
    loop.call_soon(callback, *args)


class SimCommitter(Committer):
    """The committer, with the world in place of its thread: a group lands at a later moment, its outcome is heard later still."""

    life: Life

    def _start_writer(self) -> None:
        self._waiting: list[Item] = []
        self._landing = False

    def _hand_over(self, items: list[Item]) -> None:
        self._waiting += items
        self._next()

    def _next(self) -> None:
        if self._waiting and not self._landing and not self.life.dead:
            group, self._waiting, self._landing = self._waiting, [], True
            self.life.io(lambda: self._land(group))

    def _land(self, group: list[Item]) -> None:
        torn = self.life.torn()
        if torn is not None and torn < len(group):
            if torn:
                self._write_group(group[:torn])
            self._failed = self._failed or StoreFailed("simulated: the connection broke in the middle of a group")
            outcomes: list[tuple[Done, Outcome]] = [(done, self._failed) for _, done in group]
        else:
            outcomes = self._write_group(group)
        for _, outcome in outcomes:
            if isinstance(outcome, Fenced | Conflict):
                self.life.world.mark(f"a batch was refused: {outcome.code}")
        self._landing = False
        self.life.soon(lambda: _queue(self._loop, self._deliver, outcomes))
        self._next()

    def join(self) -> None:
        """The world lands what is left, or the process dies before."""


class SimStore(Store):
    """The store, rung by the world some time after another process has committed instead of looking all the time."""

    life: Life
    _ringing = False

    def _started(self, probe: Probe | None) -> Committer:
        # no thread is ever started in it: the loop takes what it is given
        self._readers = concurrent.futures.ThreadPoolExecutor(1)
        committer: type[SimCommitter] = type("LifesCommitter", (SimCommitter,), {"life": self.life})
        return committer(self._backend, self._clock, sync_every=self.durability.sync_every, probe=probe)

    def _ensure_polling(self) -> None:
        if not self._closed and self._heard != self._backend.doorbell():
            self.ring_later()

    def ring_later(self) -> None:
        """Notice what others have committed, a little later."""
        if not self._ringing and not self._closed and (self._listeners or self._foreign):
            self._ringing = True
            self._clock.call_later(self.life.rng.uniform(0.001, 0.05), self._rung)

    def _rung(self) -> None:
        self._ringing = False
        self._listen()


class SimEngine(Engine):
    """The real engine over the shared disk."""

    def __init__(self, life: Life, **options: Any):
        super().__init__("sim:", clock=SimClock(life), **options)
        self._life = life
        self.opened = False

    def _make_store(self) -> Store:
        life = self._life
        backend = SimBackend(life.world.disk, life.name, lambda: life.world.now, life.commit_fault)
        kind: type[SimStore] = type("LifesStore", (SimStore,), {"life": life})
        return kind(self.url, backend, Durability.parse(life.world.plan.durability), self._clock)

    async def _open(self, store: Store) -> None:
        self.opened = True
        await super()._open(store)
        self._host.steps.fakes = Observed(self._life)

    def _fail(self, error: StoreError | InternalError) -> None:
        super()._fail(error)
        self._life.failed(error)


class Observed(Mapping[str, Callable[..., Any]]):
    """Stands where fakes stand: every activity really runs, takes some time, and is reported to the world."""

    def __init__(self, life: Life):
        self._life = life

    def get(self, name: str, default: Any = None) -> Any:
        """The activity's own function, observed."""

        async def observed(*args: Any, **kwargs: Any) -> Any:
            life = self._life
            context = activity_context()
            life.world.effect(life, name, context)
            await asyncio.sleep(life.rng.choice((0.0, 0.0, 0.001, 0.05, life.rng.expovariate(2.0))))
            value = default(*args, **kwargs)
            if asyncio.iscoroutine(value):
                value = await value
            return value

        return observed

    def __getitem__(self, name: str) -> Callable[..., Any]:
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 1


class Life:
    """From start to death of one process. `slot` is the process's place in the plan; a restart is a new life in the same slot."""

    def __init__(self, world: World, slot: int, count: int):
        self.world = world
        self.slot = slot
        self.name = f"{slot}.{count}"
        self.rng = random.Random(f"spellwork life {world.plan.seed} {self.name}")
        self.loop = SimLoop(world, lambda context: world.broken_by(self, context))  # type: ignore[abstract] # filled in below it
        self.loop.blocking = self._blocking
        self.engine: SimEngine | None = None
        self.silenced = False
        """Whether nothing that it has sent can arrive any more: the power failed."""
        self._ended = asyncio.Event()
        self.loop.enter(self._spawn, self._live())

    # What the world asks

    @property
    def dead(self) -> bool:
        """Whether it was killed or has ended."""
        return self.loop.dead

    def kill(self) -> None:
        """No callback of it ever runs again."""
        self.loop.dead = True
        self.loop.ready.clear()

    def bury(self) -> None:
        """The world has ended: let go of coroutines, with nowhere for their clean-up to reach."""
        self.kill()
        engine = self.engine
        if engine is not None and engine.opened:
            for live in list(engine._host.runs.values()):
                attempt(live.execution.close)
            engine._ownership.close()
        self.loop.bury()
        if engine is not None and engine.opened:
            # the contexts of these tasks hold steps, which hold all this, and into which the cycle collector does not look
            vars(engine._host.steps).clear()

    # Its main function

    def _spawn(self, work: Any) -> None:
        self.loop.create_task(work).add_done_callback(self._reaped)

    def _reaped(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.world.broken_by(self, {"message": "an error escaped", "exception": error})

    async def _live(self) -> None:
        plan = self.world.plan
        client = self.slot >= plan.workers
        workload = self.world.workload
        engine = SimEngine(
            self, workflows=workload.workflows, triggers=() if client else workload.triggers, standby=not client, client=client,
            partitions=plan.partitions, max_partitions=None if client else plan.per_worker, lease=LEASE, cache=plan.cache,
            max_recoveries=1000,
        )  # fmt: skip
        self.engine = engine
        try:
            async with engine:
                for errand in self.world.errands_for(self.slot):
                    self._spawn(self._run_errand(engine, errand))
                await self._ended.wait()
        except StoreError as error:
            self.world.note(f"life over: {error.code}")
        self.world.ended(self)

    async def _run_errand(self, engine: Engine, errand: Any) -> None:
        while not errand.done:
            result: Any = None
            try:
                result = await errand.drive(engine)
            except (StoreClosed, StoreFailed):
                self._ended.set()  # whoever meets this opens the engine again
                return
            except TimeoutError:
                self.world.note("a driver's timeout")
                continue
            except SpellworkError as error:
                if self._ended.is_set():
                    return  # the engine is closing around the driver
                if not self.world.tolerates(error):
                    raise
                self.world.note(f"driver met {error.code}")
                await asyncio.sleep(0.5)
                continue
            errand.finish(self.name, result)

    def ring(self) -> None:
        """Another process has committed."""
        engine = self.engine
        if engine is not None and isinstance(store := engine._store, SimStore):
            self.loop.enter(store.ring_later)

    def failed(self, error: SpellworkError) -> None:
        """The engine gave up; whoever runs it starts it again."""
        if isinstance(error, InternalError):
            self.world.broken_by(self, {"message": "the engine broke", "exception": error.__cause__ or error})
        self.world.note(f"engine failed: {error.code}")
        self._ended.set()

    # Input and output

    def io(self, action: Callable[[], None]) -> None:
        """Do something with the disk at a later moment, unless this life is over by then."""
        self.world.io(self, action)

    def soon(self, action: Callable[[], None]) -> None:
        """Hear of something a little later."""
        self.world.at(self.world.now + self.rng.randrange(1, 2000), lambda: None if self.dead else action())

    def _blocking(self, call: Callable[[], Any]) -> asyncio.Future[Any]:
        future = self.loop.create_future()

        def answer() -> None:
            value, error = attempt(call)
            self.soon(lambda: self._answer(future, value, error))

        self.io(answer)
        return future

    @staticmethod
    def _answer(future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)

    def commit_fault(self) -> str:
        """What the commit that is landing suffers."""
        return self.world.take_fault(self.slot, ("fail", "unknown"))

    def torn(self) -> int | None:
        """How many batches of the group that is landing survive, if it is torn."""
        return self.world.take_torn(self.slot)
