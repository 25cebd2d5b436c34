"""SQL that is put together from text and values instead of being given parameters.

It must never report a statement whose only inserted parts are named constants of the program.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from spellwork.demo.review.calls import Call
from spellwork.demo.review.source import Function, Hit, Source, assigned_names, name_of
from spellwork.demo.review.vocabulary import words

_EXECUTORS = frozenset({"execute", "executemany", "executescript", "raw", "text", "read_sql"})
_STATEMENT = re.compile(r"\s*(select|insert|update|delete|replace|create|drop|alter|truncate|with)\s", re.IGNORECASE)
_DEFINING = frozenset({"create", "drop", "alter", "truncate"})
_SAFE = frozenset({"int", "float", "quote", "quoted", "escape", "identifier", "placeholders", "marks"})
_BEFORE_NAME = re.compile(r"""(?:\b(?:from|into|update|table|join)\s+|\.)["`\[]?$""", re.IGNORECASE)


def sql_format(source: Source, call: Call) -> Iterator[Hit]:
    """`sql-format`: execute() of an f-string, %, + or .format() that begins as a statement does."""
    if call.name not in _EXECUTORS or not call.node.args:
        return
    statement = _statement(source, call)
    head, inserted = _composition(statement)
    begin = _STATEMENT.match(head)
    function = source.scopes.get(call.node)
    if begin is None or all(_is_fixed(part) or _is_chosen(function, part) for part in inserted):
        return
    if begin.group(1).lower() in _DEFINING or _inserts_only_names(statement):
        message = "a name is pasted into SQL, where no parameter can stand; be sure it is quoted"
        yield Hit(call.node.lineno, "sql-format", "low", message)
    else:
        message = "a value is pasted into SQL; pass it as a parameter"
        yield Hit(call.node.lineno, "sql-format", "high", message)


def _statement(source: Source, call: Call) -> ast.expr:
    """Return the statement that is executed, looking through a local name."""
    given = call.node.args[0]
    if isinstance(given, ast.Name):
        return _assigned(source.scopes.get(call.node), given.id) or given
    return given


def _inserts_only_names(statement: ast.expr) -> bool:
    """Tell whether an f-string's insertions all stand where the name of a table must."""
    if not isinstance(statement, ast.JoinedStr):
        return False
    before = ""
    for part in statement.values:
        if isinstance(part, ast.FormattedValue):
            if not _BEFORE_NAME.search(before) and not _is_fixed(part.value):
                return False
            before = ""
        else:
            before = str(part.value) if isinstance(part, ast.Constant) else ""
    return True


def _assigned(function: Function | None, name: str) -> ast.expr | None:
    if function is None:
        return None
    for part in ast.walk(function):
        if isinstance(part, ast.Assign) and name_of(part.targets[0]) == name and _composition(part.value)[1]:
            return part.value
    return None


def _composition(node: ast.expr) -> tuple[str, list[ast.expr]]:
    """Return the text that an expression begins with and what is inserted into it."""
    match node:
        case ast.JoinedStr(values=values):
            head = values[0].value if values and isinstance(values[0], ast.Constant) else ""
            return str(head), [value.value for value in values if isinstance(value, ast.FormattedValue)]
        case ast.BinOp(op=ast.Mod(), left=ast.Constant(value=str(head)), right=right):
            return head, list(right.elts) if isinstance(right, ast.Tuple) else [right]
        case ast.Call(func=ast.Attribute(attr="format", value=ast.Constant(value=str(head)))):
            return head, [*node.args, *(keyword.value for keyword in node.keywords)]
        case ast.BinOp(op=ast.Add()):
            return _sum(node)
        case _:
            return "", []


def _sum(node: ast.expr) -> tuple[str, list[ast.expr]]:
    terms: list[ast.expr] = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        terms.append(node.right)
        node = node.left
    terms.append(node)
    first = terms[-1]
    text, inserted = _composition(first)
    head = first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else text
    return head, inserted + [term for term in terms[:-1] if not isinstance(term, ast.Constant)]


def _is_chosen(function: Function | None, part: ast.expr) -> bool:
    """Tell whether a local name is only ever one of some literals, as the DESC or ASC of an order."""
    if function is None or not isinstance(part, ast.Name):
        return False
    pairs = (pair for each in ast.walk(function) for pair in assigned_names(each))
    values = [value for name, value in pairs if name == part.id]
    choices = [c for v in values for c in ([v.body, v.orelse] if isinstance(v, ast.IfExp) else [v])]
    parameters = {each.arg for each in ast.walk(function.args) if isinstance(each, ast.arg)}
    literal = all(isinstance(choice, ast.Constant) for choice in choices)
    return bool(choices) and literal and part.id not in parameters


def _is_fixed(part: ast.expr) -> bool:
    """Tell whether what is inserted can't come from outside, or is made safe on its way."""
    name = name_of(part.func) if isinstance(part, ast.Call) else name_of(part)
    if isinstance(part, ast.Constant) or name.isupper() or not _SAFE.isdisjoint(words(name)):
        return True
    # "?" or "%s" in the expression: it joins as many placeholders as there are parameters.
    texts = (each.value for each in ast.walk(part) if isinstance(each, ast.Constant))
    return any(isinstance(text, str) and text.strip(" ,()") in {"?", "%s"} for text in texts)
