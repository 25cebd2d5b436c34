"""`spellwork machine draw` and `spellwork machine trace`: charts of files, as pictures and tried out."""

import json
import shutil
from pathlib import Path

import pytest

BREAKER = """
    from spellwork.machine import ChartBuilder, from_text

    def note():
        print("opened")

    breaker = from_text(
        "breaker(Closed) Closed(fail) => Open [note], Open(after 30s) => HalfOpen, "
        "HalfOpen => { ok => Closed, fail => Open [note] }",
        actions={"note": note},
    )
"""
DOOR = {
    "id": "door", "initial": "shut", "states": {
        "shut": {"on": {"open": {"target": "ajar", "guard": "is_free", "actions": ["creak"]}}},
        "ajar": {"on": {"close": "shut"}},
    },
}  # fmt: skip
LAMP = """<scxml xmlns="http://www.w3.org/2005/07/scxml" version="1.0" datamodel="python" initial="off">
<datamodel><data id="n" expr="1 + evil()"/></datamodel>
<state id="off"><transition event="press" cond="n &lt; 3" target="on"/></state><state id="on"/></scxml>"""


@pytest.fixture
def files(write, tmp_path):
    """A chart in each of three forms."""
    write("breaker.py", BREAKER)
    Path("door.json").write_text(json.dumps(DOOR))
    Path("lamp.scxml").write_text(LAMP)


def test_draw_prints_mermaid_and_marks_a_state(files, spellwork):
    """The one chart of a Python file; what is named is marked."""
    done = spellwork("machine", "draw", "breaker.py", "--active", "Open")
    assert done.code == 0
    assert done.out.startswith("stateDiagram-v2\n")
    assert "class Open active" in done.out
    assert "Open --> HalfOpen: after 30 s" in done.out


def test_draw_reads_documents_without_their_functions(files, spellwork):
    """Guards, actions and expressions are shown, and nothing is evaluated."""
    assert "open [is_free] / creak" in spellwork("machine", "draw", "door.json").out
    done = spellwork("machine", "draw", "lamp.scxml", "--format", "dot")
    assert 'label="press [n < 3]"' in done.out
    assert done.code == 0


def test_draw_writes_a_file_in_the_form_of_its_ending(files, spellwork):
    """`-o door.gv` is Graphviz's language; a folder that is not there is said to be."""
    assert spellwork("machine", "draw", "door.json", "-o", "door.gv").out == ""
    assert Path("door.gv").read_text().startswith('digraph "door"')
    done = spellwork("machine", "draw", "door.json", "-o", "nowhere/door.gv")
    assert (done.code, "nowhere/door.gv can't be written" in done.err) == (4, True)


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz's program `dot` is not installed")
def test_draw_makes_an_svg(files, spellwork):
    """With Graphviz."""
    assert spellwork("machine", "draw", "door.json", "-o", "door.svg").code == 0
    assert "</svg>" in Path("door.svg").read_text()


def test_draw_without_graphviz_says_what_to_install(files, spellwork, monkeypatch):
    """A refusal, and no traceback."""
    monkeypatch.setenv("PATH", "")
    done = spellwork("machine", "draw", "door.json", "--format", "svg")
    assert done.code == 5
    assert "install Graphviz" in done.err


def test_trace_prints_each_step(files, spellwork):
    """Transitions and actions, timers when time is moved, durations; the actions of a Python file are called."""
    done = spellwork("machine", "trace", "breaker.py", "fail", "+30s", "ok")
    assert done.code == 0
    rows = [line.split("  ") for line in done.out.splitlines()]
    events = [row[0] for row in rows]
    assert events == ["opened", "event", "(start)", "fail", "after.Open.1", "ok"]
    assert "Closed -> Open" in done.out
    assert all(line.rstrip().endswith("s") for line in done.out.splitlines()[2:])


def test_trace_as_json_has_a_document_for_each_step(files, spellwork):
    """Guards stand in the transitions; what the guard says comes from the command line."""
    done = spellwork("machine", "trace", "door.json", "open", "close", "--guard", "is_free=true", "--json")
    assert done.code == 0
    assert [line["event"] for line in done.lines] == ["(start)", "open", "close"]
    assert done.lines[1]["transitions"] == ["shut -> ajar [is_free]"]
    assert done.lines[1]["actions"] == ["creak"]
    assert (done.lines[1]["before"], done.lines[1]["after"], done.lines[1]["done"]) == (["shut"], ["ajar"], True)
    assert done.lines[1]["seconds"] > 0


def test_trace_goes_on_after_a_refusal_and_says_so(files, spellwork):
    """The event that nothing handles is named, the exit code is 1, and the next one is tried."""
    done = spellwork("machine", "trace", "door.json", "close", "open", "--guard", "is_free=true", "--json")
    assert done.code == 1
    assert "does not handle 'close'" in done.lines[1]["error"]
    assert done.lines[2]["after"] == ["ajar"]
    refused = spellwork("machine", "trace", "door.json", "open", "--guard", "is_free=false")
    assert (refused.code, "(not handled)" in refused.out) == (1, True)


def test_trace_awaits_async_actions_and_shows_their_failures(write, spellwork):
    """A step that failed is marked, and left the machine where it was."""
    write("slow.py", """
        from dataclasses import dataclass
        from spellwork.machine import ChartBuilder

        @dataclass(frozen=True)
        class Add:
            n: int

        async def work(context, event):
            if event.n > 3:
                raise ValueError("too much")

        def chart():
            built = ChartBuilder("slow", events=[Add]).initial("a")
            built.state("a").on(Add, "b", do=work)
            built.state("b").after("1s", "a")
            return built.build()
    """)  # fmt: skip
    done = spellwork("machine", "trace", "slow.py:chart", 'Add={"n": 4}', 'Add={"n": 1}', "+1s", "--json")
    assert done.code == 1
    assert [(line["event"], line["done"], line["error"]) for line in done.lines] == [
        ("(start)", True, None), ("Add", False, "too much"), ("Add", True, None), ("after.b.1", True, None),
    ]  # fmt: skip
    assert "failed" in spellwork("machine", "trace", "slow.py:chart", 'Add={"n": 4}').out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["draw", "door.json", "--active", "shat"], 2, "did you mean shut?"),
        (["draw", "nix.json"], 3, "does not exist"),
        (["draw", "breaker.py:other"], 3, "no chart 'other'; it has: breaker"),
        (["draw", "empty.py"], 3, "must hold one chart"),
        (["trace", "door.json", "open"], 2, "say --guard is_free=true"),
        (["trace", "door.json", "open", "--guard", "is_free"], 2, "NAME=true or NAME=false"),
        (["trace", "door.json", "+soon"], 2, "is no delay"),
        (["trace", "door.json", "open={"], 2, "is not JSON"),
        (["trace", "lamp.scxml", "press"], 5, "the null data model"),
    ],
)
def test_what_is_given_wrongly_is_told(files, write, spellwork, words, code, said):
    """With the exit code of its kind."""
    write("empty.py", "")
    done = spellwork("machine", *words)
    assert (done.code, said in done.err) == (code, True), done.err
