"""Owns the laws of replay, as functions over a stored journal and the workflow that wrote it.
It must never trust the execution that it judges: what was asked for is counted here anew.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import msgspec

from spellwork.codec import Codec
from spellwork.engine import Engine, rows
from spellwork.engine.replay import replay_journal
from spellwork.errors import NonDeterminismError, RunNotFound
from spellwork.journal import ErrorRegistry
from spellwork.journal import entries as e
from spellwork.journal.rows import Keys, unpack_row
from spellwork.supervision import attempt
from spellwork.workflow import Execution, Workflow
from spellwork.workflow import commands as c


class LawBroken(AssertionError):
    """A guarantee did not hold; the message says which, and what was seen."""


@dataclasses.dataclass(frozen=True, slots=True)
class Journal:
    """A run's entries and what is needed to replay them."""

    number: int
    workflow: Workflow[Any, Any]
    entries: list[Any]
    codec: Codec
    errors: ErrorRegistry

    @property
    def name(self) -> str:
        """The run's id and number, for messages."""
        return f"{self.entries[0].run_id} (number {self.number:x})"


async def journals(engine: Engine, *run_ids: str) -> list[Journal]:
    """The journals of the named runs of an open engine (of all, if none is named), each with the runs that it continued."""
    found = await engine.store.scan(bytes((Keys.RUNS,)), bytes((Keys.RUNS + 1,)))
    result = []
    for row in (unpack_row(data) for _, data in found):
        if not run_ids or row.id in run_ids:
            entries = await engine.store.read(lambda reader, number=row.number: rows.read_entries(reader, number))  # type: ignore[misc]
            definition = engine.registry.find(row.workflow, row.version)
            result.append(Journal(row.number, definition, entries, engine.codec, engine._errors))
    missing = set(run_ids) - {journal.entries[0].run_id for journal in result}
    if missing:
        raise RunNotFound(f"there is no run {', '.join(sorted(map(repr, missing)))} to hold laws over", run_id=str(missing.pop()))
    return result


async def check_laws(engine: Engine, *run_ids: str) -> int:
    """Hold every law over the journals of runs of an open engine; returns how many journals there were, raises `LawBroken`."""
    found = await journals(engine, *run_ids)
    for journal in found:
        check(journal)
    return len(found)


def check(journal: Journal) -> None:
    """Hold every law over one journal; raises `LawBroken`."""
    for law in LAWS:
        law(journal)


class Replay(Execution):
    """An execution that notes which entries it was given, and which commands it issued upon each."""

    def __init__(self, journal: Journal):
        super().__init__(journal.number, journal.workflow, journal.codec, journal.errors)
        self.delivered: list[Any] = []
        self.issued: list[list[tuple[Any, ...]]] = []

    def deliver(self, entry: Any) -> None:
        """Note, and deliver."""
        before = len(self.outbox)
        self.delivered.append(entry)
        super().deliver(entry)
        self.issued.append([told(command) for command in self.outbox[before:]])

    def state(self) -> tuple[Any, ...]:
        """What the run is, in a form that can be compared."""
        pending = [
            (n, p.kind, p.name, p.digest, p.due, p.issued, p.attempt, p.retry_at, p.heartbeat, p.child_id, p.parent_close)
            for n, p in sorted(self.pending.items())
        ]
        buffers = [(name, list(buffer)) for name, buffer in sorted(self._signals.items())]
        waiting = [(name, [n for n, _, _ in queue]) for name, queue in sorted(self._receivers.items()) if queue]
        tasks = [(task.get_name(), _where(task)) for task in self.loop._tasks if not task.done()]
        ids = (list(self.signal_ids), list(self.update_ids.items()), sorted(self._patches.items()))
        outbox = [told(command) for command in self.outbox]
        return (self.position, self.now, self.finished, self.rng.getstate(), pending, buffers, waiting, ids, tasks, outbox)


def _where(task: Any) -> list[tuple[str, int]]:
    """The lines at which a task's coroutines wait, outermost first."""
    found, awaited = [], task.get_coro()
    while awaited is not None and getattr(awaited, "cr_frame", None) is not None:
        found.append((awaited.__qualname__, awaited.cr_frame.f_lineno))
        awaited = awaited.cr_await
    return found


