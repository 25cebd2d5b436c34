"""Owns the workflow that performs a program, with public verbs only, and the driver that sends what the program wants.
It must never do anything whose outcome depends on who comes first.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from spellwork import (
    Retry,
    Run,
    RunCancelled,
    RunFailed,
    Signal,
    activity,
    activity_context,
    continue_as_new,
    now,
    patched,
    random,
    rng,
    start_child,
    update,
    uuid4,
    workflow,
)
from spellwork.testing.shapes.program import Node, Program, bumped, signals_wanted, updates_wanted
from spellwork.workflow import ActivityContext

_FAST = Retry(max_attempts=5, initial=0.01, maximum=0.04)

observers: list[Callable[[ActivityContext], None]] = []
"""Called at the beginning of each attempt of each activity; a harness that counts effects listens here."""


def _observe() -> None:
    for observer in observers:
        observer(activity_context())


# Activities


@activity(name="shapes.bump", retry=_FAST)
async def bump(x: int) -> int:
    _observe()
    await asyncio.sleep(0)
    return bumped(x)


@activity(name="shapes.triple", retry=_FAST)
def triple(x: int) -> int:
    _observe()
    return 3 * x


@activity(name="shapes.flaky", retry=_FAST)
async def flaky(x: int, failures: int) -> list[int]:
    _observe()
    attempt = activity_context().attempt
    if attempt <= failures:
        raise ConnectionError(f"attempt {attempt} of step {x}")
    return [x, attempt]


@activity(name="shapes.hopeless", retry=Retry(max_attempts=2, initial=0.01))
async def hopeless(x: int) -> int:
    _observe()
    raise ValueError(f"failed {x}")


# Workflows


class _Stage:
    """What the nodes of one run share: what the updates have said, and the event that rings when one did."""

    def __init__(self, told: dict[str, int]):
        self.told = told
        self.rang = asyncio.Event()

    def tell(self, name: str, value: int) -> None:
        self.told[name] = value
        self.rang.set()
        self.rang = asyncio.Event()

    async def do(self, node: Node) -> Any:
        return await _KINDS[node[0]](self, *node[1:])


@workflow(name="shapes.perform")
async def perform(program: Program, stage: int = 0, done: list[Any] | None = None, told: dict[str, int] | None = None) -> list[Any]:
    """Perform one stage of a program, then go on as new with the next; returns one result a stage."""
    shared = _Stage(dict(told or {}))

    @update
    def put(name: str, value: int) -> int:
        shared.tell(name, value)
        return bumped(value)

    @update
    async def work(name: str, value: int) -> int:
        answer = await bump(value)
        shared.tell(name, value)
        return answer

    results = [*(done or []), await shared.do(program[stage])]
    if stage + 1 < len(program):
        continue_as_new(program, stage + 1, results, shared.told)
    return results


@workflow(name="shapes.doomed")
async def doomed(x: int) -> int:
    raise LookupError(f"doomed {await bump(x)}")


@workflow(name="shapes.sleeper")
async def sleeper(x: int) -> int:
    try:
        await asyncio.sleep(3600)
    finally:
        await bump(x)
    return x


word = Signal[int]("shapes.word")


@workflow(name="shapes.listener")
async def listener() -> list[int]:
    heard = await word.receive()
    return [heard, await bump(heard)]


WORKFLOWS: tuple[Any, ...] = (perform, doomed, sleeper, listener)
"""What an engine that performs programs registers."""


# Kinds of nodes


async def _step(_: _Stage, x: int) -> int:
    return await bump(x)


async def _plain(_: _Stage, x: int) -> int:
    return await triple(x)


async def _flaky(_: _Stage, x: int, failures: int) -> list[int]:
    return await flaky(x, failures)


async def _hopeless(_: _Stage, x: int) -> str:
    try:
        await hopeless(x)
    except ValueError as error:
        return str(error)
    return "no failure"


async def _withdrawn(_: _Stage, x: int) -> Any:
    task = asyncio.create_task(_step(_, x))
    await asyncio.sleep(0)
    task.cancel()
    try:
        return await task
    except asyncio.CancelledError:
        return "withdrawn"


async def _sequence(stage: _Stage, nodes: list[Node]) -> list[Any]:
    return [await stage.do(node) for node in nodes]


async def _gather(stage: _Stage, nodes: list[Node]) -> list[Any]:
    return await asyncio.gather(*(stage.do(node) for node in nodes))


async def _group(stage: _Stage, nodes: list[Node]) -> list[Any]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(stage.do(node)) for node in nodes]
    return [task.result() for task in tasks]


async def _comes(_: _Stage, xs: list[int]) -> list[int]:
    return sorted([await each for each in asyncio.as_completed([bump(x) for x in xs])])


async def _queue(_: _Stage, xs: list[int]) -> list[int]:
    queue: asyncio.Queue[int] = asyncio.Queue(1)

    async def produce() -> None:
        for x in xs:
            await queue.put(await bump(x))

    async def consume() -> list[int]:
        return [await queue.get() for _ in xs]

    return (await asyncio.gather(produce(), consume()))[1]


async def _lock(_: _Stage, xs: list[int]) -> list[int]:
    lock, log = asyncio.Lock(), []

    async def one(x: int) -> None:
        async with lock:
            log.append(await bump(x))

    await asyncio.gather(*(one(x) for x in xs))
    return log


async def _event(_: _Stage, x: int) -> list[int]:
    ready = asyncio.Event()

    async def wait() -> int:
        await ready.wait()
        return x

    waiting = asyncio.create_task(wait())
    value = await bump(x)
    ready.set()
    return [value, await waiting]


async def _sleep(_: _Stage, ms: int) -> int:
    await asyncio.sleep(ms / 1000)
    return ms


async def _race(_: _Stage, waits: list[int]) -> int:
    tasks = [asyncio.create_task(asyncio.sleep(ms / 1000, i)) for i, ms in enumerate(waits)]
    done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in rest:
        task.cancel()
    return min(task.result() for task in done)


async def _timeout(_: _Stage, limit: int, ms: int) -> str:
    try:
        async with asyncio.timeout(limit / 1000):
            await asyncio.sleep(ms / 1000)
    except TimeoutError:
        return "late"
    return "in time"


async def _shield(_: _Stage, x: int) -> list[Any]:
    async def inner() -> int:
        await asyncio.sleep(0.05)
        return await bump(x)

    task, said = asyncio.create_task(inner()), "in time"
    try:
        async with asyncio.timeout(0.02):
            await asyncio.shield(task)
    except TimeoutError:
        said = "timed out"
    return [said, await task]


async def _careful(_: _Stage, x: int, y: int) -> list[Any]:
    cleaned: list[Any] = []

    async def scope() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            cleaned.extend(["cleaned", await bump(y)])

    task = asyncio.create_task(scope())
    value = await bump(x)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return [value, cleaned]


async def _chance(_: _Stage) -> str:
    # what is drawn decides which commands are issued, but not what comes of them
    if random() < 0.5 or rng().choice("ab") == "b" or uuid4().int % 2:
        await bump(0)
    await asyncio.sleep(0.01 + now().microsecond % 3 / 100)
    return "chance"


async def _patched(stage: _Stage, patch: str, new: Node, old: Node) -> Any:
    return await stage.do(new if patched(patch) else old)


async def _child(_: _Stage, program: Program) -> list[Any]:
    return await perform(program)


async def _joined(_: _Stage, x: int, program: Program) -> list[Any]:
    child = await start_child(perform, program)
    return [await bump(x), await child]


async def _left(_: _Stage, program: Program) -> str:
    await start_child(perform, program, parent_close="abandon")
    return "left"


async def _doomed(_: _Stage, x: int) -> str:
    try:
        await doomed(x)
    except RunFailed as error:
        return f"doomed {x}" if str(error.__cause__) == f"doomed {bumped(x)}" else repr(error.__cause__)
    return "no failure"


async def _stopped(_: _Stage, x: int) -> str:
    child = await start_child(sleeper, x)
    child.cancel(f"stopped {x}")
    try:
        await child
    except RunCancelled as error:
        return error.reason
    return "not cancelled"


async def _told(_: _Stage, x: int) -> list[int]:
    child = await start_child(listener)
    await child.signal(word, x)
    heard: list[int] = await child
    return heard


async def _given_up(_: _Stage, x: int) -> str:
    try:
        async with asyncio.timeout(0.03):
            await sleeper(x)
    except TimeoutError:
        return "late"
    return "in time"


async def _hasty(_: _Stage, x: int) -> list[int]:
    child = await start_child(listener)
    telling = asyncio.create_task(child.signal(word, x))
    await asyncio.sleep(0)
    telling.cancel()  # the signal is on its way all the same
    heard: list[int] = await child
    await asyncio.sleep(0.01)  # and the news that it has arrived comes meanwhile
    return heard


async def _broken_group(_: _Stage, x: int) -> str:
    said = "no failure"
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(3600))
            group.create_task(hopeless(x))
    except* ValueError as errors:
        said = str(errors.exceptions[0])
    return said


async def _receive(_: _Stage, name: str, count: int) -> list[int]:
    signal = Signal[int](name)
    return [await signal.receive() for _ in range(count)]


async def _lapse(_: _Stage, ms: int) -> int:
    return await Signal[int]("shapes.never").receive(timeout=ms / 1000, default=-ms)


async def _update(stage: _Stage, name: str, _value: int, _works: int) -> int:
    while name not in stage.told:
        await stage.rang.wait()
    return stage.told[name]


_KINDS: dict[str, Callable[..., Any]] = {
    "step": _step, "plain": _plain, "flaky": _flaky, "hopeless": _hopeless, "withdrawn": _withdrawn,
    "sequence": _sequence, "gather": _gather, "group": _group,
    "comes": _comes, "queue": _queue, "lock": _lock, "event": _event,
    "sleep": _sleep, "race": _race, "timeout": _timeout, "shield": _shield, "careful": _careful,
    "chance": _chance, "patched": _patched,
    "child": _child, "joined": _joined, "left": _left, "doomed": _doomed, "stopped": _stopped, "told": _told,
    "given_up": _given_up, "hasty": _hasty, "broken_group": _broken_group,
    "receive": _receive, "lapse": _lapse, "update": _update,
}  # fmt: skip


# From outside


async def drive(run: Run[Any], program: Program) -> Any:
    """Send what `program` wants and wait for its result; after an error it may be called again, with any handle of the run."""
    telling = asyncio.ensure_future(_tell(run, program))
    result = asyncio.ensure_future(run.result())
    try:
        # while the result is awaited, virtual time runs: signals arrive at any moment of the program's life
        await asyncio.wait((telling, result), return_when=asyncio.FIRST_EXCEPTION)
        if telling.done():
            telling.result()
        value = await result
        await telling
    finally:
        telling.cancel()
        result.cancel()
        await asyncio.gather(telling, result, return_exceptions=True)
    return value


async def _tell(run: Run[Any], program: Program) -> None:
    for name, value, signal_id in signals_wanted(program):
        await run.signal(name, value, id=signal_id)
    for verb, (name, value), update_id in updates_wanted(program):
        answer = await run.update(verb, name, value, id=update_id)
        if answer != bumped(value):
            raise AssertionError(f"update {update_id} was answered with {answer}, not {bumped(value)}")
