"""What each overflow policy does, exactly, and that subscribers wake, read and leave without losing anything."""

from __future__ import annotations

import asyncio
import gc
import threading
import tracemalloc
from typing import Any

import pytest

from spellwork.errors import ChannelClosed, ChannelEmpty, ChannelFull, ChannelTimeout, DefinitionError, Lagged, UsageError
from spellwork.events import Broadcast, Stream
from spellwork.events.subscription import Overflow
from tests.events.timeline import nothing_is_left


async def turns(count: int = 5) -> None:
    """Let the other tasks run."""
    for _ in range(count):
        await asyncio.sleep(0)


def drained(subscription: Any) -> list[Any]:
    """All items that are there, and `Lagged` errors as their number in a list of its own."""
    out: list[Any] = []
    while True:
        try:
            out.append(subscription.recv_nowait())
        except Lagged as lagged:
            out.append([lagged.missed])
        except ChannelEmpty:
            return out


@pytest.mark.parametrize(
    ("overflow", "wanted", "dropped"),
    [
        ("error", [[7], 7, 8, 9], 7),
        ("drop_oldest", [7, 8, 9], 7),
        ("drop_newest", [0, 1, 2], 7),
        ("sample", [9], 9),
    ],
)
async def test_what_is_beyond_the_buffer_goes_by_the_policy(overflow: Overflow, wanted: list[Any], dropped: int) -> None:
    """Of ten items for a buffer of three, each policy leaves exactly its own, and counts the others; then it goes on as before."""
    broadcast = Broadcast[int]()
    async with broadcast.subscribe(overflow=overflow, buffer=3) as items:
        for number in range(10):
            await broadcast.send(number)
        assert items.dropped == dropped, "before anything is read"
        assert items.pending == len([each for each in wanted if not isinstance(each, list)])
        assert drained(items) == wanted
        assert items.dropped == dropped
        for number in (10, 11, 12):
            await broadcast.send(number)
        assert drained(items) == [10, 11, 12]
        assert items.dropped == dropped


async def test_up_to_the_buffer_nothing_is_left_out() -> None:
    """A subscriber exactly as far behind as its buffer is long has lost nothing under any policy."""
    broadcast = Broadcast[int]()
    for overflow in ("error", "drop_oldest", "drop_newest", "sample", "block"):
        async with broadcast.subscribe(overflow=overflow, buffer=4) as items:
            for number in range(4):
                broadcast.send_nowait(number)
            assert drained(items) == [0, 1, 2, 3]
            assert items.dropped == 0


async def test_senders_wait_for_one_that_blocks() -> None:
    """A full subscriber stops the sender until it has read one; nothing is left out, for nobody, and the order is kept."""
    broadcast, sent = Broadcast[int](), []

    async def send() -> None:
        for number in range(8):
            await broadcast.send(number)
            sent.append(number)

    async with broadcast.subscribe(overflow="block", buffer=3) as slow, broadcast.subscribe(buffer=100) as fast:
        task = asyncio.create_task(send())
        await turns()
        assert sent == [0, 1, 2]
        with pytest.raises(ChannelFull, match="has no room"):
            broadcast.send_nowait(99)
        assert await slow.recv() == 0
        await turns()
        assert sent == [0, 1, 2, 3]
        assert await slow.recv_many(100) == [1, 2, 3]
        await turns()
        assert drained(slow) == [4, 5, 6]
        await task
        assert drained(slow) == [7]
        assert drained(fast) == list(range(8))


async def test_who_leaves_is_waited_for_no_more() -> None:
    """When the subscriber that was full leaves, the sender goes on; so does it when its task is cancelled."""
    broadcast = Broadcast[int]()
    async with broadcast.subscribe(overflow="block", buffer=1) as full:
        await broadcast.send(0)
        sender = asyncio.create_task(broadcast.send(1))
        await turns()
        assert not sender.done()
        full.close()
        await sender
        with pytest.raises(ChannelClosed):
            await full.recv()


async def test_a_cancelled_sender_has_sent_nothing() -> None:
    """Cancelled while it waits for room, even in the moment in which there is some, and the next sender gets the room."""
    broadcast = Broadcast[str]()
    async with broadcast.subscribe(overflow="block", buffer=1) as items:
        await broadcast.send("first")
        cancelled, other = asyncio.create_task(broadcast.send("cancelled")), asyncio.create_task(broadcast.send("other"))
        await turns()
        assert await items.recv() == "first"
        cancelled.cancel()
        assert await asyncio.wait_for(items.recv(), 5) == "other"
        assert other.done()
        assert cancelled.cancelled()
        assert drained(items) == []


async def test_a_cancelled_reader_loses_nothing() -> None:
    """Cancelled while it waits, even in the moment in which an item comes, it leaves the item for the next read."""
    broadcast = Broadcast[int]()
    async with broadcast.subscribe() as items:
        reader = asyncio.create_task(items.recv())
        await turns()
        broadcast.send_nowait(1)
        reader.cancel()
        await asyncio.wait([reader])
        assert reader.cancelled()
        assert await items.recv() == 1


async def test_only_those_that_sleep_are_woken() -> None:
    """A reader that has items to read costs the sender nothing: the ring knows of sleeping ones only."""
    broadcast = Broadcast[int]()
    async with broadcast.subscribe() as awake, broadcast.subscribe() as asleep:
        reader = asyncio.create_task(asleep.recv())
        await turns()
        assert len(broadcast._shared.sleeping) == 1
        broadcast.send_nowait(1)
        assert broadcast._shared.sleeping == []
        assert await reader == 1
        assert awake.pending == 1


