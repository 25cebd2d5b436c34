"""Owns `Engine`: the public face, and the wiring of everything behind it.
It must never do a part's work itself.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import logging
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, overload

from spellwork.clock import Clock, SystemClock, new_id
from spellwork.codec import Codec, Redaction
from spellwork.codec.text import check_name
from spellwork.engine import listing, rows
from spellwork.engine import messages as m
from spellwork.engine.alarm import Alarm
from spellwork.engine.desk import Desk, check_same
from spellwork.engine.history import Event, readable
from spellwork.engine.host import Host
from spellwork.engine.mail import MailRoom
from spellwork.engine.ownership import Ownership, partition_of
from spellwork.engine.partition import Partition
from spellwork.engine.recovery import Recovery
from spellwork.engine.registry import Registry
from spellwork.engine.run import Run, RunInfo
from spellwork.engine.silence import redact_logs
from spellwork.engine.waiting import Waiting
from spellwork.errors import (
    DefinitionError,
    Fenced,
    InternalError,
    RunNotFound,
    StoreClosed,
    StoreError,
    StoreOwned,
    UsageError,
)
from spellwork.journal import ErrorRegistry, RunRow, Status
from spellwork.journal.rows import subscription_range
from spellwork.store import Batch, Encryption, Store, open_store
from spellwork.store.committer import Probe
from spellwork.workflow import Activity, Workflow
from spellwork.workflow.guard import install_guard
from spellwork.workflow.parameters import encode_call

if TYPE_CHECKING:
    from spellwork.engine.dispatch import Dispatch
    from spellwork.engine.machine import HostedMachine
    from spellwork.engine.triggers import Trigger
    from spellwork.events.durable import Topics
    from spellwork.events.event import Event as Published
    from spellwork.hosted.type import MachineType
    from spellwork.machine.chart import Chart
    from spellwork.state import StateStore

P = ParamSpec("P")
R = TypeVar("R")
log = logging.getLogger("spellwork.engine")


class Engine:
    """Runs durable workflows over one store.

    Use it as an async context manager::

        async with Engine("sqlite:work.db", workflows=[report]) as engine:
            print(await engine.run(report, ["a", "b"]))

    - `machines`: charts, or `MachineType`s of them, that `machine()` hosts.
    - `store`: `memory:` or `sqlite:PATH`; `durability`: see `Durability`.
    - `encryption`: the keys with which everything is encrypted before it is written. `redaction`: rules for what is replaced
      before it is written, in values, errors and log lines; what runs live has it replaced too.
    - `errors`: exception classes that come back as themselves from activities and runs (built-ins always do).
    - `triggers`: events of durable topics that start runs (see `Trigger`).
    - `standby`: with another owner present, wait as its successor instead of raising `StoreOwned`. `client`: never own anything.
    - `partitions`: fixed when the store is made; `max_partitions`: how many this engine takes. `lease`: seconds without a sign
      of life after which an owner may be replaced.
    - `threads`, `processes`: workers for plain and for CPU-bound activities. `cache`: how many waiting runs stay in memory.
    - `max_recoveries`: how often a run may be at work when its process dies before it is quarantined.
    - `grace`: seconds that closing waits for activities under way.
    """

    def __init__(  # noqa: PLR0913 - each is an option with a default
        self,
        store: str = "memory:",
        *,
        workflows: Iterable[Workflow[Any, Any]] = (),
        activities: Iterable[Activity[Any, Any]] = (),
        machines: Iterable[Chart | MachineType] = (),
        durability: str | None = None,
        codec: Codec | None = None,
        errors: Iterable[type[BaseException]] = (),
        triggers: Iterable[Trigger] = (),
        standby: bool = False,
        client: bool = False,
        create: bool = True,
        partitions: int = 4,
        max_partitions: int | None = None,
        lease: float = 10.0,
        threads: int = 32,
        processes: int | None = None,
        cache: int = 256,
        max_recoveries: int = 5,
        grace: float = 0.0,
        encryption: Encryption | None = None,
        redaction: Redaction | None = None,
        clock: Clock | None = None,
        probe: Probe | None = None,
    ) -> None:
        if not 1 <= partitions <= 1024 or lease <= 0 or threads < 1 or cache < 0 or max_recoveries < 3:
            raise DefinitionError(
                "Engine: partitions must be 1 to 1024, lease more than 0, threads at least 1, cache at least 0, "
                "max_recoveries at least 3 (two to notice that something kills the process, one to find out which run)"
            )
        self.url = store
        self.codec = (codec or Codec()) if redaction is None else (codec or Codec()).redacting(redaction)
        self.registry = Registry((*workflows, *(trigger.workflow for trigger in triggers)), activities)
        self._add_machines(machines)
        self._errors = ErrorRegistry(errors)
        self._options = (durability, create, probe, encryption)
        self._standby, self._client = standby, client
        self._partition_count = partitions
        self._max_partitions = 0 if client else (max_partitions or partitions)
        self._lease = lease
        self._sizes = {"threads": threads, "processes": processes, "cache": cache}
        self._max_recoveries = max_recoveries
        self._grace = grace
        self._clock = clock or SystemClock()
        self._counter = 0
        self._failed: StoreError | InternalError | None = None
        self._maintenance: asyncio.Future[Any] | None = None
        self._store: Store | None = None
        self._state: StateStore | None = None
        self._topics: Topics | None = None
        self._dispatch: Dispatch | None = None
        self._triggers = tuple(triggers)
        if len({trigger.name for trigger in self._triggers}) < len(self._triggers):
            raise DefinitionError("Engine: two triggers have the same pattern and workflow; the second would never start anything")
        self._host: Host
        self._desk: Desk
        self._mail: MailRoom
        self._ownership: Ownership

    def _add_machines(self, machines: Iterable[Chart | MachineType]) -> None:
        for given in machines:
            from spellwork.hosted.type import machine_type  # noqa: PLC0415 - most programs host none, and importing takes time

            for kind in machine_type(given).family:
                self.registry.add(kind)

    # Opening and closing

    async def __aenter__(self) -> Self:
        if self._store is not None:
            raise UsageError("this engine is open already; make a second Engine instead")
        install_guard()
        store = self._make_store()
        self._stop_redacting = redact_logs(self.codec.redaction)
        async with contextlib.AsyncExitStack() as undo:
            undo.push_async_callback(self._shut, store)
            await self._open(store)
            undo.pop_all()
        return self

    def _make_store(self) -> Store:
        durability, create, probe, encryption = self._options
        return open_store(self.url, durability=durability, clock=self._clock, create=create, probe=probe, encryption=encryption)

    async def _open(self, store: Store) -> None:
        self._failed = None
        self._state = self._topics = self._dispatch = None
        self._host = Host(store, self._clock, self.codec, self.registry, self._errors, **self._sizes)  # type: ignore[arg-type]
        self._desk = Desk(self._host, self._clock, self._ask, self._new_number)
        self._waiting = Waiting(self._host, self._row)
        self._host.broken = self._broken
        # these also while the engine is being closed, for what still runs then
        self._host.expects = lambda batch: self._trees(store).sweeper.expect_of(batch)  # noqa: PLW0108 - opened when it is needed
        self._host.steps.state = lambda: self._trees(store)
        self._host.subscribed = self._subscribed
        self._desk.closing.ended = self._waiting.ended
        self._mail = MailRoom(store, self._clock, self._errors, self._host, self._desk)
        self._ownership = Ownership(store, self._clock, self._lease)
        self._recovery = Recovery(self._host, self._clock, self._max_recoveries)
        self._alarm = Alarm(self._host, self._clock, self._recovery)
        self._store = store
        if self._triggers and not self._client:
            await self._dispatching().open()
        if not self._client:
            store.stop_at_failure()
            self._partition_count = await self._ownership.partition_count(self._partition_count)
            await self._claim()
            if not self._host.partitions and not self._standby:
                owner = next(iter(await self._ownership.owners(self._partition_count)), None)
                raise StoreOwned(
                    f"{self.url} is owned by {owner}; send it signals and queries with client=True or the command line, or open "
                    "with standby=True to take over when it stops",
                    owner=str(owner),
                )
            if self.url != "memory:":
                self._maintenance = asyncio.gather(self._maintain(), self._check(store))
        else:
            self._partition_count = await self._ownership.stored_count() or self._partition_count

    async def _claim(self) -> None:
        won = await self._ownership.claim(self._partition_count, self._max_partitions)
        if won and not self._ownership.session:
            await self._ownership.open_session()
        for index in won:
            epoch = self._ownership.held[index]
            partition = Partition(index, epoch, self._open_store, self._host.durable, self._lost)
            self._host.partitions[index] = partition
            self._host.spawn(self._take_up(partition))

    async def _take_up(self, partition: Partition) -> None:
        try:
            await self._recovery.partition(partition)
            await self._alarm.peek(partition)
            await self._mail.drain(partition)
            subscriptions = await self._host.store.scan(*subscription_range(partition.index), limit=1, damaged=b"")
            if subscriptions or self._dispatch is not None:
                self._subscribed()
        except StoreError as error:
            if not isinstance(error, (Fenced, StoreClosed)):
                self._fail(error)

    async def _maintain(self) -> None:
        while self._failed is None:
            await asyncio.sleep(min(self._lease / 3, 1.0) if self._wants_more else self._lease / 3)
            try:
                await self._ownership.renew(self._forget)
                if self._wants_more:
                    await self._claim()
            except StoreError as error:
                self._fail(error)

    async def _check(self, store: Store) -> None:
        try:
            await store.check()
        except StoreError as error:
            self._fail(error)

    @property
    def _wants_more(self) -> bool:
        return len(self._host.partitions) < min(self._max_partitions, self._partition_count)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._store is not None:
            await self._shut(self._store)

    async def _shut(self, store: Store) -> None:
        self._store = None
        if self._dispatch is not None:
            await self._dispatch.close()  # first: what can no longer be started must not be taken for done
        if self._maintenance is not None:
            self._maintenance.cancel()
            await asyncio.gather(self._maintenance, return_exceptions=True)
            self._maintenance = None
        if hasattr(self, "_mail"):
            self._mail.close()
            await self._host.close(self._grace)
            if self._failed is None:
                try:
                    await self._ownership.release()
                except StoreError as error:
                    log.warning("the partitions were not released: %s", error)
        closed = StoreClosed("the engine was closed while this was waited for; the run goes on when it is opened again")
        if hasattr(self, "_waiting"):
            self._waiting.tell_all(closed)
        if self._dispatch is not None:
            await self._dispatch.close()
            self._dispatch = None
        if self._topics is not None:
            self._topics.close()
            self._topics = None
        if self._state is not None:
            await self._state.close()
            self._state = None
        await store.close()
        if hasattr(self, "_ownership"):
            self._ownership.close()
        self._stop_redacting()

    @property
    def _open_store(self) -> Store:
        if self._store is None:
            raise UsageError("the engine is not open; use `async with Engine(...) as engine:`")
        if self._failed is not None:
            raise self._failed
        return self._store

    @property
    def store(self) -> Store:
        """The open store."""
        return self._open_store

    @property
    def state(self) -> StateStore:
        """Typed trees of values in the same store; workflows and activities reach them with `spellwork.workflow.state`."""
        return self._trees(self._open_store)

    def _trees(self, store: Store) -> StateStore:
        if self._state is None:
            from spellwork.state import StateStore  # noqa: PLC0415 - a tenth of the import time, for who uses state

            self._state = StateStore(store, codec=self.codec)
            self._state.sweeper.start()
        return self._state

    @property
    def topics(self) -> Topics:
        """The durable topics of the same store; workflows publish to them and wait for them with `spellwork.workflow.events`."""
        return self._logs(self._open_store)

    def _logs(self, store: Store) -> Topics:
        if self._topics is None:
            from spellwork.events.durable import Topics  # noqa: PLC0415 - a tenth of the import time, for who uses topics

            self._topics = Topics(store, codec=self.codec, clock=self._clock)
            if self._clock.longest_wait < float("inf"):  # virtual time would jump from one look to the next for ever
                self._topics.sweep_every(60)
        return self._topics

    def _dispatching(self) -> Dispatch:
        if self._dispatch is None:
            from spellwork.engine.dispatch import Dispatch  # noqa: PLC0415 - as above

            topics = self._logs(self._host.store)
            self._dispatch = Dispatch(self._host, topics, self._triggers, self._bring, self._pulled, self._taken_over)
        return self._dispatch

    def _subscribed(self) -> None:
        if self._store is not None:  # else it is being closed
            self._dispatching().wake()

    async def _pulled(self, trigger: Trigger, event: Published[Any], run_id: str, batch: Batch) -> None:
        """Start a run by an event; where another owner has to, or will once there is one, a letter to it goes into `batch`."""
        message = self._start_message(trigger.workflow, check_name(run_id, "id"), (event,), {})
        if not await self._begun(message):
            self._mail.leave(message, self._partition_of(run_id), batch)

    async def _bring(self, message: m.AskSignal, partition: Partition) -> None:
        """Give an event to a run of ours. Raises `Fenced` when the partition is another's: that one brings it then."""
        if (taken := self._take(message)) is not None:
            await taken[0]
            return
        if not partition.held:
            raise Fenced(f"partition {partition.index} belongs to another owner now", partition=partition.index)
        try:
            await self._handle(message, partition)
        except Fenced:
            self._taken_over(partition)
            raise

    @property
    def idle(self) -> bool:
        """Whether nothing is under way but waiting."""
        return not self._host.steps.busy and self._settled

    @property
    def _settled(self) -> bool:
        events = self._dispatch is not None and self._dispatch.busy
        return not (self._host.unsettled or self._host.store.pending or events)

    @property
    def owned(self) -> int:
        """How many partitions this engine owns."""
        return len(self._host.partitions)

    @property
    def loaded(self) -> int:
        """How many runs are in memory."""
        return len(self._host.runs)

    # What goes wrong

    def _lost(self, partition: Partition, error: StoreError) -> None:
        if isinstance(error, Fenced):
            self._forget(partition.index)
        elif not isinstance(error, StoreClosed):
            self._fail(error)

    def _taken_over(self, partition: Partition) -> None:
        if self._host.partitions.get(partition.index) is partition:
            self._forget(partition.index)

    def _forget(self, index: int) -> None:
        partition = self._host.partitions.get(index)
        self._ownership.held.pop(index, None)
        if partition is not None:
            log.warning("partition %d was taken over by another owner; its runs go on there", index)
            self._host.drop_partition(partition)
            self._waiting.recheck()

    def _broken(self, error: BaseException) -> None:
        if isinstance(error, StoreError):
            self._fail(error)
            return
        log.error("the engine is broken", exc_info=error)
        internal = InternalError(f"a bug in the engine: {type(error).__name__}: {error}; open it again, and please report this")
        internal.__cause__ = error
        self._fail(internal)

    def _fail(self, error: StoreError | InternalError) -> None:
        if self._failed is None:
            log.error("nothing more is run: %s", error)
            self._failed = error
            for partition in list(self._host.partitions.values()):
                self._host.drop_partition(partition)
            self._waiting.tell_all(error)

    # Starting and finding runs

    @overload
    async def start(self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Run[R]: ...
    @overload
    async def start(self, workflow: Workflow[..., R], /, *args: Any, id: str | None = None, **kwargs: Any) -> Run[R]: ...
    @overload
    async def start(self, workflow: str, /, *args: Any, id: str | None = None, **kwargs: Any) -> Run[Any]: ...
    async def start(self, workflow: Any, /, *args: Any, id: Any = None, **kwargs: Any) -> Run[Any]:
        """Start a run and return its handle once it is durable.

        The same `id`, workflow and arguments give the run that exists, whatever became of it; otherwise `RunExists`.
        """
        run_id = check_name(id, "id") if id is not None else self._new_id()
        await self._begin(self._start_message(workflow, run_id, args, kwargs))
        return Run(self, run_id)

    async def _begin(self, message: m.AskStart) -> None:
        """Start a run, or find it; it is durable when this returns."""
        if not await self._begun(message):
            await self._send(message, self._partition_of(message.run_id))

    async def _begun(self, message: m.AskStart) -> bool:
        """Start a run, or find it, durable; False where another owner has to start it."""
        partition = self._host.partitions.get(self._partition_of(message.run_id))
        if partition is not None:
            try:
                await self._desk.start(message, partition)
            except Fenced:
                self._taken_over(partition)
            else:
                return True
        existing = await self._open_store.read(lambda reader: rows.read_row(reader, message.run_id))
        if existing is not None:
            check_same(existing, message)
        return existing is not None

    def _start_message(
        self, workflow: Workflow[Any, Any] | str, run_id: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> m.AskStart:
        self._open_store  # noqa: B018 - raises when it is closed
        if isinstance(workflow, str):
            check_name(workflow, "workflow")
        if isinstance(workflow, str) and self._client:
            payload = encode_call(self.codec, args, kwargs)
            return m.AskStart(run_id, workflow, None, payload, self.codec.digest((args, kwargs)))
        if isinstance(workflow, Workflow):
            definition = self.registry.find(workflow.name, workflow.version)
            if definition.fn is not workflow.fn:
                raise DefinitionError(f"another workflow is registered as {workflow.name} version {workflow.version}")
        elif isinstance(workflow, str):
            definition = self.registry.find(workflow)
        else:
            raise DefinitionError(f"start() takes a @workflow or its name, not a value of type {type(workflow).__qualname__}")
        payload = definition.parameters.encode(self.codec, args, kwargs)
        return m.AskStart(run_id, definition.name, definition.version, payload, self.codec.digest((args, kwargs)))

    def _new_id(self) -> str:
        return new_id(self._clock)

    def _new_number(self) -> int:
        self._counter += 1
        return (self._ownership.session << 40) | self._counter

    def _partition_of(self, run_id: str) -> int:
        return partition_of(run_id, self._partition_count)

    async def run(self, workflow: Workflow[P, R] | Any, *args: Any, id: str | None = None, **kwargs: Any) -> Any:
        """Start a run and wait for its result."""
        handle = await self.start(workflow, *args, id=id, **kwargs)
        return await handle.result()

    async def get(self, id: str) -> Run[Any]:
        """The handle of an existing run; raises `RunNotFound`."""
        await self._row(check_name(id, "id"))
        return Run(self, id)

    def machine(self, definition: Chart | MachineType | str, id: str, context: Any = None) -> HostedMachine:
        """The durable machine of this id. It begins at its first event, or when the handle is awaited or started.

        `definition` is a chart of `machines=`, its type, or its name. `context` replaces the chart's own when it begins.

        Raises:
            UnknownWorkflow: no such machine is registered.
        """
        from spellwork.engine.machine import HostedMachine  # noqa: PLC0415 - see `_add_machines`

        self._open_store  # noqa: B018 - raises when it is closed
        return HostedMachine.of(self, definition, check_name(id, "id"), context)

    async def list(
        self,
        *,
        status: Status | str | None = None,
        workflow: str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[RunInfo]:
        """Runs, newest first. `after` is the id of the last one of the page before; "machine:*" are the runs of all machines."""
        wanted = None if status is None else Status(status)
        if after is not None:
            check_name(after, "after")
        found = await self._open_store.read(lambda reader: listing.page(reader, wanted, workflow, limit, after))
        return [RunInfo.of(row) for row in found]

    # What handles ask for

    async def _row(self, run_id: str) -> RunRow:
        row = await self._open_store.read(lambda reader: rows.read_row(reader, run_id))
        if row is None:
            raise RunNotFound(f"there is no run {run_id!r} in {self.url}; `spellwork ps` lists those there are", run_id=run_id)
        return row

    def _take(self, message: m.AskSignal) -> tuple[asyncio.Future[None], bytes | None] | None:
        """See `Desk.at_once`."""
        self._open_store  # noqa: B018 - raises when it is closed
        return self._desk.at_once(message)

    async def _ask(self, message: m.AnyMessage) -> bytes | None:
        self._open_store  # noqa: B018 - raises when it is closed
        if type(message) is m.AskSignal and (taken := self._take(message)) is not None:
            durable, answer = taken
            try:
                await durable
            except (Fenced, StoreClosed):
                pass  # the way below goes to the new owner, or tells why there is none
            else:
                return answer
        live = self._host.by_id.get(message.run_id)
        partition = live.partition.index if live is not None else (await self._row(message.run_id)).partition
        ours = self._host.partitions.get(partition)
        if ours is not None:
            try:
                return await self._handle(message, ours)
            except Fenced:
                self._taken_over(ours)
            except StoreClosed:
                if ours.held:
                    raise
        # every message is idempotent, so one that met a takeover goes to the new owner
        return await self._send(message, partition)

    async def _handle(self, message: m.AnyMessage, partition: Partition) -> bytes | None:
        try:
            return await self._desk.handle(message, partition)
        except m.Told as told:
            raise self._errors.rebuild(told.failure) from None
        except m.Deferred:
            await self._mail.keep(message, partition)
            return None
        except StoreClosed as closed:
            if self._failed is None:
                raise
            raise self._failed from closed  # why the run left this process

    async def _send(self, message: m.AnyMessage, partition: int) -> bytes | None:
        async def is_ours() -> bool:
            return partition in self._host.partitions

        return await self._mail.ask(message, partition, is_ours)

    async def _query(self, run_id: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        answer = await self._ask(m.AskQuery(run_id, check_name(name, "query"), encode_call(self.codec, args, kwargs)))
        return self.codec.untyped.decode(answer or b"")

    async def _update(self, run_id: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], update_id: str | None) -> Any:
        payload = encode_call(self.codec, args, kwargs)
        update_id = self._new_id() if update_id is None else check_name(update_id, "id")
        answer = await self._ask(m.AskUpdate(run_id, check_name(name, "update"), payload, update_id))
        return self.codec.untyped.decode(answer or b"")

    async def _result(self, run_id: str) -> Any:
        self._open_store  # noqa: B018 - raises when it is closed
        return await self._waiting.result(run_id)

    async def _history(self, run_id: str) -> builtins.list[Event]:
        row = await self._row(run_id)
        entries = await self._open_store.read(lambda reader: rows.read_entries(reader, row.number))
        return [readable(position, entry, self.codec) for position, entry in enumerate(entries)]
