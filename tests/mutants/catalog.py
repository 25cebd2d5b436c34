"""Owns the list of mutants: each a fault that a careless change could bring, and the check that must catch it.
It must never hold one that behaves like the original.
"""

from __future__ import annotations

from tests.mutants.machines import MACHINES
from tests.mutants.mutant import Mutant

_LAWS = "tests/testing/test_laws.py"
_PROMISES = "tests/engine/test_promises.py"
_SHAPES = "tests/testing/test_shapes.py"
_LINEAR = "tests/testing/test_linear.py"
_STORE = "tests/store/test_store.py"
_FAILURES = "tests/store/test_failures.py"
_ENCRYPTED = "tests/store/test_encrypted.py"
_BACKUP = "tests/store/test_backup.py"
_KILLED_AT_ANY_MOMENT = "tests/sim/test_simulation.py -k killed_at_any_moment"
_SIM = "-m spellwork.testing.sim --seeds 60 --jobs 1"
_GROUPS = "tests/events/durable"
_ASYNCIO = "tests/workflow/test_asyncio.py"
_FOUND = "tests/workflow/test_found.py"
_HOSTED_TESTS = "tests/hosted/test_hosted.py"
_HOSTED_LAWS = "tests/hosted/test_laws.py"
_HOSTED_REDACTION = "tests/hosted/test_redaction.py"
_HOSTED_CHILDREN = "tests/hosted/test_children.py"
_STATE_TESTS = "tests/state"
_BROADCAST = "tests/events/test_broadcast.py"
_INTERRUPTED = "tests/events/test_interrupted.py"
_BUS = "tests/events/test_bus.py"
_CHANNEL = "tests/events/test_channel.py"
_EVENT_FAILURES = "tests/events/test_failures.py"
_RANDOM = "tests/events/test_random.py"

_REVIEW = "tests/engine/test_review.py"
_HUNT = "tests/engine/test_hunt.py"
_ATTACKED = "tests/events/durable/test_attacked.py"

_FOUND_BY_READERS = (
    Mutant(
        "cancellation-lost-with-its-run",
        "nothing that was asked for is lost in a crash",
        "engine/closing.py",
        "    return [m.AskCancel(command.child_id, command.reason) for command in live.cancelling.values()]\n",
        "    return []\n",
        f"{_REVIEW} -k on_its_way",
    ),
    Mutant(
        "options-for-everybody",
        "options() are for one call",
        "workflow/activity.py",
        "        twin: Activity[P, R] = object.__new__(type(self))",
        "        twin: Activity[P, R] = self",
        f"{_REVIEW} -k options_are_for_one_call",
    ),
    Mutant(
        "failed-replay-left-open",
        "what is loaded and dropped does nothing",
        "engine/loading.py",
        "            execution.close()  # else the garbage",
        "            pass  # else the garbage",
        f"{_REVIEW} -k runs_no_clean_up_later",
    ),
    Mutant(
        "blocked-run-written-at-each-look",
        "idle owners write nothing",
        "engine/loading.py",
        "            if row.status is not Status.BLOCKED or row.reason != host.codec.text(reason_of(error)):",
        "            if True:",
        f"{_REVIEW} -k written_once_for_each_reason",
    ),
    Mutant(
        "child-forgotten-while-it-starts",
        "children end with their parents",
        "workflow/execution.py",
        'if p.kind in ("child", "start of child")]',
        'if p.kind == "child"]',
        f"{_REVIEW} -k 'nobody_awaited and cancel'",
    ),
    Mutant(
        "any-run-of-that-name-closed",
        "the end of a parent closes its children alone",
        "engine/desk.py",
        "    if message.parent and (row.parent is None or row.parent.number != message.parent):",
        "    if False:",
        f"{_REVIEW} -k only_has_the_name",
    ),
    Mutant(
        "maintenance-dies-in-silence",
        "an engine that cannot show life stops",
        "engine/tenure.py",
        "        if error is not None and error is not self._why() and not isinstance(error, asyncio.CancelledError):\n",
        "        if False:\n",
        f"{_REVIEW} -k sign_of_life_breaks",
    ),
    Mutant(
        "half-a-store-owned",
        "every run of a store goes on",
        "engine/engine.py",
        "(max_partitions or _ALL)",
        "(max_partitions or partitions)",
        f"{_HUNT} -k all_partitions_of_a_store",
    ),
    Mutant(
        "asked-while-closing-and-told-no",
        "what runs tell each other arrives",
        "engine/engine.py",
        "lambda message: self._way.ask(message)",
        "lambda message: self._router.ask(message)",
        f"{_HUNT} -k asks_of_another_while",
    ),
    Mutant(
        "group-of-another-life",
        "each group gets each event",
        "events/durable/membership.py",
        "        return batch.require_version(row_key(Spaces.GROUPS, self._topic, self._group), self._made)",
        "        return batch",
        f"{_ATTACKED} -k begun_anew",
    ),
    Mutant(
        "damage-behind-a-cursor-passed-over",
        "damaged data is detected",
        "events/durable/subscription.py",
        "            found[index] = found[index]._replace(revision=revision)",
        "            pass",
        f"{_ATTACKED} -k right_behind_a_cursor",
    ),
    Mutant(
        "watchers-left-at-closing",
        "whoever waits hears of the end",
        "store/store.py",
        "            woken.set()  # nothing else",
        "            pass  # nothing else",
        "tests/state/test_watch.py -k hears",
    ),
    Mutant(
        "names-as-they-come",
        "values that cannot be kept are refused before anything is written",
        "codec/text.py",
        "    if type(value) is not str:",
        "    if False:",
        "tests/test_bad_input.py -k texts_that_name_things",
    ),
    Mutant(
        "stored-times-of-any-size",
        "damaged data is detected",
        "instant.py",
        "Instant = Annotated[int, msgspec.Meta(ge=FIRST, le=LAST)]",
        "Instant = Annotated[int, msgspec.Meta()]",
        "tests/test_instant.py",
    ),
)
_EFFECTS = (
    Mutant(
        "retention-forgets-who-waits",
        "no event that a run waits for is missed",
        "events/durable/sweep.py",
        "        done = (slowest(reader, topic), brought(reader, topic))\n",
        "        done = (slowest(reader, topic),)\n",
        "tests/engine/test_workflow_events.py -k retention_waits",
    ),
    Mutant(
        "subscribers-by-name-alone",
        "no event that a run waits for is missed",
        "engine/subscribers.py",
        "for token in (name, ONE):",
        "for token in (name,):",
        "tests/engine/test_workflow_events.py -k a_look_for_subscribers",
    ),
    Mutant(
        "letter-not-sent-with-the-cursor",
        "each event starts one run, wherever its partition is owned",
        "engine/mail.py",
        "        batch.put(self._inbox(partition), m.encode(m.Envelope(message)))\n",
        "        self._inbox(partition)\n",
        "tests/engine/test_workflow_events.py -k waits_in_the_inbox",
    ),
    Mutant(
        "merge-without-receipt",
        "state and topics are what the journals say, each time once",
        "engine/effects.py",
        ".require_absent(key).put(key, pack_entry(key, entry))",
        ".require_absent(key)",
        _KILLED_AT_ANY_MOMENT,
    ),
    Mutant(
        "place-kept-before-its-events-are-brought",
        "each event that a run waits for is heard, once",
        "engine/dispatch.py",
        "                outcomes = await _all_done(self._bring",
        "                await self._store.commit(Batch().put(cursor_key(partition.index), bytes(plan.cursor)))\n"
        "                outcomes = await _all_done(self._bring",
        _KILLED_AT_ANY_MOMENT,
    ),
    Mutant(
        "trigger-goes-on-before-its-runs-begin",
        "each event starts one run",
        "engine/dispatch.py",
        "        await _all_done(self._pull(trigger, each, batch) for each in found)\n",
        "        await self._store.commit(Batch().require_epoch(0, partition.epoch).put(key, bytes(place(found[-1]))))\n"
        "        await _all_done(self._pull(trigger, each, batch) for each in found)\n",
        _KILLED_AT_ANY_MOMENT,
    ),
    Mutant(
        "trigger-without-a-place",
        "each event starts one run",
        "engine/dispatch.py",
        "with contextlib.suppress(Conflict):",
        "with contextlib.suppress(StoreError):",
        "tests/engine/test_workflow_events.py -k without_a_place_for",
    ),
    Mutant(
        "letter-of-a-trigger-lost",
        "each event starts one run",
        "engine/router.py",
        "            self._mail.leave(message, self._partition_of(message.run_id), batch)\n",
        "            return\n",
        "tests/engine/test_workflow_events.py -k starts_elsewhere",
    ),
    Mutant(
        "start-written-without-its-cause",
        "replay is exact",
        "journal/entries.py",
        "    if started.correlation is None and started.causation is None:\n",
        "    if True:\n",
        "tests/engine/test_causes.py -k run_to_run",
    ),
    Mutant(
        "next-run-forgets-its-cause",
        "correlation and causation are carried to runs that events and other runs start",
        "engine/closing.py",
        ", before.correlation, before.causation,\n",
        ",\n",
        "tests/engine/test_causes.py -k next_runs",
    ),
    Mutant(
        "child-begins-a-story-of-its-own",
        "correlation and causation are carried to runs that events and other runs start",
        "engine/errands.py",
        "            live.execution.started.origin, row.id,\n",
        "",
        "tests/engine/test_causes.py -k machines_start",
    ),
    Mutant(
        "event-brought-again-is-another",
        "each event that a run waits for is heard, once",
        "engine/dispatch.py",
        'f"{found.topic}:{found.offset}:{pattern}")',
        'f"{found.topic}:{found.offset}:{pattern}:{self._host.clock.now()}")',
        _KILLED_AT_ANY_MOMENT,
    ),
    Mutant(
        "transaction-commits-whatever-has-changed",
        "state and topics are what the journals say, each time once",
        "workflow/state.py",
        "        batch.versions += own.versions\n        batch.unchanged += own.unchanged\n",
        "",
        _KILLED_AT_ANY_MOMENT,
    ),
    Mutant(
        "completion-commits-whatever-has-changed",
        "state and topics are what the journals say, each time once",
        "engine/steps.py",
        "attempt(step.bound.into, Batch())  # it may have lost already, and the activity swallowed that\n"
        "                if error is None:\n",
        "attempt(step.bound.into, Batch())\n"
        "                if error is None:\n"
        "                    batch.versions.clear()\n"
        "                    batch.unchanged.clear()\n",
        _KILLED_AT_ANY_MOMENT,
    ),
    Mutant(
        "damaged-counter-of-a-log-begins-anew",
        "damage to one row stops nobody else",
        "store/committer.py",
        '                return self._counted(key, logs[key]).to_bytes(SEQUENCE_BYTES, "big")\n',
        "                return None\n",
        "tests/engine/test_workflow_events.py -k damaged_counter",
    ),
    Mutant(
        "due-timers-beside-a-trial",
        "a run is not quarantined for what another did",
        "engine/alarm.py",
        "            async with self._recovery.trial:\n                await self._take_up(partition, due)\n",
        "            await self._take_up(partition, due)\n",
        "tests/engine/test_recovery.py::test_nothing_else_that_may_kill_the_process_is_tried_beside_a_suspect",
    ),
    Mutant(
        "write-outside-its-batch",
        "what a workflow does to state commits with its entry",
        "engine/host.py",
        '        command.effect.put(batch, Moment(at, live.row.id, live.partition.index, f"{live.number:x}:{command.n}"))\n',
        "        later = type(batch)()\n"
        '        command.effect.put(later, Moment(at, live.row.id, live.partition.index, f"{live.number:x}:{command.n}"))\n'
        "        self.store.submit(later, lambda _outcome: None)\n",
        "tests/engine/test_effects.py::test_the_rows_of_a_write_are_there_if_and_only_if_its_entry_is",
        core=True,
    ),
    Mutant(
        "receipt-not-read",
        "a transaction that was committed is not done again",
        "engine/rows.py",
        "            receipts[command_of(key)] = unpack_entry(key, frame)",
        "            unpack_entry(key, frame)",
        "tests/engine/test_effects.py::test_killed_at_each_commit_everything_is_done_once",
    ),
    Mutant(
        "receipt-left-behind",
        "a transaction leaves nothing but its rows and its entry",
        "engine/effects.py",
        "            live.partition.mark(live).delete(receipt_key(live.number, n))\n            self._answer",
        "            self._answer",
        "tests/engine/test_effects.py::test_a_cancelled_transaction_is_done_or_not_and_leaves_no_receipt",
    ),
    Mutant(
        "held-writes-lost-at-the-end",
        "what was asked for before the end is written before it",
        "engine/host.py",
        "                self._write_held(live)\n",
        "",
        "tests/engine/test_effects.py::test_a_write_that_nobody_awaited_is_done_before_the_end",
    ),
)

