"""Owns what a hosted machine has under way: timers, steps, children and events to others, as commands and what answers them.
It must never decide anything: an answer becomes an event, and the machine takes it.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING, Any

import msgspec

from spellwork.errors import ActivityFailed
from spellwork.hosted.begin import Waiting
from spellwork.hosted.events import ENVELOPE
from spellwork.hosted.turn import RunActivity, SendOut, SetTimer, StartRun, unpublishable
from spellwork.hosted.type import BUS, MachineType
from spellwork.instant import LAST
from spellwork.machine import action
from spellwork.machine.event import Event
from spellwork.workflow import commands as c
from spellwork.workflow.pending import Pending

if TYPE_CHECKING:
    from spellwork.hosted.execution import MachineExecution

PASSIVE = frozenset({"timer", "child"})


class Invoked(msgspec.Struct):
    """A child. `outgoing` waits until the child exists, for nobody could be found before."""

    id: str
    n: int
    run_id: str
    is_machine: bool
    started: bool = False
    stopped: bool = False
    outgoing: list[SendOut] = msgspec.field(default_factory=list)


class Answer:
    """What stands where plain workflow code has a future: it makes an event of the outcome, or nothing."""

    __slots__ = ("effects", "failed", "name", "sendid")

    def __init__(self, effects: Effects, name: str | None, failed: str, sendid: str | None = None):
        self.effects, self.name, self.failed, self.sendid = effects, name, failed, sendid

    def done(self) -> bool:
        """It is asked once, and answered once."""
        return False

    def set_result(self, value: Any) -> None:
        """It succeeded."""
        if self.name is not None:
            self.effects.arrived(Event(self.name, value, "external"))

    def set_exception(self, error: BaseException) -> None:
        """It failed."""
        self.effects.arrived(Event(self.failed, told(error), "platform", sendid=self.sendid))

    def exception(self) -> None:
        """Nobody else waits for it."""


class Begun(Answer):
    """The answer to the start of a child."""

    __slots__ = ("child",)

    def __init__(self, effects: Effects, child: Invoked):
        super().__init__(effects, None, "error.communication")
        self.child = child

    def set_result(self, value: Any) -> None:
        """It exists: what it should have heard goes out now."""
        del value
        self.child.started = True
        if self.child.stopped:
            self.effects.cancel(self.child)
        for sent in self.child.outgoing:
            self.effects.send(self.child.run_id, sent, is_machine=self.child.is_machine)
        self.child.outgoing.clear()

    def set_exception(self, error: BaseException) -> None:
        """It could not be started."""
        self.effects.forget(self.child)
        if not self.child.stopped:
            super().set_exception(error)


class Ended(Answer):
    """The answer to the end of a child."""

    __slots__ = ("child",)

    def __init__(self, effects: Effects, child: Invoked):
        super().__init__(effects, f"done.invoke.{child.id}", f"error.invoke.{child.id}")
        self.child = child

    def set_result(self, value: Any) -> None:
        """It is done."""
        self._over(Event(self.name or "", value, invokeid=self.child.id))

    def set_exception(self, error: BaseException) -> None:
        """It failed, was cancelled or terminated."""
        self._over(Event(self.failed, told(error), "platform", invokeid=self.child.id))

    def _over(self, event: Event) -> None:
        self.effects.forget(self.child)
        if not self.child.stopped:  # its state was left: nobody listens
            self.effects.arrived(event)


def told(error: BaseException) -> dict[str, Any]:
    """An error as the data of an event."""
    cause = error.__cause__ if error.__cause__ is not None else error
    if isinstance(cause, ActivityFailed) and hasattr(cause, "type"):
        return {"type": cause.type, "message": cause.message}
    return {"type": type(cause).__name__, "message": str(cause)}


class Effects:
    """The commands of one machine and their answers."""

    def __init__(self, execution: MachineExecution):
        self._execution = execution
        self.timers: dict[int, Waiting] = {}
        self.children: dict[str, Invoked] = {}
        self.events: list[Event] = []

    def arrived(self, event: Event) -> None:
        """Something became an event for the machine."""
        self.events.append(event)

    @property
    def only_waits(self) -> bool:
        """Whether nothing but timers is under way."""
        return len(self.timers) == len(self._execution.pending)

    @property
    def may_end(self) -> bool:
        """Whether nothing is under way that an end would lose: it takes timers along, and children are told."""
        return all(pending.kind in PASSIVE for pending in self._execution.pending.values())

    def perform(self, wanted: Any) -> None:
        """Make commands of what a turn asks for."""
        match wanted:
            case SetTimer():
                self.set_timer(self._execution.now + wanted.microseconds, wanted.wanted, wanted.microseconds)
            case RunActivity():
                self._run(wanted)
            case SendOut():
                self._send_out(wanted)
            case StartRun():
                self._start(wanted)
            case action.Withdraw(id=sendid):
                self._withdraw(sendid)
            case action.Stop(id=invokeid):
                self._stop(invokeid)
            case action.Forward(id=invokeid, event=event):
                self._forward(invokeid, event)

    def set_timer(self, due: int, wanted: action.Deliver, microseconds: int) -> None:
        """Deliver something when it is due."""
        execution = self._execution
        n = execution.next_number()
        due, digest = min(due, LAST), min(max(0, microseconds), LAST).to_bytes(8, "big")
        self.timers[n] = Waiting(due, wanted)
        execution.ask(n, Pending("timer", "", digest, None, None, due=due), c.StartTimer(n, due), passive=True)

    def fire(self, n: int) -> None:
        """A timer was due."""
        wanted = self.timers.pop(n).wanted
        execution = self._execution
        if wanted.target in (None, f"#_scxml_{execution.configuration.session}"):
            self.arrived(wanted.event)
        else:
            codec, events = execution.codec, execution.type.events
            packed, data = events.pack(codec, wanted.event), events.payload(codec, wanted.event)
            self._send_out(SendOut(str(wanted.target), wanted.event, packed, data))

    def _withdraw(self, sendid: str) -> None:
        execution = self._execution
        for n in [n for n, waiting in self.timers.items() if waiting.wanted.id == sendid]:
            del self.timers[n]
            execution.take_back(n)
            execution.outbox.append(c.CancelTimer(n))

    def _run(self, wanted: RunActivity) -> None:
        execution, activity = self._execution, wanted.activity
        n = execution.next_number()
        answer = Answer(self, f"done.activity.{activity.name}", f"error.activity.{activity.name}")
        shape = execution.codec.shape(activity.result)
        pending = Pending("step", activity.name, wanted.digest, answer, shape, issued=execution.now)
        # what the activity does to its arguments must not reach the machine
        execution.ask(n, pending, c.RunStep(n, activity, copy.deepcopy(wanted.args), {}, wanted.digest))

    def _send_out(self, wanted: SendOut) -> None:
        execution, target = self._execution, wanted.target
        if target == "#_parent":
            parent, invokeid = execution.started.parent, execution.begin.invokeid
            if parent is None or invokeid is None:
                self._unreachable(wanted)
                return
            event = dataclasses.replace(wanted.event, invokeid=invokeid)
            packed = execution.type.events.pack(execution.codec, event)
            self.send(parent.run_id, wanted._replace(packed=packed), is_machine=True)
        elif target.startswith("#_scxml_"):
            self.send(target.removeprefix("#_scxml_"), wanted, is_machine=True)
        elif target == BUS:
            problem = unpublishable(wanted.event)  # that of a timer is found out here
            if problem is None:
                self._publish(wanted)
            else:
                self.arrived(problem)
        else:
            child = self.children.get(target.removeprefix("#_"))
            if child is None:
                self._unreachable(wanted)
            else:
                self._tell(child, wanted)

    def _publish(self, wanted: SendOut) -> None:
        """An event of a durable topic, in the batch of the turn."""
        from spellwork.events.durable.record import Record  # noqa: PLC0415 - for machines that publish
        from spellwork.workflow.events import publication  # noqa: PLC0415 - the same

        execution, started = self._execution, self._execution.started
        told = Record(
            "", 0, wanted.data, source=f"machine/{execution.chart.name}/{started.run_id}", correlation=started.origin,
            causation=started.causation,
        )  # fmt: skip
        write = publication(wanted.event.name, told)
        n, digest = execution.next_number(), execution.codec.digest(write.words)
        answer = Answer(self, None, "error.communication", wanted.event.sendid)
        execution.ask(n, Pending("effect", write.name, digest, answer, None), c.Perform(n, write.name, digest, write))

    def _unreachable(self, wanted: SendOut) -> None:
        message = f"{wanted.target} can't be reached"
        self.arrived(Event("error.communication", message, "platform", sendid=wanted.event.sendid))

    def _tell(self, child: Invoked, wanted: SendOut) -> None:
        if child.started:
            self.send(child.run_id, wanted, is_machine=child.is_machine)
        else:
            child.outgoing.append(wanted)

    def send(self, run_id: str, wanted: SendOut, *, is_machine: bool) -> None:
        """Send an event to another run."""
        execution = self._execution
        name, payload = (ENVELOPE, wanted.packed) if is_machine else (wanted.event.name, wanted.data)
        n, digest = execution.next_number(), execution.codec.digest((run_id, payload))
        answer = Answer(self, None, "error.communication", wanted.event.sendid)
        execution.ask(n, Pending("signal to", name, digest, answer, None), c.SendSignal(n, run_id, name, payload, digest))

    def _start(self, wanted: StartRun) -> None:
        execution, definition = self._execution, wanted.definition
        n = execution.next_number()
        chain = f"~{execution.started.generation}" if execution.started.generation else ""
        run_id = f"{execution.started.run_id}{chain}.{n}"
        child = Invoked(wanted.id, n, run_id, isinstance(definition, MachineType))
        self.children[wanted.id] = child
        shape = execution.codec.shape(definition.parameters.result)
        pending = Pending("start of child", definition.name, wanted.digest, Begun(self, child), shape, parent_close="cancel")
        execution.expect_end(n, Ended(self, child))
        execution.ask(n, pending, c.StartChild(n, definition, run_id, wanted.payload, wanted.digest, "cancel"))

    def _stop(self, invokeid: str) -> None:
        child = self.children.pop(invokeid, None)
        if child is not None:
            child.stopped = True
            if child.started:
                self.cancel(child)

    def cancel(self, child: Invoked) -> None:
        """Ask a child to end: the state that it belonged to was left."""
        execution = self._execution
        if execution.configuration.running:  # the end of the run itself tells its children
            n = execution.next_number()
            execution.outbox.append(c.CancelChild(n, child.run_id, f"its state in machine {execution.started.run_id} was left"))

    def forget(self, child: Invoked) -> None:
        """It is over."""
        if self.children.get(child.id) is child:
            del self.children[child.id]

    def _forward(self, invokeid: str, event: Event) -> None:
        child = self.children.get(invokeid)
        if child is not None:
            codec, events = self._execution.codec, self._execution.type.events
            self._tell(child, SendOut(f"#_{invokeid}", event, events.pack(codec, event), events.payload(codec, event)))

    def is_stale(self, event: Event) -> bool:
        """Whether it comes from a child whose state was left since: nothing of such a child is taken any more (SCXML, 6.4).

        An event that was handed on still names the child of another machine; who sent it tells whose it is.
        """
        execution, origin = self._execution, event.origin or ""
        mine = f"#_scxml_{execution.started.run_id}"
        if event.invokeid is None or not origin.startswith((f"{mine}.", f"{mine}~")):
            return False
        child = self.children.get(event.invokeid)
        if child is not None:
            return origin != f"#_scxml_{child.run_id}"
        return all(id_ != event.invokeid for id_, _, _ in execution.configuration.children)

    def can_reach(self, target: str) -> bool:
        """Whether an event to this target would arrive, as far as is known here."""
        if target == "#_parent":
            return self._execution.begin.invokeid is not None
        return target.startswith("#_scxml_") or target == BUS or target.removeprefix("#_") in self.children
