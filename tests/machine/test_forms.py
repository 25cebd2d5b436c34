"""One model, five ways to write it: classes, builder, compact text, JSON and SCXML."""

import dataclasses
from typing import Any

import pytest

from spellwork.errors import ChartRefused, DefinitionError
from spellwork.machine import (
    Assign,
    Cancel,
    ChartBuilder,
    Handled,
    Log,
    Machine,
    Raise,
    Send,
    Super,
    To,
    active,
    agent_lifecycle,
    chart,
    entry,
    exit_,
    from_json,
    from_scxml,
    from_text,
    handler,
    history,
    initial,
    on,
    to_json,
    to_scxml,
)  # fmt: skip

BREAKER = """
circuit_breaker(Closed)

Closed(Unsuccessful) => Open [SetOpenedAt],
Open(TimerTriggered) => HalfOpen,
HalfOpen => {
    Successful => Closed,
    Unsuccessful => Open [SetOpenedAt],
}
"""


def test_the_circuit_breaker_cycles():
    """The compact text loads as written; Closed, Open, HalfOpen, Closed."""
    opened = []
    machine = Machine(from_text(BREAKER, actions={"SetOpenedAt": lambda: opened.append(1)}))
    assert machine.chart.name == "circuit_breaker"
    seen = [machine.state]
    for event in ("Unsuccessful", "TimerTriggered", "Successful"):
        machine.send(event)
        seen.append(machine.state)
    assert seen == [("Closed",), ("Open",), ("HalfOpen",), ("Closed",)]
    assert opened == [1]


@pytest.mark.parametrize("text", [
    "state_machine! { derive(Debug) circuit_breaker(Closed) Closed(U) => Open, Open(T) => Closed, }",
    "sm! { Breaker { InitialStates { Closed } U { Closed => Open } T { Open => Closed } } }",
    "initial Closed\nClosed(U) => Open\nOpen(T) => Closed  # back",
    "Closed(U) => Open; Open(T) => Closed",
])  # fmt: skip
def test_compact_spellings_agree(text):
    """The spellings of rust-fsm and sm, and the plain one, give the same states and transitions."""
    model = from_text(text).root
    assert [(s.id, [(t.events, t.targets) for t in s.transitions]) for s in model.children] == [
        ("Closed", [(("U",), ("Open",))]),
        ("Open", [(("T",), ("Closed",))]),
    ]


def test_compact_text_has_guards_entry_exit_stay_and_timers():
    """Each item of the grammar does what it says."""
    told = []
    text = """
    initial A
    entry B [enter]
    exit B [leave]
    A(go) if ready => B
    B(note) => . [note]
    B(after 2s) => A
    """
    names = ("enter", "leave", "note")
    ready = {"ready": False}
    machine = Machine(from_text(
        text, context=ready, actions={name: (lambda name=name: told.append(name)) for name in names},
        guards={"ready": lambda context: context["ready"]}, strict=False,
    ))  # fmt: skip
    assert not machine.send("go")
    ready["ready"] = True
    machine.send("go")
    machine.send("note")
    machine.advance(2)
    assert machine.state == ("A",)
    assert told == ["enter", "note", "leave"]


@pytest.mark.parametrize(("text", "message"), [
    ("A(x) => ", "ends in the middle"),
    ("A(x) -> B", "line 1: '-' has no meaning"),
    ("A(x) => B\nB[y]", "line 2: '(' is wanted"),
])  # fmt: skip
def test_compact_text_is_refused_with_its_line(text, message):
    """What is not of the form is named with its line."""
    with pytest.raises(DefinitionError, match=message.replace("(", r"\(").replace("[", r"\[")):
        from_text(text)


@dataclasses.dataclass(frozen=True)
class Elapsed:
    ms: int


@dataclasses.dataclass(frozen=True)
class Pressed:
    pass


@dataclasses.dataclass(frozen=True)
class Blinks:
    count: int = 0


