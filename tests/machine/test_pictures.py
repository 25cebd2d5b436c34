"""Pictures of charts: the text for Graphviz always, the SVG where Graphviz is installed."""

import itertools
import re
import shutil
from xml.etree import ElementTree

import pytest

from spellwork.errors import DrawingFailed
from spellwork.machine import ChartBuilder, Machine, Raise, agent_lifecycle, dot, mermaid, svg

needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz's program `dot` is not installed")


def rich():
    """Regions, history, a final state, timers, guards, names that need quoting, and a state called `any`."""
    built = ChartBuilder('the "chart"').initial("p")
    built.on("reset", "p")
    regions = built.parallel("p").on("self", "p").on("out", "any").on_entry("hello").on_exit(Raise("bye"))
    for name in "xy":
        region = regions.state(name).initial(f"{name}1").history(f"h{name}", f"{name}1", deep=name == "y")
        region.state(f"{name}1").on("go", f"{name}2", do="act", guard="may").on("up", "p")
        region.state(f"{name}2").after("5s", f"{name}1")
    built.state("any").on("back", "hy").on("end", "f\\n").defer("later").on("tick", do="hello")
    built.final("f\\n")
    return built.build(actions={"hello": print, "act": print}, guards={"may": lambda context: True})


def test_dot_draws_what_the_chart_holds():
    """Nested states are clusters, regions are dashed, and each transition is an arrow with its event, guard and action."""
    text = dot(rich())
    assert text.startswith('digraph "the \\"chart\\"" {\n')
    assert text.count("{") == text.count("}") == 4
    assert text.count("subgraph cluster_") == 3
    assert text.count(",dashed") == 2
    assert '[label="go [may] / act"]' in text
    assert text.count('label="after 5 s"') == 2
    assert 'label="p\\nentry / hello\\nexit / raise bye"' in text
    assert 'label="any\\nlater / defer"' in text
    assert 'label="H", tooltip="hx"' in text
    assert 'label="H*", tooltip="hy"' in text
    assert 'label="f\\\\n", peripheries=2' in text
    assert 'any -> s1 [label="reset", lhead=cluster_1]' in text
    assert re.search(r's1 -> s\d+ \[label="out", ltail=cluster_1\]', text)
    assert 's1 -> s1 [label="self"]' in text
    assert text.count('-> s1 [label="up"]') == 2
    assert 'label="tick / hello", style=dashed' in text


def test_dot_marks_the_active_states():
    """A configuration, or ids: those and no others are marked."""
    machine = Machine(agent_lifecycle())
    for event in ("initialize", "initialized", "run"):
        machine.send(event)
    for given in (machine.configuration, machine.configuration.states):
        text = dot(machine.chart, given)
        marked = re.findall(r'label="(\w+)"[^\]]*penwidth=3', text)
        assert marked == ["Active", "Running"]
    assert "penwidth=3" not in dot(machine.chart)


def test_a_drawing_is_the_same_each_time():
    """The text depends on the chart alone."""
    assert dot(rich(), ["x"]) == dot(rich(), ["x"])


def test_mermaid_says_how_long_a_timer_takes():
    """A number of seconds, not the name of an event that nobody chose."""
    assert "x2 --> x1: after 5 s" in mermaid(rich())


@needs_dot
def test_svg_is_drawn_by_graphviz():
    """Every state and event stands in the document."""
    drawn = ElementTree.fromstring(svg(rich(), ["p", "x", "x1"]))
    said = [element.text for element in drawn.iter() if element.tag.endswith("text")]
    assert {"x1", "x2", "after 5 s", "go [may] / act", "reset"} <= set(said)


def program(tmp_path, monkeypatch, text):
    """A program `dot` of our own, the only one there is."""
    file = tmp_path / "dot"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))


def test_without_graphviz_the_error_says_what_to_install(tmp_path, monkeypatch):
    """And what can be had without."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DrawingFailed, match=r"install Graphviz.*mermaid\(\)") as caught:
        svg(agent_lifecycle())
    assert caught.value.machine == "agent"


def test_graphviz_gets_the_text_and_its_failure_is_told(tmp_path, monkeypatch):
    """What it prints is the picture; what it complains about is in the error."""
    program(tmp_path, monkeypatch, '[ "$1" = -Tsvg ] && while read -r line; do echo "$line"; done')
    assert svg(agent_lifecycle(), ["Error"]).split() == dot(agent_lifecycle(), ["Error"]).split()
    program(tmp_path, monkeypatch, "echo 'syntax error in line 1' >&2; exit 3")
    with pytest.raises(DrawingFailed, match="'agent' with exit code 3: syntax error in line 1"):
        svg(agent_lifecycle())


def test_mermaid_keeps_states_apart_whatever_they_are_called():
    """Two ids that look alike there, words of its language, quotes, and a number are states of their own."""
    names = ["a.b", "a_b", 'say "hi"', "end", "1 2"]
    built = ChartBuilder("m").initial(names[0])
    for here, there in itertools.pairwise(names):
        built.state(here).on("go", there)
    built.state(names[-1])
    text = mermaid(built.build(), ["a_b"])
    told = [line.split('"', 1)[1].rsplit('" as ', 1) for line in text.splitlines() if line.strip().startswith("state ")]
    labels = {short: label for label, short in told}
    assert [label.replace("#quot;", '"') for label in labels.values()] == names
    assert "end" not in labels
    assert [line.split() for line in text.splitlines() if ": go" in line] == [
        [here, "-->", f"{there}:", "go"] for here, there in itertools.pairwise(labels)
    ]
    assert text.splitlines()[-1].split() == ["class", list(labels)[1], "active"]
