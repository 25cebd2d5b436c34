"""What each kind of channel does, at both ends, for tasks and for threads."""

from __future__ import annotations

import asyncio
import collections
import threading
from collections.abc import Callable
from typing import Any

import pytest

from spellwork.errors import (
    ChannelClosed,
    ChannelEmpty,
    ChannelFull,
    ChannelTimeout,
    DefinitionError,
    UsageError,
)
from spellwork.events import Broadcast
from spellwork.events.channel import (
    Channel,
    Selected,
    after,
    barrier,
    bounded,
    default,
    oneshot,
    priority,
    recv,
    rendezvous,
    select,
    select_sync,
    send,
    unbounded,
    watch,
)
from spellwork.events.waiter import TaskWaiter, ThreadWaiter
from spellwork.testing.clock import VirtualClock
from tests.events.timeline import nothing_is_left, virtual

KINDS: dict[str, Callable[[], Channel[Any]]] = {
    "bounded": lambda: bounded(1),
    "unbounded": unbounded,
    "rendezvous": rendezvous,
    "priority": lambda: priority(size=1),
    "oneshot": oneshot,
}
each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


async def turns(count: int = 5) -> None:
    """Let the other tasks run."""
    for _ in range(count):
        await asyncio.sleep(0)


@each_kind
async def test_what_is_sent_is_received(kind: Callable[[], Channel[Any]]) -> None:
    """Whoever comes first, the receiver gets the item; then the channel is empty."""
    for first in ("sender", "receiver"):
        channel = kind()
        tasks = [asyncio.create_task(channel.send("item")), asyncio.create_task(channel.recv())]
        for task in tasks if first == "sender" else reversed(tasks):
            await turns()
            assert task is not None
        assert (await asyncio.gather(*tasks))[1] == "item"
        assert len(channel) == 0
    assert nothing_is_left()


@each_kind
async def test_a_closed_channel_is_drained_first(kind: Callable[[], Channel[Any]]) -> None:
    """Receivers get what is in it and then `ChannelClosed`, which names it; senders get that at once; `async for` ends."""
    channel = kind()
    if not isinstance(channel, type(rendezvous())):
        channel.send_nowait(1)
    channel.close()
    channel.close()
    assert channel.closed
    assert [item async for item in channel] in ([1], [])
    for fails in (channel.recv, lambda: channel.send(2)):
        with pytest.raises(ChannelClosed) as caught:
            await fails()
        assert caught.value.channel is channel
    with pytest.raises(ChannelClosed):
        channel.send_nowait(2)
    with pytest.raises(ChannelClosed):
        channel.recv_nowait()


@each_kind
async def test_closing_wakes_all_who_wait(kind: Callable[[], Channel[Any]]) -> None:
    """Receivers and senders that wait get `ChannelClosed`; the item of such a sender was not sent."""
    channel = kind()
    receivers = [asyncio.create_task(channel.recv()) for _ in range(3)]
    await turns()
    channel.close()
    assert {type(each) for each in await asyncio.gather(*receivers, return_exceptions=True)} == {ChannelClosed}
    if kind is KINDS["unbounded"] or kind is KINDS["oneshot"]:
        return  # their senders never wait
    channel = kind()
    if kind is not KINDS["rendezvous"]:
        channel.send_nowait("in")
    sender = asyncio.create_task(channel.send("waits"))
    await turns()
    channel.close()
    with pytest.raises(ChannelClosed):
        await sender
    assert "waits" not in [item async for item in channel]


@each_kind
async def test_a_cancelled_receiver_takes_nothing(kind: Callable[[], Channel[Any]]) -> None:
    """Cancelled in the very moment in which it is woken, it leaves the item to the next one."""
    channel = kind()
    cancelled, other = asyncio.create_task(channel.recv()), asyncio.create_task(channel.recv())
    await turns()
    sender = asyncio.create_task(channel.send("item"))
    await asyncio.sleep(0)  # now the first is woken, but has not run
    cancelled.cancel()
    assert await asyncio.wait_for(other, 5) == "item"
    assert cancelled.cancelled()
    await sender


