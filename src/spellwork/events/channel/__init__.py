"""Channels between tasks and threads: each item goes to one receiver.
This face only imports; it must never do more.
"""

from spellwork.events.channel.barrier import Barrier, barrier
from spellwork.events.channel.channel import Channel, Oneshot, bounded, oneshot, unbounded
from spellwork.events.channel.priority import PriorityChannel, priority
from spellwork.events.channel.rendezvous import Rendezvous, rendezvous
from spellwork.events.channel.select import Selected, after, default, recv, select, select_sync, send
from spellwork.events.channel.watch import Watch, Watcher, watch

__all__ = [
    "Barrier",
    "Channel",
    "Oneshot",
    "PriorityChannel",
    "Rendezvous",
    "Selected",
    "Watch",
    "Watcher",
    "after",
    "barrier",
    "bounded",
    "default",
    "oneshot",
    "priority",
    "recv",
    "rendezvous",
    "select",
    "select_sync",
    "send",
    "unbounded",
    "watch",
]
