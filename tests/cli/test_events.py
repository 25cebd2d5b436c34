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


def test_reading_makes_no_store(spellwork, folder):
    """A store that is not there is an error, and stays not there."""
    for words in (["tail", "a"], ["topics"], ["groups"], ["dlq", "list", "a", "b"], ["dlq", "drop", "a", "b", "--all"]):
        assert spellwork("events", *words).code == 3, words
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


@pytest.mark.parametrize("words", [[], ["tail"], ["publish"], ["topics"], ["groups"], ["dlq"], ["dlq", "replay"]])
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
