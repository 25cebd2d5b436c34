"""The documentation is true: its code runs, its commands print what is shown, its tables name what exists.

On each page every ```python block is executed, top to bottom, in one module and an empty directory. A ```text block
right behind it is what it prints. A ```console block whose commands are all `spellwork`, `python`, `kill` or `sleep` is
executed as well, and compared. In expected output `...` stands for anything. In the line above a block,
`<!-- file: NAME -->` writes it to NAME instead of executing it, `<!-- fresh -->` gives it a module of its own, and
`<!-- skip: REASON -->` leaves it out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import doctest
import inspect
import io
import os
import re
import shlex
import signal
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import spellwork
import spellwork.state
from spellwork import errors, events, machine, store, testing
from spellwork.cli import program
from spellwork.cli.exits import Exit

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
SKIPS_ALLOWED = 3
STATES = {"done", "part", "no"}
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MARK = re.compile(r"<!-- (skip|file|fresh)(?:: ([^>]*?))? -->\n$")
_COMPARE = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
_KNOWN_COMMANDS = ("spellwork ", "python ", "kill ", "sleep ")


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, what it holds, how it is marked, and whether it follows the one before at once."""

    page: Path
    line: int
    language: str
    text: str
    mark: str
    value: str
    follows: bool

    @property
    def place(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    text = page.read_text()
    found, end = [], 0
    for fence in _FENCE.finditer(text):
        mark = _MARK.search(text, 0, fence.start())
        mark = mark if mark and mark.end() == fence.start() else None
        found.append(
            Block(
                page, text.count("\n", 0, fence.start()) + 1, fence[1], fence[2],
                mark[1] if mark else "", (mark[2] or "") if mark else "", not text[end : fence.start()].strip(),
            )
        )  # fmt: skip
        end = fence.end()
    return found


def agree(place: str, wanted: str, got: str) -> None:
    """Compare output with what the page shows."""
    checker = doctest.OutputChecker()
    if not checker.check_output(wanted.strip() + "\n", got.strip() + "\n", _COMPARE):
        raise AssertionError(f"{place}: the page shows\n{wanted}\nbut this was printed\n{got}")


def execute(block: Block, module: types.ModuleType) -> str:
    """Run a python block; what it prints."""
    code = compile("\n" * block.line + block.text, str(block.page), "exec", dont_inherit=True)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, vars(module))
    return printed.getvalue()


class Shell:
    """Runs console blocks. A command with `&` behind it stays in the background: `%1` is the newest, `wait` waits for it."""

    def __init__(self) -> None:
        self._job: subprocess.Popen[str] | None = None

    def run(self, block: Block) -> None:
        """Run a block command by command, unless it needs more than this package."""
        parts = [part for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE) if part.strip()]
        if not all(part.startswith(_KNOWN_COMMANDS) for part in parts):
            return
        for part in parts:
            command, _, wanted = part.partition("\n")
            agree(f"{block.place}: $ {command}", wanted, self._command(command, len(wanted.splitlines())))

    def _command(self, command: str, lines: int) -> str:
        line = re.sub(r"^spellwork ", f"{shlex.quote(sys.executable)} -m spellwork.cli ", command)
        line = re.sub(r"^python ", f"{shlex.quote(sys.executable)} -u ", line)
        if command.endswith(" &"):
            return self._start(shlex.split(line[:-2]), lines)
        if command == "kill -9 %1":
            self.stop()
            return ""
        done = subprocess.run(
            shlex.split(line),
            env=_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout + ("Killed\n" if done.returncode == -signal.SIGKILL else "")

    def _start(self, words: list[str], lines: int) -> str:
        self.stop()
        self._job = subprocess.Popen(words, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert self._job.stdout is not None
        return "".join(self._job.stdout.readline() for _ in range(lines))

    def stop(self) -> None:
        """End what runs in the background."""
        if self._job is not None:
            self._job.kill()
            self._job.communicate()
            self._job = None


def _environment() -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT / "src"), *(path for path in sys.path if path)])
    return os.environ | {"PYTHONPATH": paths, "COLUMNS": "110", "NO_COLOR": "1", "PYTHONWARNINGS": "error"}