_REPLAY = (
    Mutant(
        "step-entry-forgotten", "a step that was acknowledged is never lost", "engine/host.py",
        "        batch.rows[key] = pack_entry(key, entry)",
        "        if type(entry).__name__ != 'StepCompleted':\n            batch.rows[key] = pack_entry(key, entry)",
        f"{_LAWS}::test_laws_hold_over_the_corpus[nested]", core=True,
    ),
    Mutant(
        "digest-not-compared", "replay is exact", "workflow/execution.py",
        " or pending.digest != entry.digest or ", " or ",
        f"{_LAWS}::test_laws_hold_over_the_corpus[nested]", core=True,
    ),
    Mutant(
        "number-not-compared", "replay is exact", "workflow/execution.py",
        "        pending = self.pending.pop(entry.n, None)\n",
        "        pending = self.pending.pop(entry.n, None) or next(iter(self.pending.values()), None)\n",
        f"{_LAWS}::test_laws_hold_over_the_corpus[nested]",
    ),
    Mutant(
        "name-not-compared", "replay is exact", "workflow/execution.py",
        ' or pending.name != getattr(entry, "name", ""):', ":",
        f"{_LAWS}::test_laws_hold_over_the_corpus[nested]",
    ),
    Mutant(
        "kind-not-compared", "replay is exact", "workflow/execution.py",
        "if pending.kind != kind or ", "if ",
        f"{_LAWS}::test_laws_hold_over_the_corpus",
    ),
    Mutant(
        "end-not-compared", "replay is exact", "engine/replay.py",
        "        _check_end(execution, entries)\n", "",
        f"{_LAWS} tests/workflow/test_nondeterminism.py",
    ),
    Mutant(
        "completions-out-of-order", "completions are delivered in the order of the journal", "workflow/execution.py",
        "        for index, entry in enumerate(entries):",
        "        for index, entry in enumerate(sorted(entries, key=lambda x: (not isinstance(x, e.Started), getattr(x, 'n', 1 << 60)))):",
        f"{_LAWS}::test_laws_hold_over_the_corpus[nested]", core=True,
    ),
    Mutant(
        "open-timers-forgotten", "replay is prefix-closed: what is open is asked for again", "workflow/execution.py",
        "            case c.CancelStep() | c.CancelTimer() | c.CancelRead():\n                return False",
        "            case c.CancelStep() | c.CancelTimer() | c.CancelRead() | c.StartTimer():\n                return False",
        f"{_LAWS}::test_laws_hold_over_the_corpus[timers]",
    ),
    Mutant(
        "randomness-not-the-journals", "replay is a fixed point", "workflow/execution.py",
        "random.Random(self.started.seed)", "random.Random()",
        f"{_LAWS}::test_laws_hold_over_the_corpus[nested]", core=True,
    ),
    Mutant(
        "child-id-by-chance", "a child is started once", "workflow/execution.py",
        'child_id or f"{self.started.run_id}{chain}.{n}"', 'child_id or f"{self.started.run_id}{chain}.{n}.{id(self)}"',
        f"{_PROMISES} -k same_child",
    ),
    Mutant(
        "tasks-ordered-by-address", "replay is a fixed point", "workflow/loop.py",
        "        self._place = loop.next_place()\n        super().__init__(coro, loop=loop, **kwargs)\n\n    def __hash__(self) -> int:\n"
        "        return self._place",
        "        super().__init__(coro, loop=loop, **kwargs)\n\n    def __hash__(self) -> int:\n        return id(self) >> 4",
        f"{_LAWS} -k order",
    ),
    Mutant(
        "as-completed-ordered-by-address", "replay is a fixed point", "workflow/loop.py",
        "                for item in argument:\n", "                for item in set(argument):\n",
        f"{_LAWS}::test_laws_hold_over_generated_programs",
    ),
    Mutant(
        "code-runs-before-what-it-carries-is-there", "continue_as_new loses no signal", "workflow/execution.py",
        "        if self.position > self.started.carried:", "        if True:",
        f"{_FOUND} -k 'patched or more_than_it_reads'",
    ),
    Mutant(
        "live-value-not-the-stored-one", "what you get live is what you get on replay", "engine/steps.py",
        "pending.value = (shape.decode(result),)", "pending.value = (value,)",
        f"{_PROMISES} -k live",
    ),
    Mutant(
        "journal-time-runs-backwards", "time never decreases within a journal", "engine/steps.py",
        "at = max(self._clock.now(), live.execution.now)", "at = self._clock.now()",
        f"{_PROMISES} -k backwards",
    ),
    Mutant(
        "attempts-not-durable", "attempt counts are durable", "workflow/execution.py",
        "        self.replaying = False\n        self.outbox = [",
        "        self.replaying = False\n        for p in self.pending.values():\n            p.attempt = 0\n        self.outbox = [",
        "tests/engine/test_activities.py -k survive_a_restart",
    ),
    Mutant(
        "cancelled-send-blocks", "a wait that was cancelled does not break its run", "workflow/execution.py",
        "        elif not future.done():\n", "        else:\n",
        f"{_FOUND} -k nobody_waits",
    ),
)  # fmt: skip

