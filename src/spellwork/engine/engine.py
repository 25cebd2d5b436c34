"""Owns `Engine`: the public face, and the wiring of everything behind it.
It must never do a part's work itself.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import logging
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, overload

import msgspec

from spellwork.clock import Clock, SystemClock, new_id
from spellwork.codec import Codec, Redaction
from spellwork.codec.text import check_name
from spellwork.engine import listing, rows
from spellwork.engine import messages as m
from spellwork.engine.alarm import Alarm
from spellwork.engine.data import Data
from spellwork.engine.desk import Desk
from spellwork.engine.history import Event, readable
from spellwork.engine.host import Host
from spellwork.engine.mail import MailRoom
from spellwork.engine.options import check_lists, check_options, check_triggers
from spellwork.engine.ownership import Ownership, partition_of
from spellwork.engine.partition import Partition
from spellwork.engine.recovery import Recovery
from spellwork.engine.registry import Registry
from spellwork.engine.router import Router
from spellwork.engine.run import Run, RunInfo
from spellwork.engine.silence import redact_logs
from spellwork.engine.tenure import Tenure
from spellwork.engine.waiting import Waiting
from spellwork.errors import (
    DefinitionError,
    Fenced,
    InternalError,
    StoreClosed,
    StoreError,
    StoreOwned,
    UsageError,
)
from spellwork.journal import ErrorRegistry, Status
from spellwork.journal.rows import subscription_range
from spellwork.store import Batch, Encryption, Store, open_store
from spellwork.store.committer import Probe
from spellwork.supervision import each_in_turn
from spellwork.workflow import Activity, Workflow
from spellwork.workflow.guard import install_guard
from spellwork.workflow.parameters import encode_call

if TYPE_CHECKING:
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
_ALL = 1024


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
        check_options(
            {"partitions": partitions, "threads": threads, "cache": cache, "max_recoveries": max_recoveries},
            {"max_partitions": max_partitions, "processes": processes},
            lease=lease, grace=grace,
        )  # fmt: skip
        check_lists(workflows=workflows, activities=activities, machines=machines, errors=errors, triggers=triggers)
        self._triggers = tuple(triggers)
        check_triggers(self._triggers, client=client)
        self.url = store
        self.codec = (codec or Codec()) if redaction is None else (codec or Codec()).redacting(redaction)
        self.registry = Registry((*workflows, *(trigger.workflow for trigger in self._triggers)), activities)
        self._add_machines(machines)
        self._errors = ErrorRegistry(errors)
        self._options = (durability, create, probe, encryption)
        self._standby, self._client = standby, client
        self._partition_count = partitions
        # a store that has more partitions than this engine would make has them all owned all the same
        self._max_partitions = 0 if client else (max_partitions or _ALL)
        self._lease = lease
        self._sizes = {"threads": threads, "processes": processes, "cache": cache}
        self._max_recoveries = max_recoveries
        self._grace = grace
        self._clock = clock or SystemClock()
        self._counter = 0
        self._failed: StoreError | InternalError | None = None
        self._store: Store | None = None
        self._host: Host
        self._data: Data
        self._mail: MailRoom
        self._way: Router
        self._ownership: Ownership
        self._tenure: Tenure

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
            undo.push_async_exit(lambda kind, _error, _traceback: self._shut(store, kind))
            await self._open(store)
            undo.pop_all()
        return self

    def _make_store(self) -> Store:
        durability, create, probe, encryption = self._options
        return open_store(self.url, durability=durability, clock=self._clock, create=create, probe=probe, encryption=encryption)

    async def _open(self, store: Store) -> None:
        self._failed = None
        self._host = Host(store, self._clock, self.codec, self.registry, self._errors, **self._sizes)  # type: ignore[arg-type]

        self._ownership = Ownership(store, self._clock, self._lease)
        self._tenure = Tenure(
            self._host, self._ownership, self._clock, most=self._max_partitions, lease=self._lease, take_up=self._take_up,
            gone=lambda: self._waiting.recheck(), tidy=lambda: self._mail.forget_replies(),  # noqa: PLW0108 - made below
            fail=self._fail, broken=self._broken, why=lambda: self._failed,
        )  # fmt: skip

        def opened() -> Store:
            if self._failed is not None:
                raise self._failed
            return store  # also while the engine is being closed: what runs still ask of each other is theirs to the end

        desk = Desk(self._host, self._clock, lambda message: self._way.ask(message), self._new_number)  # noqa: PLW0108 - made below
        self._mail = MailRoom(store, self._clock, self._errors, self._host, desk)
        self._mail.why = lambda: self._failed
        self._way = Router(
            self._host, desk, self._mail, self._errors, opened=opened, why=lambda: self._failed,
            partition_of=self._partition_of, taken_over=self._tenure.taken_over,
        )  # fmt: skip
        self._waiting = Waiting(self._host, self._way.row)
        desk.closing.ended = self._waiting.ended
        self._data = data = Data(self._host, self._triggers, self._way.bring, self._pulled, self._tenure.taken_over)
        self._host.broken = self._broken
        # these also while the engine is being closed, for what still runs then
        self._host.expects = data.expects
        self._host.steps.state = lambda: data.state
        self._host.subscribed = data.subscribed
        self._recovery = Recovery(self._host, self._clock, self._max_recoveries)
        self._alarm = Alarm(self._host, self._clock, self._recovery)
        self._store = store
        if self._triggers and not self._client:
            await self._data.dispatch.open()
        if not self._client:
            store.stop_at_failure()
            self._partition_count = self._tenure.count = await self._ownership.partition_count(self._partition_count)
            await self._tenure.claim()
            if not self._host.partitions and not self._standby:
                owner = next(iter(await self._ownership.owners(self._partition_count)), None)
                raise StoreOwned(
                    f"{self.url} is owned by {owner}; send it signals and queries with client=True or the command line, or open "
                    "with standby=True to take over when it stops",
                    owner=str(owner),
                )
            if self.url != "memory:":
                self._tenure.keep()
        else:
            self._partition_count = await self._ownership.stored_count() or self._partition_count

    async def _take_up(self, partition: Partition) -> None:
        try:
            await self._recovery.partition(partition)
            await self._alarm.peek(partition)
            await self._mail.drain(partition)
            subscriptions = await self._host.store.scan(*subscription_range(partition.index), limit=1, damaged=b"")
            if subscriptions or self._data.dispatches:
                self._data.subscribed()
        except StoreError as error:
            if not isinstance(error, (Fenced, StoreClosed)):
                self._fail(error)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._store is not None:
            await self._shut(self._store, kind)

    async def _shut(self, store: Store, kind: type[BaseException] | None) -> None:
        if kind is GeneratorExit:
            return  # the coroutine was dropped in the middle: there is no loop on which to wait for anything
        self._store = None
        closed = StoreClosed("the engine was closed while this was waited for; the run goes on when it is opened again")
        # one that did not open has not all of them
        data, mail, waiting, tenure = (getattr(self, name, None) for name in ("_data", "_mail", "_waiting", "_tenure"))
        steps = [
            tenure and tenure.stop,  # before the rest: what is claimed now would only be taken up to be let go of
            data and data.stop,
            mail and mail.close,
            mail and functools.partial(self._host.close, self._grace),
            tenure and tenure.release,
            waiting is not None and functools.partial(waiting.tell_all, closed),
            data and data.close,
            store.close,
            tenure and tenure.ownership.close,
            self._stop_redacting,
        ]
        await each_in_turn(step for step in steps if step)

    @property
    def _open_store(self) -> Store:
        if self._store is None:
            raise UsageError("the engine is not open; use `async with Engine(...) as engine:`")
        if self._failed is not None:
            raise self._failed
        return self._store

    @property
    def _router(self) -> Router:
        """The way to runs; raises why there is none."""
        self._open_store  # noqa: B018 - raises when it is closed
        return self._way

    @property
    def store(self) -> Store:
        """The open store."""
        return self._open_store

    @property
    def state(self) -> StateStore:
        """Typed trees of values in the same store; workflows and activities reach them with `spellwork.workflow.state`."""
        self._open_store  # noqa: B018 - raises when it is closed
        return self._data.state

    @property
    def topics(self) -> Topics:
        """The durable topics of the same store; workflows publish to them and wait for them with `spellwork.workflow.events`."""
        self._open_store  # noqa: B018 - raises when it is closed
        return self._data.topics

    async def _pulled(self, trigger: Trigger, event: Published[Any], run_id: str, batch: Batch) -> None:
        """Start a run by an event, or leave a letter in `batch` for who has to."""
        message = self._start_message(trigger.workflow, check_name(run_id, "id"), (event,), {})
        message = msgspec.structs.replace(message, correlation=event.correlation or event.id, causation=event.id)
        await self._router.begin_or_leave(message, batch)

    @property
    def idle(self) -> bool:
        """Whether nothing is under way but waiting."""
        return not self._host.steps.busy and self._settled

    @property
    def _settled(self) -> bool:
        return not (self._host.unsettled or self._host.store.pending or self._data.busy)

    @property
    def owned(self) -> int:
        """How many partitions this engine owns."""
        return len(self._host.partitions)

    @property
    def loaded(self) -> int:
        """How many runs are in memory."""
        return len(self._host.runs)

    # What goes wrong

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
        await self._router.begin(self._start_message(workflow, run_id, args, kwargs))
        return Run(self, run_id)

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

    def _partition_of(self, run_id: str) -> int:
        return partition_of(run_id, self._partition_count)

    def _new_number(self) -> int:
        self._counter += 1
        return (self._ownership.session << 40) | self._counter

    async def run(self, workflow: Workflow[P, R] | Any, *args: Any, id: str | None = None, **kwargs: Any) -> Any:
        """Start a run and wait for its result."""
        handle = await self.start(workflow, *args, id=id, **kwargs)
        return await handle.result()

    async def get(self, id: str) -> Run[Any]:
        """The handle of an existing run; raises `RunNotFound`."""
        await self._router.row(check_name(id, "id"))
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
        if status is not None and status not in set(Status):
            raise ValueError(f"status= takes one of {', '.join(Status)}, not {status!r}")
        wanted = None if status is None else Status(status)
        if after is not None:
            check_name(after, "after")
        found = await self._open_store.read(lambda reader: listing.page(reader, wanted, workflow, limit, after))
        return [RunInfo.of(row) for row in found]

    # What handles ask for

    async def _query(self, run_id: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        answer = await self._router.ask(m.AskQuery(run_id, check_name(name, "query"), encode_call(self.codec, args, kwargs)))
        return self.codec.untyped.decode(answer or b"")

    async def _update(self, run_id: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], update_id: str | None) -> Any:
        payload = encode_call(self.codec, args, kwargs)
        update_id = self._new_id() if update_id is None else check_name(update_id, "id")
        answer = await self._router.ask(m.AskUpdate(run_id, check_name(name, "update"), payload, update_id))
        return self.codec.untyped.decode(answer or b"")

    async def _result(self, run_id: str) -> Any:
        self._open_store  # noqa: B018 - raises when it is closed
        return await self._waiting.result(run_id)

    async def _history(self, run_id: str) -> builtins.list[Event]:
        row = await self._router.row(run_id)
        entries = await self._open_store.read(lambda reader: rows.read_entries(reader, row.number))
        return [readable(position, entry, self.codec) for position, entry in enumerate(entries)]
