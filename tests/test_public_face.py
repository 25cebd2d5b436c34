"""The package's face: what is exported, how light it is, and which parts may know of which."""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import spellwork
from spellwork import errors

SOURCE = Path(spellwork.__file__).parent
PURE = {
    "journal": {"msgspec", "sys", "zlib", "struct", "enum", "typing", "builtins", "collections"},
    "workflow/execution.py": {"asyncio", "contextlib", "contextvars", "copy", "functools", "random", "collections", "typing"},
    **{
        f"machine/{name}.py": {"collections", "dataclasses", "enum", "functools", "inspect", "itertools", "typing", "spellwork"}
        for name in ("action", "chart", "check", "configuration", "content", "event", "model", "moves", "piece", "snapshot", "step")
    },
    "hosted": {
        "collections",
        "copy",
        "dataclasses",
        "datetime",
        "enum",
        "functools",
        "hashlib",
        "inspect",
        "marshal",
        "msgspec",
        "random",
        "typing",
    },
    "machine/table.py": {"collections", "typing", "spellwork"},
    "machine/view.py": {"collections", "inspect", "typing", "spellwork"},
    "workflow/pending.py": {"typing", "msgspec"},
    "workflow/commands.py": {"typing", "msgspec"},
}


def test_the_face_is_sorted_typed_and_documented() -> None:
    """Every public name exists, is exported once, in order, and says what it is."""
    names = spellwork.__all__
    assert list(names) == sorted(names)
    assert len(set(names)) == len(names) <= 42
    for name in names:
        thing = getattr(spellwork, name)
        assert inspect.getdoc(thing), name
    assert (SOURCE / "py.typed").exists()


def test_importing_is_light() -> None:
    """`import spellwork` brings in neither the command line nor its libraries, nor a database, nor pools of processes."""
    code = "import spellwork, sys; print(*sorted(m for m in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout.split()
    ours, theirs = ("spellwork.cli", "spellwork.testing"), ("click", "rich", "apsw", "pydantic")
    for heavy in (*ours, *theirs, "multiprocessing", "pathlib", "sqlite3", "zoneinfo"):
        assert heavy not in loaded, heavy


def test_core_dependencies_are_five() -> None:
    """msgspec, apsw, xxhash, click and rich, and nothing else."""
    required = importlib.metadata.requires("spellwork") or []
    assert sorted(line.split(">")[0] for line in required if "extra" not in line) == ["apsw", "click", "msgspec", "rich", "xxhash"]


@pytest.mark.parametrize("place", list(PURE))
def test_pure_parts_import_only_what_they_may(place: str) -> None:
    """The sans-IO hearts import no clock, no store, no logging."""
    root = SOURCE / place
    for file in [root] if root.suffix else root.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            for module in modules:
                allowed = module.split(".")[0] in PURE[place] | {"__future__"} or module.startswith(
                    (
                        "spellwork.errors",
                        "spellwork.supervision",
                        "spellwork.instant",
                        "spellwork.journal",
                        "spellwork.codec",
                        "spellwork.workflow",
                    )
                    + (("spellwork.hosted", "spellwork.machine", "spellwork.events") if place == "hosted" else ())
                )
                assert allowed or module == "spellwork", f"{file.name} imports {module}"


def test_every_module_says_what_it_owns_and_must_never_do() -> None:
    """A module opens with two sentences."""
    for file in SOURCE.rglob("*.py"):
        text = file.read_text()
        if text.count("\n") > 15:
            doc = ast.get_docstring(ast.parse(text)) or ""
            assert "must never" in doc, file


def test_only_the_clock_reads_time_and_randomness() -> None:
    """No module of the engine, the workflow core, the journal or the codec calls time, random or uuid by itself."""
    # turn and sqlite wait for SQLite's lock, which is real time; nonces must never come from a clock that a test can seed
    allowed = {"clock.py", "turn.py", "sqlite.py", "keyring.py"}
    for part in ("engine", "workflow", "journal", "state", "codec", "store"):
        for file in (SOURCE / part).rglob("*.py"):
            if file.name in allowed:
                continue
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Call):
                    called = ast.unparse(node.func)
                    assert called not in (
                        "time.time", "time.monotonic", "time.time_ns", "random.random", "os.urandom", "uuid.uuid4",
                        "datetime.now", "dt.datetime.now",
                    ), f"{file}: {called}"  # fmt: skip


def _tree(kind: type[BaseException], depth: int = 0) -> list[tuple[int, str]]:
    below = [child for child in kind.__subclasses__() if child.__module__ == "spellwork.errors"]
    found = [(depth, kind.__name__)]
    for child in below:
        found += _tree(child, depth + 1)
    return found


def test_the_error_tree_is_as_drawn() -> None:
    """The tree in the docstring of errors.py is the tree of the classes; every class has a code of its own and a docstring."""
    drawn = []
    for line in (errors.__doc__ or "").splitlines():
        if "──" in line or line.strip().split(" ")[0] == "SpellworkError":
            name = line.replace("│", " ").replace("├──", "   ").replace("└──", "   ")
            depth = (len(name) - len(name.lstrip()) - 4) // 4
            drawn.append((depth, name.split()[0]))
    assert sorted(drawn) == sorted(_tree(errors.SpellworkError))
    classes = [vars(errors)[name] for _, name in drawn]
    assert len({kind.code for kind in classes}) == len(classes)
    assert all(kind.__doc__ for kind in classes)


def test_no_file_is_a_drawer() -> None:
    """No module is named utils, helpers, manager, base, common or misc."""
    names = {module.name.rpartition(".")[2] for module in pkgutil.walk_packages([str(SOURCE)], "spellwork.")}
    assert not names & {"utils", "helpers", "manager", "base", "common", "misc"}
