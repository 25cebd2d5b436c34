"""That an interrupt (Ctrl-C) may come at any moment of a publish, and leaves everything whole for who goes on."""

from __future__ import annotations

import contextlib
import dis
import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from spellwork.errors import ChannelTimeout
from spellwork.events import Broadcast, Bus, SyncSubscription
from spellwork.events.waiter import ThreadWaiter

OURS = ("ring.py", "hand_over.py", "waiter.py", "subscription.py")
LOOKS = ("RESUME", "CALL", "CALL_KW", "CALL_FUNCTION_EX", "JUMP_BACKWARD")
"""The instructions after which the interpreter looks for signals. That a `with` is safe rests on there being none in between."""


class Interrupt:
    """Raises KeyboardInterrupt at the nth moment at which the interpreter could, in the files that hold the lock or wake."""

    def __init__(self, number: int):
        self.left = number
        self.fired = False
        self._before: dict[FrameType, str] = {}

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self._called)
        try:
            yield
        finally:
            sys.settrace(before)

    def _called(self, frame: FrameType, _event: str, _arg: Any) -> Any:
        if not frame.f_code.co_filename.endswith(OURS):
            return None
        frame.f_trace_opcodes = True
        return self._instruction

    def _instruction(self, frame: FrameType, event: str, _arg: Any) -> Any:
        if event == "opcode" and not self.fired:
            done = self._before.get(frame, "RESUME")
            self._before[frame] = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            self.left -= done in LOOKS
            if not self.left:
                self.fired = True
                raise KeyboardInterrupt
        return self._instruction


class Ground:
    """Something to publish to, with two readers."""

    def __init__(self, send: Callable[[int], object], subscriptions: list[SyncSubscription[Any]], number: Callable[[Any], int]):
        self.send = send
        self.subscriptions = subscriptions
        self.number = number

    def read(self, subscription: SyncSubscription[Any]) -> list[int]:
        return [self.number(subscription.recv_nowait()) for _ in range(subscription.pending)]

    def read_all(self) -> list[list[int]]:
        return [self.read(each) for each in self.subscriptions]


@contextlib.contextmanager
def one_ring() -> Iterator[Ground]:
    broadcast = Broadcast[int]()
    with broadcast.subscribe_sync(buffer=4) as first, broadcast.subscribe_sync(buffer=4) as second:
        yield Ground(broadcast.send_nowait, [first, second], int)


@contextlib.contextmanager
def two_rings() -> Iterator[Ground]:
    bus = Bus()
    with bus.subscribe_sync("a.*", buffer=4) as first, bus.subscribe_sync("a.b", buffer=4) as second:
        yield Ground(lambda number: bus.publish_nowait("a.b", number), [first, second], lambda event: event.data)


def is_free(lock: Any) -> bool:
    """Whether another thread gets the lock."""
    got: list[bool] = []

    def take() -> None:
        got.append(lock.acquire(timeout=5))
        if got[0]:
            lock.release()

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    return got[0]


@pytest.mark.parametrize("made", [one_ring, two_rings])
@pytest.mark.parametrize("before", [0, 7])
def test_an_interrupt_at_any_moment_leaves_it_whole(made: Callable[[], Any], before: int) -> None:
    """The lock is free, who slept wakes at the next event at the latest, and all that follows arrives, in order and once.

    Also where the window is full, and replaced at that moment.
    """
    moments = 0
    while True:
        moments += 1
        interrupt = Interrupt(moments)
        with made() as ground:
            for number in range(before):
                ground.send(number - before)
                assert ground.read_all() == [[number - before], [number - before]]
            waiters = [ThreadWaiter(), ThreadWaiter()]
            for subscription, waiter in zip(ground.subscriptions, waiters, strict=True):
                assert subscription._lie_down(waiter)
            with interrupt.watching(), contextlib.suppress(KeyboardInterrupt):
                ground.send(1)
            assert is_free(ground.subscriptions[0]._ring.lock), f"after an interrupt at moment {moments}"
            ground.send(2)
            for subscription, waiter in zip(ground.subscriptions, waiters, strict=True):
                assert waiter.sleep(1), f"after an interrupt at moment {moments}"
                subscription._get_up(waiter)
            for number in (3, 4):
                ground.send(number)
            for subscription in ground.subscriptions:
                found = ground.read(subscription)
                assert found in ([1, 2, 3, 4], [2, 3, 4]), f"after an interrupt at moment {moments}"
                assert subscription.dropped == 0
            ground.send(5)
            assert ground.read_all() == [[5], [5]]
        if not interrupt.fired:
            assert moments > 10
            return


@pytest.mark.timeout(60)
def test_an_interrupted_reader_takes_nothing_from_the_others() -> None:
    """Who was interrupted while it lay down to sleep is not there a second time: who is behind keeps what it has not read."""
    moments = 0
    while True:
        moments += 1
        interrupt = Interrupt(moments)
        broadcast = Broadcast[int]()
        with broadcast.subscribe_sync(buffer=4) as reader, broadcast.subscribe_sync(buffer=4) as behind:
            broadcast.send_nowait(1)
            assert reader.recv_nowait() == 1
            with interrupt.watching(), contextlib.suppress(KeyboardInterrupt, ChannelTimeout):
                reader.recv(timeout=0)
            for _ in range(2):  # one that is left there for good, and another one
                with reader._ring.lock:
                    assert reader._ring.sleep(reader, ThreadWaiter())
            assert behind._ring.window == (0, [1]), f"after an interrupt at moment {moments}"
            assert behind.recv_nowait() == 1
            broadcast.send_nowait(2)
            assert (reader.recv_nowait(), behind.recv_nowait()) == (2, 2)
        if not interrupt.fired:
            assert moments > 10
            return


@pytest.mark.parametrize("who", ["reader", "publisher"])
def test_an_interrupt_keeps_no_other_publisher_waiting_for_room_that_there_is(who: str) -> None:
    """Neither that of a reader that was about to tell of it, nor that of a publisher that waited for it, too."""
    moments, stuck = 0, 0
    while True:
        moments += 1
        interrupt = Interrupt(moments)
        broadcast = Broadcast[int]()
        with broadcast.subscribe_sync(overflow="block", buffer=1) as reader:
            broadcast.send_nowait(1)
            ring, waiter = reader._ring, ThreadWaiter()
            if who == "publisher":
                with interrupt.watching(), contextlib.suppress(KeyboardInterrupt, ChannelTimeout):
                    broadcast.send_sync(2, timeout=0)
            with ring.lock:
                assert ring.wait_for_room(waiter)
            if who == "reader":
                with interrupt.watching(), contextlib.suppress(KeyboardInterrupt):
                    reader.recv_nowait()
            with contextlib.suppress(ChannelTimeout):
                reader.recv(timeout=0)
                reader.recv(timeout=0)
            stuck += not waiter.sleep(0)
            assert is_free(ring.lock)
        if not interrupt.fired:
            assert moments > 10
            # a publisher whose time is up just then, and whose interrupt comes before it has begun to give up
            assert stuck <= (who == "publisher")
            return


def test_dropped_is_never_less_than_nothing_while_publishers_go_on() -> None:
    """It looks once at how far they are."""

    class Growing:
        refused = 0
        numbers = itertools.count()
        end = property(lambda self: next(self.numbers))

    with Broadcast[int]().subscribe_sync(overflow="sample", buffer=1) as subscription:
        ring, subscription._ring = subscription._ring, Growing()  # type: ignore[assignment]
        assert [subscription.dropped for _ in range(4)] == [0, 0, 1, 2]
        subscription._ring = ring