def told(command: c.Command) -> tuple[Any, ...]:
    """A command in a form that can be compared from one replay to the next."""
    name = type(command).__name__
    match command:
        case c.RunStep():
            return (name, command.n, command.activity.name, command.digest)
        case c.StartChild():
            return (name, command.n, command.workflow.name, command.digest, command.child_id, command.args, command.parent_close)
        case c.Perform():
            return (name, command.n, command.name, command.digest)
        case _:
            return (name, *msgspec.structs.astuple(command))


def _replay(journal: Journal, length: int) -> Replay:
    replay = Replay(journal)
    _, error = attempt(replay.replay, journal.entries[:length])
    if error is not None:
        replay.close()
        raise LawBroken(f"{journal.name}: its first {length} entries do not replay: {error}") from error
    return replay


def _require(holds: bool, journal: Journal, what: str) -> None:
    if not holds:
        raise LawBroken(f"{journal.name}: {what}")


_ASKED: dict[type[Any], tuple[type[Any], ...]] = {
    c.RunStep: (e.StepCompleted, e.StepFailed),
    c.StartTimer: (e.TimerFired,),
    c.StartChild: (e.ChildStarted,),
    c.SendSignal: (e.SignalSent,),
    c.Perform: (e.Performed,),
}
_ANSWERS = {answer: command.__name__ for command, answers in _ASKED.items() for answer in answers}
_WITHDRAWS = ("CancelStep", "CancelTimer", "CancelRead")


def fixed_point(journal: Journal) -> None:
    """Replay asks for exactly the commands that the entries answer (or that are still open), and twice gives the same twice."""
    one, two = _replay(journal, len(journal.entries)), _replay(journal, len(journal.entries))
    try:
        _require(one.issued == two.issued, journal, "two replays issued different commands")
        _require(one.state() == two.state(), journal, "two replays came to different states")
        _balance(journal, one)
    finally:
        one.close()
        two.close()
    try:
        replay_journal(journal.number, journal.workflow, journal.entries, journal.codec, journal.errors)
    except NonDeterminismError as error:
        raise LawBroken(f"{journal.name}: {error}") from error


def _balance(journal: Journal, replay: Replay) -> None:
    asked: dict[int, tuple[Any, ...]] = {}
    open_: set[int] = set()
    for position, entry in enumerate(journal.entries):
        verb = _ANSWERS.get(type(entry))
        if verb is not None:
            command = asked.get(entry.n, ())
            same = command[:1] == (verb,) and (verb == "StartTimer" or (entry.digest in command and entry.name in command))
            _require(same and entry.n in open_, journal, f"entry {position}, {entry}, answers no open command: {command}")
            open_.discard(entry.n)
        for command in replay.issued[position]:
            if command[0] in _WITHDRAWS:
                open_.discard(command[1])
            elif command[0] in _ANSWERS.values():
                _require(command[1] not in asked, journal, f"command {command[1]} was issued twice")
                asked[command[1]] = command
                open_.add(command[1])
    left = {n for n, pending in replay.pending.items() if pending.kind != "child"}
    _require(left == open_, journal, f"commands {sorted(open_)} were never answered, the run waits for {sorted(left)}")


def monotone(journal: Journal) -> None:
    """A longer prefix never retracts or changes a command that a shorter one issued."""
    whole = _replay(journal, len(journal.entries))
    try:
        for length in range(1, len(journal.entries)):
            part = _replay(journal, length)
            try:
                if any(part._patches[patch] is not whole._patches.get(patch) for patch in part._patches):
                    continue  # a run from before the patch: had it stopped here, today's code would go the new way
                before, after = _but_marks(part.issued), _but_marks(whole.issued[:length])
                _require(before == after, journal, f"after {length} entries {before} was asked for, later {after}")
            finally:
                part.close()
    finally:
        whole.close()


def _but_marks(issued: list[list[tuple[Any, ...]]]) -> list[list[tuple[Any, ...]]]:
    # a mark is asked for until it is written, and never again
    return [[command for command in commands if command[0] != "MarkPatch"] for commands in issued]


