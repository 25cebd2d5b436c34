"""Owns the verbs for durable topics: tail, timeline, publish, topics, groups, delete, and dlq for dead letters.
It must never make a store by reading, nor write where it only looks.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import shlex
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

import click
import msgspec

from spellwork.cli.exits import NotFound
from spellwork.cli.given import parse
from spellwork.cli.opening import encryption
from spellwork.cli.options import TEXT, common
from spellwork.cli.output import moment, note, print_json, print_table, to_json, visible
from spellwork.cli.verb import Verb
from spellwork.errors import PayloadError, RowDamaged
from spellwork.events.durable import DeadLetter, Topics, TopicStats, open_topics
from spellwork.events.durable.keys import check_name
from spellwork.events.durable.subscription import run_behind
from spellwork.events.event import Event
from spellwork.events.pattern import matches, pattern_tokens

T = TypeVar("T")
_DLQ = ("spellwork events dlq list orders mail", "spellwork events dlq replay orders mail --all")
_DEEPEST = 10


@click.group()
def events() -> None:
    """Durable topics: watch and publish events, see where groups stand, and settle what they have given up."""


def _run(store: str, work: Callable[[Topics], Coroutine[Any, Any, T]], *, create: bool = False) -> T:
    if store.startswith("memory:"):
        raise click.UsageError("a memory: store lives in one process only; name a file")

    async def opened() -> T:
        async with open_topics(store, create=create, sweep_every=None, encryption=encryption()) as topics:
            return await work(topics)

    return asyncio.run(opened())


class _Start(click.ParamType[Any]):
    name = "place"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | int | dt.datetime:
        if value in ("earliest", "latest"):
            return str(value)
        if value.isdecimal() and int(value) > 0:
            return int(value)
        try:
            return dt.datetime.fromisoformat(value)
        except ValueError:
            self.fail(f'{value!r} is neither "earliest", "latest", an offset nor a time such as 2026-11-25T12:00:00', param, ctx)


@events.command(
    cls=Verb,
    examples=("spellwork events tail 'orders.>'", "spellwork events tail orders --from earliest --no-follow --json | jq .data"),
)
@click.argument("pattern", metavar="PATTERN", type=TEXT)
@click.option(
    "--from", "start", type=_Start(), metavar="PLACE",
    help="earliest, latest, an offset (of one topic), or a time (UTC). Default: latest; with --no-follow, earliest.",
)  # fmt: skip
@click.option("--follow/--no-follow", default=True, show_default=True, help="Whether to wait for more at the newest event.")
@common
def tail(pattern: str, start: str | int | dt.datetime | None, follow: bool, store: str, as_json: bool) -> None:
    """Print the events of the topics that match PATTERN: tokens between dots, * for one, > for the rest.

    JSON comes in the form of CloudEvents, one a line.
    """
    single = not {"*", ">"} & set(pattern_tokens(pattern))
    start = start or ("latest" if follow else "earliest")
    if isinstance(start, int) and not single:
        raise click.UsageError("an offset belongs to one topic; give its name, or a time")

    async def work(topics: Topics) -> None:
        if single and not follow:
            await topics.stats(pattern)  # says so if there is no such topic
        async for event in _events(topics, pattern, start, follow=follow, single=single):
            click.echo(_cloudevent(event) if as_json else _line(event))

    _run(store, work)


async def _events(
    topics: Topics, pattern: str, start: str | int | dt.datetime, *, follow: bool, single: bool
) -> AsyncIterator[Event[Any]]:
    if single:
        topic = await topics.stored(pattern)
        async for event in topic.read(start, follow=follow):
            yield event
    elif not isinstance(start, int):
        async for seen in topics.read(pattern, start, follow=follow):
            yield seen.event


def _cloudevent(event: Event[Any]) -> str:
    try:
        return event.to_cloudevent()
    except PayloadError:  # what has no JSON form becomes its nearest text
        return msgspec.structs.replace(event, data=msgspec.json.decode(to_json(event.data))).to_cloudevent()


def _line(event: Event[Any]) -> str:
    key = f"  key={visible(event.key)}" if event.key else ""
    return f"{event.time:%Y-%m-%d %H:%M:%S.%f}  {event.type}:{event.sequence}{key}  {to_json(event.data)}"


@events.command(
    cls=Verb,
    examples=(
        "spellwork events timeline order-7",
        "spellwork events timeline order-7 --pattern 'payments.>' --from 2026-11-25 --json | jq .type",
    ),
)
@click.argument("correlation", metavar="CORRELATION", type=TEXT)
@click.option("--pattern", type=TEXT, default=">", show_default=True, help="Read only the topics that match.")
@click.option(
    "--from", "start", type=_Start(), metavar="PLACE", default="earliest", show_default=True,
    help="earliest, or a time (UTC) from which the topics are read.",
)  # fmt: skip
@common
def timeline(correlation: str, pattern: str, start: str | int | dt.datetime, store: str, as_json: bool) -> None:
    """Print what happened for an id, over all topics, in order: the events of that CORRELATION, and the one whose own id it is.

    With the id of a run, also what that run has published, whatever it was started for. What was caused by an event that stands
    above, or by its run, is indented under it. There is no index: this reads the topics. JSON comes in the form of CloudEvents,
    one a line.
    """
    if isinstance(start, int) or start == "latest":
        raise click.UsageError("a timeline ends now and goes over many topics: --from takes earliest or a time")
    begin = start

    async def work(topics: Topics) -> None:
        levels: dict[str, int] = {}
        async for event, _, _ in topics.timeline(correlation, pattern, begin):
            level = levels.get(event.causation or "", -1) + 1
            levels.setdefault(event.id, level)
            if (run := run_behind(event.source)) is not None:
                levels.setdefault(run, level)  # runs that this one starts name it as the cause of what they publish
            click.echo(_cloudevent(event) if as_json else _told(event, level))
        if not levels:
            raise NotFound(_unknown(correlation, pattern, begin))

    try:
        _run(store, work)
    except RowDamaged:
        if not as_json:  # there, stderr is one document
            note("what lies behind the damage: give --from a later time, or a --pattern that leaves its topic out")
        raise


def _told(event: Event[Any], level: int) -> str:
    cause = f"  causation={visible(event.causation)}" if event.causation else ""
    place = f"{'  ' * min(level, _DEEPEST)}{event.type}:{event.sequence}"
    return f"{event.time:%Y-%m-%d %H:%M:%S.%f}  {place}  id={visible(event.id)}{cause}  {to_json(event.data)}"


def _unknown(correlation: str, pattern: str, start: str | dt.datetime) -> str:
    since = "" if start == "earliest" else f" from {start} on"
    return (
        f"no event of the topics that match {pattern!r} has{since} the correlation or the id {correlation!r}; "
        f"`spellwork events tail {shlex.quote(pattern)} --no-follow --json` shows those there are, `spellwork ps` the ids of runs"
    )


@events.command(
    cls=Verb,
    examples=("spellwork events publish orders '{\"total\": 7}' --key ada --id order-7",),
)
@click.argument("topic", metavar="TOPIC", type=TEXT)
@click.argument("payload", metavar="JSON", type=TEXT)
@click.option("--key", type=TEXT, help="Events of one key keep their order.")
@click.option("--id", "event_id", type=TEXT, metavar="ID", help="The event's id; a topic that dedups takes it once in its window.")
@common
def publish(topic: str, payload: str, key: str | None, event_id: str | None, store: str, as_json: bool) -> None:
    """Publish an event on TOPIC and print its offset."""
    data = parse(payload, "the payload")
    check_name(topic)

    async def work(topics: Topics) -> int:
        stored = await topics.stored(topic)
        return await stored.publish(data, key=key, id=event_id)

    offset = _run(store, work, create=True)
    if as_json:
        print_json({"topic": topic, "offset": offset})
    else:
        click.echo(offset)


@events.command("topics", cls=Verb, examples=("spellwork events topics 'orders.*'",))
@click.argument("pattern", metavar="[PATTERN]", type=TEXT, default=">")
@common
def list_topics(pattern: str, store: str, as_json: bool) -> None:
    """List the topics that match PATTERN, with what they are declared with."""
    found = _run(store, lambda topics: _stats(topics, pattern))
    if as_json:
        for stats in found:
            print_json(_topic_record(stats))
        return
    if not found:
        note("no such topics")
        return
    rows = [
        (each.topic, str(each.newest), str(each.trimmed), str(each.options.partitions), str(len(each.groups)), _declared(each))
        for each in found
    ]
    print_table(("TOPIC", "NEWEST", "TRIMMED", "PARTITIONS", "GROUPS", "OPTIONS"), rows)


async def _stats(topics: Topics, pattern: str) -> list[TopicStats]:
    pattern_tokens(pattern)
    return [await topics.stats(name) for name in await topics.names() if matches(pattern, name)]


def _declared(stats: TopicStats) -> str:
    options = stats.options
    said = {
        "count": options.keep_count,
        "age": None if options.keep_age is None else f"{options.keep_age / 1e6:g}s",
        "bytes": options.keep_bytes,
        "dedup": f"{options.dedup / 1e6:g}s" if options.dedup else None,
        "compact": "yes" if options.compact else None,
    }
    return " ".join(f"{name}={value}" for name, value in said.items() if value is not None) or (
        "" if stats.declared else "undeclared"
    )


def _topic_record(stats: TopicStats) -> dict[str, Any]:
    options = stats.options
    return {
        "topic": stats.topic,
        "declared": stats.declared,
        "newest": stats.newest,
        "trimmed": stats.trimmed,
        "partitions": options.partitions,
        "retention": msgspec.to_builtins(options.retention),
        "dedup": options.dedup / 1e6,
        "compact": options.compact,
        "groups": [each.group for each in stats.groups],
    }


@events.command("groups", cls=Verb, examples=("spellwork events groups orders --json",))
@click.argument("pattern", metavar="[PATTERN]", type=TEXT, default=">")
@common
def list_groups(pattern: str, store: str, as_json: bool) -> None:
    """List the groups of the topics that match PATTERN, and how far behind they are."""
    found = [group for stats in _run(store, lambda topics: _stats(topics, pattern)) for group in stats.groups]
    if as_json:
        for each in found:
            print_json(each)
        return
    if not found:
        note("no groups")
        return
    rows = [
        (each.topic, each.group, *map(str, (each.lag, each.pending, each.out, each.dead, each.consumers, each.partitions)))
        for each in found
    ]
    print_table(("TOPIC", "GROUP", "LAG", "PENDING", "OUT", "DEAD", "CONSUMERS", "PARTITIONS"), rows)


@events.command(cls=Verb, examples=("spellwork events delete orders --yes",))
@click.argument("topic", metavar="TOPIC", type=TEXT)
@click.option("--yes", is_flag=True, help="It is meant: nothing brings the events back.")
@click.option("--force", is_flag=True, help="Also if workflow runs or triggers that wait were not yet brought all of its events.")
@common
def delete(topic: str, yes: bool, force: bool, store: str, as_json: bool) -> None:
    """Delete TOPIC with its events, groups and dead letters. Refused while a group has consumers."""
    if not yes:
        stats = _run(store, lambda topics: topics.stats(topic))
        dead = sum(group.dead for group in stats.groups)
        kept = f"up to {stats.newest - stats.trimmed} events, {len(stats.groups)} groups and {dead} dead letters"
        raise click.UsageError(f"this deletes {kept} of {topic} for good; say --yes if it is meant")
    count = _run(store, lambda topics: topics.delete(topic, force=force))
    if as_json:
        print_json({"topic": topic, "deleted": count})
    else:
        click.echo(f"deleted {topic}: {count} events")


@events.group()
def dlq() -> None:
    """Dead letters: what a group has given up after its last attempt."""


@dlq.command("list", cls=Verb, examples=_DLQ[:1])
@click.argument("topic", metavar="TOPIC", type=TEXT)
@click.argument("group", metavar="GROUP", type=TEXT)
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="At most so many.")
@click.option(
    "--after", type=click.IntRange(0), default=0, metavar="OFFSET", help="Only those behind: the last of the page before."
)
@common
def list_dead(topic: str, group: str, limit: int, after: int, store: str, as_json: bool) -> None:
    """List the dead letters of a group."""
    found = _run(store, lambda topics: topics.dead_letters(topic, group, after=after, limit=limit))
    if as_json:
        for letter in found:
            print_json(_letter_record(letter))
        return
    if not found:
        note("no dead letters")
        return
    rows = [
        (str(letter.offset), letter.event.id if letter.event else "?", str(letter.attempts), moment(letter.at), letter.reason)
        for letter in found
    ]
    print_table(("OFFSET", "ID", "ATTEMPTS", "AT", "REASON"), rows)
    if len(found) == limit:
        note(f"there may be more: --after {found[-1].offset}")


def _letter_record(letter: DeadLetter) -> dict[str, Any]:
    event = letter.event
    return {
        "offset": letter.offset,
        "attempts": letter.attempts,
        "reason": letter.reason,
        "at": letter.at.isoformat(),
        "id": event.id if event else None,
        "key": event.key if event else None,
        "data": event.data if event else None,
    }


def _offset_or_all(function: Callable[..., None]) -> Callable[..., None]:
    for decorate in (
        click.option("--all", "everything", is_flag=True, help="All there are now."),
        click.argument("offset", metavar="[OFFSET]", type=click.IntRange(1), required=False),
        click.argument("group", metavar="GROUP", type=TEXT),
        click.argument("topic", metavar="TOPIC", type=TEXT),
    ):
        function = decorate(function)
    return function


def _chosen(offset: int | None, everything: bool) -> None:
    if (offset is None) is not everything:
        raise click.UsageError("give the OFFSET of one dead letter, or --all")


def _settled(count: int, what: str, as_json: bool) -> None:
    if as_json:
        print_json({what: count})
    else:
        click.echo(f"{what} {count}")


@dlq.command("replay", cls=Verb, examples=_DLQ[1:])
@_offset_or_all
@common
def replay_dead(topic: str, group: str, offset: int | None, everything: bool, store: str, as_json: bool) -> None:
    """Deliver a dead letter (or --all) to its group again, once each, with new attempts."""
    _chosen(offset, everything)
    _settled(_run(store, lambda topics: topics.replay(topic, group, offset)), "replayed", as_json)


@dlq.command("drop", cls=Verb, examples=("spellwork events dlq drop orders mail 17",))
@_offset_or_all
@common
def drop_dead(topic: str, group: str, offset: int | None, everything: bool, store: str, as_json: bool) -> None:
    """Delete a dead letter (or --all) for good."""
    _chosen(offset, everything)
    _settled(_run(store, lambda topics: topics.drop(topic, group, offset)), "dropped", as_json)