def led():
    """The LED of statig: it blinks until a button is pressed."""
    told = []

    class Led:
        @initial
        class Blinking:
            @handler(Pressed, "NotBlinking")
            def pressed(context, event):
                return To("NotBlinking")

            @initial
            class LedOn:
                @entry
                def enter(context, event):
                    told.append("on")

                @handler(Elapsed, "LedOff")
                @staticmethod
                def elapsed(context: Blinks, event: Elapsed) -> To | Handled | Super:
                    if event.ms < 10:
                        return Handled()
                    return To("LedOff", Blinks(context.count + 1))

                @handler(Pressed)
                @staticmethod
                def button(context: Blinks, event: Pressed) -> To | Handled | Super:
                    return Super()

            class LedOff:
                @exit_
                def leave(context, event):
                    told.append("left off")

                @on(Elapsed, "LedOn")
                def again(context, event):
                    told.append(event.ms)

        class NotBlinking:
            @on(Pressed, "Was")
            def back(context, event):
                told.append("back")

            @handler(Elapsed)
            @staticmethod
            def ignore(context: Blinks, event: Elapsed) -> To | Handled | Super:
                return Handled()

        @history("LedOn", deep=True)
        class Was: ...

    return chart(Led, context=Blinks, events=[Elapsed, Pressed]), told


def test_handlers_answer_to_handled_or_super():
    """A handler goes somewhere, keeps the event, or asks the parent; classes nest as states nest."""
    made, told = led()
    machine = Machine(made)
    assert machine.send(Elapsed(5))
    assert machine.state == ("LedOn",)
    machine.send(Elapsed(10))
    assert (machine.state, machine.context) == (("LedOff",), Blinks(1))
    machine.send(Elapsed(20))
    machine.send(Pressed())
    assert machine.state == ("NotBlinking",)
    machine.send(Elapsed(20))
    machine.send(Pressed())
    assert machine.state == ("LedOn",)
    assert told == ["on", "left off", 20, "on", "back", "on"]


def test_a_handler_declares_where_it_goes():
    """An answer that was not declared is refused, and the machine stays."""

    class Wrong:
        @initial
        class A:
            @handler(Pressed)
            def pressed(context, event):
                return To("B")

            @on(Elapsed, "B")
            def elapsed(context, event): ...

        class B: ...

    machine = Machine(chart(Wrong))
    with pytest.raises(DefinitionError, match="does not declare"):
        machine.send(Pressed())
    assert machine.state == ("A",)


def whole():
    """A chart with every feature that has a text."""
    built = ChartBuilder("whole", events=["go", "back", "note", "finish"]).initial("A", "boot")
    a = built.state("A").on_entry("enter", Raise("note")).on_exit("leave").on("go", "P", guard="ready", do=["act", Assign("count")])
    a.on("note", do=Log("noted")).on("go", "Z").after(1.5, "P").every("2s", do="tick").defer("back")
    p = built.parallel("P").history("H", "P12", deep=True).on_done("Z")
    p1 = p.state("P1").initial("P11")
    p1.state("P11").on("go", "P12", guard=active("P21"), internal=True)
    p1.state("P12").always("P13", guard="ready")
    p1.final("P13", 7)
    p2 = p.state("P2").initial("P21")
    p2.state("P21").on("finish", "P22").on("back", "H", do=Cancel("later"))
    p2.final("P22")
    p.on_entry(Send("back", delay=3, id="later"))
    built.final("Z", "over")
    names = dict.fromkeys(("boot", "enter", "leave", "act", "tick"), lambda: None) | {"count": lambda context: context}
    guards = {"ready": lambda: True}
    return built.build(actions=names, guards=guards), names, guards


def test_json_and_scxml_hold_the_whole_model():
    """What was written is read back as the same: JSON text equal, SCXML model equal, and both run alike."""
    made, actions, guards = whole()
    written = to_json(made)
    again = from_json(written, actions=actions, guards=guards)
    assert to_json(again) == written
    document = to_scxml(made)
    back = from_scxml(document, actions=actions, guards=guards)
    assert to_scxml(back) == document
    assert [s.id for s in back.root.walk()] == [s.id for s in made.root.walk()]
    machines = [Machine(each) for each in (made, again, back)]
    for event in ("go", "go", "back", "finish"):
        assert len({(machine.send(event), machine.state) for machine in machines}) == 1


def test_the_lifecycle_is_the_same_in_each_form():
    """The reference chart survives JSON and SCXML."""
    made = agent_lifecycle()
    for back in (from_json(to_json(made)), from_scxml(to_scxml(made))):
        assert back.root.children == made.root.children


