"""Owns the picture of a chart in Graphviz's language, and as SVG where Graphviz is installed, with the active states marked.
It must never draw what the chart does not hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from spellwork.errors import DrawingFailed
from spellwork.machine.chart import Chart
from spellwork.machine.configuration import Configuration
from spellwork.machine.mermaid import label_of, told_of
from spellwork.machine.model import State, Transition

_PATIENCE = 60.0  # seconds; a chart of some hundred states takes a second
_PLAIN = 'fillcolor="#ffffff", color="#37474f", penwidth=1'
_ACTIVE = 'fillcolor="#ffe082", color="#e65100", penwidth=3'


def dot(chart: Chart, active: Configuration | Iterable[str] = ()) -> str:
    """The chart as a graph for Graphviz: nested states are clusters; `active`, a configuration or ids, are marked."""
    return "\n".join(_Picture(chart, active).lines()) + "\n"


def svg(chart: Chart, active: Configuration | Iterable[str] = ()) -> str:
    """The chart as an SVG document, drawn by Graphviz's program `dot`.

    Raises:
        DrawingFailed: `dot` is not installed, or failed.
    """
    import shutil  # noqa: PLC0415 - a machine that runs draws nothing
    import subprocess  # noqa: PLC0415 - the same

    program = shutil.which("dot")
    if program is None:
        raise DrawingFailed(
            "there is no program `dot`: install Graphviz (`apt install graphviz`, `brew install graphviz`, "
            "https://graphviz.org/download), or draw with mermaid(), which needs nothing",
            machine=chart.name,
        )
    try:
        done = subprocess.run(  # noqa: S603 - a fixed command; the chart is its input
            [program, "-Tsvg"], input=dot(chart, active).encode(), capture_output=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DrawingFailed(f"{program} did not draw {chart.name!r}: {error}", machine=chart.name) from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()
        raise DrawingFailed(f"{program} failed on {chart.name!r} with exit code {done.returncode}: {said}", machine=chart.name)
    return done.stdout.decode()


class _Picture:
    def __init__(self, chart: Chart, active: Configuration | Iterable[str]):
        self.root = chart.root
        self.active = set(active.states if isinstance(active, Configuration) else active)
        self.name = chart.name
        self.numbers = {state.id: number for number, state in enumerate(chart.root.walk())}
        self.parents = {child.id: state.id for state in chart.root.walk() for child in state.children}
        self.clusters = {state.id for state in chart.root.walk() if state.children and state is not chart.root}

    def lines(self) -> Iterator[str]:
        yield f"digraph {_quoted(self.name)} {{"
        yield f'    graph [compound=true, labelloc=t, label={_quoted(self.name)}, fontname="Helvetica"]'
        yield '    node [shape=box, fontname="Helvetica", fontsize=11]'
        yield '    edge [fontname="Helvetica", fontsize=10]'
        yield from self._inside(self.root, 1)
        yield from self._arrows()
        yield "}"

    def _inside(self, state: State, depth: int) -> Iterator[str]:
        pad = "    " * depth
        if state.kind != "parallel" and state.real_children:
            yield f'{pad}i{self.numbers[state.id]} [shape=circle, label="", width=0.12, style=filled, fillcolor="#37474f"]'
        for child in state.children:
            number = self.numbers[child.id]
            if not child.children:
                yield f"{pad}s{number} [{self._looks(child)}]"
                continue
            yield f"{pad}subgraph cluster_{number} {{"
            yield f"{pad}    graph [label={_quoted(_title(child))}, {self._colours(child, region=state.kind == 'parallel')}]"
            yield f'{pad}    s{number} [shape=point, style=invis, width=0.01, height=0.01, label=""]'
            yield from self._inside(child, depth + 1)
            yield f"{pad}}}"

    def _looks(self, state: State) -> str:
        style = self._colours(state)
        label = _quoted(_title(state))
        if state.kind == "final":
            return f"label={label}, peripheries=2, {style}"
        if state.kind == "history":
            # its id is for transitions; what people look for is the H
            return f'shape=circle, label="H{"*" if state.deep else ""}", tooltip={_quoted(state.id)}, {style}'
        return f"label={label}, {style}"

    def _colours(self, state: State, *, region: bool = False) -> str:
        colours = _ACTIVE if state.id in self.active else _PLAIN
        return f'style="rounded,filled{",dashed" if region else ""}", {colours}'

    def _arrows(self) -> Iterator[str]:
        for state in self.root.walk():
            if state.real_children and state.kind != "parallel":
                first = state.initial or Transition(targets=(state.real_children[0].id,))
                for target in first.targets:
                    yield self._arrow(f"i{self.numbers[state.id]}", None, target, label_of(first, state), "")
            for transition in state.transitions:
                if state is self.root:
                    yield '    any [shape=plaintext, label="in any state"]'
                source = "any" if state is self.root else f"s{self.numbers[state.id]}"
                style = "" if transition.targets else ", style=dashed"
                for target in transition.targets or (state.id,):
                    yield self._arrow(source, state.id, target, label_of(transition, state), style)

    def _arrow(self, source: str, left: str | None, target: str, label: str, style: str) -> str:
        head, more = "any" if target == self.root.id else f"s{self.numbers[target]}", ""
        # an edge ends at the border of a cluster, unless its other end lies in there
        if target in self.clusters and left != target and not self._within(left, target):
            more += f", lhead=cluster_{self.numbers[target]}"
        if left in self.clusters and left != target and not self._within(target, left):
            more += f", ltail=cluster_{self.numbers[left]}"
        return f"    {source} -> {head} [label={_quoted(label)}{more}{style}]"

    def _within(self, id_: str | None, above: str | None) -> bool:
        while id_ in self.parents:
            id_ = self.parents[id_]
            if id_ == above:
                return True
        return False


def _title(state: State) -> str:
    blocks = [("entry", content) for block in state.entry for content in block]
    blocks += [("exit", content) for block in state.exit for content in block]
    done = [f"{when} / {text}" for when, content in blocks if (text := told_of(content))]
    deferred = [f"{', '.join(state.defer)} / defer"] if state.defer else []
    return "\n".join([state.id, *done, *deferred])


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
