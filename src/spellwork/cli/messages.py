"""Owns the verbs that send something to a run: signal, query, update, cancel, terminate.
It must never lose what it said it sent: without a running owner, commands wait in the inbox and questions are refused.
"""

from __future__ import annotations

import asyncio
import enum
import shlex
from collections.abc import Callable, Coroutine
from typing import Any

import click

from spellwork import Codec, Run
from spellwork.cli.exits import Unavailable
from spellwork.cli.given import lenient, parse
from spellwork.cli.opening import codec_of, opened
from spellwork.cli.options import TEXT, codec_option, common, timeout_option
from spellwork.cli.output import note, print_json
from spellwork.cli.owner import answer, find_open_run, owner_of, post
from spellwork.cli.verb import Verb
from spellwork.clock import SystemClock, new_id
from spellwork.engine import messages as m

NOBODY = "nobody runs this store now"
SILENT = "the process that runs this store does not answer"


class Delivery(enum.StrEnum):
    """What became of a message: the owner has it, or it lies in the inbox, for want of an owner or of its answer."""

    DELIVERED = "delivered"
    QUEUED = "queued"
    UNANSWERED = "unanswered"

    @property
    def remark(self) -> str:
        """What to tell people of a message that was not delivered yet."""
        if self is Delivery.DELIVERED:
            return ""
        return f"queued: {NOBODY if self is Delivery.QUEUED else SILENT}; it will be delivered when somebody does"


async def deliver(
    store: str,
    message: m.AnyMessage,
    send: Callable[[Run[Any]], Coroutine[Any, Any, None]],
    timeout: float,
    codec: Codec | None = None,
) -> Delivery:
    """Send what needs no answer. It is durable in any case."""
    async with opened(store, client=True, create=False, codec=codec) as engine:
        row = await find_open_run(engine, message.run_id)
        if await owner_of(engine.store, row.partition) is None:
            await post(engine.store, row.partition, message)
            return Delivery.QUEUED
        try:
            await answer(send(await engine.get(row.id)), timeout, SILENT)
        except Unavailable:
            # The owner is stopped or very busy, perhaps in the middle of a write, so nobody knows whether the message is durable
            # yet. A second one is: it means the same, and this waits for it.
            await post(engine.store, row.partition, message)
            return Delivery.UNANSWERED
        return Delivery.DELIVERED


async def ask(
    store: str, run_id: str, question: Callable[[Run[Any]], Coroutine[Any, Any, Any]], timeout: float, silence: str, codec: Codec
) -> Any:
    """Ask what only a running owner can answer."""
    async with opened(store, client=True, create=False, codec=codec) as engine:
        row = await find_open_run(engine, run_id)
        if await owner_of(engine.store, row.partition) is None:
            raise Unavailable(
                f"{NOBODY}, so run {run_id} cannot answer; "
                f"start `spellwork worker FILE.py --store {shlex.quote(store)}` and ask again"
            )
        return await answer(question(await engine.get(run_id)), timeout, silence)


def _told(run_id: str, what: str, state: Delivery, as_json: bool) -> None:
    if as_json:
        print_json({"id": run_id, "sent": what, "state": state})
    else:
        note(f"{what} for run {run_id} {state.remark or 'delivered'}")


@click.command(
    cls=Verb,
    examples=('spellwork signal order-7 approval \'{"by": "Ada"}\' --signal-id ada-1',),
)
@click.argument("run_id", metavar="ID", type=TEXT)
@click.argument("name", type=TEXT)
@click.argument("value", metavar="[JSON]", type=TEXT, required=False)
@click.option("--signal-id", type=TEXT, metavar="ID", help="A signal whose id the run has had already is ignored.")
@codec_option
@timeout_option(5)
@common
def signal(
    run_id: str, name: str, value: str | None, signal_id: str | None, codec: str | None, timeout: float, store: str, as_json: bool
) -> None:
    """Send signal NAME with a JSON value (null without one) to run ID.

    It is durable when this returns. If nobody runs the store, it is received as soon as somebody does.
    """
    payload = None if value is None else parse(value, "the signal's value")
    key, rules = signal_id or new_id(SystemClock()), codec_of(codec)

    async def work() -> Delivery:
        message = m.AskSignal(run_id, name, rules.untyped.encode(payload), key)
        return await deliver(store, message, lambda run: run.signal(name, payload, id=key), timeout, rules)

    _told(run_id, f"signal {name}", asyncio.run(work()), as_json)