async def test_a_loop_that_is_left_or_lagged_can_be_followed_by_another() -> None:
    """Breaking out of `async for`, and `Lagged`, leave the subscription where it was; no task is left for the event loop."""
    broadcast = Broadcast[int]()
    async with broadcast.subscribe(buffer=4) as items:
        for number in range(4):
            broadcast.send_nowait(number)
        async for item in items:
            assert item == 0
            break
        for number in range(4, 8):
            broadcast.send_nowait(number)
        with pytest.raises(Lagged) as caught:
            await anext(aiter(items))
        assert caught.value.missed == 3
        broadcast.close()
        assert [item async for item in items] == [4, 5, 6, 7]
        assert [item async for item in items] == []
    assert nothing_is_left()


async def test_closing_lets_readers_finish_and_senders_fail() -> None:
    """Readers drain and end; a sender that waits, and one that comes later, get `ChannelClosed`; nobody can join."""
    broadcast = Broadcast[int]()
    async with broadcast.subscribe(overflow="block", buffer=1) as items, broadcast.subscribe() as idle:
        await broadcast.send(1)
        assert await idle.recv() == 1
        sleeper, sender = asyncio.create_task(anext(idle, "end")), asyncio.create_task(broadcast.send(2))
        await turns()
        broadcast.close()
        with pytest.raises(ChannelClosed):
            await sender
        assert await sleeper == "end"
        assert [item async for item in items] == [1]
        with pytest.raises(ChannelClosed):
            broadcast.send_nowait(3)
    with pytest.raises(ChannelClosed):
        await broadcast.subscribe().__aenter__()


async def test_a_subscription_is_a_source_of_streams() -> None:
    """Operators read it, one reading after the other."""
    broadcast = Broadcast[int]()
    async with broadcast.subscribe() as items:
        for number in range(6):
            broadcast.send_nowait(number)
        assert await Stream(items).filter(lambda number: number % 2).take(2).to_list() == [1, 3]
        broadcast.close()
        assert await Stream(items).batch(10).to_list() == [[4, 5]]
    assert nothing_is_left()


async def test_misuse_is_told() -> None:
    """Reading before entering, two readers at once, a second entering, an unknown policy, a buffer of none."""
    broadcast = Broadcast[int]()
    with pytest.raises(UsageError, match="entered before"):
        broadcast.subscribe().recv_nowait()
    with pytest.raises(DefinitionError, match="one of block, "):
        broadcast.subscribe(overflow="drop")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="buffer"):
        broadcast.subscribe(buffer=0)
    async with broadcast.subscribe() as items:
        reader = asyncio.create_task(items.recv())
        await turns()
        with pytest.raises(UsageError, match="another task"):
            await items.recv()
        with pytest.raises(UsageError, match="entered once"):
            await items.__aenter__()
        broadcast.send_nowait(1)
        assert await reader == 1


@pytest.mark.slow
@pytest.mark.parametrize("overflow", ["error", "drop_oldest", "drop_newest", "sample"])
async def test_a_subscriber_that_never_reads_holds_a_bounded_number(overflow: Overflow) -> None:
    """After 60,000 items the memory is what it was after 5,000, and every drop is counted."""
    broadcast = Broadcast[bytes]()
    async with broadcast.subscribe(overflow=overflow, buffer=100) as items:

        def send(count: int) -> int:
            for number in range(count):
                broadcast.send_nowait(number.to_bytes(200, "big"))
            gc.collect()
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        before = send(5_000)
        assert send(55_000) - before < 200 * 300
        tracemalloc.stop()
        assert len(broadcast._rings[0].window[1]) <= 200
        kept = 1 if overflow == "sample" else 100
        assert (items.pending, items.dropped) == (kept, 60_000 - kept)


async def test_what_everybody_has_read_is_let_go() -> None:
    """Once all subscribers wait for more, the ring holds no item."""
    broadcast = Broadcast[int]()
    async with broadcast.subscribe() as one, broadcast.subscribe() as two:
        for number in range(10):
            broadcast.send_nowait(number)
        assert await one.recv_many(100) == await two.recv_many(100)
        readers = [asyncio.create_task(each.recv()) for each in (one, two)]
        await turns()
        assert broadcast._shared.window == (10, [])
        broadcast.send_nowait(10)
        assert await asyncio.gather(*readers) == [10, 10]


def test_threads_send_and_read() -> None:
    """A thread that reads with `block` gets everything from three threads that send, each in its order."""
    broadcast, got = Broadcast[tuple[int, int]](), list[tuple[int, int]]()
    ready = threading.Event()

    def read() -> None:
        with broadcast.subscribe_sync(overflow="block", buffer=5) as items:
            ready.set()
            got.extend(items)

    def send(who: int) -> None:
        for number in range(200):
            broadcast.send_sync((who, number), timeout=30)

    reader = threading.Thread(target=read)
    reader.start()
    ready.wait()
    senders = [threading.Thread(target=send, args=(who,)) for who in range(3)]
    for each in senders:
        each.start()
    for each in senders:
        each.join()
    broadcast.close()
    reader.join()
    assert len(got) == 600
    for who in range(3):
        assert [number for sender, number in got if sender == who] == list(range(200))


def test_a_thread_waits_no_longer_than_it_says() -> None:
    """For an item, and for room, `timeout` raises `ChannelTimeout` and leaves everything as it is."""
    broadcast = Broadcast[int]()
    with broadcast.subscribe_sync(overflow="block", buffer=1) as items:
        with pytest.raises(ChannelTimeout) as caught:
            items.recv(timeout=0.01)
        assert caught.value.seconds == 0.01
        broadcast.send_sync(1)
        with pytest.raises(ChannelTimeout):
            broadcast.send_sync(2, timeout=0.01)
        assert items.recv_many(5, timeout=1) == [1]
        broadcast.send_sync(3, timeout=1)
        assert items.recv() == 3
