"""Which files are reviewed, and what ruff adds to their review."""

import sys
from pathlib import Path

import pytest

from spellwork.demo.review import RuffFailed, discover, find_ruff, review_file, ruff_findings

PLANTED = Path(__file__).parent / "planted"


def test_discovery_finds_the_python_files_of_a_project_and_no_others(tmp_path):
    """Hidden folders, environments, caches, builds, links and other suffixes are left out."""
    kept = ["b.py", "a/z.py", "a/a.pyw", "été/x.py"]
    left_out = [
        ".git/x.py",
        "env/lib/x.py",
        "a/__pycache__/x.py",
        "build/x.py",
        "dist/x.py",
        "web/node_modules/x.py",
        "a/notes.txt",
        "x.egg-info/x.py",
    ]
    for name in [*kept, *left_out, "env/pyvenv.cfg"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "link.py").symlink_to(tmp_path / "b.py")
    assert discover(tmp_path) == sorted(kept)


def test_a_single_file_is_a_tree_of_one():
    """A file given as the root is found under its own name and can be reviewed by it."""
    root = PLANTED / "auth.py"
    assert discover(root) == ["auth.py"]
    assert review_file(root, "auth.py", None) == review_file(PLANTED, "auth.py", None)


def test_a_root_that_does_not_exist_is_named(tmp_path):
    """The error says which path was meant."""
    with pytest.raises(FileNotFoundError, match="no-such-place"):
        discover(tmp_path / "no-such-place")


@pytest.mark.skipif(find_ruff() is None, reason="ruff is not installed")
def test_ruff_adds_its_findings_but_repeats_none(tmp_path):
    """An unused import comes from ruff; the bare except that both see is said once."""
    (tmp_path / "-app.py").write_text("import os\ntry:\n    f()\nexcept:\n    g()\n")
    (tmp_path / "ruff.toml").write_text("[lint]\nignore = ['F401']\n")
    review = review_file(tmp_path, "-app.py", find_ruff())
    found = {(finding.line, finding.rule) for finding in review.findings}
    assert found == {(1, "ruff-F401"), (3, "ruff-F821"), (4, "bare-except"), (5, "ruff-F821")}


def script(tmp_path: Path, body: str) -> str:
    """Write a program that is called ruff and does something else."""
    program = tmp_path / "ruff"
    program.write_text(f"#!{sys.executable}\n{body}\n")
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("print('not json')", "not the expected JSON"),
        ("print('{}')", "not the expected JSON"),
        ("raise SystemExit('broken')", r"status 1 \(broken\)"),
        ("import select; select.select([], [], [])", "no answer after 0.5 seconds"),
    ],
)
def test_a_ruff_that_gives_no_answer_is_an_error_that_says_so(tmp_path, body, reason):
    """Noise, failure and silence each raise RuffFailed with the file and the reason."""
    with pytest.raises(RuffFailed, match=reason) as caught:
        ruff_findings(PLANTED, "auth.py", ruff=script(tmp_path, body), timeout=0.5)
    assert caught.value.path == "auth.py"


def test_a_ruff_that_is_not_there_is_an_error(tmp_path):
    """A program that was named but can't be started is not taken for one without findings."""
    with pytest.raises(RuffFailed, match="did not start"):
        ruff_findings(PLANTED, "auth.py", ruff=str(tmp_path / "no-ruff"))