@contextlib.contextmanager
def _module(name: str) -> Iterator[types.ModuleType]:
    # dataclasses and pickle look a class's module up by its name
    module = types.ModuleType(name)
    sys.modules[name] = module
    try:
        yield module
    finally:
        del sys.modules[name]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_shows_is_true(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block of code runs, and prints what the page says it prints."""
    monkeypatch.chdir(tmp_path)
    printed = ""
    with contextlib.ExitStack() as stack:
        terminal = Shell()
        stack.callback(terminal.stop)
        module = stack.enter_context(_module(f"docs_{page.stem.replace('-', '_')}"))
        for block in blocks(page):
            if block.mark == "skip":
                continue
            if block.mark == "file":
                Path(block.value).write_text(block.text)
            elif block.language == "python":
                target = module
                if block.mark == "fresh":
                    target = stack.enter_context(_module(f"docs_fresh_{block.line}"))
                printed = execute(block, target)
            elif block.language == "text" and block.follows:
                agree(block.place, block.text, printed)
            elif block.language == "console":
                terminal.run(block)


def test_few_blocks_are_skipped_and_each_says_why() -> None:
    """At most three in all."""
    skipped = [block for page in PAGES for block in blocks(page) if block.mark == "skip"]
    assert all(block.value for block in skipped)
    assert len(skipped) <= SKIPS_ALLOWED


def test_every_public_name_stands_in_the_reference() -> None:
    """What can be imported from `spellwork` and its public subpackages is explained."""
    text = (DOCS / "reference.md").read_text()
    modules = (spellwork, testing, store, spellwork.state, machine, events, events.channel)
    names = {name for module in modules for name in module.__all__}
    names |= {name for name, value in vars(errors).items() if isinstance(value, type)} | {
        "spellwork.sync.Engine",
        "spellwork.sync.open_state",
    }
    missing = sorted(name for name in names if f"`{name}" not in text)
    assert not missing


def test_every_option_and_verb_of_an_engine_stands_in_the_reference() -> None:
    """The tables of `Engine` are complete."""
    text = (DOCS / "reference.md").read_text()
    options = inspect.signature(spellwork.Engine).parameters
    assert not [name for name in options if not re.search(rf"[`(, ]{name}[=`]", text)]
    assert not [name for name in vars(spellwork.Engine) if not name.startswith("_") and not re.search(rf"[`, ]{name}[(`]", text)]


def test_every_error_stands_in_the_reference_with_its_code() -> None:
    """The table of errors is complete and right."""
    text = (DOCS / "reference.md").read_text()
    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, errors.SpellworkError):
            assert re.search(rf"`{name}` *\| `{value.code}` *\|", text), name


def test_every_verb_and_exit_code_stands_in_the_reference() -> None:
    """So does each crash point."""
    text = (DOCS / "reference.md").read_text()
    known = verbs()
    assert not [verb for verb in known if f"`spellwork {verb}" not in text]
    for code in Exit:
        assert f"| {int(code)} | {code.meaning} |" in text
    for point, meaning in testing.CRASH_POINTS.items():
        assert f"| `{point}` | {meaning} |" in text


def verbs() -> list[str]:
    """The verbs of the command line, in the order of its help."""
    return program.spellwork.list_commands(click.Context(program.spellwork))


def capabilities() -> list[tuple[str, str, str]]:
    rows = re.findall(r"^\| ([A-Z]\d+) \| ([^|]*) \| ([^|]*) \|$", (DOCS / "capabilities.md").read_text(), re.MULTILINE)
    return [(row[0], row[1].strip(), row[2]) for row in rows]


def test_each_capability_has_a_state() -> None:
    """Each id stands once; what is done says where it is tested, and what is not says what is missing."""
    rows = capabilities()
    ids = [id_ for id_, _, _ in rows]
    assert len(ids) == len(set(ids)) == 87
    for id_, state, where in rows:
        assert state in STATES, id_
        assert state != "done" or "tests/" in where, id_
        assert where.strip(), id_


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_tests_that_are_named_exist(page: Path) -> None:
    """`tests/file.py` and `tests/file.py::test` in the documentation are what they say."""
    for file, test in re.findall(r"`(tests/[\w/.]+?\.py)(?:::(\w+))?`", page.read_text()):
        assert (ROOT / file).is_file(), file
        assert not test or re.search(rf"def {test}\(", (ROOT / file).read_text()), f"{file}::{test}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    """A link to a file or to a heading of one is not broken."""
    prose = re.sub(r"`[^`\n]+`", "", _FENCE.sub("", page.read_text()))
    for target in re.findall(r"\]\((?!https?://)([^)]+)\)", prose):
        path, _, heading = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if heading:
            slugs = [_slug(title) for title in re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)]
            assert heading in slugs, target


def _slug(title: str) -> str:
    return re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower())


def test_the_site_builds(tmp_path: Path) -> None:
    """`make docs` finds every page in the navigation, and no link or anchor that leads nowhere."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "streams" / "index.html").exists()
