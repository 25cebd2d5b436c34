"""Owns the handle of a hosted machine, as the outside sees it.
It must never hold state of its own: every verb goes to the machine's owner, or replays what is in the store.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Generator
from typing import TYPE_CHECKING, Any

from spellwork.clock import Duration
from spellwork.codec.text import check_name, check_reason
from spellwork.engine import messages as m
from spellwork.engine import rows
from spellwork.engine.desk import check_same
from spellwork.engine.run import Run, RunInfo
from spellwork.errors import DefinitionError, Fenced, InternalError, RunExists, StoreClosed, UnknownEvent, UsageError
from spellwork.hosted.begin import Begin
from spellwork.hosted.execution import MachineExecution
from spellwork.hosted.standing import MachineState, unpack_standing
from spellwork.hosted.structure import structure_of
from spellwork.hosted.transition import Transition
from spellwork.hosted.type import PREFIX, MachineType
from spellwork.journal import Continued, RunRow
from spellwork.journal.entries import ENDINGS
from spellwork.machine import Chart, Refusal

if TYPE_CHECKING:
    from spellwork.engine.engine import Engine

_PATIENCE = 1.0


class HostedMachine:
    """A durable machine; `id` names it in the store, `type` is its chart as it is registered.

    Sending an event starts the machine if it does not exist yet. Looking at it never does.
    """

    def __init__(self, engine: Engine, kind: MachineType, id: str, context: Any = None):
        self._engine = engine
        self.type = kind
        self.id = id
        self._context = context
        self._exists = False
        self._stem, self._sent = engine._new_id(), 0

    @classmethod
    def of(cls, engine: Engine, definition: Chart | MachineType | str, id: str, context: Any) -> HostedMachine:
        """The handle for a chart, a type or a name; raises `UnknownWorkflow` or `DefinitionError` where it is not registered."""
        if isinstance(definition, str):
            name = definition
        elif isinstance(definition, MachineType):
            name = definition.name.removeprefix(PREFIX)
        elif isinstance(definition, Chart):
            name = definition.name
        else:
            raise DefinitionError(f"machine() takes a chart, its MachineType or its name, not {definition!r}")
        kind = engine.registry.find(PREFIX + name)
        if not isinstance(kind, MachineType):
            raise DefinitionError(f"{PREFIX + name} is registered as a workflow, and is no machine")
        chart = definition.chart if isinstance(definition, MachineType) else definition
        if isinstance(chart, Chart):
            known = [each for each in engine.registry.versions(kind.name) if isinstance(each, MachineType)]
            if not any(each.chart is chart or each.structure == structure_of(chart) for each in known):
                raise DefinitionError(f"another chart is registered as machine {name!r}; pass this one in Engine(machines=[...])")
        return cls(engine, kind, id, context)

    def __await__(self) -> Generator[Any, None, HostedMachine]:
        return self.start().__await__()

    def __repr__(self) -> str:
        return f"<machine {self.type.chart.name} {self.id}>"

    # Telling

    async def start(self) -> HostedMachine:
        """Make sure that it exists; raises `RunExists` if the id is something else's, or a machine's with another context."""
        if self._exists:
            return self
        engine, kind = self._engine, self.type
        context = None
        if self._context is not None:
            shape = kind.context_shape(engine.codec)
            context = shape.encode(self._context)
            shape.decode(context)
        payload = kind.parameters.encode(engine.codec, (Begin(kind.version, kind.structure, context),), {})
        message = m.AskStart(self.id, kind.name, kind.version, payload, engine.codec.digest(("machine", context)))
        try:
            await engine._router.begin(message)
        except RunExists:
            row = await engine._router.row(self.id)
            if self._context is not None or row.workflow != kind.name:
                check_same(row, message)
                raise
        self._exists = True
        return self

    async def send(self, event: Any, data: Any = None, *, id: str | None = None) -> None:
        """Send an event; returns once it is durable, with all that the machine made of it.

        `event` is a name (then `data` is its payload), or an object of a class of events that the chart declares. An event
        whose `id` the machine has had already is ignored.

        Raises:
            InvalidTransition: nothing handles it where the machine stands, and the chart is strict; nothing was written.
            UnknownEvent: no state of a strict chart ever does.
            EventFailed: a guard, an assignment or a plain action raised; nothing was written.
            PayloadError: it can't be stored.
            RunFinished: the machine has ended.
        """
        message = self._message(event, data, id, answer=False)
        if not self._exists:
            await self.start()
        # the common way stands here, not in a coroutine of its own: a thousand events may be in flight
        taken = self._engine._router.take(message)
        if taken is not None:
            try:
                await taken[0]
            except (Fenced, StoreClosed):
                pass  # the long way goes to the new owner, or tells why there is none
            else:
                return
        await self._engine._router.ask(message)

    async def ask(self, event: Any, data: Any = None, *, id: str | None = None) -> MachineState:
        """As `send`; where the machine stands behind this event, durably. The same `id` twice is one event, answered twice."""
        message = self._message(event, data, id, answer=True)
        if not self._exists:
            await self.start()
        return self._opened(await self._engine._router.ask(message))

    def _message(self, event: Any, data: Any, id: str | None, *, answer: bool) -> m.AskSignal:
        name, payload = self._stored(event, data)
        if id is None:
            # unique without a new random number for each: the stem is one
            self._sent += 1
            return m.AskSignal(self.id, name, payload, f"{self._stem}.{self._sent}", answer)
        return m.AskSignal(self.id, name, payload, check_name(id, "id"), answer)

    def _stored(self, event: Any, data: Any) -> tuple[str, bytes]:
        """The event's name and payload; raises what can be known of it before it is sent."""
        engine, events = self._engine, self.type.events
        if data is None and (ready := events.ready(event)) is not None:
            return ready
        given = events.given(event, data)
        name = check_name(given.name, "an event's name")
        if name.startswith("#"):
            raise UsageError(f"the event {name!r} begins with #, which is for machines among themselves; rename it")
        if self.type.chart.options.strict and not events.knows(name):
            allowed = self.type.chart.events
            raise UnknownEvent(
                f"no state of machine {self.type.chart.name!r} handles {name!r}; it knows {', '.join(allowed)}",
                machine=self.type.chart.name, state=(), event=name, allowed=allowed,
            )  # fmt: skip
        payload = events.payload(engine.codec, given)
        if data is None and type(event) is str:
            events.make_ready(event, payload)
        return name, payload

    async def cancel(self, reason: str = "cancelled") -> None:
        """End it: its exit actions run, its children are cancelled."""
        await self._engine._router.ask(m.AskCancel(self.id, check_reason(reason)))

    async def terminate(self, reason: str = "terminated") -> None:
        """End it at once, without exit actions."""
        await self._engine._router.ask(m.AskTerminate(self.id, check_reason(reason)))

    # Looking

    async def result(self, timeout: Duration | None = None) -> Any:
        """What its final state gave, once it is reached; raises what `Run.result` does."""
        return await Run[Any](self._engine, self.id).result(timeout)

    async def status(self) -> RunInfo:
        """Where its run stands, and why if it is blocked; raises `RunNotFound`."""
        return RunInfo.of(await self._engine._router.row(self.id))

    async def state(self) -> MachineState:
        """Where it stands, as far as it is durable; raises `RunNotFound`."""
        machine = await self._now()
        try:
            return self._opened(machine.standing())
        finally:
            machine.close()

    async def why_not(self, event: Any, data: Any = None) -> Refusal:
        """Why the event would lead nowhere now, transition by transition; nothing happens."""
        given = self.type.events.given(event, data)
        machine = await self._now()
        try:
            return machine.why_not(given)
        finally:
            machine.close()

    async def history(self, limit: int | None = None) -> list[Transition]:
        """What it has done in its whole life, oldest first; with `limit` only the newest so many.

        Raises:
            RunNotFound: it does not exist.
            UnknownWorkflow: it once ran by a version of its chart that is not registered here.
        """
        row: RunRow | None = await self._engine._router.row(self.id)
        runs: list[list[Transition]] = []
        left = limit
        while row is not None and (left is None or left > 0):
            machine = await self._machine(row, recording=True)
            runs.append(machine.record if left is None else machine.record[-left:])
            left = None if left is None else left - len(runs[-1])
            machine.close()
            row = await self._row(row.previous)
        return [each for record in reversed(runs) for each in record]

    async def watch(self, after: int | None = None) -> AsyncIterator[Transition]:
        """Each transition once it is durable, in order, until the machine ends: those behind the position `after`, or from now on.

        To resume, give the position of the last one that was seen; -1 begins with the first of all.
        """
        engine = self._engine
        row = await engine._router.row(self.id)
        if after is None:
            machine = await self._machine(row)
            after = machine.count - 1
            machine.close()
        row = await self._first_behind(row, after)
        rung = asyncio.Event()
        stop = engine.store.on_change(rung.set)
        follower = _Follower(self, row, after)
        try:
            while not follower.ended:
                rung.clear()
                for each in await follower.fresh():
                    yield each
                if follower.waits:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_PATIENCE):
                            await rung.wait()
        finally:
            stop()
            follower.close()

    async def _first_behind(self, row: RunRow, after: int) -> RunRow:
        """The run of the chain in which the position behind `after` lies."""
        while row.previous:
            machine = self._empty(row)
            started = (await self._entries(row.number, 0, 1))[0]
            machine.deliver(started)
            begins = machine.begin.count
            machine.close()
            if begins <= after + 1:
                break
            found = await self._row(row.previous)
            if found is None:
                break
            row = found
        return row

    async def _row(self, number: int) -> RunRow | None:
        return await self._engine.store.read(lambda reader: rows.read_numbered(reader, number)) if number else None

    async def _entries(self, number: int, start: int, limit: int | None = None) -> list[Any]:
        return await self._engine.store.read(lambda reader: rows.read_entries_from(reader, number, start, limit))

    async def _now(self) -> MachineExecution:
        return await self._machine(await self._engine._router.row(self.id))

    async def _machine(self, row: RunRow, *, recording: bool = False) -> MachineExecution:
        """The machine of one run of the chain as far as it is durable."""
        machine = self._empty(row, recording=recording)
        entries = await self._engine.store.read(lambda reader: rows.read_entries(reader, row.number))
        try:
            machine.replay(entries)
        except BaseException:
            machine.close()
            raise
        return machine

    def _empty(self, row: RunRow, *, recording: bool = False) -> MachineExecution:
        engine = self._engine
        definition = engine.registry.find(row.workflow, row.version)
        execution = definition.execution(row.number, engine.codec, engine._errors, engine.registry)
        if not isinstance(execution, MachineExecution):
            raise UsageError(f"run {self.id} is a run of workflow {row.workflow}, not a machine")
        if recording:
            execution.keep_record()
        return execution

    def _opened(self, standing: bytes | None) -> MachineState:
        if standing is None:
            raise InternalError(f"the owner of machine {self.id} did not say where it stands")
        return unpack_standing(self.type, self._engine.codec, standing)


class _Follower:
    """Reads what is new in the journals of a chain, and tells the transitions behind a position."""

    def __init__(self, handle: HostedMachine, row: RunRow, after: int):
        self._handle = handle
        self._after = after
        self._number = row.number
        self._machine = handle._empty(row, recording=True)
        self.ended = False
        self.waits = True

    async def fresh(self) -> list[Transition]:
        """The transitions since the last time. Unless it then `waits`, there may be more at once: in the next run."""
        handle, machine = self._handle, self._machine
        new = await handle._entries(self._number, machine.position)
        self.waits = True
        if not new:
            return []
        machine.follow(new)
        found = [each for each in machine.record if each.position > self._after]
        machine.record.clear()
        last = new[-1]
        if isinstance(last, Continued):
            row = await handle._row(last.next)
            if row is None:
                raise InternalError(f"machine {handle.id} went on as run number {last.next}, which is not there")
            machine.close()
            self._machine, self._number, self.waits = handle._empty(row, recording=True), row.number, False
        else:
            self.ended = isinstance(last, ENDINGS)
            self.waits = not self.ended
        return found

    def close(self) -> None:
        """Let go of the machine."""
        self._machine.close()