_ENGINE = (
    Mutant(
        "next-step-before-durable", "nothing leaves that is based on an entry that is not durable", "engine/host.py",
        "                    if live.unacked or live.held:\n", "                    if False:\n",
        f"{_PROMISES} -k nothing_leaves", core=True,
    ),
    Mutant(
        "effects-not-held", "nothing leaves that is based on an entry that is not durable", "engine/host.py",
        "        if live.unacked or live.held:\n            live.held.append((live.execution.position, effect))",
        "        if False:\n            live.held.append((live.execution.position, effect))",
        f"{_PROMISES} -k nothing_leaves",
    ),
    Mutant(
        "signal-acknowledged-early", "nothing is acknowledged before it is durable", "engine/router.py",
        "                await durable\n", "                pass\n",
        f"{_PROMISES} -k nothing_leaves",
    ),
    Mutant(
        "start-acknowledged-early", "nothing is acknowledged before it is durable", "engine/desk.py",
        "        self._host.store.submit(batch, acknowledge)\n        try:\n            await done\n",
        "        self._host.store.submit(batch, acknowledge)\n        try:\n            pass\n",
        f"{_PROMISES} -k nothing_leaves",
    ),
    Mutant(
        "held-effects-dropped", "liveness: what was held is done once it is durable", "engine/host.py",
        "        while held and (held[0][0] <= acked or not live.unacked) and not live.dropped:",
        "        while held and held[0][0] < acked and not live.dropped:",
        f"{_SHAPES} -k out_of_memory",
    ),
    Mutant(
        "timer-fires-early", "no timer fires early", "engine/timers.py",
        "while self._heap and self._heap[0][0] <= now:", "while self._heap and self._heap[0][0] <= now + 5_000:",
        f"{_PROMISES} -k fires_early", core=True,
    ),
    Mutant(
        "due-timers-before-they-are-due", "no timer fires early", "workflow/execution.py",
        'if p.kind == "timer" and p.due <= now)', 'if p.kind == "timer")',
        f"{_PROMISES} -k leaves_the_others_asleep",
    ),
    Mutant(
        "timer-of-an-earlier-life-fires", "no timer fires early", "engine/host.py",
        'pending.kind == "timer" and pending.due == due', 'pending.kind == "timer"',
        f"{_PROMISES} -k lost_life",
    ),
    Mutant(
        "timer-lost-by-a-clock-set-back", "no timer is lost", "engine/alarm.py",
        "                self._host.timers.stored(due)  # the clock", "                pass  # the clock",
        f"{_PROMISES} -k set_back_while",
    ),
    Mutant(
        "timer-of-parked-run-not-written", "no timer is lost", "engine/host.py",
        '            batch.put(key, b"")\n', "",
        "tests/engine/test_recovery.py -k timers_due",
    ),
    Mutant(
        "timer-of-parked-run-not-noted", "no timer is lost", "engine/host.py",
        "            self.hold(live, lambda: self.timers.stored(due))\n", "",
        f"{_SHAPES} -k out_of_memory",
    ),
    Mutant(
        "timer-lost-on-unpark", "no timer is lost", "engine/host.py",
        "            batch.delete(live.timer_key)\n            live.timer_key = None\n        live.parked = False",
        "            batch.delete(live.timer_key)\n            live.timer_key = None\n"
        "            live.execution.due_timers = lambda now: []\n        live.parked = False",
        f"{_SHAPES} -k out_of_memory",
    ),
    Mutant(
        "signals-not-deduplicated", "a signal with an id is received once", "engine/desk.py",
        "    return message.id is not None and message.id in execution.signal_ids\n", "    return False\n",
        f"{_ASYNCIO} -k deduplicated", core=True,
    ),
    Mutant(
        "updates-not-deduplicated", "an update with an id is applied once", "engine/updates.py",
        "        if message.id not in execution.update_ids:\n            self._host.append", "        if True:\n            self._host.append",
        "tests/engine/test_activities.py -k queries_look",
    ),
    Mutant(
        "update-not-looked-for-again", "an update with an id is applied once", "workflow/execution.py",
        'seen = (*self.started.seen, *self.signal_ids, *(SEEN_UPDATE + update_id for update_id in self.update_ids))',
        'seen = (*self.started.seen, *self.signal_ids)',
        f"{_FOUND} -k applied_once",
    ),
    Mutant(
        "chain-forgets-what-it-had", "a signal with an id is received once by a chain", "engine/finder.py",
        '        if message.id in execution.seen or (is_update and f"{SEEN_UPDATE}{message.id}" in execution.seen):\n            return None  # an earlier run of the chain had it\n',
        '',
        f"{_ASYNCIO} -k messages_of_its_own",
    ),
    Mutant(
        "unread-signals-lost", "continue_as_new loses no signal", "workflow/execution.py",
        "            carried = tuple((name, *item) for name, buffer in sorted(self._signals.items()) for item in buffer)",
        "            carried: Any = ()",
        f"{_FOUND} -k more_than_it_reads",
    ),
    Mutant(
        "cancellation-ignored", "cancellation is final", "workflow/execution.py",
        "            self._root.cancel(entry.reason)", "            pass",
        f"{_PROMISES} -k final",
    ),
    Mutant(
        "cancellation-of-the-ended-accepted", "cancellation is final", "engine/desk.py",
        'the cancellation waits: {error}") from error\n        _check_parent(live.row, message)\n        if live.execution.finished:\n            raise ended(message.run_id)\n',
        'the cancellation waits: {error}") from error\n        _check_parent(live.row, message)\n',
        f"{_PROMISES} {_LINEAR} -k 'final or start_by_id'",
    ),
    Mutant(
        "parent-close-ignored", "children end with their parents", "engine/closing.py",
        '            if policy == "cancel":', '            if policy == "never":',
        f"{_ASYNCIO} -k cancelled_with_its_parent",
    ),
    Mutant(
        "early-end-of-a-child-lost", "the end of a child reaches its parent", "engine/errands.py",
        "        if early is not None:\n            await self._starter.child_ended(*early)", "",
        f"{_PROMISES} -k may_end_before",
    ),
    Mutant(
        "one-attempt-too-many", "no more attempts than allowed, no sleep after the last", "workflow/retry.py",
        "attempt >= self.max_attempts", "attempt > self.max_attempts",
        "tests/engine/test_activities.py -k back_off",
    ),
    Mutant(
        "late-result-counts", "a step has one outcome", "engine/steps.py",
        "        if step.done or live.dropped or pending is None:", "        if live.dropped or pending is None:",
        f"{_PROMISES} -k late_result",
    ),
    Mutant(
        "run-numbers-start-anew", "run numbers are never used twice", "engine/engine.py",
        "return (self._ownership.session << 40) | self._counter", "return self._counter",
        f"{_PROMISES} -k run_numbers",
    ),
    Mutant(
        "message-dropped-before-its-effect", "a message in an inbox is not lost", "engine/mail.py",
        "        reply = m.Reply()\n        effect =",
        "        partition.batch().delete(key)\n        await asyncio.sleep(0.01)\n        reply = m.Reply()\n        effect =",
        _SIM,
    ),
    Mutant(
        "message-kept-after-its-effect", "a message is gone with its effect", "engine/mail.py",
        "        batch.delete(self._key)\n", "",
        "tests/engine/test_edges.py -k two_clients",
    ),
    Mutant(
        "end-without-notice", "the end of a child reaches its parent", "engine/closing.py",
        "entry)\n        self._deliver(live, notices)\n", "entry)\n",
        f"{_SHAPES} -k out_of_memory",
    ),
    Mutant(
        "waiting-runs-counted", "a restart does not count against a run that waits", "engine/host.py",
        "        batch.delete(active_key(index, live.number))\n", "",
        "tests/engine/test_recovery.py -k waiting_runs_survive",
    ),
    Mutant(
        "quarantine-never", "a run that kills its process is quarantined", "engine/recovery.py",
        "        if count >= self.bound:", "        if count >= 10**9:",
        "tests/engine/test_recovery.py -k killing",
    ),
    Mutant(
        "progress-does-not-count", "a run that makes progress is not quarantined", "engine/host.py",
        '            batch.put(active_key(live.partition.index, live.number), b"")\n        key = journal_key', "        key = journal_key",
        f"{_PROMISES} -k progress",
    ),
)  # fmt: skip

