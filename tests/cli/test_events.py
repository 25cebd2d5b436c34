"""`spellwork events`: durable topics from a terminal."""

import json
import signal

import pytest


@pytest.fixture
def published(spellwork):
    """A store with two topics."""
    for n in range(1, 4):
        assert spellwork("events", "publish", "orders.eu", json.dumps({"n": n}), "--key", "ada").out == f"{n}\n"
    assert spellwork("events", "publish", "orders.us", "[1]", "--id", "first", "--json").value == {
        "topic": "orders.us",
        "offset": 1,
    }


@pytest.mark.usefixtures("published")
def test_tail_prints_the_events_of_a_pattern_in_order(spellwork):
    """People get a line an event, programs a CloudEvent a line."""
    lines = spellwork("events", "tail", "orders.*", "--no-follow").out.splitlines()
    assert [line.split()[2] for line in lines] == ["orders.eu:1", "orders.eu:2", "orders.eu:3", "orders.us:1"]
    assert lines[0].endswith('key=ada  {"n":1}')
    records = spellwork("events", "tail", ">", "--no-follow", "--json").lines
    assert [(r["type"], r["sequence"], r["data"]) for r in records[2:]] == [("orders.eu", "3", {"n": 3}), ("orders.us", "1", [1])]
    assert (records[3]["id"], records[0]["partitionkey"], records[0]["specversion"]) == ("first", "ada", "1.0")


@pytest.mark.usefixtures("published")
def test_tail_begins_where_it_is_told(spellwork):
    """At an offset, the latest, or a time; an offset needs one topic."""

    def read(*options):
        return [r["data"] for r in spellwork("events", "tail", "--no-follow", "--json", *options).lines]

    assert read("orders.eu", "--from", 2) == [{"n": 2}, {"n": 3}]
    assert read("orders.eu", "--from", "latest") == []
    assert read("orders.eu", "--from", "2020-01-01") == read("orders.eu") == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert read("orders.>", "--from", "2020-01-01T00:00:00+00:00") == [{"n": 1}, {"n": 2}, {"n": 3}, [1]]
    assert read("orders.>", "--from", "2999-01-01") == []
    assert spellwork("events", "tail", "orders.>", "--from", 2).code == 2
    assert spellwork("events", "tail", "orders.eu", "--from", "yesterday").code == 2


def test_tail_follows_other_processes_until_it_is_interrupted(process, spellwork, published, eventually):
    """What another process publishes is printed at once; Ctrl-C ends it."""
    tail = process("events", "tail", "orders.>", "--from", "earliest", "--json")
    eventually(lambda: len(tail.out.splitlines()) == 4)
    spellwork("events", "publish", "orders.new", '"hello"')
    eventually(lambda: '"hello"' in tail.out)
    tail.send(signal.SIGINT)
    assert tail.end().code == 130


@pytest.fixture
def story(folder):
    """A store in which two orders have happened, mixed, in three topics."""
    import asyncio

    from spellwork.events.durable import open_topics

    async def work():
        async with open_topics("sqlite:spellwork.db") as topics:
            orders, stock, cards = [await topics.topic(name) for name in ("orders.placed", "stock.taken", "payments.card")]
            await orders.publish({"n": 8}, id="order-8")
            await orders.publish({"n": 9}, id="order-9")
            await stock.publish({"n": 8}, id="take-8", correlation="order-8", causation="order-8")
            await cards.publish({"n": 9}, id="pay-9", correlation="order-9", causation="order-9")
            await cards.publish({"n": 8}, id="pay-8\x1b[2J", correlation="order-8", causation="take-8")
            await orders.publish({"n": 8}, id="again", correlation="order-8", causation="elsewhere")

    asyncio.run(work())


@pytest.mark.usefixtures("story")
def test_a_timeline_shows_what_happened_for_an_id_and_what_caused_it(spellwork):
    """People get a line an event, under what caused it; programs a CloudEvent a line. Ids cannot steer the terminal."""
    shown = spellwork("events", "timeline", "order-8")
    assert (shown.code, [line[26:] for line in shown.out.splitlines()]) == (0, [
        '  orders.placed:1  id=order-8  {"n":8}',
        '    stock.taken:1  id=take-8  causation=order-8  {"n":8}',
        '      payments.card:2  id=pay-8\\x1b[2J  causation=take-8  {"n":8}',
        '  orders.placed:3  id=again  causation=elsewhere  {"n":8}',
    ])  # fmt: skip
    records = spellwork("events", "timeline", "order-8", "--json").lines
    assert [(r["type"], r["sequence"], r["id"], r.get("correlationid"), r.get("causationid")) for r in records] == [
        ("orders.placed", "1", "order-8", None, None),
        ("stock.taken", "1", "take-8", "order-8", "order-8"),
        ("payments.card", "2", "pay-8\x1b[2J", "order-8", "take-8"),
        ("orders.placed", "3", "again", "order-8", "elsewhere"),
    ]


