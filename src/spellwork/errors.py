"""Owns every error that Spellwork raises, each with a stable `code`, typed attributes and a message that says what to do.
It must never import another part of the package.

    SpellworkError
    ├── PayloadError               a value cannot be stored or read back
    ├── DefinitionError            a declaration or an option is wrong; also a ValueError
    │   └── ChartRefused           a statechart is malformed; `faults` names each fault
    ├── UnknownWorkflow            no such workflow (or version) is registered
    ├── UsageError                 a verb was called where it has no meaning
    │   └── ForbiddenInWorkflow    real I/O, threads or sockets inside a workflow
    ├── StoreError
    │   ├── Conflict               a requirement of a batch did not hold; nothing was written
    │   │   └── TransactionConflict    what a transaction has read was changed, and it has used up its attempts
    │   ├── Fenced                 another owner has taken over; nothing was written
    │   ├── KeyMissing             the store is encrypted, and a key that it needs was not given
    │   ├── KeyRefused             the key given is not the store's, or was retired
    │   ├── Lagged                 a watcher fell behind what is retained
    │   ├── MergeRefused           a merge could not be worked out; nothing of its batch was written
    │   ├── MigrationFailed        a value could not be migrated, or the tree is not at the version to migrate from
    │   ├── NotEncrypted           a key was given, and the store holds plain rows
    │   ├── StoreBusy              as many writes wait as the store was told to allow
    │   ├── StoreClosed
    │   ├── StoreCorrupt           damaged data, or not a store at all
    │   │   ├── BackupDamaged      a backup is not as it was written, or incomplete
    │   │   └── RowDamaged         one row is not as it was written; the others are not concerned
    │   ├── StoreFailed            the disk refused a write or a sync
    │   │   └── StoreFull
    │   ├── StoreMissing
    │   ├── StoreNotEmpty          a copy must go to a new store
    │   ├── StoreOwned             another process owns every partition
    │   ├── StoreTooNew
    │   └── StoreUnavailable       cannot be opened or written (path, permissions, locks)
    ├── RunError
    │   ├── RunNotFound
    │   ├── RunExists              the id belongs to another workflow or other arguments
    │   ├── RunFinished            a verb that needs a running run
    │   ├── RunFailed              the workflow raised
    │   ├── RunCancelled
    │   ├── RunTerminated
    │   ├── RunBlocked             parked with a reason; goes on after a fix
    │   │   └── RunQuarantined     kept killing its process
    │   └── NonDeterminismError    the code no longer matches the journal
    ├── MachineError
    │   ├── InvalidTransition      the state handles no such event
    │   │   └── UnknownEvent       no state of the chart does
    │   ├── DrawingFailed          Graphviz is missing, or failed
    │   ├── EndlessStep            microsteps without end
    │   ├── EventFailed            what a hosted machine does for an event raised; the machine stays where it was
    │   ├── MigrationMissing       a hosted machine can't move to the chart's new version
    │   ├── QueueFull              more events wait than the machine's queue may hold
    │   └── SnapshotMismatch       a snapshot does not fit the chart
    ├── ActorError
    │   ├── ActorFailed            a failure that no supervisor could mend reached the root
    │   ├── ActorStopped           it has ended, or did before it answered
    │   ├── AskTimeout             no answer in time; also a TimeoutError
    │   ├── LinkBroken             an actor that it is linked to failed
    │   └── MailboxFull            no room, and the mailbox refuses then
    ├── TopicError
    │   ├── DeliveryLost           the event was given to somebody else, or its time was up; it is not acknowledged
    │   ├── TopicDiffers           the topic is declared with other options
    │   └── TopicNotFound          no such topic, group or dead letter
    ├── ActivityFailed             an activity failed with an error whose class is not registered
    ├── ActivityTimeout            also a TimeoutError
    ├── StreamTimeout              a stream gave no item in time; also a TimeoutError
    ├── EventError
    │   ├── ChannelClosed          nothing goes in any more, and nothing is left in it
    │   ├── ChannelEmpty           nothing is there now, and the caller would not wait
    │   ├── ChannelFull            no room now, and the caller would not wait
    │   └── ChannelTimeout         a thread waited as long as it would; also a TimeoutError
    ├── QueryFailed
    ├── UpdateRejected             refused by its validator; left no trace
    └── InternalError              a bug in Spellwork: please report it

Control flow that user code must not swallow (`ContinueAsNew`, `Evicted`) derives from BaseException and lives with the loop.
"""