_OWNERSHIP = (
    Mutant(
        "takeover-before-the-lease", "one owner", "engine/ownership.py",
        "now - seen[2] >= max(owner.lease, self.lease)", "now - seen[2] >= 0",
        f"{_PROMISES} -k lease", core=True,
    ),
    Mutant(
        "lease-by-the-wall-clock", "wall clocks are never compared", "engine/ownership.py",
        "        now = self._clock.monotonic()\n        seen", "        now = self._clock.now() / 1_000_000\n        seen",
        f"{_PROMISES} -k lease",
    ),
    Mutant(
        "takeover-never", "an owner that is gone is replaced", "engine/ownership.py",
        "now - seen[2] >= max(owner.lease, self.lease)", "False",
        f"{_PROMISES} -k lease",
    ),
    Mutant(
        "epoch-not-raised", "the store refuses an old epoch", "engine/ownership.py",
        "partition_key(claim.index), claim.epoch + 1", "partition_key(claim.index), max(claim.epoch, 1)",
        f"{_PROMISES} -k lease",
    ),
    Mutant(
        "claims-without-a-version", "two claims of one partition do not both win", "engine/ownership.py",
        "pack_claim(epoch, self._alive())).require_version(key, claim.version)", "pack_claim(epoch, self._alive()))",
        f"{_PROMISES} -k both_win",
    ),
)  # fmt: skip

_COMMITS = (
    Mutant(
        "epoch-not-required", "the store refuses an old epoch", "store/committer.py",
        "            if held != epoch:", "            if False:",
        f"{_STORE} -k requirements", core=True,
    ),
    Mutant(
        "absence-not-required", "a run is started once", "store/committer.py",
        "            if self._get(key) is not None:", "            if False:",
        f"{_LINEAR} -k start_by_id_is_linearizable", core=True,
    ),
    Mutant(
        "version-not-required", "nobody's change is lost", "store/committer.py",
        "            if (row[1] if row else 0) != version:", "            if False:",
        f"{_STORE} -k requirements",
    ),
    Mutant(
        "own-claim-not-noticed", "the store refuses an old epoch", "store/committer.py",
        '                self._epochs.pop(int.from_bytes(key[1:3], "big"), None)', "                pass",
        f"{_PROMISES} -k lease",
    ),
    Mutant(
        "claim-of-another-process-not-noticed", "the store refuses an old epoch", "store/committer.py",
        "        if changed:\n            self._forget()\n", "        if changed:\n            self._counters.clear()\n",
        "tests/engine/test_owners.py -k stopped_owner",
    ),
    Mutant(
        "counter-remembered-after-a-failure", "a log has no gaps", "store/committer.py",
        "        self._forget()  # it may be of rows that are not there now\n", "        self._epochs.clear()\n",
        f"{_FAILURES} -k 'fault_at_any and sqlite'",
    ),
    Mutant(
        "counter-remembered-beside-others", "no number is given twice", "store/committer.py",
        "        if changed:\n            self._forget()\n", "        if changed:\n            self._epochs.clear()\n",
        f"{_STORE} -k two_who_append",
    ),
    Mutant(
        "counter-remembered-though-overwritten", "the last word on a key counts", "store/committer.py",
        "            if key in counters:\n                del counters[key]\n", "",
        f"{_STORE} -k counted_elsewhere",
    ),
    Mutant(
        "acknowledged-before-commit", "nothing is acknowledged before it is durable", "store/committer.py",
        "                outcomes = self._write_group(group, last=not running)\n",
        "                self._notify([(done, 1) for _, done in group])\n"
        "                outcomes = self._write_group(group, last=not running) and []\n",
        f"{_PROMISES} -k acknowledged", core=True,
    ),
    Mutant(
        "conflict-hurts-neighbours", "one batch's conflict does not touch another", "store/committer.py",
        "                self.stats.conflicts += 1\n                outcomes.append((done, error))\n",
        "                self.stats.conflicts += 1\n                outcomes = [(done, error) for _, done in group]\n                break\n",
        f"{_STORE} -k requirements",
    ),
    Mutant(
        "loop-that-never-gives-way", "a loop that never rests starves no commit and no read", "store/patience.py",
        "                pause(_GAP)", "                pass",
        f"{_FAILURES} -k stands_still",
    ),
    Mutant(
        "damaged-salt-ends-the-log", "damaged bytes are refused, named, or change nothing", "store/wal.py",
        "        if stray is not None and all(self._is_whole(i) for i in range(kept, stray + 1)):\n", "        if False:\n",
        "tests/store/test_damage.py -k salt",
    ),
    Mutant(
        "poisoned-handle-used-again", "after a failed sync the handle is not used again", "store/committer.py",
        "            self._backend.reopen()\n", "            pass\n",
        f"{_FAILURES} -k failed_sync",
    ),
    Mutant(
        "hole-behind-a-failure", "what was built on a batch that failed fails with it", "store/committer.py",
        "        self._holding = self._failed is not None and self.resumes and not self._closed\n",
        "        self._failed = None\n",
        f"{_FAILURES} -k 'before_a_failure_was_known and sqlite'",
    ),
    Mutant(
        "waiting-batches-kept-after-a-failure", "what was built on a batch that failed fails with it", "store/committer.py",
        "        items, self._ready, self._ready_rows, self._turn = self._ready + self._turn, [], 0, []\n",
        "        items: list[Item] = []\n        self._loop.call_soon(self._push)\n",
        f"{_FAILURES} -k 'before_a_failure_was_known and sqlite'",
    ),
    Mutant(
        "epochs-of-a-failed-group-kept", "the store refuses an old epoch", "store/committer.py",
        "        self._forget()  # it may be of rows that are not there now\n", "        self._counters.clear()\n",
        f"{_FAILURES} -k epochs_of_a_group",
    ),
    Mutant(
        "engine-goes-on-after-a-failure", "an engine writes nothing after a batch that failed", "engine/engine.py",
        "            store.stop_at_failure()\n", "",
        "tests/engine/test_backends.py -k stops_at_the_first",
    ),
    Mutant(
        "range-delete-not-in-order", "batches apply in their order", "store/committer.py",
        "            self.flush()\n            self._counters.clear()\n            self._backend.delete_range(start, end)\n        changes",
        "            self._backend.delete_range(start, end)\n        changes",
        f"{_STORE} -k range_delete",
    ),
    Mutant(
        "feed-out-of-order", "watchers see changes in their order", "store/committer.py",
        'overlay[FEED.key(revision.to_bytes(8, "big"))]', 'overlay[FEED.key((revision ^ 3).to_bytes(8, "big"))]',
        f"{_STORE} -k watchers_see",
    ),
    Mutant(
        "merge-without-the-overlay", "batches apply in their order", "store/committer.py",
        '                old = self._get(key)\n            except RowDamaged:\n                if key not in logs:',
        '                old = self._backend.get(key)\n            except RowDamaged:\n                if key not in logs:',
        f"{_STORE} -k merges",
    ),
    Mutant(
        "queue-dropped-on-close", "closing writes what is queued", "store/committer.py",
        "        if self._turn:\n            self._flush()\n        self._holding = False\n        self._push()\n        self._closed = True",
        "        self._closed = True",
        f"{_STORE} -k closing_writes",
    ),
    Mutant(
        "never-synced", "full: acknowledged once the disk has it", "store/sqlite.py",
        "PRAGMA synchronous={'FULL' if sync else 'NORMAL'}", "PRAGMA synchronous=OFF",
        "tests/chaos/test_trials.py -k 'breaks and power'",
    ),
    Mutant(
        "checksum-not-compared", "damaged data is detected", "journal/entries.py",
        ".to_bytes(_CHECKSUM, \"big\") != frame[-_CHECKSUM:]:\n        raise StoreCorrupt(f\"the journal entry at {key.hex()} is damaged",
        ".to_bytes(_CHECKSUM, \"big\") == b\"\":\n        raise StoreCorrupt(f\"the journal entry at {key.hex()} is damaged",
        f"{_PROMISES} -k flipped_letter", core=True,
    ),
    Mutant(
        "hole-in-a-journal-not-noticed", "damaged data is detected", "engine/rows.py",
        "        if key != journal_key(number, position):", "        if False:",
        f"{_PROMISES} -k damaged",
    ),
)  # fmt: skip

