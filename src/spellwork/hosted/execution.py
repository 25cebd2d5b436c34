"""Owns one hosted machine in memory: journal entries in, commands out, the same on first run and on replay.
It must never await, log, read time or touch the store.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from spellwork.codec import Codec
from spellwork.errors import EventFailed, NonDeterminismError, SpellworkError, UnknownWorkflow
from spellwork.hosted.begin import Begin, migrated, pack_snapshot, plain_snapshot, unpack_snapshot
from spellwork.hosted.effects import Effects
from spellwork.hosted.events import ENVELOPE
from spellwork.hosted.moment import Moment
from spellwork.hosted.questions import question
from spellwork.hosted.standing import pack_standing
from spellwork.hosted.transition import Transition, transition_of
from spellwork.hosted.turn import Turn, Turns
from spellwork.hosted.type import MachineType
from spellwork.journal import entries as e
from spellwork.journal.failure import ErrorRegistry
from spellwork.machine.configuration import Configuration
from spellwork.machine.event import Event
from spellwork.machine.why import Refusal, why_not
from spellwork.supervision import attempt
from spellwork.workflow import commands as c
from spellwork.workflow.definition import Known
from spellwork.workflow.execution import AFTER_THE_END, DELIVER, SEEN, Execution, Ignored
from spellwork.workflow.handlers import Handler
from spellwork.workflow.pending import Pending, describe


class MachineExecution(Execution):
    """A machine, brought to where its journal ends. Each entry is a turn.

    `record`, if `recording`, tells what it did; `count` is how many macrosteps its whole life has had.
    """

    definition: MachineType

    def __init__(self, number: int, definition: MachineType, codec: Codec, errors: ErrorRegistry, known: Known | None = None):
        super().__init__(number, definition, codec, errors)
        self.type, self.chart = definition, definition.chart
        self.begin = Begin()
        self.configuration = Configuration(self.chart.table.nowhere)
        self.count = 0
        self._kept: bytes | None = None
        self._deferred: tuple[bytes, ...] = ()
        self.record: list[Transition] = []
        self.recording = False
        self._known = known
        self._moment = Moment(self)
        self.loop.timers = self._moment  # what verbs find there instead of an execution
        self._effects = Effects(self)
        self._turns = Turns(definition, codec, known, self._effects.can_reach)
        self._foreseen: tuple[e.SignalReceived, Turn] | None = None
        self._carried: list[tuple[str, bytes, str | None]] = []
        self._left = self._trim_at = 0
        self._until: int | None = None
        self._from_store = False

    # Entries in

    def deliver(self, entry: Any) -> None:
        """Apply one entry: a turn of the machine."""
        if self.finished and not isinstance(entry, AFTER_THE_END):
            self._mismatch(describe(entry), "nothing: the machine has ended")
        self.now, self._moment.turn = max(self.now, entry.at), 0
        if (self._until is None and self._newest is self.type) or not self._leave(entry):
            _DELIVER[type(entry)](self, entry)
            while self._effects.events:
                event = self._effects.events.pop(0)
                self._adopt(self._work_out(event.name, self._turns.take, self.configuration, event))
        self.position += 1
        if not self.finished:
            self._see_the_end()

    def replay(self, entries: list[Any]) -> None:
        """Deliver the journal from the store; what its last entries left to the next run is left to it again."""
        last = entries[-1]
        if isinstance(last, e.Continued):
            self._until = len(entries) - 1 - self._begin_of(last.args).left
        self._from_store = True
        super().replay(entries)
        self._from_store = False

    def follow(self, entries: list[Any]) -> None:
        """Deliver more of a journal that somebody else writes: nothing is decided here, and nothing asked for."""
        last = entries[-1]
        if isinstance(last, e.Continued):
            self._until = self.position + len(entries) - 1 - self._begin_of(last.args).left
        self.replaying = self._from_store = True
        for entry in entries:
            self.deliver(entry)
        self.outbox.clear()

    def keep_record(self) -> None:
        """Tell from now on what the machine does."""
        self.recording, self._turns.short = True, False

    def _started(self, entry: e.Started) -> None:
        self.started, self.seen = entry, frozenset(entry.seen)
        self.begin = begin = self._begin_of(entry.args)
        self.count = begin.count
        self._trim_at = self.type.trim + entry.carried
        if begin.structure != self.type.structure:
            raise NonDeterminismError(
                f"machine {entry.run_id}: the states or transitions of the chart {self.chart.name!r} version {self.type.version} "
                "are not those it runs by. Register the changed chart as MachineType(chart, version=..., "
                f"migrate={{{self.type.version!r}: ...}}), beside the old one",
                run_id=entry.run_id, position=0, expected="the chart that it began with", found="another one",
            )  # fmt: skip
        if begin.snapshot is None:
            self._adopt(self._work_out(None, self._turns.first, begin, entry.run_id))
            return
        self.configuration, waiting = unpack_snapshot(self.type, self.codec, begin.snapshot, begin.at)
        self._kept = self.type.context_shape(self.codec).encode(self.configuration.context)
        self._deferred = tuple(self.type.events.pack(self.codec, each) for each in self.configuration.deferred)
        for each in waiting:
            self._effects.set_timer(each.due, each.wanted, each.due - begin.at)

    def _begin_of(self, args: bytes) -> Begin:
        values, _ = self.definition.parameters.decode(self.codec, args)
        begin: Begin = values[0]
        return begin

    def _signal_received(self, entry: e.SignalReceived) -> None:
        if entry.id is not None:
            self.signal_ids[entry.id] = None
        foreseen, self._foreseen = self._foreseen, None
        if foreseen is not None and foreseen[0] is entry:
            self._moment.turn = 1
            self._adopt(foreseen[1])
        else:
            self._effects.arrived(self._event_of(entry))

    def _event_of(self, entry: e.SignalReceived) -> Event:
        if entry.name == ENVELOPE:
            return self.type.events.unpack(self.codec, entry.payload)
        return self.type.events.event(self.codec, entry.name, entry.payload)

    def _timer_fired(self, entry: e.TimerFired) -> None:
        self._answer(entry, "timer")
        self._effects.fire(entry.n)

    def _update_accepted(self, entry: e.UpdateAccepted) -> None:
        self._mismatch(describe(entry), f"no update named {entry.name}: machines have none")

    def _cancel_requested(self, entry: e.CancelRequested) -> None:
        if self._cancel_reason is None and self.configuration.running:
            self._cancel_reason = entry.reason
            self._adopt(self._work_out(None, self._turns.end, self.configuration))

    def _ended(self, entry: Any) -> None:
        if isinstance(entry, e.Continued) and not self.finished:
            self._check_snapshot(entry)
            self.outbox.append(c.Finish(0, continue_args=entry.args))
            self.finished = True
        super()._ended(entry)

    def _check_snapshot(self, entry: e.Continued) -> None:
        """Replay must lead to the snapshot that the next run began with, unless a migration made another one of it."""
        begin = self._begin_of(entry.args)
        if begin.version != self.type.version or begin.snapshot is None:
            return
        # not by their bytes: equal sets may be written in another order by another process
        kept, found = (
            unpack_snapshot(self.type, self.codec, each, begin.at) for each in (begin.snapshot, self._snapshot(begin.at))
        )
        if (kept, begin.count) != (found, self.count):
            self._mismatch(
                "a snapshot that differs", f"a machine in {', '.join(self.configuration.leaves)} after {self.count} steps"
            )

    # Turns

    def admit(self, entry: e.SignalReceived) -> None:
        """Work out what the event would lead to; raises what its sender is to be told if it is refused.

        What comes from a child whose state was left is ignored here, and not when it is delivered: an entry that the journal has
        was taken once, and is taken again on replay.
        """
        self.now, self._foreseen, self._moment.turn = max(self.now, entry.at), None, 0
        if not self.configuration.running:
            raise self.chart.invalid(self.configuration, entry.name)
        event = self._event_of(entry) if entry.name == ENVELOPE else None
        if event is not None and self._effects.is_stale(event):
            raise Ignored
        newest = self._newest
        if newest is not self.type and self._effects.only_waits:
            self._admit_elsewhere(newest, entry)
            return
        if event is None:
            event = self._event_of(entry)
        turn = self._work_out(event.name, self._turns.take, self.configuration, event)
        if not turn.handled and self.chart.options.strict and entry.name != ENVELOPE:
            raise self.chart.invalid(self.configuration, event.name)
        self._foreseen = (entry, turn)

    def _admit_elsewhere(self, newest: MachineType, entry: e.SignalReceived) -> None:
        """The event is for the next version: ask a machine of it."""
        args = self.type.parameters.encode(self.codec, (self._next(newest),), {})
        there = newest.execution(self.number, self.codec, self._errors, self._known)
        try:
            there.deliver(e.Started(self.now, self.started.run_id, newest.name, newest.version, args, self.started.seed))
            there.admit(entry)
        finally:
            there.close()

    def _work_out(self, name: str | None, work: Callable[..., Turn], *args: Any) -> Turn:
        self._moment.renew()
        turn, error = attempt(self.loop.enter, work, *args)
        if error is None:
            self._moment.turn += 1
            found: Turn = turn
            return found
        if self._kept is not None:  # what failed may have changed it in place
            context = self.type.context_shape(self.codec).decode(self._kept)
            deferred = tuple(self.type.events.unpack(self.codec, each) for each in self._deferred)
            self.configuration = dataclasses.replace(self.configuration, context=context, deferred=deferred)
        if isinstance(error, SpellworkError):
            raise error
        raise EventFailed(
            f"machine {self.started.run_id} in {', '.join(self.configuration.leaves) or 'no state yet'}: what {self.chart.name!r} "
            f"does for {name or 'its beginning or end'} raised {type(error).__name__}: {error}; nothing of it was kept",
            machine=self.chart.name, event=name or "",
        ) from error  # fmt: skip

    def _adopt(self, turn: Turn) -> None:
        if self.recording:
            self.record += [
                transition_of(self.count + i, self.now, step.event, step.before, step.outcome, self.type.version)
                for i, step in enumerate(turn.steps)
            ]
        self.count += turn.macrosteps
        self.configuration = turn.configuration
        self._kept, self._deferred = turn.kept or self._kept, turn.deferred
        for wanted in turn.wanted:
            self._effects.perform(wanted)

    # Ends

    def _see_the_end(self) -> None:
        if not self.configuration.running:
            if self._effects.may_end:
                self._finish()
        elif self._left or (self.position > self._trim_at and not self._from_store and self._effects.only_waits):
            self._go_on()

    def _finish(self) -> None:
        self.finished = True
        if self._cancel_reason is not None:
            self.outbox.append(c.Finish(0, cancelled=self._cancel_reason))
            return
        result = self.codec.shape(self.type.result).encode(self.configuration.result)
        self.outbox.append(c.Finish(0, result=result))

    def _leave(self, entry: Any) -> bool:
        """Whether the entry is for the next run: it came to a machine whose chart has a newer version."""
        if self._until is not None:
            return self.position >= self._until and not isinstance(entry, e.ENDINGS)
        if self._from_store or not isinstance(entry, (e.SignalReceived, e.TimerFired)) or not self._effects.only_waits:
            return False
        if self._newest is self.type or not self.configuration.running:
            return False
        if isinstance(entry, e.SignalReceived):
            if entry.id is not None:
                self.signal_ids[entry.id] = None
            self._carried.append((entry.name, entry.payload, entry.id))
        self._left += 1  # a timer stays in the snapshot, and is due there at once
        return True

    @functools.cached_property
    def _newest(self) -> MachineType:
        """The type that new machines of this name have; what an engine knows does not change while it is open."""
        if self._known is None:
            return self.type
        found, error = attempt(self._known.find, self.type.name)
        if isinstance(error, UnknownWorkflow) or not isinstance(found, MachineType):
            return self.type
        return found

    def _go_on(self) -> None:
        """End this run; the next begins with the snapshot."""
        args = self.type.parameters.encode(self.codec, (self._next(self._newest),), {})
        seen = (*self.started.seen, *self.signal_ids)[-SEEN:]
        self.finished = True
        self.outbox.append(c.Finish(0, continue_args=args, carried=tuple(self._carried), seen=seen))

    def _next(self, newest: MachineType) -> Begin:
        """What the next run begins with; raises `MigrationMissing`."""
        if newest is self.type:
            snapshot = self._snapshot(self.now)
        else:
            plain = plain_snapshot(self.type, self.configuration, list(self._effects.timers.values()), self.now)
            snapshot = migrated(self.type, newest, self.codec, plain)
        return Begin(
            version=newest.version,
            structure=newest.structure,
            invokeid=self.begin.invokeid,
            snapshot=snapshot,
            at=self.now,
            count=self.count,
            left=self._left,
        )

    def _snapshot(self, at: int) -> bytes:
        return pack_snapshot(self.type, self.codec, self.configuration, list(self._effects.timers.values()), at)

    # Commands, for the effects

    def next_number(self) -> int:
        """The number of the next command."""
        return self._number()

    def ask(self, n: int, pending: Pending, command: c.Command, *, passive: bool = False) -> None:
        """Issue a command that an entry will answer."""
        self.pending[n] = pending
        if passive:
            self._passive.add(n)
        self.outbox.append(command)

    def take_back(self, n: int) -> None:
        """Nobody waits for the answer any more."""
        self.pending.pop(n, None)
        self._passive.discard(n)

    def expect_end(self, n: int, answer: Any) -> None:
        """What the end of a child is told to."""
        self._children[n] = answer

    # What the host looks at

    def standing(self) -> bytes | None:
        """Where the machine stands."""
        return pack_standing(self.type, self.codec, self.configuration, self.count)

    def why_not(self, event: Event) -> Refusal:
        """Why the event would lead nowhere now."""
        refusal: Refusal = self.loop.enter(why_not, self.chart, self.configuration, event)
        return refusal

    def find_query(self, name: str) -> Handler | None:
        """What can be asked of a machine from outside."""
        return question(self, name)

    def close(self) -> None:
        """Let go of what refers back here."""
        super().close()
        self._effects.children.clear()


_MINE: dict[type, Callable[[Any, Any], Any]] = {
    e.Started: MachineExecution._started,
    e.TimerFired: MachineExecution._timer_fired,
    e.SignalReceived: MachineExecution._signal_received,
    e.UpdateAccepted: MachineExecution._update_accepted,
    e.CancelRequested: MachineExecution._cancel_requested,
}
_DELIVER = DELIVER | _MINE | dict.fromkeys(e.ENDINGS, MachineExecution._ended)
