"""Statements that hide or invite mistakes: swallowed errors, shared defaults, weak randomness.

It must never look across functions: each rule is decided within the one that holds the statement.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from spellwork.demo.review.source import Function, Hit, Source, assigned_names, defaults, name_of
from spellwork.demo.review.vocabulary import must_be_unguessable

_BROAD = frozenset({"Exception", "BaseException"})
_MUTABLE_CALLS = frozenset({"list", "dict", "set", "defaultdict", "bytearray", "deque"})
_MUTABLE = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
_RANDOM = frozenset(
    f"random.{name}"
    for name in (
        "choice",
        "choices",
        "getrandbits",
        "randbytes",
        "randint",
        "random",
        "randrange",
        "sample",
        "shuffle",
    )
)
_GUESSABLE = "the random module is predictable; use the secrets module for what must not be guessed"


def swallowed_exception(_source: Source, handler: ast.ExceptHandler) -> Iterator[Hit]:
    """`bare-except`, unless it raises again; `swallowed-exception`, a broad one that does nothing."""
    if handler.type is None:
        if not any(isinstance(part, ast.Raise) for part in ast.walk(handler)):
            message = "a bare except also catches SystemExit and KeyboardInterrupt; name the exceptions"
            yield Hit(handler.lineno, "bare-except", "medium", message)
        return
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    broad = any(name_of(kind) in _BROAD for kind in kinds)
    if broad and all(_does_nothing(statement) for statement in handler.body):
        message = "every error is swallowed without a trace; catch what is expected, or log it"
        yield Hit(handler.lineno, "swallowed-exception", "medium", message)


def mutable_default(_source: Source, function: Function) -> Iterator[Hit]:
    """`mutable-default`: a default that all calls share and that one call could change."""
    for name, default in defaults(function.args):
        made = isinstance(default, ast.Call) and isinstance(default.func, ast.Name) and name_of(default.func) in _MUTABLE_CALLS
        if made or isinstance(default, _MUTABLE):
            shared = f"the default of {name} is shared by all calls of {function.name}()"
            message = f"{shared}; use None and make it inside"
            yield Hit(default.lineno, "mutable-default", "medium", message)


def assert_in_code(source: Source, node: ast.Assert) -> Iterator[Hit]:
    """`assert-in-code`: a check that -O removes; one that only narrows a type is let be."""
    if not source.is_test and not _narrows(node.test):
        message = "python -O removes asserts; raise an error if this can happen"
        yield Hit(node.lineno, "assert-in-code", "low", message)


def guessable_value(source: Source, node: ast.Assign | ast.AnnAssign | ast.keyword) -> Iterator[Hit]:
    """`insecure-random-token`: a token, password or secret taken from the random module."""
    for name, value in assigned_names(node):
        if must_be_unguessable(name) and _draws(source, value):
            yield Hit(value.lineno, "insecure-random-token", "high", f"{name}: {_GUESSABLE}")


def guessable_return(source: Source, function: Function) -> Iterator[Hit]:
    """`insecure-random-token`: a function named for a token that returns one from the random module."""
    if not must_be_unguessable(function.name):
        return
    for part in ast.walk(function):
        if isinstance(part, ast.Return) and part.value is not None and _draws(source, part.value):
            yield Hit(part.lineno, "insecure-random-token", "high", f"{function.name}(): {_GUESSABLE}")


def _draws(source: Source, value: ast.expr) -> bool:
    return any(isinstance(part, ast.Call) and source.resolve(part.func) in _RANDOM for part in ast.walk(value))


def _does_nothing(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)
    return isinstance(statement, ast.Pass | ast.Continue)


def _narrows(test: ast.expr) -> bool:
    match test:
        case ast.Compare(ops=[ast.IsNot()], comparators=[ast.Constant(value=None)]):
            return True
        case ast.Call(func=ast.Name(id="isinstance" | "issubclass" | "callable")):
            return True
        case ast.BoolOp(op=ast.And(), values=values):
            return all(_narrows(value) for value in values)
        case _:
            return False
