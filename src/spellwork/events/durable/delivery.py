"""Owns `Delivery`: an event in the hands of a consumer, and what that says about it.
It must never let an event be acknowledged that was given to somebody else meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from spellwork.clock import Duration
from spellwork.events.event import Event

if TYPE_CHECKING:
    from spellwork.events.durable.consumer import Consumer
    from spellwork.events.durable.holding import Ticket

T = TypeVar("T")


class Delivery(Generic[T]):
    """An event of a group, until `ack` or `nack`. `attempt` counts from 1; later ones are redeliveries of the same id.

    After the visibility timeout of its consumer it is delivered again, and this delivery is lost.
    """

    __slots__ = ("_consumer", "_ticket", "attempt", "event")

    def __init__(self, event: Event[T], attempt: int, consumer: Consumer[T], ticket: Ticket):
        self.event = event
        self.attempt = attempt
        self._consumer = consumer
        self._ticket = ticket

    @property
    def data(self) -> T:
        """The data of the event."""
        return self.event.data

    @property
    def offset(self) -> int:
        """Where the event stands in its topic."""
        return self._ticket.entry.offset

    async def ack(self) -> None:
        """The event is done. Durable when this returns, unless the consumer acknowledges later (`ack_within`).

        The next event of its key may go at once. Raises `DeliveryLost` if the event was given to somebody else meanwhile.
        """
        await self._consumer.ack(self._ticket)

    async def nack(self, delay: Duration = 0, reason: str = "") -> None:
        """The event could not be done: deliver it again, in `delay` seconds at the earliest, or give it up after the last attempt.

        Its key waits meanwhile. Raises `DeliveryLost` if the event was given to somebody else meanwhile.
        """
        await self._consumer.nack(self._ticket, delay, reason)

    def __repr__(self) -> str:
        return f"<delivery of {self.event.id}: {self.event.type} at {self.offset}, attempt {self.attempt}>"
