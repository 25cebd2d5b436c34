"""Secrets written into the code, told by the name they are given to or by their well-known form.

It must never put a secret into a message: at most its first three characters and its length.
"""

from __future__ import annotations

import ast
import math
import re
from collections import Counter
from collections.abc import Iterator

from spellwork.demo.review.finding import Severity
from spellwork.demo.review.source import Hit, Source, assigned_names, name_of
from spellwork.demo.review.vocabulary import Credential, credential, mentions_credential, words

FORMATS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("an AWS access key id", re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b(?<!EXAMPLE)")),
    ("a GitHub token", re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{22,})")),
    ("a Slack token", re.compile(r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}")),
    ("a Stripe key", re.compile(r"\b[rs]k_(?:live|test)_[A-Za-z0-9]{16,}")),
    ("a Google API key", re.compile(r"\bAIza[0-9A-Za-z_-]{35}\b")),
    ("a JWT", re.compile(r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}")),
    ("a private key", re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----\s*[\w+/]{16}")),
)
# Bounded repetitions: the text is not trusted, and must not make the search quadratic.
_URL = re.compile(r"[a-z][a-z0-9+.-]{1,20}://([^\s:/@]{0,64}):([^\s:/@]{4,128})@([^\s/:?]{1,255})")
_DEFAULTS = frozenset({"admin", "default", "guest", "pass", "password", "postgres", "root", "secret", "test"})
_CHANGES = frozenset({"changeme", "changeit", "changethis", "letmein", "replaceme"})
_NOTHING = frozenset({"false", "hidden", "none", "null", "redacted", "tbd", "todo", "true", "unknown", "unset"})
_PLACEHOLDER = re.compile(r"<.*>|\[.*\]|[xX*.•_-]+|\$\w+|.*(?:\{.*\}|%\(|%s).*|your[-_ ].*|.*\bexample\b.*", re.DOTALL)
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*://.*|(?:\.{0,2}|~)/[\w./-]*|--?[a-z][a-z-]*|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
# What makes a value that reads like a field's name, such as super_secret_key, a secret after all.
_TELLTALES = frozenset({"dev", "my", "our", "super", "top", "very"})
_LABEL = re.compile(r"[\w .-]{1,64}")
_HIGH_ENTROPY_BITS = 3.5


def secret_hits(source: Source) -> Iterator[Hit]:
    """Yield the secrets in a file; in a test file one told only by its name is of low severity."""
    known: set[ast.AST] = set()
    for node in source.nodes:
        if isinstance(node, ast.Constant) and (hit := _by_format(node.lineno, _text(node))):
            known.add(node)
            yield hit
    for node in source.nodes:
        for name, constant in _candidates(node):
            value = _text(constant)
            severity = None if constant in known else judge(name, value)
            if severity is not None:
                told: Severity = "low" if source.is_test else severity
                yield Hit(constant.lineno, "hardcoded-secret", told, _say(name, value))


def judge(name: str, value: str) -> Severity | None:
    """Return how grave it is that something of this name has this literal value, or None if it is not."""
    if _is_placeholder(name, value):
        return None
    kind = credential(name)
    if kind is None:
        return "high" if mentions_credential(name) and _looks_random(value, shortest=20) else None
    plain = re.sub(r"[-_ ]", "", value.lower())
    if plain in _CHANGES or (plain in _DEFAULTS and kind != "token"):
        return "low"
    if not _is_credible(kind, value):
        return None
    return "low" if _is_a_name(value) else "high"


def redact(value: str) -> str:
    """Return what may be told of a secret: three of its characters if it is long enough, and its length."""
    shown = value[:3] + "…" if len(value) >= 8 else "…"
    return f"{shown} ({len(value)} characters)"


def entropy(value: str) -> float:
    """Return the Shannon entropy of a text's characters, in bits per character."""
    counts = Counter(value).values()
    return -sum(count / len(value) * math.log2(count / len(value)) for count in counts)


def _by_format(line: int, value: str) -> Hit | None:
    for what, pattern in FORMATS:
        if found := pattern.search(value):
            return _known(line, what, found.group())
    url = _URL.match(value)
    if url is None or _PLACEHOLDER.fullmatch(value) or any(map(str.isspace, value)):
        return None
    user, password, host = url.groups()
    # A development default, or a documented form such as //user:pass@host, gives nothing away.
    local = host in {"localhost", "127.0.0.1", "host", "hostname"}
    if local or password == user or password in _DEFAULTS | _CHANGES:
        return None
    return _known(line, "a URL with a password", password)


def _known(line: int, what: str, value: str) -> Hit:
    message = f"{what} is written into the code: {redact(value)}; revoke it, load it at run time"
    return Hit(line, "secret-format", "high", message)


def _candidates(node: ast.AST) -> Iterator[tuple[str, ast.Constant]]:
    pairs: list[tuple[str, ast.expr]] = list(assigned_names(node))
    match node:
        case ast.Compare(left=left, ops=[ast.Eq() | ast.NotEq()], comparators=[right]):
            pairs += [(name_of(left), right), (name_of(right), left)]
        case ast.Call(func=ast.Name(id="getenv") | ast.Attribute(attr="getenv" | "get"), args=[key, default]):
            # A default for an absent variable is a secret that works wherever it was forgotten.
            pairs += [(_text(key), default)]
        case _:
            pass
    for name, value in pairs:
        if _LABEL.fullmatch(name):
            choices = value.values if isinstance(value, ast.BoolOp) else [value]
            yield from ((name, choice) for choice in choices if isinstance(choice, ast.Constant))


def _text(node: ast.expr) -> str:
    value = node.value if isinstance(node, ast.Constant) else ""
    return value.decode("latin-1") if isinstance(value, bytes) else value if isinstance(value, str) else ""


def _is_placeholder(name: str, value: str) -> bool:
    if len(value) < 4 or value.lower() in _NOTHING or any(map(str.isspace, value)):
        return True
    if _PLACEHOLDER.fullmatch(value) or _ELSEWHERE.fullmatch(value):
        return True
    return _names_a_variable(name, value)


def _names_a_variable(name: str, value: str) -> bool:
    spoken = words(value)
    if len(spoken) < 2 or not value.isidentifier():
        return False
    return spoken == words(name) or (value.isupper() and mentions_credential(value))


def _is_a_name(value: str) -> bool:
    spoken = words(value)
    named = value.isidentifier() and len(spoken) > 1 and mentions_credential(value)
    return named and _TELLTALES.isdisjoint(spoken) and not any(map(str.isdigit, value))


def _is_credible(kind: Credential, value: str) -> bool:
    if kind == "token":
        return _looks_random(value, shortest=8)
    # A password may be a word; what is only punctuation is a separator or a mask.
    return any(map(str.isalnum, value))


def _looks_random(value: str, shortest: int) -> bool:
    if len(value) < shortest or not value.isascii():
        return False
    mixed = any(map(str.isdigit, value)) and any(map(str.isalpha, value))
    return mixed and entropy(value) >= min(_HIGH_ENTROPY_BITS, math.log2(len(value)) - 0.75)


def _say(name: str, value: str) -> str:
    advice = f"{redact(value)}; load it at run time"
    # A name may hold the very secret, as in password = "password".
    named = f"{name} is written into the code: "
    return advice if value in named else named + advice