from __future__ import annotations

import typing


class SpellworkError(Exception):
    """The root of everything that Spellwork raises on purpose."""

    code = "spellwork"

    def __init__(self, message: str = "", /, **attributes: object) -> None:
        super().__init__(message)
        for name, value in attributes.items():
            setattr(self, name, value)


class PayloadError(SpellworkError):
    """A value cannot be stored exactly, or stored bytes do not fit the annotation. `path` points into the value."""

    code = "payload"
    path: str = "$"


class DefinitionError(SpellworkError, ValueError):
    """A workflow, activity, signal, handler or option is declared wrongly; raised when it is declared."""

    code = "definition"


class ChartRefused(DefinitionError):
    """A statechart is malformed; each of `faults` has the `name` of the fault, the `state` it is in, and a `message`."""

    code = "chart-refused"
    faults: tuple[typing.Any, ...] = ()


class UnknownWorkflow(SpellworkError):
    """No workflow of this name and version is registered with the engine."""

    code = "unknown-workflow"
    name: str


class UsageError(SpellworkError):
    """A verb was called where it has no meaning, for example `now()` outside a workflow."""

    code = "usage"


class ForbiddenInWorkflow(UsageError):
    """Workflow code tried to do real I/O or to leave its deterministic loop. `where` is `file:line`."""

    code = "forbidden-in-workflow"
    what: str
    where: str


class StoreError(SpellworkError):
    """The root of what a store reports."""

    code = "store"


class Conflict(StoreError):
    """A requirement of the batch did not hold; nothing of the batch was written."""

    code = "store-conflict"
    key: bytes


class TransactionConflict(Conflict):
    """What a transaction has read was changed by another one (`key` says what), in each of its `attempts`; nothing was written."""

    code = "transaction-conflict"
    attempts: int


class Fenced(StoreError):
    """Another owner has taken the partition over; nothing of the batch was written."""

    code = "fenced"
    partition: int


class KeyMissing(StoreError):
    """The store is encrypted and a key that it needs was not given; `key_id` names it. Nothing was written."""

    code = "key-missing"
    key_id: str = ""


class KeyRefused(StoreError):
    """The key given is not one of the store's, or was retired by a rotation; `key_id` says which. Nothing was written."""

    code = "key-refused"
    key_id: str = ""


class Lagged(StoreError):
    """A watcher fell behind what is retained; `missed` revisions (at least), or events of a subscription (exactly), are gone.

    Of a store, read the state and watch anew; a subscription goes on with what it still holds.
    """

    code = "lagged"
    missed: int


class MergeRefused(StoreError):
    """The operator of a merge failed on the value under `key` (the cause says how); nothing of the batch was written."""

    code = "merge-refused"
    key: bytes


class MigrationFailed(StoreError):
    """A tree can't be migrated, or not be rolled back; its message says why. Everything is as it was before the call."""

    code = "migration-failed"
    tree: str


class NotEncrypted(StoreError):
    """A key was given, and the store holds rows that are not encrypted; nothing was written."""

    code = "not-encrypted"


class StoreBusy(StoreError):
    """As many writes wait as the store was told to allow (`limit`), and it was told to refuse further ones; nothing was written."""

    code = "store-busy"
    limit: int


class StoreClosed(StoreError):
    """The store was closed."""

    code = "store-closed"


