"""Tokens and sessions that never end: made without any mention of a limit in time.

It must never report one function twice, nor one that leaves the making to another.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from spellwork.demo.review.calls import Call
from spellwork.demo.review.source import Function, Hit, Source, assigned_names, name_of
from spellwork.demo.review.vocabulary import makes_ticket, mentions_expiry, words

_ENCODERS = frozenset({"jwt.encode", "jose.jwt.encode", "authlib.jose.jwt.encode"})
_SUBJECTS = frozenset({"sub", "user", "user_id", "userid", "uid", "username", "email", "iat", "iss", "jti", "role"})
_PAYLOAD_WORDS = frozenset({"token", "session", "jwt", "claims"})
_CREDENTIAL_SIGNS = frozenset(
    {
        "account",
        "email",
        "hmac",
        "jwt",
        "login",
        "secret",
        "secrets",
        "sub",
        "uid",
        "urandom",
        "user",
        "username",
        "uuid",
    }
)


def ticket_without_expiry(_source: Source, function: Function) -> Iterator[Hit]:
    """`no-expiry`: a function that makes a credential, by its name and by what it is made of."""
    if not makes_ticket(function.name) or not _returns(function) or _delegates(function):
        return
    spoken = {word for name in _names(function) for word in words(name)}
    if not _CREDENTIAL_SIGNS.isdisjoint(spoken) and not _limits(function):
        yield _hit(function.lineno, f"what {function.name}() makes is valid for ever")


def jwt_without_expiry(source: Source, call: Call) -> Iterator[Hit]:
    """`no-expiry`: a JWT encoded where nothing speaks of expiry."""
    if call.target in _ENCODERS and not _limited(source, call.node):
        yield _hit(call.node.lineno, "this JWT has no exp claim and is valid for ever")


def payload_without_expiry(source: Source, node: ast.Assign | ast.AnnAssign | ast.keyword) -> Iterator[Hit]:
    """`no-expiry`: a dict named for a token or session that names a user but no end."""
    for name, value in assigned_names(node):
        if not isinstance(value, ast.Dict) or _PAYLOAD_WORDS.isdisjoint(words(name)):
            continue
        keys = {key.value for key in value.keys if isinstance(key, ast.Constant)}
        if not _SUBJECTS.isdisjoint(keys) and not _limited(source, node):
            yield _hit(value.lineno, f"{name} names its user but not when it ends")


def _limited(source: Source, node: ast.AST) -> bool:
    """Tell whether the place around a node limits it, or is a function that is reported by its name."""
    scope = source.scopes.get(node)
    if scope is None:
        return any(mentions_expiry(_name(part)) for part in source.nodes)
    reported = any(True for _ in ticket_without_expiry(source, scope))
    return reported or _limits(scope)


def _limits(function: Function) -> bool:
    return any(mentions_expiry(name) for name in _names(function))


def _returns(function: Function) -> bool:
    return any(isinstance(part, ast.Return) and part.value is not None for part in ast.walk(function))


def _delegates(function: Function) -> bool:
    calls = (name_of(part.func) for part in ast.walk(function) if isinstance(part, ast.Call))
    return any(makes_ticket(name) for name in calls)


def _names(function: Function) -> list[str]:
    return [name for part in ast.walk(function) if (name := _name(part))]


def _name(node: ast.AST) -> str:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
            return name
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            return name
        case ast.Constant(value=str(name)) if len(name) <= 24 and not any(map(str.isspace, name)):
            # Keys such as "exp" count; prose such as a docstring on expiry doesn't limit anything.
            return name
        case _:
            return ""


def _hit(line: int, what: str) -> Hit:
    return Hit(line, "no-expiry", "high", f"{what}; give it an expiry (exp, max_age)")