@click.command(
    cls=Verb,
    examples=("spellwork query order-7 progress",),
)
@click.argument("run_id", metavar="ID", type=TEXT)
@click.argument("name", type=TEXT)
@click.argument("args", nargs=-1, type=TEXT)
@codec_option
@timeout_option(5)
@common
def query(run_id: str, name: str, args: tuple[str, ...], codec: str | None, timeout: float, store: str, as_json: bool) -> None:
    """Ask query NAME of run ID and print the answer as JSON.

    Each of ARGS is JSON, or plain text where it is no JSON.
    """
    values = [lenient(arg) for arg in args]
    silence = f"run {run_id} did not answer query {name} within {timeout:g} s; is its process stopped or very busy?"
    found = asyncio.run(ask(store, run_id, lambda run: run.query(name, *values), timeout, silence, codec_of(codec)))
    print_json({"id": run_id, "query": name, "answer": found} if as_json else found)


@click.command(
    cls=Verb,
    examples=("spellwork update order-7 set_limit 100",),
)
@click.argument("run_id", metavar="ID", type=TEXT)
@click.argument("name", type=TEXT)
@click.argument("args", nargs=-1, type=TEXT)
@click.option("--update-id", type=TEXT, metavar="ID", help="The same id is applied once, however often it is sent.")
@codec_option
@timeout_option(30)
@common
def update(
    run_id: str,
    name: str,
    args: tuple[str, ...],
    update_id: str | None,
    codec: str | None,
    timeout: float,
    store: str,
    as_json: bool,
) -> None:
    """Apply update NAME to run ID and print its answer as JSON.

    Each of ARGS is JSON, or plain text where it is no JSON.
    """
    values = [lenient(arg) for arg in args]
    key = update_id or new_id(SystemClock())
    silence = (
        f"run {run_id} did not answer update {name} within {timeout:g} s; it may still be applied: "
        f"send it again with --update-id {key} to get its answer"
    )
    found = asyncio.run(ask(store, run_id, lambda run: run.update(name, *values, id=key), timeout, silence, codec_of(codec)))
    print_json({"id": run_id, "update": name, "answer": found} if as_json else found)


@click.command(
    cls=Verb,
    examples=('spellwork cancel order-7 --reason "customer called"',),
)
@click.argument("run_id", metavar="ID", type=TEXT)
@click.option("--reason", type=TEXT, default="cancelled from the command line", show_default=True)
@codec_option
@timeout_option(5)
@common
def cancel(run_id: str, reason: str, codec: str | None, timeout: float, store: str, as_json: bool) -> None:
    """Ask run ID to unwind: its `finally` blocks and clean-up steps still run."""
    rules = codec_of(codec)
    message = m.AskCancel(run_id, rules.text(reason))
    state = asyncio.run(deliver(store, message, lambda run: run.cancel(reason), timeout, rules))
    _told(run_id, "cancellation", state, as_json)


@click.command(
    cls=Verb,
    examples=('spellwork terminate order-7 --reason "stuck since Monday"',),
)
@click.argument("run_id", metavar="ID", type=TEXT)
@click.option("--reason", type=TEXT, default="terminated from the command line", show_default=True)
@codec_option
@timeout_option(5)
@common
def terminate(run_id: str, reason: str, codec: str | None, timeout: float, store: str, as_json: bool) -> None:
    """End run ID at once, without letting it clean up. Prefer `cancel`."""
    rules = codec_of(codec)
    message = m.AskTerminate(run_id, rules.text(reason))
    state = asyncio.run(deliver(store, message, lambda run: run.terminate(reason), timeout, rules))
    _told(run_id, "termination", state, as_json)