@pytest.mark.parametrize("kind", ["bounded", "priority"])
async def test_a_cancelled_sender_sends_nothing(kind: str) -> None:
    """Cancelled in the very moment in which there is room, it leaves the room to the next one."""
    channel = KINDS[kind]()
    await channel.send(0)
    cancelled, other = asyncio.create_task(channel.send("cancelled")), asyncio.create_task(channel.send("other"))
    await turns()
    assert await channel.recv() == 0
    cancelled.cancel()
    assert await asyncio.wait_for(channel.recv(), 5) == "other"
    await other
    assert cancelled.cancelled()
    assert len(channel) == 0


@pytest.mark.parametrize("kind", ["bounded", "unbounded", "priority"])
async def test_who_goes_to_sleep_looks_once_more(kind: str) -> None:
    """What came between the try and the falling asleep is not slept through: neither an item, nor room, nor the closing."""
    channel = KINDS[kind]()
    assert channel.enlist_sender(ThreadWaiter(), send(channel, 1), first=False) is False
    channel.send_nowait(1)
    assert channel.enlist_receiver(ThreadWaiter(), first=False) is False
    channel.recv_nowait()
    channel.close()
    assert channel.enlist_receiver(ThreadWaiter(), first=False) is False
    assert channel.enlist_sender(ThreadWaiter(), send(channel, 1), first=False) is False


async def test_a_rendezvous_keeps_nothing() -> None:
    """Nobody but a sender that waits is taken from: a cancelled offer is gone, and `send` returns only when it was received."""
    channel = rendezvous()
    offer = asyncio.create_task(channel.send("gone"))
    await turns()
    assert len(channel) == 1
    offer.cancel()
    await turns()
    assert len(channel) == 0
    with pytest.raises(ChannelEmpty):
        channel.recv_nowait()
    with pytest.raises(ChannelFull):
        channel.send_nowait(1)
    offer = asyncio.create_task(channel.send("taken"))
    await turns()
    assert not offer.done()
    assert channel.recv_nowait() == "taken"
    await offer


async def test_a_bounded_channel_holds_its_size() -> None:
    """Never more; the order of what waits outside is kept, too."""
    channel: Channel[int] = bounded(2)
    senders = [asyncio.create_task(channel.send(number)) for number in range(5)]
    await turns()
    assert len(channel) == 2
    with pytest.raises(ChannelFull, match="no room"):
        channel.send_nowait(9)
    assert [await channel.recv() for _ in range(5)] == [0, 1, 2, 3, 4]
    await asyncio.gather(*senders)


async def test_many_at_once() -> None:
    """`recv_many` waits for the first, takes what is there up to its limit, and lets waiting senders in."""
    channel: Channel[int] = bounded(3)
    senders = [asyncio.create_task(channel.send(number)) for number in range(5)]
    await turns()
    assert await channel.recv_many(2) == [0, 1]
    await turns()
    assert await channel.recv_many(10) == [2, 3, 4]
    await asyncio.gather(*senders)
    channel.close()
    with pytest.raises(ChannelClosed):
        await channel.recv_many(1)


async def test_a_oneshot_is_for_one_item() -> None:
    """Sending closes it: one receiver gets the item, the others `ChannelClosed`, and so does a second sender."""
    channel = oneshot()
    receivers = [asyncio.create_task(channel.recv()) for _ in range(3)]
    await turns()
    await channel.send("once")
    got = await asyncio.gather(*receivers, return_exceptions=True)
    assert [each for each in got if not isinstance(each, ChannelClosed)] == ["once"]
    with pytest.raises(ChannelClosed):
        channel.send_nowait("twice")


async def test_a_watch_gives_the_newest() -> None:
    """A watcher gets the newest value that it has not seen, each once, and the last one although the watch is closed."""
    state = watch("a")
    one, two = state.watcher(), state.watcher()
    with pytest.raises(ChannelEmpty):
        one.recv_nowait()
    state.send("b")
    assert await one.recv() == "b"
    state.send("c")
    assert (await one.recv(), await two.recv(), state.value) == ("c", "c", "c")
    waiting = [asyncio.create_task(each.recv()) for each in (one, two)]
    await turns()
    state.send("d")
    assert await asyncio.gather(*waiting) == ["d", "d"]
    state.send("e")
    state.close()
    assert [value async for value in one] == ["e"]
    with pytest.raises(ChannelClosed):
        state.send("f")