class StoreCorrupt(StoreError):
    """Damaged data was detected, or the file is not a Spellwork store."""

    code = "store-corrupt"


class BackupDamaged(StoreCorrupt):
    """A backup is not as it was written, or what it builds on is missing; nothing was restored."""

    code = "backup-damaged"


class RowDamaged(StoreCorrupt):
    """One row is not as it was written, says its checksum; `key` names it. Whatever does not need it goes on."""

    code = "row-damaged"
    key: bytes


class StoreFailed(StoreError):
    """The disk refused a write or a sync. Whether the last batch is durable is unknown until the store is opened again."""

    code = "store-failed"


class StoreFull(StoreFailed):
    """The disk is full; nothing that was acknowledged is lost."""

    code = "store-full"


class StoreMissing(StoreError):
    """There is no store at this place, and reading never creates one."""

    code = "store-missing"


class StoreNotEmpty(StoreError):
    """The target of a copy holds something; nothing was written."""

    code = "store-not-empty"


class StoreOwned(StoreError):
    """Another process owns every partition of the store; `owner` says which."""

    code = "store-owned"
    owner: str


class StoreTooNew(StoreError):
    """The store was written by a newer Spellwork."""

    code = "store-too-new"


class StoreUnavailable(StoreError):
    """The store cannot be opened or written: path, permissions, a lock never given up, or no files, threads or memory for it."""

    code = "store-unavailable"


class RunError(SpellworkError):
    """The root of what concerns one run; `run_id` names it."""

    code = "run"
    run_id: str


class RunNotFound(RunError):
    """No run has this id."""

    code = "run-not-found"


class RunExists(RunError):
    """The id already belongs to a run of another workflow or with other arguments."""

    code = "run-exists"


class RunFinished(RunError):
    """The run has ended, and the verb needs one that is running."""

    code = "run-finished"


class RunFailed(RunError):
    """The workflow raised; `__cause__` is its error where the class is known."""

    code = "run-failed"


class RunCancelled(RunError):
    """The run was cancelled; `reason` says why."""

    code = "run-cancelled"
    reason: str


class RunTerminated(RunError):
    """The run was terminated without unwinding; `reason` says why."""

    code = "run-terminated"
    reason: str


class RunBlocked(RunError):
    """The run is parked with a reason and goes on after a fix; nothing is lost."""

    code = "run-blocked"
    reason: str


class RunQuarantined(RunBlocked):
    """The run killed its process too often while running; `spellwork resume ID` tries again."""

    code = "run-quarantined"


class NonDeterminismError(RunError):
    """Replay met a command that differs from the journal; `position`, `expected` and `found` say where and how."""

    code = "nondeterminism"
    position: int
    expected: str
    found: str


class MachineError(SpellworkError):
    """The root of what a state machine reports; `machine` is the name of its chart."""

    code = "machine"
    machine: str = ""


class InvalidTransition(MachineError):
    """In `state` (the active leaf states), nothing handles `event`; `allowed` are the events that something might handle."""

    code = "invalid-transition"
    state: tuple[str, ...]
    event: str
    allowed: tuple[str, ...]

    def __init__(self, message: str = "", /, **attributes: object) -> None:
        # one that was stored comes back with lists
        super().__init__(message, **{n: tuple(v) if isinstance(v, list) else v for n, v in attributes.items()})


class UnknownEvent(InvalidTransition):
    """No state of the chart handles such an event; `allowed` are all the events that it knows, and `state` is empty."""

    code = "unknown-event"


class DrawingFailed(MachineError):
    """A picture could not be made: Graphviz is not installed, or it failed."""

    code = "drawing-failed"


class EndlessStep(MachineError):
    """Eventless transitions and raised events went on for more microsteps than the chart allows; the machine stays where it was."""

    code = "endless-step"