_BACKENDS = (
    Mutant(
        "lmdb-forgets-what-was-before-the-map-grew", "a batch applies as a whole", "store/lmdb.py",
        "                for step in self._steps:\n", "                for step in self._steps[-1:]:\n",
        "tests/store/test_processes.py -k map_grows",
    ),
    Mutant(
        "lmdb-bell-before-it-can-be-read", "a watcher hears of every commit", "store/lmdb.py",
        "            with self._env.begin() as txn:\n                return txn.id()\n",
        "            return int(self._env.info()[\"last_txnid\"])\n",
        "tests/store/test_processes.py -k never_rings_before",
    ),
    Mutant(
        "long-keys-not-sorted", "scans are in the order of keys", "store/longkeys.py",
        "            if group and place[:direct] != beginning:\n                yield from sorted(group, reverse=reverse)",
        "            if group and place[:direct] != beginning:\n                yield from group",
        "tests/store/test_conformance.py -k 'TestLmdb and order_of_bytes'",
    ),
    Mutant(
        "lmdb-scan-ends-at-a-long-key", "scans are in the order of keys", "store/longkeys.py",
        "return found + self._any(txn, place[:direct], end, reverse=False, limit=left)", "return found",
        "tests/store/test_damage_elsewhere.py -k short_and_long_keys",
    ),
    Mutant(
        "rocksdb-forgets-what-it-wrote", "a transaction reads its own writes", "store/rocksdb.py",
        "            self._rows.update([(row[0], row) for row in rows])\n", "            pass\n",
        "tests/store/test_damage_elsewhere.py -k wrote_itself",
    ),
    Mutant(
        "large-batches-tell-nobody", "watchers see each change", "store/committer.py",
        "return [(key, value, None) for key, value in rows.items() if key[0] >= WATCHED]", "return []",
        "tests/store/test_conformance.py -k large_batches",
    ),
    Mutant(
        "large-batches-delete-nothing", "a batch applies as a whole", "store/committer.py",
        "[key for key, value in rows.items() if value is None] if len(put) < len(rows) else []", "[]",
        "tests/store/test_conformance.py -k large_batches",
    ),
    Mutant(
        "large-batches-leave-old-owners", "fenced owners write nothing", "store/committer.py",
        "        self._epochs.clear()  # to read them again costs less than to look here for partitions\n", "",
        "tests/store/test_conformance.py -k large_batches",
    ),
    Mutant(
        "earlier-seals-count-as-damage", "stores of earlier versions open", "store/seal.py",
        "            or (_earlier_checksum(key, 0) == named and _earlier_checksum(value, named ^ _folded(version)) == whole)\n", "",
        "tests/golden",
    ),
    Mutant(
        "sqlite-does-not-wait-at-opening", "processes may open a store at once", "store/sqlite.py",
        "            if time.monotonic() > deadline:\n                raise\n            pause(0.001)\n", "            raise\n",
        "tests/store/test_store.py -k new_file",
    ),
    Mutant(
        "scans-do-not-check-values", "damaged data is detected", "store/seal.py",
        "            is_as_written = checksum(key, 0) == named and checksum(value, named ^ version % prime) == whole",
        "            is_as_written = checksum(key, 0) == named",
        "tests/store/test_damage_elsewhere.py -k seal_of_another_length",
    ),
    Mutant(
        "quiet-watchers-never-hurry-again", "changes between processes come soon", "store/store.py",
        "self._heard, self._heard_at = heard, self._clock.monotonic()", "self._heard = heard",
        "tests/store/test_processes.py -k looks_less_often",
    ),
    Mutant(
        "fsck-passes-over-lost-events", "damaged data is detected", "events/durable/fsck.py",
        "        first = max(before, state.compacted) + 1\n", "        first = offset\n",
        "tests/events/durable/test_fsck.py -k gone",
    ),
    Mutant(
        "fsck-takes-compacted-events-for-lost", "fsck is silent over what is sound", "events/durable/fsck.py",
        "        first = max(before, state.compacted) + 1\n", "        first = before + 1\n",
        "tests/events/durable/test_fsck.py -k what_topics_leave",
    ),
    Mutant(
        "fsck-believes-cursors", "damaged data is detected", "events/durable/fsck.py",
        "        if newest is not None and offset > newest:\n", "        if False:\n",
        "tests/events/durable/test_fsck.py -k ahead",
    ),
    Mutant(
        "closed-store-keeps-its-snapshots", "a closed store holds nothing", "store/store.py",
        "            view.dispose()\n        if self._connection", "            pass\n        if self._connection",
        "tests/store/test_store.py -k closes_its_snapshots",
    ),
    Mutant(
        "rocksdb-iterator-in-two-threads", "a read gives its own rows", "store/rocksdb.py",
        "        self.lock = threading.Lock()\n", "        self.lock = contextlib.nullcontext()\n",
        "tests/store/test_store.py -k disturb_each_other",
    ),
    Mutant(
        "rocksdb-view-not-published", "readers see what is committed", "store/rocksdb.py",
        "        self._view = self._viewed()\n        self._lazy = ",
        "        self._lazy = ",
        "tests/store/test_conformance.py -k 'TestRocksdb and applies_as_a_whole'",
    ),
    Mutant(
        "rocksdb-damaged-block-ends-a-scan", "damaged data is detected", "store/rocksdb.py",
        "    iterator.status()\n    return found", "    return found",
        "tests/store/test_damage_elsewhere.py -k 'flipped_bits and rocksdb'",
    ),
    Mutant(
        "rocksdb-log-cut-at-its-damage", "damage in the middle of a log is refused", "store/rocksdb.py",
        "        if lost and not self._was_lazy():", "        if False:",
        "tests/store/test_damage_elsewhere.py -k damaged_in_the_middle",
    ),
    Mutant(
        "copy-not-compared", "a copy holds what its source holds", "store/copy.py",
        "    if found != wanted:", "    if False:",
        "tests/store/test_copy.py -k differs",
    ),
)  # fmt: skip

