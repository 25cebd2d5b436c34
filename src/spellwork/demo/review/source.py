"""One parsed Python file: its nodes, where its names come from, and which function holds what.

It must never run, import or recurse over the code it holds, for that code is not trusted.
"""

from __future__ import annotations

import ast
import io
import threading
import tokenize
import warnings
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

from spellwork.demo.review.finding import Severity

Function = ast.FunctionDef | ast.AsyncFunctionDef

_SILENT = (ast.expr_context, ast.operator, ast.unaryop, ast.cmpop, ast.boolop)

# catch_warnings swaps the process's filters, so two threads in it would restore each other's.
_PARSING = threading.Lock()


class Hit(NamedTuple):
    """What a check saw, before it is a finding in a file."""

    line: int
    rule: str
    severity: Severity
    message: str


class Unreviewable(Exception):
    """The file's bytes are not Python that can be parsed; `hit` says why and where."""

    def __init__(self, hit: Hit) -> None:
        super().__init__(hit.message)
        self.hit = hit


@dataclass(frozen=True, slots=True)
class Source:
    """A parsed file; `nodes` has parents before children, so that no check need recurse.

    Contexts and operators are left out: they are half of all nodes, and say nothing alone.
    """

    path: str
    nodes: list[ast.AST]
    scopes: dict[ast.AST, Function]
    imports: dict[str, str]
    is_test: bool

    def resolve(self, node: ast.AST) -> str | None:
        """Return the dotted name that an expression has outside this file, if it was imported."""
        attributes: list[str] = []
        while isinstance(node, ast.Attribute):
            attributes.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name) or node.id not in self.imports:
            return None
        return ".".join([self.imports[node.id], *reversed(attributes)])


def parse(path: str, data: bytes) -> Source:
    """Parse a file's bytes, honouring its PEP 263 encoding.

    Raises:
        Unreviewable: the bytes are not text in their encoding, or not Python of this version.
    """
    _require_text(data)
    try:
        with _PARSING, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(data, filename=path)
    except SyntaxError as error:
        raise Unreviewable(Hit(error.lineno or 1, "syntax-error", "high", f"not valid Python: {error.msg}")) from error
    except ValueError as error:
        raise Unreviewable(Hit(1, "unreadable", "medium", f"not valid Python text: {error}")) from error
    except (RecursionError, MemoryError) as error:
        raise Unreviewable(Hit(1, "unreadable", "medium", "nested too deeply to be parsed")) from error
    nodes, scopes = _walk(tree)
    return Source(path, nodes, scopes, _imports(nodes), is_test(path))


def is_test(path: str) -> bool:
    """Tell by its path whether a file belongs to a test suite."""
    place = PurePosixPath(path)
    named = place.name.startswith("test_") or place.stem.endswith("_test") or place.name == "conftest.py"
    return named or not {"test", "tests", "testing"}.isdisjoint(place.parts[:-1])


def name_of(node: ast.AST | None) -> str:
    """Return the last name in an expression: `b` for `a.b`, `k` for `a["k"]`, else ""."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.Subscript(slice=ast.Constant(value=str(name))):
            return name
        case _:
            return ""


def assigned_names(node: ast.AST) -> list[tuple[str, ast.expr]]:
    """Return the names and values of an assignment, keyword, dict display or set of defaults."""
    match node:
        case ast.Assign(targets=targets, value=value):
            return [(name_of(target), value) for target in targets]
        case ast.AnnAssign(target=target, value=ast.expr() as value) | ast.NamedExpr(target=target, value=value):
            return [(name_of(target), value)]
        case ast.keyword(arg=str(name), value=value):
            return [(name, value)]
        case ast.Dict(keys=keys, values=values):
            pairs = zip(keys, values, strict=True)
            return [(k.value, v) for k, v in pairs if isinstance(k, ast.Constant) and isinstance(k.value, str)]
        case ast.arguments():
            return defaults(node)
        case _:
            return []


def defaults(arguments: ast.arguments) -> list[tuple[str, ast.expr]]:
    """Return each parameter that has a default, with it."""
    positional = [*arguments.posonlyargs, *arguments.args]
    filled = positional[len(positional) - len(arguments.defaults) :]
    pairs = list(zip(filled, arguments.defaults, strict=True))
    pairs += [(a, d) for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if d is not None]
    return [(argument.arg, default) for argument, default in pairs]


def _require_text(data: bytes) -> None:
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        data.decode(encoding)
    except SyntaxError as error:
        raise Unreviewable(Hit(1, "unreadable", "medium", f"not text: {error.msg}")) from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"not text in {error.encoding}: {error.reason}"
        raise Unreviewable(Hit(line, "unreadable", "medium", message)) from error


def _walk(tree: ast.Module) -> tuple[list[ast.AST], dict[ast.AST, Function]]:
    nodes: list[ast.AST] = []
    scopes: dict[ast.AST, Function] = {}
    waiting: list[tuple[ast.AST, Function | None]] = [(tree, None)]
    while waiting:
        node, scope = waiting.pop()
        nodes.append(node)
        if scope is not None:
            scopes[node] = scope
        inner = node if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else scope
        children = ast.iter_child_nodes(node)
        waiting.extend((child, inner) for child in children if not isinstance(child, _SILENT))
    return nodes, scopes


def _imports(nodes: list[ast.AST]) -> dict[str, str]:
    found: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.name if alias.asname else alias.name.partition(".")[0]
                found[alias.asname or bound] = bound
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            found.update({alias.asname or alias.name: f"{origin}.{alias.name}" for alias in node.names})
    return found
