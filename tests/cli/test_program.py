"""The program itself: help, exit codes, stores, and what it imports."""

import os
import subprocess
import sys

import apsw
import pytest

from spellwork import errors
from spellwork.cli.exits import Exit, exit_of

VERBS = [
    "run", "resume", "start", "worker", "ps", "show", "history", "signal", "query", "update", "cancel", "terminate",
    "replay",
]  # fmt: skip
FLOW = "@workflow\nasync def one() -> int:\n    return 1\n"


def all_errors() -> list[type[errors.SpellworkError]]:
    """The whole tree of errors."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.SpellworkError)]
    return sorted(kinds, key=lambda kind: kind.__name__)


def test_help_lists_every_verb_and_every_exit_code(spellwork):
    """What a script needs to know stands in --help."""
    out = spellwork("--help").out
    for verb in [*VERBS, "bench", "demo"]:
        assert f"\n  {verb} " in out
    for code in Exit:
        assert f"\n  {int(code)} " in out
        assert code.meaning.split()[0] in out


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_help_with_an_example(spellwork, verb):
    """The example calls the verb, and the shared options are there."""
    done = spellwork(verb, "--help")
    assert done.code == 0
    assert f"  spellwork {verb} " in done.out.partition("Example")[2]
    assert "--store" in done.out
    assert "--json" in done.out


def test_a_misspelt_verb_is_corrected(spellwork):
    """The nearest verb is named, or how to list them."""
    assert "there is no command 'pss'; did you mean ps?" in spellwork("pss").err
    assert spellwork("pss").code == 2
    assert "spellwork --help" in spellwork("frobnicate").err


@pytest.mark.parametrize(
    "arguments",
    [["ps", "--status", "lost"], ["ps", "--limit", "0"], ["show"], ["run"], ["ps", "--frob"], ["signal", "x"]],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2(spellwork, arguments):
    """With --json it is an error document as well."""
    assert spellwork(*arguments).code == 2
    done = spellwork(*arguments, "--json")
    assert (done.code, done.error["error"]) == (2, "usage")


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
def test_every_error_has_an_exit_code_that_means_failure(kind):
    """No error of the library ends with 0, or by a signal's code."""
    assert exit_of(kind("x")) in set(Exit) - {Exit.OK, Exit.INTERRUPTED}


def test_the_store_comes_from_option_environment_or_default(write, spellwork, folder, monkeypatch):
    """A bare path is an SQLite file; the option wins over the environment."""
    write("flow.py", FLOW)
    spellwork("run", "flow.py")
    assert (folder / "spellwork.db").exists()
    monkeypatch.setenv("SPELLWORK_STORE", "from-environment.db")
    spellwork("run", "flow.py")
    assert (folder / "from-environment.db").exists()
    spellwork("run", "flow.py", "--store", "sqlite:option.db")
    assert (folder / "option.db").exists()


def test_unusable_stores_are_told_apart(write, spellwork, folder):
    """Damage ends with 6; a directory, an unknown scheme and a newer schema with 4; none with a traceback."""
    write("flow.py", FLOW)
    (folder / "damaged.db").write_bytes(b"no database at all" * 100)
    foreign = apsw.Connection("foreign.db")
    foreign.execute("CREATE TABLE t(x)")
    foreign.close()
    spellwork("run", "flow.py", "--store", "newer.db")
    newer = apsw.Connection("newer.db")
    newer.execute("PRAGMA user_version=999")
    newer.close()
    expected = {
        "damaged.db": (6, "store-corrupt"),
        "foreign.db": (6, "store-corrupt"),
        "newer.db": (4, "store-too-new"),
        ".": (4, "store-unavailable"),
        "no/such/folder.db": (3, "store-missing"),
        "postgres://x": (4, "store-unavailable"),
    }
    for store, outcome in expected.items():
        done = spellwork("ps", "--store", store, "--json")
        assert (done.code, done.error["error"]) == outcome
        assert done.out == ""


def test_a_memory_store_runs_and_keeps_nothing(write, spellwork, folder):
    """For trying things out."""
    write("flow.py", FLOW)
    assert spellwork("run", "flow.py", "--store", "memory:").value == 1
    assert not list(folder.glob("*.db*"))


def test_start_needs_a_store_that_others_can_open(write, spellwork):
    """A run queued in memory would be gone at once."""
    write("flow.py", FLOW)
    assert spellwork("start", "flow.py", "--store", "memory:").code == 2


def test_text_that_is_no_text_is_refused(spellwork):
    """Broken UTF-8 from the terminal is a usage error, not a crash in a codec."""
    assert spellwork("show", "caf\udce9").code == 2
    assert spellwork("ps", "--store", "caf\udce9").code == 2


def python(code):
    """The words that some code prints in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_the_library_never_imports_the_command_line():
    """`import spellwork` knows neither click nor rich."""
    code = "import sys, spellwork; print(*[n for n in sys.modules if n.split('.')[0] in ('click', 'rich')])"
    assert python(code) == []


def test_reading_verbs_start_without_rich_or_other_verbs(write, spellwork, folder):
    """Each verb is imported when it is called."""
    code = (
        "import sys, spellwork.cli.program as p\n"
        "command = p.spellwork.get_command(None, 'ps')\n"
        "print(*[n for n in sys.modules if n.split('.')[0] == 'rich' or n in "
        "('spellwork.cli.worker', 'spellwork.cli.run', 'spellwork.bench', 'spellwork.demo')])"
    )
    assert python(code) == []


def test_the_package_can_be_run_as_a_module():
    """`python -m spellwork` is the command."""
    done = subprocess.run([sys.executable, "-m", "spellwork", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("spellwork, version")