_HOSTED = (
    Mutant(
        "refused-event-written",
        "a hosted machine refuses before anything is written",
        "hosted/execution.py",
        "        if not turn.handled and self.chart.options.strict and entry.name != ENVELOPE:",
        "        if not turn.handled and self.chart.options.strict and entry.name == ENVELOPE:",
        f"{_HOSTED_TESTS} -k strict",
    ),
    Mutant(
        "timer-stretched-by-trim",
        "no timer of a hosted machine is early, lost or late by a trim",
        "hosted/begin.py",
        "    return restored(kind.chart, whole), waiting\n",
        "    return restored(kind.chart, whole), [Waiting(each.due + 1, each.wanted) for each in waiting]\n",
        "tests/hosted/test_versions.py -k trimmed",
    ),
    Mutant(
        "ids-forgotten-by-trim",
        "an event with an id is taken once, over trims",
        "hosted/execution.py",
        "        seen = (*self.started.seen, *self.signal_ids)[-SEEN:]",
        "        seen = ()",
        f"{_HOSTED_TESTS} -k taken_once",
    ),
    Mutant(
        "snapshot-not-compared",
        "replaying a machine's log gives the stored snapshot",
        "hosted/execution.py",
        "            self._check_snapshot(entry)\n",
        "",
        f"{_HOSTED_LAWS} -k snapshot",
        core=True,
    ),
    Mutant(
        "parked-timer-not-moved",
        "a parked machine wakes for the timer that its last event set",
        "engine/host.py",
        "        if key == live.timer_key:\n            return\n",
        "        if live.timer_key is not None:\n            return\n",
        f"{_HOSTED_TESTS} -k every_goes_on",
    ),
    Mutant(
        "left-child-heard",
        "nothing of a child whose state was left is taken",
        "hosted/execution.py",
        "        if event is not None and self._effects.is_stale(event):\n",
        "        if False:\n",
        f"{_HOSTED_CHILDREN} -k left_is_not_taken",
    ),
    Mutant(
        "handed-on-event-lost",
        "an event of one child reaches another to whom it is handed on",
        "hosted/effects.py",
        '        if event.invokeid is None or not origin.startswith((f"{mine}.", f"{mine}~")):\n',
        "        if event.invokeid is None:\n",
        f"{_HOSTED_CHILDREN} -k forwarded_to_another",
    ),
    Mutant(
        "finalized-context-not-kept",
        "a hosted machine stands where its journal leads, whatever failed in between",
        "hosted/turn.py",
        "        if steps or finalized:\n",
        "        if steps:\n",
        f"{_HOSTED_CHILDREN} -k finalize",
    ),
    Mutant(
        "failed-event-spoils-the-context",
        "a hosted machine stands where its journal leads, whatever failed in between",
        "hosted/execution.py",
        "        if self._kept is not None:  # what failed",
        "        if False:  # what failed",
        f"{_HOSTED_TESTS} -k whatever_fails",
    ),
    Mutant(
        "one-list-in-two-places-lives-on",
        "a hosted machine stands where its journal leads, whatever failed in between",
        "codec/exact.py",
        "    if id(value) in seen:\n        return False\n",
        "",
        f"{_HOSTED_TESTS} -k nothing_lives",
    ),
    Mutant(
        "beginning-redacted-as-bytes",
        "no rule of redaction breaks what a machine is made of",
        "hosted/type.py",
        "        found = BeginParameters(",
        "        found = Parameters(",
        f"{_HOSTED_REDACTION} -k breaks",
    ),
    Mutant(
        "context-redacted-at-the-trim",
        "what a machine sees is what is stored",
        "hosted/turn.py",
        "shape.annotation is Any and self._codec.redaction is None and is_plain_tree",
        "shape.annotation is Any and is_plain_tree",
        f"{_HOSTED_REDACTION} -k guards",
    ),
    Mutant(
        "early-stop-forgotten",
        "leaving a state cancels its child, begun or not",
        "hosted/effects.py",
        "        if self.child.stopped:\n            self.effects.cancel(self.child)\n",
        "",
        f"{_HOSTED_CHILDREN} -k leaving",
    ),
    Mutant(
        "answer-from-the-present",
        "an event that is asked twice is answered twice the same",
        "engine/desk.py",
        "                stored.entries = stored.entries[: found + 1]\n",
        "",
        f"{_HOSTED_TESTS} -k taken_once",
    ),
)
_STATE = (
    Mutant(
        "reads-not-required", "transactions are serializable", "state/transaction.py",
        "            batch.require_version(key, version)\n", "            pass\n",
        f"{_STATE_TESTS}/test_transactions.py -k 'lost_transaction'",
    ),
    Mutant(
        "phantoms", "transactions are serializable", "state/transaction.py",
        "            batch.require_unchanged(start, end, seen)\n", "            pass\n",
        f"{_STATE_TESTS}/test_transactions.py -k 'lost_transaction or skew'",
    ),
    Mutant(
        "half-of-another-transaction-seen", "the reads of a transaction are of one moment", "state/look.py",
        "        broken = look.held.broken(reader)\n", "        broken = None\n",
        f"{_STATE_TESTS}/test_transactions.py -k 'half or fit_together'",
    ),
    Mutant(
        "swept-though-written-anew", "expiry deletes nothing that was written since", "state/sweeper.py",
        "        batch.require_version(self.target, self.version)\n", "",
        f"{_STATE_TESTS}/test_expiry.py -k never_deletes",
    ),
    Mutant(
        "zero-byte-not-escaped", "no key reaches another's place", "state/keys.py",
        'b"\\x02" + key.encode().replace(_END, _ESCAPED_ZERO) + _END', 'b"\\x02" + key.encode() + _END',
        f"{_STATE_TESTS}/test_keys.py",
    ),
    Mutant(
        "merge-done-twice", "a merge with an id is done once", "state/rows.py",
        "        batch.require_absent(operation.key).put(", "        batch.put(",
        f"{_STATE_TESTS}/test_merges.py -k do_not_conflict",
    ),
    Mutant(
        "resumed-in-the-middle", "a watch that resumes loses nothing", "state/watching.py",
        "change.revision if is_last else change.revision - 1", "change.revision",
        f"{_STATE_TESTS}/test_watch.py -k in_part",
    ),
    Mutant(
        "old-value-not-kept", "a rollback is byte-equal", "state/migration.py",
        "batch.put(key, changed).put(ASIDE.key(key), row)", "batch.put(key, changed).put(ASIDE.key(key), changed)",
        f"{_STATE_TESTS}/test_migrations.py -k byte_equal",
    ),
)  # fmt: skip

