"""How hard each function is to follow: McCabe's cyclomatic complexity, and its length.

It must never judge what the code does, only how much of it there is.

Reference: T. J. McCabe, "A Complexity Measure", IEEE TSE SE-2(4), 1976.
"""

from __future__ import annotations

import ast
from typing import NamedTuple

from spellwork.demo.review.finding import Severity
from spellwork.demo.review.source import Function, Hit, Source

COMPLEX = 10
VERY_COMPLEX = 20
LONG = 60


class Measure(NamedTuple):
    """One function: cyclomatic complexity, and length in lines without its docstring."""

    name: str
    line: int
    complexity: int
    length: int


def measure(source: Source) -> list[Measure]:
    """Measure every function; a nested one counts for itself, not for the one around it."""
    branches: dict[ast.AST, int] = {}
    functions: list[Function] = []
    for node in source.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            functions.append(node)
        elif (scope := source.scopes.get(node)) is not None:
            branches[scope] = branches.get(scope, 0) + _branches(node)
    functions.sort(key=lambda function: function.lineno)
    return [Measure(f.name, f.lineno, 1 + branches.get(f, 0), _length(f)) for f in functions]


def complexity_hits(measures: list[Measure]) -> list[Hit]:
    """Report the functions that are too complex or too long."""
    hits: list[Hit] = []
    for name, line, complexity, length in measures:
        if complexity > COMPLEX:
            severity: Severity = "high" if complexity > VERY_COMPLEX else "medium"
            excess = f"of {complexity} (more than {COMPLEX})"
            message = f"{name}() has a cyclomatic complexity {excess}; split it"
            hits.append(Hit(line, "too-complex", severity, message))
        if length > LONG:
            message = f"{name}() is {length} lines long without its docstring (more than {LONG})"
            hits.append(Hit(line, "long-function", "low", message))
    return hits


def _branches(node: ast.AST) -> int:
    match node:
        case ast.If() | ast.For() | ast.AsyncFor() | ast.While() | ast.IfExp() | ast.ExceptHandler():
            return 1
        case ast.BoolOp(values=values):
            return len(values) - 1
        case ast.comprehension(ifs=ifs):
            return len(ifs)
        case ast.match_case(pattern=ast.MatchAs(pattern=None), guard=None):
            # `case _:` and `case name:` always match: they are the else, which is no branch.
            return 0
        case ast.match_case():
            return 1
        case _:
            return 0


def _length(function: Function) -> int:
    whole = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return whole - ((first.end_lineno or first.lineno) - first.lineno + 1)
    return whole