def test_what_the_children_of_a_run_publish_stands_under_what_it_has_published(spellwork, folder):
    """A run that another one has started names that as the cause."""
    import asyncio

    from spellwork.events.durable import open_topics

    async def work():
        async with open_topics("sqlite:spellwork.db") as topics:
            topic = await topics.topic("log")
            for source, cause in (
                ("workflow/a/r", None),
                ("workflow/b/r-1", "r"),
                ("workflow/c/r-2", "r-1"),
                ("workflow/a/r", None),
            ):
                await topic.publish(1, id=source[-3:], source=source, correlation="r", causation=cause)

    asyncio.run(work())
    lines = spellwork("events", "timeline", "r").out.splitlines()
    assert [len(line[26:]) - len(line[26:].lstrip()) for line in lines] == [2, 4, 6, 2]


@pytest.mark.usefixtures("story")
def test_a_timeline_is_narrowed_by_pattern_and_time(spellwork):
    """What was caused by something that is left out stands at the left."""
    lines = spellwork("events", "timeline", "order-8", "--pattern", "payments.*", "--from", "2020-01-01").out.splitlines()
    assert [line.split()[2:4] for line in lines] == [["payments.card:2", "id=pay-8\\x1b[2J"]]
    assert lines[0][26:].startswith("  payments")
    for place in ("latest", "3", "yesterday"):
        assert spellwork("events", "timeline", "order-8", "--from", place).code == 2, place


@pytest.mark.usefixtures("story")
def test_a_timeline_of_nothing_says_where_to_look(spellwork):
    """An id that no event has is not found, and neither is one of other topics; a bad pattern and an empty id are refused."""
    missing = spellwork("events", "timeline", "order-7")
    assert (missing.code, missing.out) == (3, "")
    assert "has the correlation or the id 'order-7'; `spellwork events tail '>' --no-follow --json` shows" in missing.err
    for narrowed in (("--pattern", "bills"), ("--from", "2999-01-01")):
        told = spellwork("events", "timeline", "order-8", "--json", *narrowed)
        assert (told.code, told.error["error"]) == (3, "not-found"), narrowed
    assert "match 'payments.*' has from 2999-01-01" in spellwork(
        "events", "timeline", "order-8", "--pattern", "payments.*", "--from", "2999-01-01"
    ).err  # fmt: skip
    assert spellwork("events", "timeline", "order-8", "--pattern", "a..b").code == 5
    assert spellwork("events", "timeline", "").code == 5


@pytest.mark.usefixtures("story")
def test_a_timeline_stops_at_damage_and_says_how_to_pass_it(spellwork, folder):
    """What lies before it is shown; the topic can be left out. With --json, stderr is one document."""
    from spellwork.events.durable.keys import event_key
    from tests.engine.test_fsck import hurt

    hurt(folder / "spellwork.db", event_key("payments.card", 1))
    stopped = spellwork("events", "timeline", "order-8")
    assert (stopped.code, len(stopped.out.splitlines())) == (6, 2)
    assert "the event at 1 of topic payments.card is damaged" in stopped.err
    assert "--pattern that leaves its topic out" in stopped.err
    assert spellwork("events", "timeline", "order-8", "--json").error["error"] == "row-damaged"
    assert len(spellwork("events", "timeline", "order-8", "--pattern", "orders.>").out.splitlines()) == 2


def test_reading_makes_no_store(spellwork, folder):
    """A store that is not there is an error, and stays not there."""
    for words in ("tail a", "timeline a", "topics", "groups", "dlq list a b", "dlq drop a b --all"):
        assert spellwork("events", *words.split()).code == 3, words
    assert list(folder.iterdir()) == []
    assert spellwork("events", "topics", "--store", "memory:").code == 2


@pytest.mark.usefixtures("published")
def test_bad_input_is_refused_with_its_code(spellwork):
    """No JSON, no name, no such topic, no such group."""
    assert spellwork("events", "publish", "orders", "{").code == 2
    assert spellwork("events", "publish", "orders.*", "1").code == 5
    assert spellwork("events", "tail", "a..b").code == 5
    assert spellwork("events", "tail", "bills", "--no-follow", "--json").error["error"] == "topic-not-found"
    missing = spellwork("events", "dlq", "list", "orders.eu", "mail")
    assert (missing.code, "has no group mail" in missing.err) == (3, True)
    assert spellwork("events", "dlq", "replay", "orders.eu", "mail").code == 2
    assert spellwork("events", "dlq", "drop", "orders.eu", "mail", "3", "--all").code == 2