_TOPICS = (
    Mutant(
        "key-not-waited-for", "events of a key go one after the other", "events/durable/lane.py",
        "        return entry.key is None or self._keys[entry.key][0] is entry", "        return True",
        f"{_GROUPS}/test_laws.py",
    ),
    Mutant(
        "suspect-not-alone", "an event that kills its consumer takes no other one with it", "events/durable/holding.py",
        "            if self.out:\n                return []\n", "",
        f"{_GROUPS}/test_laws.py",
    ),
    Mutant(
        "first-loss-counted", "a crash costs an event that nobody had no attempt", "events/durable/lane.py",
        "pending.attempts - (pending.out and pending.losses < SUSPICIOUS)", "pending.attempts",
        f"{_GROUPS}/test_groups.py -k goes_alone",
    ),
    Mutant(
        "claim-not-required", "a consumer that slept beyond its lease acknowledges nothing", "events/durable/holding.py",
        "            batch.require_version(claim_key(self.topic, self.group, partition), held.version)\n", "",
        f"{_GROUPS}/test_groups.py -k slept",
    ),
    Mutant(
        "ack-before-it-is-durable", "an acknowledgement is durable when it returns", "events/durable/consumer.py",
        "        if self._options.ack_within:\n", "        if self._options.ack_within >= 0:\n",
        f"{_GROUPS}/test_groups.py -k durable_when",
    ),
    Mutant(
        "window-not-looked-at", "an id comes in once within its window, and again after it", "events/durable/dedup.py",
        "            if expiry > self._now:", "            if expiry:",
        f"{_GROUPS}/test_topics.py -k within_its_window",
    ),
    Mutant(
        "letter-replayed-twice", "a dead letter is replayed once, whoever asks", "events/durable/dead.py",
        "batch.require_version(key, version).delete(key)", "batch.delete(key)",
        f"{_GROUPS}/test_dead.py -k replay_delivers",
    ),
    Mutant(
        "retention-beyond-groups", "what a group has not finished is kept", "events/durable/sweep.py",
        "        to = min(to, ground.bound)\n", "",
        f"{_GROUPS}/test_sweep.py -k slowest",
    ),
    Mutant(
        "waiting-key-holds-up-the-others", "a key that waits holds up no other one", "events/durable/lane.py",
        "self._may_go_now < ahead", "len(self.entries) - self.out < ahead",
        f"{_GROUPS}/test_attacked.py -k waits_long",
    ),
    Mutant(
        "flush-misses-what-is-under-way", "what was acknowledged before a flush is durable after it", "events/durable/consumer.py",
        "            if held.writing and held not in changed:", "            if False:",
        f"{_GROUPS}/test_attacked.py -k flush",
    ),
    Mutant(
        "whole-pages-retired", "retention deletes no more than it must", "events/durable/sweep.py",
        "_too_big([each for each in rows if each[0] <= last], left)", "last, left",
        f"{_GROUPS}/test_attacked.py -k bytes_deletes",
    ),
    Mutant(
        "pattern-reader-not-told", "a reader whose events are gone is told", "events/durable/subscription.py",
        "        _require_kept(_trimmed(reader, wanted), began, cursor)\n", "",
        f"{_GROUPS}/test_attacked.py -k is_told",
    ),
    Mutant(
        "offsets-begin-anew", "an offset of a deleted event is never that of another one", "events/durable/deletion.py",
        "                batch.put(log_key(topic), _number(newest))\n", "                pass\n",
        f"{_GROUPS}/test_deletion.py -k whole",
    ),
    Mutant(
        "offsets-turned-back", "an offset of a deleted event is never that of another one", "events/durable/deletion.py",
        "        batch.require_unchanged(*rows_of(Spaces.GROUPS, topic), _NOTHING)\n        for key, version in rows:\n",
        "        batch.put(log_key(topic), _number(newest))\n        for key, version in rows:\n",
        f"{_GROUPS}/test_deletion.py -k comes_late",
    ),
    Mutant(
        "offsets-of-an-earlier-build-forgotten", "no offset is given twice", "store/committer.py",
        "            return value or (value_of(logs[key]) if logs.get(key, key) != key else value)\n", "            return value\n",
        f"{_GROUPS}/test_topics.py -k earlier_build",
    ),
    Mutant(
        "ids-outlive-their-topic", "an event of a new topic is not taken for one that was deleted", "events/durable/deletion.py",
        "            await _forget_ids(store, topic, ground.newest)\n", "",
        f"{_GROUPS}/test_deletion.py -k whole",
    ),
    Mutant(
        "deleted-under-the-hands-of-a-consumer", "nothing is deleted that a consumer has", "events/durable/deletion.py",
        '    if ground.left:\n        raise TopicError',
        '    if False:\n        raise TopicError',
        f"{_GROUPS}/test_deletion.py -k with_consumers",
    ),
    Mutant(
        "cursor-loses-its-commit", "from a cursor exactly the later events follow", "events/durable/subscription.py",
        "cursor.revision if topic < cursor.topic else cursor.revision - 1", "cursor.revision",
        f"{_GROUPS}/test_topics.py -k order_of_their_commits",
    ),
    Mutant(
        "logs-cut-at-their-first-page", "a pattern gives every event, in the order of their commits", "events/durable/subscription.py",
        "        if len(found) < size and found[-1].revision >= newest:\n            return\n", "        return\n",
        f"{_GROUPS}/test_timeline.py -k one_order",
    ),
    Mutant(
        "timeline-without-its-origin", "a timeline has the event whose own id it is", "events/durable/subscription.py",
        "(record.correlation, record.id, run", "(record.correlation, run",
        f"{_GROUPS}/test_timeline.py -k over_all_topics",
    ),
    Mutant(
        "timeline-of-whoever-ends-alike", "a timeline has what the run of the id has published", "events/durable/subscription.py",
        'source.split("/", 2)', 'source.rsplit("/", 2)',
        f"{_GROUPS}/test_timeline.py -k run_of_the_id",
    ),
    Mutant(
        "timeline-passes-over-damage", "damaged data is detected", "events/durable/subscription.py",
        "        return record is None or correlation", "        return record is not None and correlation",
        f"{_GROUPS}/test_timeline.py -k stops_at_a_damaged",
    ),
    Mutant(
        "locks-dropped-by-a-look", "an open store is seen as open by other processes", "store/handles.py",
        "        if key in _USERS:", "        if False:",
        "tests/store/test_handles.py",
    ),
)  # fmt: skip

_EVENTS = (
    Mutant(
        "lag-counted-short", "a lag is exact", "events/subscription.py",
        "        missed = end - self.cursor - keep\n", "        missed = end - self.cursor - keep - 1\n",
        f"{_BROADCAST} -k by_the_policy", core=True,
    ),
    Mutant(
        "overwritten-before-the-buffer-is-full", "up to the buffer nothing is left out", "events/ring.py",
        "items = items[-(self._limit // 2) :]", "items = items[-(self._limit // 2) + 2 :]",
        f"{_BROADCAST} {_RANDOM} -k 'by_the_policy or gives_or_counts'",
    ),
    Mutant(
        "wake-up-of-a-cancelled-one-lost", "no wake-up is lost", "events/channel/operation.py",
        "                await waiter.sleep()\n        except BaseException:\n            _delist(operations, waiter)\n            _nudge(operations)\n",
        "                await waiter.sleep()\n        except BaseException:\n            _delist(operations, waiter)\n",
        f"{_CHANNEL} -k cancelled", core=True,
    ),
    Mutant(
        "wake-up-of-a-failing-select-lost", "no wake-up is lost", "events/channel/operation.py",
        "    except BaseException:\n        if woken:\n            _nudge(operations)\n        raise\n", "    except BaseException:\n        raise\n",
        f"{_CHANNEL} -k fails_passes",
    ),
    Mutant(
        "lock-kept-by-an-interrupt", "an interrupt leaves a bus whole", "events/ring.py",
        "            with contextlib.suppress(RuntimeError):\n                lock.release()\n            raise\n", "            raise\n",
        f"{_INTERRUPTED} -k whole",
    ),
    Mutant(
        "end-not-counted-anew", "an interrupt leaves a bus whole", "events/ring.py",
        "                self.end = end + 1\n", "                self.end += 1\n",
        f"{_INTERRUPTED} -k whole",
    ),
    Mutant(
        "sleepers-forgotten-by-an-interrupt", "an interrupt leaves a bus whole", "events/ring.py",
        "            self.sleeping = []\n            for waiter in sleeping:\n                waiter.claim()\n                waiter.notify()\n            raise\n",
        "            raise\n",
        f"{_INTERRUPTED} -k whole",
    ),
    Mutant(
        "room-not-looked-for-again", "no wake-up is lost", "events/ring.py",
        "        while self.waiting and (self.closed or self.has_room()):\n", "        while False:\n",
        f"{_BROADCAST} -k 'wait_for_one or who_leaves or cancelled_sender'",
    ),
    Mutant(
        "interrupted-reader-counts-twice", "an interrupt leaves a bus whole", "events/ring.py",
        " and all(each.cursor >= self.end for each in self._readers):", ":",
        f"{_INTERRUPTED} -k takes_nothing",
    ),
    Mutant(
        "room-not-told-before-sleep", "an interrupt leaves a bus whole", "events/ring.py",
        "        if self.waiting:\n            self.room_freed()  #", "        if False:\n            self.room_freed()  #",
        f"{_INTERRUPTED} -k keeps_no_other",
    ),
    Mutant(
        "damaged-counter-answered-from-memory", "damaged data is detected", "store/committer.py",
        "            self._counters.pop(key, None)  # what is", "            pass  # what is",
        "tests/store/test_damage_elsewhere.py -k while_it_is_remembered",
    ),
    Mutant(
        "head-of-an-empty-log-unknown", "damage hits nobody else", "events/durable/reading.py",
        " or swept(reader, topic).trimmed\n", "\n",
        f"{_GROUPS}/test_attacked.py -k without_events",
    ),
    Mutant(
        "half-published", "an event goes to all it belongs to, or to none", "events/hand_over.py",
        "and not ring.has_room():\n                return ring\n",
        "and not ring.has_room():\n                return ring\n            ring.append(item)\n",
        f"{_BUS} -k waits_for_all",
    ),
    Mutant(
        "select-takes-the-first", "select is fair", "events/channel/select.py",
        "        order = list(range(count))\n", "        return list(range(count))\n        order = list(range(count))\n",
        f"{_CHANNEL} -k fair", core=True,
    ),
    Mutant(
        "lower-levels-starve", "no priority starves", "events/channel/priority.py",
        "chosen = longest if longest.passed_over >= self._patience else filled[0]", "chosen = filled[0]",
        f"{_CHANNEL} -k starves",
    ),
    Mutant(
        "offer-of-one-that-is-gone", "a cancelled send has sent nothing", "events/channel/rendezvous.py",
        "                if not waiter.claim():\n                    continue\n", "                waiter.claim()\n",
        f"{_CHANNEL} -k woken_elsewhere",
    ),
    Mutant(
        "taken-in-the-dark", "a cancelled recv takes nothing", "events/channel/channel.py",
        "            if self._items or self._closed:\n                return False\n            enlist(self._receivers",
        "            if self._closed:\n                return False\n            enlist(self._receivers",
        f"{_CHANNEL} -k looks_once_more",
    ),
    Mutant(
        "stale-patterns", "a subscriber gets what its pattern covers", "events/pattern.py",
        "            (node.rest if tokens[-1] == REST else node.here)[value] = None\n            self.cached = {}\n",
        "            (node.rest if tokens[-1] == REST else node.here)[value] = None\n",
        f"{_BUS} -k index",
    ),
    Mutant(
        "once-and-again", "once is once", "events/emitter.py",
        "            if entry.removed:\n                return False\n            entry.removed = True\n", "            if entry.removed:\n                return False\n",
        "tests/events/test_emitter.py -k once",
    ),
)  # fmt: skip

