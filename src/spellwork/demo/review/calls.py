"""Calls that are dangerous by what they call: weak hashes, evaluation, shells and unsafe loaders.

It must never guess what an unimported name means: a call counts only where its import is seen.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from spellwork.demo.review.source import Hit, Source, name_of
from spellwork.demo.review.vocabulary import mentions_password

_WEAK = frozenset({"md5", "sha1", "md4"})
_HASHES = frozenset(
    {
        "hashlib.md5",
        "hashlib.sha1",
        "cryptography.hazmat.primitives.hashes.MD5",
        "cryptography.hazmat.primitives.hashes.SHA1",
        "Crypto.Hash.MD5.new",
        "Crypto.Hash.SHA1.new",
    }
)
_SUBPROCESS = frozenset({f"subprocess.{name}" for name in ("run", "call", "check_call", "check_output", "Popen")})
_SHELLS = frozenset(
    {
        "os.system",
        "os.popen",
        "subprocess.getoutput",
        "subprocess.getstatusoutput",
        "asyncio.create_subprocess_shell",
    }
)
_PICKLES = frozenset(
    {f"{module}.{name}" for module in ("pickle", "cPickle", "_pickle", "dill") for name in ("load", "loads", "Unpickler")}
    | {
        "shelve.open",
        "marshal.load",
        "marshal.loads",
        "joblib.load",
        "pandas.read_pickle",
        "jsonpickle.decode",
    }
)
_UNSAFE_LOADERS = frozenset({"Loader", "CLoader", "FullLoader", "CFullLoader", "UnsafeLoader", "CUnsafeLoader"})


@dataclass(frozen=True, slots=True)
class Call:
    """A call: its imported name (`""` if it has none), its last name, its arguments by keyword."""

    node: ast.Call
    target: str
    name: str
    keywords: dict[str, ast.expr]

    @classmethod
    def of(cls, source: Source, node: ast.Call) -> Call:
        """Read a call node."""
        keywords = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg is not None}
        return cls(node, source.resolve(node.func) or "", name_of(node.func), keywords)

    def argument(self, position: int, keyword: str) -> ast.expr | None:
        """Return an argument that may be given by position or by keyword."""
        arguments = self.node.args
        return arguments[position] if position < len(arguments) else self.keywords.get(keyword)

    def says(self, keyword: str, value: bool) -> bool:
        """Tell whether a keyword is given as this very boolean."""
        given = self.keywords.get(keyword)
        return isinstance(given, ast.Constant) and given.value is value


def weak_hash(source: Source, call: Call) -> Iterator[Hit]:
    """`weak-hash`: MD5 or SHA-1 not declared as harmless; gravest where a password goes in."""
    named = call.argument(0, "name") if call.target == "hashlib.new" else None
    by_name = isinstance(named, ast.Constant) and str(named.value).lower().replace("-", "") in _WEAK
    if call.says("usedforsecurity", value=False) or not (by_name or call.target in _HASHES):
        return
    scope = source.scopes.get(call.node)
    inside = [name_of(part) for part in ast.walk(call.node)]
    if any(map(mentions_password, inside)) or (scope is not None and mentions_password(scope.name)):
        message = "a password is hashed with a fast, broken hash; use a salted scrypt or argon2"
        yield Hit(call.node.lineno, "weak-hash", "high", message)
    else:
        message = "MD5 and SHA-1 are broken; use SHA-256, or say usedforsecurity=False"
        yield Hit(call.node.lineno, "weak-hash", "medium", message)


def eval_exec(source: Source, call: Call) -> Iterator[Hit]:
    """`eval-exec`: the built-in eval or exec of anything but a literal."""
    function = call.node.func
    name = function.id if isinstance(function, ast.Name) else ""
    if name not in {"eval", "exec"} or name in source.imports:
        return
    if not call.node.args or isinstance(call.node.args[0], ast.Constant):
        return
    yield Hit(
        call.node.lineno,
        "eval-exec",
        "high",
        f"{name}() runs whatever text it is given; parse the text instead",
    )


def shell_true(_source: Source, call: Call) -> Iterator[Hit]:
    """`shell-true`: a command through a shell; gravest where the command is not a literal."""
    if not (call.target in _SHELLS or (call.target in _SUBPROCESS and call.says("shell", value=True))):
        return
    command = call.argument(0, "args") or call.keywords.get("cmd")
    fixed = isinstance(command, ast.Constant)
    message = "a command goes through a shell; pass a list of arguments to subprocess.run instead"
    yield Hit(call.node.lineno, "shell-true", "low" if fixed else "high", message)


def pickle_load(_source: Source, call: Call) -> Iterator[Hit]:
    """`pickle-load`: a loader that runs code found in the data."""
    if call.target in _PICKLES:
        message = f"{call.target} runs code hidden in its data; load JSON or another plain format"
        yield Hit(call.node.lineno, "pickle-load", "medium", message)


def yaml_load(_source: Source, call: Call) -> Iterator[Hit]:
    """`yaml-load`: PyYAML without a safe loader; a loader of the project's own is trusted."""
    unsafe = call.target in {"yaml.unsafe_load", "yaml.unsafe_load_all"}
    if call.target in {"yaml.load", "yaml.load_all"}:
        loader = call.argument(1, "Loader")
        unsafe = loader is None or name_of(loader) in _UNSAFE_LOADERS
    if unsafe:
        message = "YAML is loaded without SafeLoader, so that it can build any object; use yaml.safe_load"
        yield Hit(call.node.lineno, "yaml-load", "high", message)