class EventFailed(MachineError):
    """A guard, assignment or plain action of a hosted machine raised for `event`; the machine is where it was."""

    code = "event-failed"
    event: str


class MigrationMissing(MachineError):
    """A hosted machine of `version` can't move to the version that is registered now; it waits until it can."""

    code = "migration-missing"
    version: str


class QueueFull(MachineError):
    """As many events wait as the machine's queue may hold; the event was not taken. `limit` is how many."""

    code = "queue-full"
    limit: int


class SnapshotMismatch(MachineError):
    """A snapshot is of another chart, or of another version of it; the machine can't be restored from it."""

    code = "snapshot-mismatch"


class ActorError(SpellworkError):
    """The root of what actors report; `actor` is the path of the one concerned."""

    code = "actor"
    actor: str = ""


class ActorFailed(ActorError):
    """A failure that no supervisor could mend reached the root of the actors; `__cause__` is the failure."""

    code = "actor-failed"


class ActorStopped(ActorError):
    """The actor has ended or is about to, so it takes no message, or it ended before it answered."""

    code = "actor-stopped"


class AskTimeout(ActorError, TimeoutError):
    """An actor gave no answer within `seconds`; it may handle the message all the same."""

    code = "ask-timeout"
    seconds: float


class LinkBroken(ActorError):
    """The actor `actor`, to which another one is linked, ended by a failure, `__cause__`; so the other one fails, too."""

    code = "link-broken"


class MailboxFull(ActorError):
    """`limit` messages wait for the actor already, and one more was not taken, or dropped."""

    code = "mailbox-full"
    limit: int


class TopicError(SpellworkError):
    """The root of what durable topics report; `topic` names the topic."""

    code = "topic"
    topic: str


class DeliveryLost(TopicError):
    """The event at `offset` is no longer this consumer's: its time was up, or its lane has another owner. It is delivered again."""

    code = "delivery-lost"
    offset: int


class TopicDiffers(TopicError):
    """The topic is declared with other options; nothing was changed."""

    code = "topic-differs"


class TopicNotFound(TopicError):
    """There is no such topic, or no such group or dead letter of it."""

    code = "topic-not-found"


class ActivityFailed(SpellworkError):
    """An activity failed with an error whose class is not registered; `type`, `message` and `data` tell of it."""

    code = "activity-failed"
    type: str
    message: str
    data: object = None


class ActivityTimeout(SpellworkError, TimeoutError):
    """An activity exceeded a limit; `activity`, `limit` (its name) and `seconds` say which."""

    code = "activity-timeout"
    activity: str
    limit: str
    seconds: float


class StreamTimeout(SpellworkError, TimeoutError):
    """A stream gave no item in time; `seconds` says how long it was waited for."""

    code = "stream-timeout"
    seconds: float


class EventError(SpellworkError):
    """The root of what buses, channels and subscriptions report."""

    code = "event"


class ChannelClosed(EventError):
    """A channel, bus or subscription is closed: nothing can be sent, and what was in it has been received.

    `channel` is the channel, if it was one.
    """

    code = "channel-closed"
    channel: object = None


class ChannelEmpty(EventError):
    """There is nothing to receive now, and the caller would not wait."""

    code = "channel-empty"


class ChannelFull(EventError):
    """There is no room now, and the caller would not wait; nothing was sent, to nobody."""

    code = "channel-full"


class ChannelTimeout(EventError, TimeoutError):
    """A thread waited for a channel, bus or subscription for as long as it would; `seconds` says how long."""

    code = "channel-timeout"
    seconds: float


class QueryFailed(SpellworkError):
    """A query is unknown, raised, or tried to change the run."""

    code = "query-failed"


class UpdateRejected(SpellworkError):
    """The update is unknown or its validator refused it; nothing was written."""

    code = "update-rejected"


class InternalError(SpellworkError):
    """A bug in Spellwork. Nothing that was acknowledged is lost; please report it with the traceback."""

    code = "internal"
