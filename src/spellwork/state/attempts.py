"""Owns running a transaction until it succeeds: turns at contended keys, jittered pauses, a bound.
It must never run a function again that failed by itself.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, overload

from spellwork.clock import Clock
from spellwork.errors import DefinitionError, TransactionConflict
from spellwork.state.transaction import Transaction
from spellwork.state.turns import Turn, Turns

if TYPE_CHECKING:
    from spellwork.state.store import StateStore

T = TypeVar("T")
P = ParamSpec("P")

ATTEMPTS = 50
_PATIENT_AFTER = 3
_LONGEST_PAUSE = 0.05


async def run(
    function: Callable[[Transaction], Awaitable[T]], begin: Callable[[], Transaction], turns: Turns, clock: Clock, attempts: int
) -> T:
    """Run `function` in a transaction that `begin` makes, at most `attempts` times; see `StateStore.run`."""
    if type(attempts) is not int or attempts < 1:
        raise DefinitionError("attempts= must be a number, 1 or more")
    async with Turn(turns) as turn:
        attempt = 1
        while True:
            transaction = begin()
            transaction.before_first_read = turn.join
            try:
                async with transaction:
                    result = await function(transaction)
            except TransactionConflict as error:
                if error.key != transaction.lost:
                    raise  # of another transaction, inside the function
                if attempt == attempts:
                    raise _given_up(error.key, attempts) from error
                lost = error.key
            else:
                return result
            await turn.move(lost)
            await _pause(clock, attempt)
            attempt += 1


def _given_up(key: bytes, attempts: int) -> TransactionConflict:
    return TransactionConflict(
        f"what the transaction has read was changed in each of {attempts} attempts; nothing was written. Write less to the same "
        "keys, use merge(), or allow more attempts=",
        key=key,
        attempts=attempts,
    )


async def _pause(clock: Clock, attempt: int) -> None:
    if attempt < _PATIENT_AFTER:
        return
    spread = int.from_bytes(clock.entropy(2), "big") / 0x10000
    woken = asyncio.Event()
    timer = clock.call_later(min(0.001 * 2 ** (attempt - _PATIENT_AFTER), _LONGEST_PAUSE) * spread, woken.set)
    try:
        await woken.wait()
    finally:
        timer.cancel()


@overload
def transactional(
    function: Callable[Concatenate[Transaction, P], Awaitable[T]], /
) -> Callable[Concatenate[StateStore | Transaction, P], Awaitable[T]]: ...


@overload
def transactional(
    *, attempts: int = ATTEMPTS
) -> Callable[
    [Callable[Concatenate[Transaction, P], Awaitable[T]]], Callable[Concatenate[StateStore | Transaction, P], Awaitable[T]]
]: ...


def transactional(function: Any = None, /, *, attempts: int = ATTEMPTS) -> Any:
    """Make an async function whose first parameter is a `Transaction` one that is called with a store instead, as in `store.run`.

    Called with a transaction it becomes a part of that one.
    """

    def decorate(function: Any) -> Any:
        @functools.wraps(function)
        async def called(store: StateStore | Transaction, /, *args: Any, **kwargs: Any) -> Any:
            if isinstance(store, Transaction):
                return await function(store, *args, **kwargs)
            return await store.run(lambda transaction: function(transaction, *args, **kwargs), attempts=attempts)

        return called

    return decorate if function is None else decorate(function)