@pytest.mark.parametrize(("data", "message"), [
    ({"states": {"a": {"onn": {}}}}, "/states/a/onn"),
    ({"states": {"a": {"type": "weird"}}}, "/states/a/type"),
    ({"states": {"a": {"entry": [{"type": "?"}]}}}, "/states/a/entry"),
    ({"states": {"a": {"on": {"x": 3}}}}, "/states/a/on/x"),
    ({"type": "parallel"}, "/type"),
    ("{", "not JSON"),
])  # fmt: skip
def test_json_is_refused_with_its_pointer(data, message):
    """The place of the mistake is named."""
    with pytest.raises(DefinitionError, match=message):
        from_json(data)


def test_names_without_functions_are_refused():
    """A guard that nobody gave is a fault; a missing action is one too when it is to be called."""
    with pytest.raises(ChartRefused, match="unknown-name"):
        from_json({"states": {"a": {"on": {"x": {"guard": "nobody"}}}}, "initial": "a"})
    machine = Machine(from_text("A(x) => A [nobody]"))
    with pytest.raises(LookupError, match="nobody"):
        machine.send("x")


@pytest.mark.parametrize("document", [
    "<scxml", "<nothing/>", "<scxml xmlns='http://www.w3.org/2005/07/scxml'><script>x = 1</script><state id='a'/></scxml>",
    "<scxml><state id='a'><transition cond='x > 1' target='a'/></state></scxml>",
    "<scxml><script src='x'/><state id='a'/></scxml>", "<scxml><state id='a'><onentry><what/></onentry></state></scxml>",
])  # fmt: skip
def test_documents_with_code_or_damage_are_refused(document):
    """Without an evaluator no text is ever executed."""
    with pytest.raises(DefinitionError):
        from_scxml(document)


@pytest.mark.parametrize("delay", [1234567.5, 1e-7, 1e20, 0.1])
def test_json_keeps_delays(delay):
    """Neither the weeks nor the milliseconds of a delay are lost."""
    built = ChartBuilder("m").initial("a")
    built.state("a").after(delay, "b")
    built.state("b")
    assert from_json(to_json(built.build())).root.children == built.build().root.children


def test_json_refuses_an_order_that_it_would_change():
    """A wildcard between two transitions on the same event decides which is taken; grouped by event, it would not."""

    def first():
        return False

    def second():
        return True

    guards = {"first": first, "second": second}
    built = ChartBuilder("m").initial("a")
    built.state("a").on("x", "b", guard=first).on("*", "c", guard=second).on("x", "d")
    for id_ in "bcd":
        built.state(id_)
    with pytest.raises(DefinitionError, match="can't keep that order"):
        to_json(built.build())
    machine = Machine(from_scxml(to_scxml(built.build()), guards=guards))
    machine.send("x")
    assert machine.state == ("c",)


@pytest.mark.parametrize("write", [to_json, to_scxml])
def test_functions_without_a_name_are_not_written(write):
    """`<lambda>` is no name by which anybody could find it again."""
    built = ChartBuilder("m").initial("a")
    built.state("a").on("x", "a", guard=lambda: True)
    with pytest.raises(DefinitionError, match="has no name"):
        write(built.build())


def test_scxml_refuses_to_drop_the_payload_of_a_raised_event():
    """An object as event has no text."""
    built = ChartBuilder("m").initial("a")
    built.state("a").on("x", "a", do=Raise(OSError("lost")))
    with pytest.raises(DefinitionError, match="has no text"):
        to_scxml(built.build())


def test_invoked_documents_have_the_functions_of_the_document_around():
    """Named guards and actions work in a child's inline document, too."""
    told = []
    document = """<scxml xmlns="http://www.w3.org/2005/07/scxml" xmlns:sw="urn:spellwork:machine" initial="a">
      <state id="a"><transition event="done.invoke.i" target="b"/>
        <invoke id="i"><content><scxml initial="k">
          <state id="k"><onentry><sw:action name="hello"/></onentry><transition cond="yes" target="z"/></state><final id="z"/>
        </scxml></content></invoke>
      </state><state id="b"/></scxml>"""
    chart = from_scxml(document, actions={"hello": lambda: told.append("hello")}, guards={"yes": lambda: True})
    assert Machine(chart).state == ("b",)
    assert told == ["hello"]