async def test_a_barrier_opens_when_all_are_there() -> None:
    """Each gets the number in which it came; it serves again; who is cancelled has not come."""
    gate = barrier(3)
    for _ in range(2):
        tasks = [asyncio.create_task(gate.wait()) for _ in range(2)]
        gone = asyncio.create_task(asyncio.sleep(0))
        await turns()
        assert not any(task.done() for task in tasks)
        assert gate.waiting == 2
        assert await gate.wait() == 2
        assert await asyncio.gather(*tasks) == [0, 1]
        await gone
    tasks = [asyncio.create_task(gate.wait()) for _ in range(2)]
    await turns()
    tasks[0].cancel()
    await turns()
    other = asyncio.create_task(gate.wait())
    await turns()
    assert not other.done()
    assert await gate.wait() == 2
    assert (await tasks[1], await other) == (0, 1)


def test_a_barrier_for_threads() -> None:
    """Threads wait for each other, and no longer than they say."""
    gate, numbers = barrier(3), []
    threads = [threading.Thread(target=lambda: numbers.append(gate.wait_sync(timeout=30))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == [0, 1, 2]
    with pytest.raises(ChannelTimeout):
        gate.wait_sync(timeout=0.01)
    assert gate.waiting == 0


async def test_priorities_are_levels() -> None:
    """Lower numbers come first, a level keeps its order, each has its own room, and another number is refused."""
    channel = priority((10, 100, 1000), size=2)
    for number in (1000, 10, 100, 10, 100):
        await channel.send(f"{number}-{len(channel)}", priority=number)
    with pytest.raises(ChannelFull):
        channel.send_nowait("too much", priority=10)
    channel.send_nowait("by default the last")
    with pytest.raises(UsageError, match="has the levels 10, 100, 1000"):
        channel.send_nowait("x", priority=5)
    assert [await channel.recv() for _ in range(6)] == ["10-1", "10-3", "100-2", "100-4", "1000-0", "by default the last"]
    waiting = [asyncio.create_task(channel.send(number, priority=10)) for number in range(4)]
    await turns()
    assert [await channel.recv() for _ in range(4)] == [0, 1, 2, 3]
    await asyncio.gather(*waiting)
    with pytest.raises(DefinitionError):
        priority(())
    with pytest.raises(UsageError, match="no priorities"):
        send(bounded(1), 1, priority=10)


@pytest.mark.parametrize("patience", [1, 3, 8])
async def test_no_level_starves(patience: int) -> None:
    """While urgent items never run out, nothing waits at the head of its level for more than patience plus the levels."""
    channel = priority((1, 2, 3, 4), patience=patience)
    for level in (2, 3, 4):
        for _ in range(50):
            channel.send_nowait(level, priority=level)
    waited: dict[int, int] = dict.fromkeys((2, 3, 4), 0)
    taken: collections.Counter[int] = collections.Counter()
    for _ in range(200):
        channel.send_nowait(1, priority=1)
        level = channel.recv_nowait()
        taken[level] += 1
        waited = {each: 0 if each == level else count + 1 for each, count in waited.items()}
        assert max(waited.values()) <= patience + 4
    assert all(taken[level] for level in (1, 2, 3, 4))


async def test_select_does_one_thing() -> None:
    """What is possible is done and told by its place; everything else is as it was."""
    first: Channel[str] = bounded(1)
    second: Channel[str] = bounded(1)
    await second.send("two")
    assert await select(recv(first), recv(second)) == Selected(1, "two")
    assert await select(recv(first), send(second, "sent")) == Selected(1, None)
    assert await second.recv() == "sent"
    assert await select(recv(first), default) == Selected(1, None)
    assert await select(default, send(first, "x")) == Selected(1, None)
    assert len(first) == 1
    waits = asyncio.create_task(select(send(first, "y"), recv(second)))
    await turns()
    await second.send("now")
    assert await waits == Selected(1, "now")
    assert [await first.recv(), len(first)] == ["x", 0]
    for empty in ((), (3,)):
        with pytest.raises(UsageError):
            await select(*empty)


async def test_select_waits_for_time_on_the_clock() -> None:
    """`after` is one of the things that may happen; on a virtual clock nobody waits for it."""
    clock, channel = virtual(), unbounded()
    begin = clock.monotonic()
    assert await select(recv(channel), after(3600), clock=clock) == Selected(1, None)
    assert clock.monotonic() - begin == pytest.approx(3600)
    assert await select(after(0), recv(channel), clock=clock) == Selected(0, None)
    late = asyncio.create_task(select(recv(channel), after(3600), clock=VirtualClock()))
    await turns()
    await channel.send("in time")
    assert await late == Selected(0, "in time")
    assert nothing_is_left()


async def test_select_is_fair() -> None:
    """Of four channels that are always ready, each is chosen about as often, whatever its place; a seed repeats the choice."""

    async def chosen(seed: int) -> list[int]:
        channels: list[Channel[int]] = [unbounded() for _ in range(4)]
        for channel in channels:
            for number in range(2000):
                channel.send_nowait(number)
        clock = VirtualClock(seed)
        return [(await select(*map(recv, channels), clock=clock)).index for _ in range(2000)]

    counts = collections.Counter(await chosen(1))
    assert min(counts.values()) > 400
    assert max(counts.values()) < 600
    assert await chosen(7) == await chosen(7) != await chosen(8)


async def test_select_of_a_closed_channel_says_which() -> None:
    """A channel that is closed and empty is an error, once nothing else was chosen before it."""
    good, closed = unbounded(), unbounded()
    closed.close()
    with pytest.raises(ChannelClosed) as caught:
        await select(recv(good), recv(closed))
    assert caught.value.channel is closed
    waits = asyncio.create_task(select(recv(good), after(1000)))
    await turns()
    good.close()
    with pytest.raises(ChannelClosed):
        await waits


@pytest.mark.parametrize("seed", range(8))
async def test_a_select_that_fails_passes_its_wake_up_on(seed: int) -> None:
    """Woken for an item, but finding another channel closed first, it leaves the item to the next receiver."""
    items, closed = bounded(1), unbounded()
    failing = asyncio.create_task(select(recv(items), recv(closed), clock=VirtualClock(seed)))
    await turns()
    other = asyncio.create_task(items.recv())
    await turns()
    items.send_nowait("item")
    closed.close()
    got = await asyncio.gather(failing, return_exceptions=True)
    if got[0] == Selected(0, "item"):
        items.send_nowait("item")
    else:
        assert isinstance(got[0], ChannelClosed)
    assert await asyncio.wait_for(other, 5) == "item"


async def test_select_reads_subscriptions() -> None:
    """A subscription is one of the things to receive from, again and again; leaving it wakes the select."""
    broadcast, stop = Broadcast[int](), unbounded()
    async with broadcast.subscribe() as items:
        for number in range(3):
            waits = asyncio.create_task(select(recv(stop), recv(items)) if number % 2 else select(recv(items)))
            await turns()
            await broadcast.send(number)
            assert (await waits).value == number
        cancelled = asyncio.create_task(select(recv(stop), recv(items)))
        await turns()
        cancelled.cancel()
        await turns()
        waits = asyncio.create_task(select(recv(stop), recv(items)))
        await turns()
        items.close()
        with pytest.raises(ChannelClosed):
            await waits


async def test_a_cancelled_select_has_done_nothing() -> None:
    """Not even if it was woken already; what woke it goes to another one."""
    one, two = bounded(1), rendezvous()
    cancelled = asyncio.create_task(select(recv(one), send(two, "offer")))
    other = asyncio.create_task(one.recv())
    await turns()
    await one.send("item")
    cancelled.cancel()
    assert await asyncio.wait_for(other, 5) == "item"
    with pytest.raises(ChannelEmpty):
        two.recv_nowait()


def test_an_offer_of_one_that_was_woken_elsewhere_is_none() -> None:
    """A sender that something else has woken is not taken from, whether it has run since or not."""
    channel, waiter = rendezvous(), ThreadWaiter()
    operation = send(channel, "offer")
    channel.enlist_sender(waiter, operation, first=False)
    assert waiter.wake()
    for has_run in (False, True):
        if has_run:
            assert waiter.sleep(0)
            channel.enlist_sender(waiter, operation, first=False)
        with pytest.raises(ChannelEmpty):
            channel.recv_nowait()
        assert not operation.taken


async def test_select_at_both_ends_of_a_rendezvous() -> None:
    """Two selects that would both send and receive there meet once; one alone does not meet itself."""
    channel = rendezvous()

    async def either(name: str) -> Selected:
        return await select(recv(channel), send(channel, name))

    alone = asyncio.create_task(either("a"))
    await turns(50)
    assert not alone.done()
    results = await asyncio.gather(alone, either("b"))
    assert sorted(result.index for result in results) == [0, 1]
    assert {result.value for result in results} in ({"a", None}, {"b", None})


def test_threads_select() -> None:
    """`select_sync` waits for a channel or for real time, and does not wait with `default`."""
    channel: Channel[str] = bounded(1)
    assert select_sync(recv(channel), default) == Selected(1, None)
    assert select_sync(recv(channel), after(0.01)) == Selected(1, None)
    thread = threading.Thread(target=lambda: channel.send_sync("from a thread"))
    thread.start()
    assert select_sync(recv(channel), after(30)) == Selected(0, "from a thread")
    thread.join()
    assert select_sync(send(channel, "x"), after(30)) == Selected(0, None)


@pytest.mark.parametrize("kind", ["bounded", "unbounded", "rendezvous", "priority"])
def test_threads_and_tasks_at_both_ends(kind: str) -> None:
    """Items go from threads to tasks and back to threads, in order, and ends see the closing."""
    there, back = KINDS[kind](), KINDS[kind]()
    got: list[int] = []

    async def echo() -> None:
        async for item in there:
            await back.send(item)
        back.close()

    def feed() -> None:
        for number in range(200):
            there.send_sync(number, timeout=30)
        there.close()

    threads = [threading.Thread(target=feed), threading.Thread(target=lambda: got.extend(back.iterate_sync()))]
    for thread in threads:
        thread.start()
    asyncio.run(echo())
    for thread in threads:
        thread.join()
    assert got == list(range(200))


@each_kind
def test_a_thread_waits_no_longer_than_it_says(kind: Callable[[], Channel[Any]]) -> None:
    """`recv_sync(timeout=)` and, where there is no room, `send_sync(timeout=)` raise `ChannelTimeout`; nothing was sent."""
    channel = kind()
    with pytest.raises(ChannelTimeout) as caught:
        channel.recv_sync(timeout=0.01)
    assert caught.value.seconds == 0.01
    if kind is KINDS["unbounded"] or kind is KINDS["oneshot"]:
        return
    if kind is not KINDS["rendezvous"]:
        channel.send_nowait("in")
    with pytest.raises(ChannelTimeout):
        channel.send_sync("late", timeout=0.01)
    channel.close()
    assert "late" not in list(channel.iterate_sync())


def test_a_loop_that_is_gone_is_passed_over() -> None:
    """A receiver whose loop was closed under it does not swallow the wake-up of one that is there."""
    channel: Channel[str] = unbounded()
    loop = asyncio.new_event_loop()
    forgotten = loop.create_task(channel.recv())
    loop.run_until_complete(asyncio.sleep(0))

    async def abandon() -> TaskWaiter:
        return TaskWaiter()

    abandoned = loop.run_until_complete(abandon())
    abandoned._future.add_done_callback(print)  # there is somebody to call
    got: list[str] = []
    thread = threading.Thread(target=lambda: got.append(channel.recv_sync(timeout=30)))
    thread.start()
    while len(channel._receivers) < 2:
        pass
    loop.close()
    here: Channel[str] = unbounded()
    here._receivers.append(abandoned)  # on a loop of this very thread
    here.send_nowait("item")
    assert here.recv_nowait() == "item"
    sender = threading.Thread(target=lambda: channel.send_sync("item"))
    sender.start()
    sender.join()
    thread.join()
    assert got == ["item"]
    forgotten._log_destroy_pending = False  # type: ignore[attr-defined]
    forgotten.get_coro().close()
