"""What a review says of one file: its defects, its secrets, its complexity, and never a crash."""

import hashlib
import shutil
from pathlib import Path

import msgspec
import pytest

from spellwork.demo.review import (
    FileReview,
    review_file,
)
from spellwork.demo.review.complexity import measure
from spellwork.demo.review.review import review_source
from spellwork.demo.review.source import parse

PLANTED = Path(__file__).parent / "planted"

# Put together here so that no scanner of this repository takes them for real.
GITHUB = "ghp_" + "aB3dE6gH9jK2" * 3
AWS = "AKIA" + "Q3EGRWT7YUJM2P4X"
SLACK = "xoxb-" + "123456789012-abcdefABCDEF"
STRIPE = "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc"
JWT = "eyJ" + "hbGciOiJIUzI1NiJ9" + ".eyJ" + "zdWIiOiIxMjM0NTY3ODkwIn0" + ".dozjgNryP4J3jVmNHl0w5N"
PEM = "-----BEGIN RSA PRIVATE " + "KEY-----\\nMIIEpAIBAAKCAQEA7bq1"
RANDOM = "q7Zp1Xv9Lk3Rt5Wy8Bn2"


def rules(code: str, path: str = "app.py") -> set[str]:
    """Return the rules that a piece of code breaks."""
    return {finding.rule for finding in review_source(path, code.encode()).findings}


def severity(code: str, path: str = "app.py") -> str:
    """Return how grave the one finding in a piece of code is."""
    (finding,) = review_source(path, code.encode()).findings
    return finding.severity


def test_the_planted_defects_are_found_where_they_are():
    """The planted login has a secret in the code, MD5 for passwords and a token without end."""
    review = review_file(PLANTED, "auth.py", None)
    source = (PLANTED / "auth.py").read_text().splitlines()
    found = [(f.rule, f.severity, source[f.line - 1].split("(")[0].strip()) for f in review.findings]
    assert found == [
        ("hardcoded-secret", "high", 'JWT_SECRET = "super-secret-signing-key-2024"'),
        ("weak-hash", "high", "return hashlib.md5"),
        ("no-expiry", "high", "def create_token"),
    ]


def test_the_clean_file_has_no_findings():
    """The same login done well passes without a word."""
    assert review_file(PLANTED, "clean.py", None).findings == []


def test_a_review_says_which_bytes_it_read():
    """The digest and the line count are those of the file's bytes."""
    data = (PLANTED / "auth.py").read_bytes()
    review = review_file(PLANTED, "auth.py", None)
    assert review.sha256 == hashlib.sha256(data).hexdigest()
    assert (review.lines, review.functions, review.max_complexity) == (len(data.splitlines()), 5, 3)


def test_a_review_survives_storage():
    """What is decoded from a store equals what was reviewed."""
    review = review_file(PLANTED, "auth.py", None)
    assert msgspec.json.decode(msgspec.json.encode(review), type=FileReview) == review


@pytest.mark.parametrize(
    ("value", "gravity"),
    [("changeme", "low"), ("change-me", "low"), ("admin", "low"), ("Tr0ub4dor&3", "high")],
)
def test_a_default_password_is_less_grave_than_a_real_one(value, gravity):
    """Defaults are to be changed by whoever installs; a real secret has already leaked."""
    assert severity(f"password = {value!r}") == gravity


@pytest.mark.parametrize("sql", ["f'SELECT a FROM {table}'", "f'DROP TABLE {table}'"])
def test_a_pasted_table_name_is_less_grave_than_a_value(sql):
    """No parameter can stand for a name, so that there it is only a warning to quote."""
    assert severity(f"db.execute({sql})") == "low"
    assert severity("db.execute(f'SELECT a FROM {table} WHERE b = {c}')") == "high"


def test_secrets_in_tests_are_of_low_severity_unless_their_form_is_known():
    """A test's password guards nothing, but a real key in a test has leaked all the same."""
    assert severity("password = 'Tr0ub4dor&3'", "tests/test_login.py") == "low"
    assert severity(f"key = {GITHUB!r}", "tests/test_login.py") == "high"


@pytest.mark.parametrize("path", ["tests/helper.py", "test_x.py", "x_test.py", "conftest.py"])
def test_asserts_belong_in_tests(path):
    """An assert in a test file is no finding."""
    assert rules("assert total > 0", path) == set()


SECRETS = [GITHUB, AWS, SLACK, STRIPE, JWT, RANDOM, "hunter22", "secret", "Pa$$w0rd", "correcthorse"]