def test_json_holds_values_only():
    """A result or payload that a function works out is refused, not left among the JSON values."""
    built = ChartBuilder("m").initial("a")
    built.state("a").on("x", "f")
    built.final("f", lambda context: context)
    with pytest.raises(DefinitionError, match="worked out at run time"):
        to_json(built.build())
    other = ChartBuilder("m").initial("a")
    other.state("a").on("x", "a", do=Raise("y", lambda context: context)).on("y")
    with pytest.raises(DefinitionError, match="worked out at run time"):
        to_json(other.build())


@pytest.mark.parametrize("write", [to_json, to_scxml])
def test_one_name_is_never_written_for_two_functions(write):
    """Reading it back would give both transitions the same change."""

    def setting(number):
        def change(context):
            return {"n": number}

        return change

    built = ChartBuilder("m", context=dict).initial("a")
    built.state("a").on("x", do=Assign(setting(1))).on("y", do=Assign(setting(2)))
    with pytest.raises(DefinitionError, match="another function has that name"):
        write(built.build())


def test_json_guards_are_names_or_say_what_they_are():
    """The manner of XState names a guard in an object, too; what is no guard is refused, and never holds by itself."""

    def chart(guard):
        states = {"a": {"on": {"go": {"target": "b", "guard": guard}}}, "b": {}}
        return from_json({"id": "m", "initial": "a", "strict": False, "states": states}, guards={"full": lambda: False})

    for guard in ("full", {"type": "full"}, {"in": "b"}, {"in": ["a", "b"]}):
        assert not Machine(chart(guard)).send("go")
    assert Machine(chart({"in": "a"})).send("go")
    refused: list[Any] = [{}, {"in": []}, {"type": "full", "params": {}}, {"not": "full"}, ["full"], 5, True]
    for wrong in refused:
        with pytest.raises(DefinitionError, match="/states/a/on/go/guard"):
            chart(wrong)


@pytest.mark.parametrize(
    ("at", "given", "told"),
    [
        ("on", ["a"], "/states/a/on"), ("after", 5, "/states/a/after"), ("every", "x", "/states/a/every"),
        ("states", [1], "/states/a/states"), ("defer", 5, "/states/a/defer"), ("defer", [None], "/states/a/defer"),
        ("type", [], "/states/a/type"), ("output", 5, "/states/a/output"),
        ("context", {}, "/states/a/context"), ("target", "b", "/states/a/target"), ("strict", True, "/states/a/strict"),
        ("invoke", {"src": "k", "input": 5}, "/states/a/invoke/0"), ("invoke", {"src": "k", "id": {}}, "/states/a/invoke/0"),
        ("entry", {"type": "send", "event": "x", "dealy": 5}, "/states/a/entry/dealy"),
        ("states", {"h": {"type": "history", "target": "c", "history": "deeep"}, "c": {}}, "/states/a/states/h/history"),
        ("states", {"h": {"type": "history", "target": "c", "entry": "f"}, "c": {}}, "/states/a/states/h/entry"),
    ],
)  # fmt: skip
def test_json_that_would_be_ignored_or_fail_is_refused(at, given, told):
    """Each part of a document does something, or is an error that says where it stands."""
    with pytest.raises(DefinitionError, match=told):
        from_json({"id": "m", "initial": "a", "states": {"a": {"on": {"go": "b"}, at: given}, "b": {}}}, actions={"f": print})


def test_json_names_and_contexts():
    """One name is a name and no list of letters; each machine has a context of its own, with all that is in it."""
    with pytest.raises(DefinitionError, match="the chart is not JSON"):
        from_json(None)  # type: ignore[arg-type]
    states = {"a": {"on": {"go": "b", "add": {"actions": "add"}}, "defer": "quit"}, "b": {"on": {"quit": "a"}}}
    document = {"id": "m", "initial": "a", "context": {"items": []}, "states": states}
    chart = from_json(document, actions={"add": lambda context: context["items"].append(1)})
    first, second = Machine(chart), Machine(chart)
    first.send("quit")
    first.send("add")
    assert first.context == {"items": [1]}
    assert second.context == Machine(chart).context == {"items": []}
    first.send("go")
    assert first.state == ("a",)