_STREAMS = (
    Mutant(
        "source-left-open", "leaving closes everything upstream", "events/source.py",
        "        close = getattr(iterator, \"aclose\", None)\n", "        close = None\n",
        f"{_EVENT_FAILURES} -k 'leaving and map'", core=True,
    ),
    Mutant(
        "error-overtakes-items", "an error comes after what came before it", "events/buffer.py",
        "        self._entries.append(_Finished(task))\n", "        self._entries.appendleft(_Finished(task))\n",
        f"{_EVENT_FAILURES} -k what_is_held",
    ),
    Mutant(
        "read-ahead-without-bound", "a slow consumer holds the source back", "events/buffer.py",
        "        await self._room.acquire()\n", "        await asyncio.sleep(0)\n",
        f"{_EVENT_FAILURES} -k holds_the_source",
    ),
    Mutant(
        "batch-waits-for-ever", "a batch is held back no longer than it says", "events/timed.py",
        "(more := await feed.next(until), Nothing)", "(more := await feed.next(), Nothing)",
        "tests/events/test_operators.py",
    ),
)  # fmt: skip

_CARE = (
    Mutant(
        "value-not-bound-to-its-key", "a value that was moved to another key is damaged", "store/keyring.py",
        "        self._cipher: Any = AESGCM\n",
        "        class Unbound:\n            def __init__(self, key): self.cipher = AESGCM(key)\n"
        "            def encrypt(self, nonce, value, row): return self.cipher.encrypt(nonce, value, None)\n"
        "            def decrypt(self, nonce, value, row): return self.cipher.decrypt(nonce, value, None)\n"
        "        self._cipher: Any = Unbound\n",
        f"{_ENCRYPTED} -k moved",
    ),
    Mutant(
        "nonce-used-twice", "no nonce is used twice under one key", "store/keyring.py",
        "nonce = os.urandom(_NONCE_BYTES)", "nonce = bytes(_NONCE_BYTES)",
        f"{_ENCRYPTED} -k nonce",
    ),
    Mutant(
        "retired-key-still-seals", "after a rotation nothing is sealed with the old key", "store/encrypted.py",
        "        if changed or not self._judged:\n", "        if not self._judged:\n",
        f"{_ENCRYPTED} -k retired",
    ),
    Mutant(
        "retired-key-refused-once", "a process with a retired key is refused each time", "store/encrypted.py",
        "        if changed or not self._judged:\n", "        if changed:\n",
        f"{_ENCRYPTED} -k retired",
    ),
    Mutant(
        "forgotten-key-still-seals", "who slept through a rotation seals nothing with the old key", "store/encrypted.py",
        "    current = [key for key in every if", "    current = [key for key in keys if",
        f"{_ENCRYPTED} -k gone",
    ),
    Mutant(
        "increment-by-key-alone", "a chain of backups equals its source", "store/backup/making.py",
        "        same = self._next[1] == mark\n", "        same = True\n",
        f"{_BACKUP} -k chain",
    ),
    Mutant(
        "digest-of-a-backup-not-compared", "any flipped bit of a backup is found", "store/backup/blocks.py",
        "    if FileMark(size, digest.hexdigest()) != mark:\n", "    if False:\n",
        f"{_BACKUP} -k flipped",
    ),
    Mutant(
        "store-in-place-before-it-is-whole", "a kill while restoring leaves nothing or a whole store", "store/placing.py",
        "new, lock = place.with_name(place.name + _BUILDING), ", "new, lock = place, ",
        f"{_BACKUP} -k restored",
    ),
    Mutant(
        "lmdb-in-use-replaced", "a store in use is not replaced", "store/placing.py",
        "        return is_lmdb and _is_locked(place.with_name(place.name + \"-lock\"))  #", "        return False  #",
        f"{_BACKUP} -k in_use",
    ),
    Mutant(
        "backup-of-decrypted-rows", "a backup of an encrypted store is encrypted", "store/backup/making.py",
        "    if isinstance(reader, EncryptedReader):\n", "    if False:\n",
        f"{_BACKUP} -k encrypted",
    ),
    Mutant(
        "store-that-began-meanwhile-overwritten", "a restore never overwrites a store", "store/placing.py",
        "                _refuse(url, place, replace=replace)  # building takes long: somebody may have begun a store there meanwhile\n",
        "",
        f"{_BACKUP} -k begins_while",
    ),
    Mutant(
        "causes-not-redacted", "what is redacted is stored nowhere", "journal/failure.py",
        "self.cause.redacted(redaction) if self.cause is not None else None", "self.cause",
        "tests/engine/test_canary.py -k 'redaction_the_canary'",
    ),
    Mutant(
        "mended-row-set-aside", "a quarantine touches only what is damaged", "engine/quarantine.py",
        "            batch.require_damaged(finding.key)\n", "            pass\n",
        "tests/engine/test_fsck.py -k written_anew",
    ),
    Mutant(
        "lost-change-not-told", "watchers see every change or are told Lagged", "engine/quarantine.py",
        "        batch.put(FEED_FLOOR, number.to_bytes(8, \"big\"))\n", "        pass\n",
        "tests/engine/test_fsck.py -k watchers",
    ),
)  # fmt: skip

MUTANTS = (
    *_FOUND_BY_READERS,
    *_EFFECTS,
    *_REPLAY,
    *_ENGINE,
    *_OWNERSHIP,
    *_COMMITS,
    *_BACKENDS,
    *_HOSTED,
    *_STATE,
    *_TOPICS,
    *_EVENTS,
    *_STREAMS,
    *_CARE,
    *MACHINES,
)