@pytest.fixture
def letters(folder):
    """A topic with a group that has given up two of three events."""
    import asyncio

    from spellwork.events.durable import open_topics

    async def work():
        async with open_topics("sqlite:spellwork.db") as topics:
            topic = await topics.topic("orders", dedup=60, partitions=2)
            await topic.publish_many([1, 2, 3], id=lambda n: f"order-{n}")
            async with topic.consume("mail", max_attempts=1) as consumer:
                for _ in range(3):
                    delivery = await anext(consumer)
                    await (delivery.ack() if delivery.data == 2 else delivery.nack(reason="no stamps"))

    asyncio.run(work())


@pytest.mark.usefixtures("letters")
def test_topics_and_groups_show_where_things_stand(spellwork):
    """Options, lag, dead letters."""
    assert spellwork("events", "publish", "orders", "4", "--id", "order-1").out == "1\n"
    assert spellwork("events", "publish", "orders", "4", "--id", "order-4").out == "4\n"
    spellwork("events", "publish", "other", "1")
    lines = spellwork("events", "topics").out.splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["orders", "4", "0", "2", "1", "dedup=60s"],
        ["other", "1", "0", "1", "0", "undeclared"],
    ]
    record = spellwork("events", "topics", "ord*", "--json")
    assert record.code == 5
    assert spellwork("events", "topics", "orders", "--json").value["groups"] == ["mail"]
    (group,) = spellwork("events", "groups", "--json").lines
    assert (group["topic"], group["group"], group["lag"], group["dead"], group["consumers"]) == ("orders", "mail", 1, 2, 0)
    assert spellwork("events", "groups", "*").out.splitlines()[1].split() == ["orders", "mail", "1", "0", "0", "2", "0", "2"]
    assert "no groups" in spellwork("events", "groups", "other").err


@pytest.mark.usefixtures("letters")
def test_dead_letters_are_listed_replayed_and_dropped(spellwork):
    """One, or all."""
    lines = spellwork("events", "dlq", "list", "orders", "mail").out.splitlines()
    assert [(line.split()[0], line.split()[1], line.endswith("no stamps")) for line in lines[1:]] == [
        ("1", "order-1", True), ("3", "order-3", True),
    ]  # fmt: skip
    (letter,) = spellwork("events", "dlq", "list", "orders", "mail", "--after", 1, "--json").lines
    assert (letter["offset"], letter["attempts"], letter["reason"], letter["data"]) == (3, 1, "no stamps", 3)
    assert spellwork("events", "dlq", "replay", "orders", "mail", "1").out == "replayed 1\n"
    assert spellwork("events", "dlq", "drop", "orders", "mail", "1").code == 3
    assert spellwork("events", "dlq", "drop", "orders", "mail", "--all", "--json").value == {"dropped": 1}
    assert "no dead letters" in spellwork("events", "dlq", "list", "orders", "mail").err


@pytest.mark.parametrize("words", [[], ["tail"], ["timeline"], ["publish"], ["topics"], ["groups"], ["dlq"], ["dlq", "replay"]])
def test_help_says_what_each_does(spellwork, words):
    """Without a store."""
    outcome = spellwork("events", *words, "--help")
    assert (outcome.code, "Usage: spellwork events" in outcome.out) == (0, True)


def test_a_topic_is_deleted_only_when_it_is_meant(spellwork):
    """Without --yes it says what would go; then it is gone for every verb, and the next event begins anew."""
    for n in range(3):
        spellwork("events", "publish", "orders", str(n))
    refused = spellwork("events", "delete", "orders")
    assert (refused.code, "up to 3 events, 0 groups and 0 dead letters of orders" in refused.err) == (2, True)
    assert spellwork("events", "delete", "orders", "--yes").out == "deleted orders: 3 events\n"
    assert spellwork("events", "topics", "--json").out == ""
    for words in (("delete", "orders", "--yes"), ("delete", "orders"), ("tail", "orders", "--no-follow")):
        assert spellwork("events", *words, "--json").error["error"] == "topic-not-found", words
    assert spellwork("events", "publish", "orders", "3").out == "4\n"
    assert spellwork("events", "delete", "orders", "--yes", "--json").value == {"topic": "orders", "deleted": 1}
