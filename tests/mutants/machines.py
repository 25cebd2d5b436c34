"""Owns the mutants of machines in memory and of actors.
It must never hold one that behaves like the original.
"""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_LAWS = "tests/machine/test_laws.py"
_ACTORS = "tests/machine/test_actors.py"
_INTERRUPTIONS = "tests/machine/test_interruptions.py"

MACHINES = (
    Mutant(
        "history-enters-what-was-not-left", "nothing is entered twice without being left", "machine/table.py",
        " or above in self.active:", ":",
        "tests/machine/test_running.py -k was_not_left",
    ),
    Mutant(
        "payload-not-seen-by-the-short-cut", "the short cut equals the full step", "machine/machine.py",
        "Event(event, data) if kind is str else event", "Event(event) if kind is str else event",
        f"{_LAWS} -k sees_each",
    ),
    Mutant(
        "raised-event-dropped-where-it-is-deferred", "a deferred event comes back", "machine/step.py",
        '        if not arrows and event.kind == "internal" and', '        if not arrows and event.kind == "none" and',
        f"{_INTERRUPTIONS} -k deferred_too",
    ),
    Mutant(
        "timer-without-the-lock", "one step at a time, whoever sends", "machine/host.py",
        "            with self.world.lock:\n                arrive()", "            arrive()",
        f"{_INTERRUPTIONS} -k hold_its_lock",
    ),
    Mutant(
        "stop-forgotten-by-a-failed-step", "a stop is not undone", "machine/machine.py",
        "        if self._host is not None and self._host.queue.remove(STOP):\n            self.stop()\n", "",
        f"{_INTERRUPTIONS} -k then_fails",
    ),
    Mutant(
        "mailbox-lost-in-a-restart", "no message is lost across a restart but the one that failed", "machine/actor.py",
        "        life, self._life = self._life, None\n",
        "        life, self._life = self._life, None\n        self._box.empty(self._stopped)\n",
        f"{_ACTORS} -k 'once_in_order or same_mailbox'",
    ),
    Mutant(
        "failed-message-handled-again", "a message is handled once", "machine/actor.py",
        "            await self._failed(error)\n        await self._look_after",
        "            self._box.add(letter)\n            await self._failed(error)\n        await self._look_after",
        f"{_ACTORS} -k 'same_mailbox or resume_goes_on'",
    ),
    Mutant(
        "newest-message-first", "messages are handled in order by sender", "machine/mailbox.py",
        "        letter = self._kept.popleft()\n", "        letter = self._kept.pop()\n",
        f"{_ACTORS} -k once_in_order",
    ),
    Mutant(
        "back-off-does-not-grow", "the n-th restart waits delay * factor ** (n - 1)", "machine/supervise.py",
        "self.factor ** min(number - 1, 64)", "self.factor ** min(number - number, 64)",
        f"{_ACTORS} -k back_off",
    ),
    Mutant(
        "restarts-never-forgotten", "only restarts within the window count", "machine/supervise.py",
        "            del self._timers[0]  # all have", "            return  # all have",
        f"{_ACTORS} -k back_off",
    ),
    Mutant(
        "siblings-ended-oldest-first", "all-for-one ends newest first and begins oldest first", "machine/supervise.py",
        "        for child in reversed(group):\n", "        for child in group:\n",
        f"{_ACTORS} -k all_for_one",
    ),
    Mutant(
        "children-outlive-their-parent", "a stop waits for children", "machine/actor.py",
        "            await self._family.stop()\n", "            pass\n",
        f"{_ACTORS} -k stop_waits",
    ),
    Mutant(
        "timers-outlive-their-life", "a timer of an old life never comes", "machine/life.py",
        "        for timer in list(self.timers):\n            timer.cancel()\n", "",
        f"{_ACTORS} -k sets_timers",
    ),
    Mutant(
        "withdrawn-timer-comes-all-the-same", "a timer that was withdrawn never comes", "machine/life.py",
        "        if alive is not None:\n            callback()", "        if alive is not None or callback:\n            callback()",
        f"{_ACTORS} -k sets_timers",
    ),
    Mutant(
        "failure-vanishes-at-the-root", "errors never vanish", "machine/system.py",
        "            self._fail(failed)\n\n    def new_name", "            log.error('%s', failed)\n\n    def new_name",
        f"{_ACTORS} -k root_interrupts",
    ),
)  # fmt: skip