@pytest.mark.parametrize("value", SECRETS)
@pytest.mark.parametrize("form", ["secret = {!r}", "f(db_password={!r})", "x = {{'secret': {!r}}}", "if pwd == {!r}: f()"])
def test_no_message_tells_a_secret(form, value):
    """A finding shows at most three characters and the length of what it found."""
    (finding,) = review_source("app.py", form.format(value).encode()).findings
    assert value not in finding.message
    assert value[:5] not in finding.message
    assert f"({len(value)} characters)" in finding.message


def test_the_password_of_a_url_is_not_told():
    """Of a connection URL only its password counts as the secret."""
    (finding,) = review_source("app.py", b"u = 'amqp://app:Xy7pQ2ab@mq.internal'").findings
    assert "Xy7…" in finding.message
    assert "Xy7p" not in finding.message


@pytest.mark.parametrize(
    ("body", "complexity"),
    [
        ("pass", 1),
        ("if a: pass\n elif b: pass\n else: pass", 3),
        ("for x in y:\n  while z: pass", 3),
        ("with a: pass", 1),
        ("return a and b and c or d", 4),
        ("return [x for x in y if x if z]", 3),
        ("return 1 if a else 2", 2),
        ("try: pass\n except A: pass\n except B: pass\n finally: pass", 3),
        ("match a:\n  case 1: pass\n  case 2: pass\n  case _: pass", 3),
        ("def g():\n  if a: pass\n return g", 1),
    ],
)
def test_complexity_counts_the_ways_through(body, complexity):
    """Each branch adds one; a `with`, an `else` and a nested function's branches add none."""
    measures = measure(parse("app.py", f"def f():\n {body}\n".encode()))
    assert measures[0].complexity == complexity


@pytest.mark.parametrize(("branches", "found"), [(9, []), (10, ["medium"]), (19, ["medium"]), (20, ["high"])])
def test_a_function_is_too_complex_above_ten_and_gravely_above_twenty(branches, found):
    """The two thresholds are exclusive."""
    code = "def f():\n" + " if a: b()\n" * branches
    assert [f.severity for f in review_source("app.py", code.encode()).findings] == found


def test_a_long_function_is_found_but_a_long_docstring_is_not():
    """Sixty lines of code are allowed, however well they are explained."""
    lines = "    a = 1\n"
    docstring = "    '''x\n" + "    x\n" * 70 + "    '''\n"
    assert rules("def f():\n" + docstring + lines * 59) == set()
    assert rules("def f():\n" + lines * 60) == {"long-function"}


@pytest.mark.parametrize(
    ("data", "rule", "line"),
    [
        (b"x = 1\ndef f(:\n", "syntax-error", 2),
        (b"x = 1\ny = '\xff'\n", "unreadable", 2),
        (b"# coding: no-such-codec\n", "unreadable", 1),
        (b"x = 1\x00\n", None, 1),
        (b"x = " + b"(" * 5000 + b")" * 5000, "syntax-error", 1),
        (b"x = " + b"-" * 200_000 + b"1", "unreadable", 1),
        (b"x = a" + b".b" * 100_000, "unreadable", 1),
    ],
)
def test_a_file_that_is_not_python_is_one_finding(data, rule, line):
    """What can't be parsed is reported in its place and stops nothing."""
    (finding,) = review_source("app.py", data).findings
    assert finding.rule in ({rule} if rule else {"syntax-error", "unreadable"})
    assert finding.line == line


def test_deep_but_valid_code_is_reviewed():
    """Nesting that the parser bears does not break an analyser."""
    code = "x = " + "+".join(["a"] * 900) + "\ndb.execute('SELECT ' + " + "+".join(["b"] * 900) + ")"
    assert rules(code) == {"sql-format"}


def test_a_declared_encoding_is_honoured():
    """A file in Latin-1 that says so is read as any other."""
    data = "# -*- coding: latin-1 -*-\nx = 'é'\neval(x)\n".encode("latin-1")
    assert [finding.rule for finding in review_source("app.py", data).findings] == ["eval-exec"]


def test_an_invalid_escape_is_no_warning_to_the_reviewer():
    """The reviewed file's own warnings don't reach the process that reviews it."""
    assert rules(r"x = '\d'") == set()


def test_a_file_that_is_gone_is_a_finding(tmp_path):
    """A file that disappears between discovery and review is reported, with no digest."""
    review = review_file(tmp_path, "gone.py", None)
    assert [finding.rule for finding in review.findings] == ["unreadable"]
    assert review.sha256 == ""


def test_the_planted_files_can_be_reviewed_anywhere(tmp_path):
    """A finding names the path below the root, wherever the root lies."""
    shutil.copytree(PLANTED, tmp_path / "copy")
    assert review_file(tmp_path / "copy", "auth.py", None) == review_file(PLANTED, "auth.py", None)