def prefix_closed(journal: Journal) -> None:
    """Every prefix replays; what it then asks for includes what came next, and going on from it is replaying the longer one."""
    for length in range(1, len(journal.entries)):
        entry = journal.entries[length]
        part, longer = _replay(journal, length), _replay(journal, length + 1)
        try:
            verb = _ANSWERS.get(type(entry))
            if verb is not None:
                asked = any(command[:2] == (verb, entry.n) for command in map(told, part.outbox))
                _require(asked, journal, f"after {length} entries nobody asks for what came next, {entry}")
            _go_on(journal, part, entry)
            _require(_lasting(part) == _lasting(longer), journal, f"going on after {length} entries is not replaying {length + 1}")
        finally:
            part.close()
            longer.close()


def _go_on(journal: Journal, part: Replay, entry: Any) -> None:
    part.replaying = False
    _, error = attempt(part.deliver, entry)
    if error is not None:
        raise LawBroken(f"{journal.name}: after {part.position} entries, the next is refused: {error}") from error


def _lasting(replay: Replay) -> tuple[Any, ...]:
    # the outbox of one that goes on still holds what is answered, and marks depend on whether they were written
    return replay.state()[:-1]


def in_order(journal: Journal) -> None:
    """Completions reach the code in the order of the journal, each at its own entry: none early, none late, none twice."""
    replay = Replay(journal)
    try:
        for position, entry in enumerate(journal.entries):
            waiting = {n: p.future for n, p in replay.pending.items() if p.future is not None and not p.future.done()}
            over = replay.finished  # what was asked for before the end is still written, but nobody waits for it
            replay.replaying = position + 1 < len(journal.entries)
            replay._journaled_patches = {each.id for each in journal.entries if isinstance(each, e.Patched)}
            _go_on(journal, replay, entry)
            done = {n for n, future in waiting.items() if future.done() and not future.cancelled()}
            own = {entry.n} & waiting.keys() if type(entry) in _COMPLETIONS and not over else set()
            _require(done == own, journal, f"entry {position}, {entry}, completed commands {sorted(done)}")
    finally:
        replay.close()
    whole = _replay(journal, len(journal.entries))
    same = all(given is entry for given, entry in zip(whole.delivered, journal.entries, strict=True))
    whole.close()
    _require(same, journal, "the entries were delivered in another order than the journal's")


def timely(journal: Journal) -> None:
    """Time never runs backwards in a journal."""
    for position in range(1, len(journal.entries)):
        before, after = journal.entries[position - 1], journal.entries[position]
        _require(after.at >= before.at, journal, f"entry {position}, {after}, is older than the one before it")


def one_end(journal: Journal) -> None:
    """A run ends at most once, and nothing comes after."""
    ends = [position for position, entry in enumerate(journal.entries[:-1]) if isinstance(entry, e.ENDINGS)]
    _require(not ends, journal, f"entries {ends} are ends, and something comes after them")


_COMPLETIONS = (e.StepCompleted, e.StepFailed, e.ChildStarted, e.ChildEnded, e.SignalSent, e.Performed)


def exact(journal: Journal) -> None:
    """An entry with another number, name, kind or digest than what the code asks for is refused."""
    for position, entry in enumerate(journal.entries):
        if not isinstance(entry, (*_COMPLETIONS, e.AttemptFailed, e.TimerFired)):
            continue
        for what, forged in _forgeries(entry):
            replay = Replay(journal)
            try:
                replay.replay([*journal.entries[:position], forged])
            except NonDeterminismError:
                continue
            finally:
                replay.close()
            raise LawBroken(f"{journal.name}: entry {position}, {entry}, with another {what} was taken")


def _forgeries(entry: Any) -> list[tuple[str, Any]]:
    change = msgspec.structs.replace
    forged = [
        ("number", change(entry, n=entry.n + 1_000_000)),
        ("digest", change(entry, digest=entry.digest[:-1] + bytes((entry.digest[-1] ^ 1,)))),
    ]
    if isinstance(entry, e.TimerFired):
        forged.append(("kind", e.SignalSent(entry.at, entry.n, "", entry.digest)))
    else:
        forged.append(("name", change(entry, name=entry.name + "?")))
        forged.append(("kind", e.TimerFired(entry.at, entry.n, entry.digest)))
    return forged


LAWS: tuple[Callable[[Journal], None], ...] = (fixed_point, monotone, prefix_closed, in_order, timely, one_end, exact)
"""What `check` holds."""
